"""Takes names from an engine's images, and removes those without one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ee_runner.errors import ConfigurationError, EngineUnavailable

if TYPE_CHECKING:
    from ee_runner.engines.base import ContainerEngine
    from ee_runner.executor import Completed

_NAME = "{{.Repository}}:{{.Tag}}"
_NOTHING = "Total reclaimed space: 0B"
_LONGEST = 600.0


def untag(names: Iterable[str], *, executable: str) -> int:
    """Do what `ee_runner.cleanup.untag_images` promises."""
    wanted = [name for text in names for name in text.split()]
    if not wanted:
        return 0
    engine = _engine(executable)
    found = dict.fromkeys(full for name in wanted for full in _names(engine, name))
    return sum(_untag(engine, name) for name in found)


def prune(executable: str) -> bool:
    """Do what `ee_runner.cleanup.prune_images` promises."""
    engine = _engine(executable)
    said = _run(engine, "image", "prune", "--force", doing="prune its images").strip()
    return said not in ("", _NOTHING)


def _engine(executable: str) -> ContainerEngine:
    from ee_runner.engines import registry

    engine = registry.get(executable)
    if not engine.capabilities.images:
        raise ConfigurationError(f"{executable} has no images that could be removed; name podman or docker.")
    return engine


def _names(engine: ContainerEngine, name: str) -> list[str]:
    """Return the full names that a name stands for: without a tag, those with any."""
    said = _run(engine, "images", "--format", _NAME, "--", name, doing="list its images")
    return [line for line in said.split() if "<none>" not in line]


def _untag(engine: ContainerEngine, name: str) -> bool:
    """Take one name from its image. Docker removes an image with its last name unless a container runs with it."""
    words = ("rmi", "--force", "--", name) if engine.name == "docker" else ("untag", "--", name, name)
    done = _client(engine, *words)
    if done.rc == 0:
        return True
    if name not in _names(engine, name):  # someone else was faster
        return False
    raise _failure(engine, f"remove the image {name}", done)


def _run(engine: ContainerEngine, *words: str, doing: str) -> str:
    done = _client(engine, *words)
    if done.rc != 0:
        raise _failure(engine, doing, done)
    return done.stdout


def _client(engine: ContainerEngine, *words: str) -> Completed:
    from ee_runner.executor import capture

    return capture((str(engine.executable), *words), timeout=_LONGEST)


def _failure(engine: ContainerEngine, doing: str, done: Completed) -> Exception:
    from ee_runner.engines import faults
    from ee_runner.engines.base import engine_error

    fault = faults.daemon_fault(engine.name, done.stderr)
    return EngineUnavailable(fault) if fault else engine_error(engine, doing, done.stderr)
