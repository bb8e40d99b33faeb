"""Takes names from an engine's images, and removes those without one."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ee_runner.engines import faults
from ee_runner.errors import ConfigurationError, EngineUnavailable

if TYPE_CHECKING:
    from ee_runner.engines.base import ContainerEngine
    from ee_runner.executor import Completed

_NAME = "{{.Repository}}:{{.Tag}}"
_NOTHING = "Total reclaimed space: 0B"
_NO_NAME = "tag not known"
_IMPLIED = ("localhost/", "docker.io/library/", "docker.io/")
"""What engines leave out of names, and put before them."""

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
    if "@" in name:
        return [name] if _client(engine, "image", "inspect", "--", name).rc == 0 else []
    said = _run(engine, "images", "--format", _NAME, "--", name, doing="list its images")
    return [full for full in said.split() if "<none>" not in full and _stands_for(name, full)]


def _stands_for(name: str, full: str) -> bool:
    """Say whether a name that was given means a full one: podman lists all names of the image that has it."""
    tagged = name if ":" in name.rpartition("/")[2] else f"{name}:*"
    short = {full.removeprefix(host) for host in _IMPLIED}
    long = {host + full for host in _IMPLIED if faults.registry_of(full) == "docker.io"}
    return any(fnmatchcase(each, tagged) for each in {full} | short | long)


def _untag(engine: ContainerEngine, name: str) -> bool:
    """Take one name from its image. Docker removes an image with its last name unless a container runs with it."""
    words = ("rmi", "--force", "--", name) if engine.name == "docker" else ("untag", "--", name, name)
    done = _client(engine, *words)
    if done.rc == 0:
        return True
    if _NO_NAME in done.stderr or name not in _names(engine, name):  # someone else was faster
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
    from ee_runner.engines.base import engine_error

    fault = faults.daemon_fault(engine.name, done.stderr)
    return EngineUnavailable(fault) if fault else engine_error(engine, doing, done.stderr)
