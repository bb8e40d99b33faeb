"""Removes what earlier jobs left on this node: private data directories, credentials, containers and images.

What a job still needs is never removed, and nothing is removed through a symbolic link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ee_runner.errors import ArtifactError

GRACE_PERIOD = 60
"""Minutes in which a directory that was changed is left alone."""

EXECUTABLE = "podman"
"""The engine whose images are removed when none is named."""

Say = Callable[[str], None]
"""Takes one line for the user."""


def run(
    *,
    file_pattern: str | None = None,
    exclude_strings: Iterable[object] = (),
    remove_images: Iterable[str] = (),
    grace_period: float = GRACE_PERIOD,
    image_prune: bool = False,
    executable: str = EXECUTABLE,
    say: Say,
) -> bool:
    """Remove what is asked for, in the words of ``ansible-runner worker cleanup`` 2.4, and return whether anything was.

    `grace_period` is in minutes; `executable` names the engine of the images. Raises ConfigurationError, with nothing
    removed, for a pattern that matches what is no private data directory; EngineError for an engine that fails;
    ArtifactError, when all else is done, for directories that could not be removed.
    """
    from ee_runner.cleanup.patterns import plain

    removed = 0
    failed: tuple[str, ...] = ()
    if file_pattern:
        removed, failed = remove_directories(
            file_pattern,
            exclude_strings=exclude_strings,
            grace_period=grace_period,
            executable=executable,
            say=say,
        )
    if removed:
        say(f"Removed {removed} private data dir(s) in pattern {plain(file_pattern or '')}")
    untagged = untag_images(remove_images, executable=executable)
    if untagged:
        say(f"Removed {untagged} image(s)")
    pruned = image_prune and prune_images(executable)
    if pruned:
        say("Pruned images")
    changed = bool(removed or untagged or pruned)
    say(f"(changed: {changed})")
    if failed:
        raise not_removed(failed)
    return changed


def remove_directories(
    pattern: str,
    *,
    exclude_strings: Iterable[object] = (),
    grace_period: float = GRACE_PERIOD,
    executable: str = EXECUTABLE,
    say: Say,
) -> tuple[int, tuple[str, ...]]:
    """Remove the private data directories that match; return how many, and the paths of those that could not be.

    One with an exclude string in its path stays, as does one that was changed in the last `grace_period` minutes.
    Raises ConfigurationError, with nothing removed, for a pattern that matches what is no private data directory.
    """
    from ee_runner.cleanup.directories import sweep

    return sweep(pattern, exclude_strings=exclude_strings, grace_period=grace_period, executable=executable, say=say)


def untag_images(names: Iterable[str], *, executable: str = EXECUTABLE) -> int:
    """Take these names from the engine's images and return how many they were; names that it doesn't have are none.

    A running container keeps its image. Raises EngineError, ConfigurationError for an engine without images.
    """
    from ee_runner.cleanup.images import untag

    return untag(names, executable=executable)


def prune_images(executable: str = EXECUTABLE) -> bool:
    """Remove the engine's images without a name and a container; return whether there were any. Raises EngineError."""
    from ee_runner.cleanup.images import prune

    return prune(executable)


def not_removed(paths: Iterable[str]) -> ArtifactError:
    """Make the error for directories that could not be removed."""
    return ArtifactError(
        f"Not removed: {', '.join(paths)}. Remove them as the user who owns what is in them, or as root."
    )
