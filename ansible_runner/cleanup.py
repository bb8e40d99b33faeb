"""Removing what earlier jobs left on this node, by the names that programs know; each function prints what it did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ee_runner import cleanup
from ee_runner.cleanup import EXECUTABLE, GRACE_PERIOD

__all__ = ["cleanup_dirs", "cleanup_images", "prune_images", "run_cleanup"]


def run_cleanup(vargs: Mapping[str, Any]) -> None:
    """Do what ``worker cleanup`` does with options of these names; raises what `ee_runner.cleanup.run` raises."""
    cleanup.run(
        file_pattern=vargs.get("file_pattern"),
        exclude_strings=vargs.get("exclude_strings") or (),
        remove_images=vargs.get("remove_images") or (),
        grace_period=vargs.get("grace_period", GRACE_PERIOD),
        image_prune=bool(vargs.get("image_prune")),
        executable=vargs.get("process_isolation_executable") or EXECUTABLE,
        say=print,
    )


def cleanup_dirs(
    pattern: str, exclude_strings: Iterable[object] | None = None, grace_period: float = GRACE_PERIOD
) -> int:
    """Remove the private data directories that match and no job uses, and return how many they were."""
    removed, failed = cleanup.remove_directories(
        pattern, exclude_strings=exclude_strings or (), grace_period=grace_period, say=print
    )
    if failed:
        raise cleanup.not_removed(failed)
    return removed


def cleanup_images(images: Iterable[str], runtime: str) -> int:
    """Take these names from the engine's images and return how many they were."""
    return cleanup.untag_images(images, executable=runtime)


def prune_images(runtime: str) -> bool:
    """Remove the engine's images that no name and no container keeps, and say whether there were any."""
    return cleanup.prune_images(runtime)
