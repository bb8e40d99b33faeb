"""Whether a private data directory is in use: by locks, processes and containers."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ee_runner import locks, names
from ee_runner.cleanup import trees
from ee_runner.errors import ConfigurationError, EngineError, EngineUnavailable
from ee_runner.processes import ancestors

if TYPE_CHECKING:
    from ee_runner.engines.base import ContainerEngine
    from ee_runner.engines.labels import JobContainer
    from ee_runner.engines.oci import OciEngine

_PATH = re.compile(rb"/[^\0:=,]+")
_WHEREABOUTS = (b"PWD=", b"OLDPWD=")


def idents(directory: int) -> list[str]:
    """Return the idents of the jobs that have an artifact directory in an open private data directory."""
    try:
        with trees.opened("artifacts", within=directory) as artifacts, os.scandir(artifacts) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def has_running_job(directory: int) -> bool:
    """Say whether one of its artifact directories is locked, or its file ``pid`` names a live process."""
    return _has_live_pid(directory) or not all(_is_free(directory, ident) for ident in idents(directory))


def installed(engines: Iterable[ContainerEngine]) -> Iterator[OciEngine]:
    """Yield those of the engines that run containers and are installed, the first one of each program."""
    from ee_runner.engines.oci import OciEngine

    seen: set[Path] = set()
    for engine in engines:
        with suppress(EngineUnavailable):
            if isinstance(engine, OciEngine) and (program := engine.executable.resolve()) not in seen:
                seen.add(program)
                yield engine


class Usage:
    """What uses directories on this machine; it is asked for once, and when it first matters.

    `executable` names the engine that jobs are expected in. When that one is installed and does not answer, it can
    not be told which directories are in use. Of others, one that this user can not use runs nothing of this user's.
    """

    def __init__(self, executable: str) -> None:
        self._executable = executable

    def by_process(self, real: Path) -> bool:
        """Say whether a process, apart from this one and those that started it, works with a path in a directory."""
        return str(real) in self._paths or _is_live(names.maker_of(real.name) or 0)

    def by_mount(self, real: Path) -> bool:
        """Say whether something is mounted on a directory or below it."""
        return str(real) in self._mounts

    def by_container(self, real: Path) -> bool:
        """Say whether a container of a job that was not abandoned belongs to a directory."""
        return any(not container.abandoned for _, container in self._of(real))

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why it can not be told what runs in containers; empty when it can."""
        return self._asked[1]

    def remove_abandoned(self, real: Path) -> None:
        """Remove the containers of a directory's abandoned jobs; raises EngineError."""
        for engine, container in self._of(real):
            engine.stop(container.id, 0)

    def _of(self, real: Path) -> Iterator[tuple[OciEngine, JobContainer]]:
        for engine, container in self._asked[0]:
            place = container.private_data_dir
            if place.is_absolute() and place.resolve().is_relative_to(real):
                yield engine, container

    @cached_property
    def _asked(self) -> tuple[tuple[tuple[OciEngine, JobContainer], ...], tuple[str, ...]]:
        """The containers of all jobs, and the words of the engines that can not list them."""
        found: list[tuple[OciEngine, JobContainer]] = []
        doubts: list[str] = []
        engines = tuple(self._engines())
        for engine in installed(engines):
            try:
                found += [(engine, container) for container in engine.list_containers()]
            except EngineError as error:
                if engine is engines[0] or not isinstance(error, EngineUnavailable):
                    doubts.append(f"{engine.name} does not say what runs: {error}")
        return tuple(found), tuple(doubts)

    def _engines(self) -> Iterator[ContainerEngine]:
        """Yield all engines, the expected one first; raises ConfigurationError when there is none such."""
        from ee_runner.engines import registry

        yield registry.get(self._executable)
        for name in registry.names():
            with suppress(ConfigurationError):  # a broken plugin is no reason to keep anything
                yield registry.get(name)

    @cached_property
    def _paths(self) -> frozenset[str]:
        mine = {os.getpid(), *ancestors(os.getpid())}  # whose command lines name the pattern
        others = (entry for entry in Path("/proc").glob("[0-9]*") if int(entry.name) not in mine)
        return _with_parents(path for process in others for path in _paths_of(process))

    @cached_property
    def _mounts(self) -> frozenset[str]:
        return _with_parents(mount_points())


def _is_free(directory: int, ident: str) -> bool:
    try:
        with (
            trees.opened("artifacts", within=directory) as artifacts,
            trees.opened(ident, within=artifacts) as artifact,
        ):
            return locks.take(artifact)
    except (FileNotFoundError, NotADirectoryError):  # it goes away meanwhile
        return True


def _has_live_pid(directory: int) -> bool:
    try:
        file = os.open("pid", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return False
        first = os.read(file, 32).split()[:1]
    finally:
        os.close(file)
    return bool(first) and first[0].isdigit() and _is_live(int(first[0]))


def _is_live(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def _paths_of(process: Path) -> Iterator[str]:
    """Yield the absolute paths that a process works with: its directory, what it has open, what it was started with."""
    with suppress(OSError):  # it ended meanwhile, or is another user's
        yield str((process / "cwd").readlink())
    with suppress(OSError):
        for link in (process / "fd").iterdir():
            with suppress(OSError):
                yield str(link.readlink())
    for name in ("cmdline", "environ"):
        with suppress(OSError):
            words = (process / name).read_bytes().split(b"\0")
            kept = (word for word in words if name == "cmdline" or not word.startswith(_WHEREABOUTS))
            yield from (os.fsdecode(path) for word in kept for path in _PATH.findall(word))


def _with_parents(paths: Iterator[str]) -> frozenset[str]:
    """Return the absolute paths and all directories above them."""
    found: set[str] = set()
    for path in paths:
        path = os.path.normpath(path)
        while path.startswith("/") and path not in found:
            found.add(path)
            path = os.path.dirname(path)  # noqa: PTH120 - a Path for each would take long
    return frozenset(found)


def mount_points() -> Iterator[str]:
    """Yield where file systems are mounted (proc_pid_mountinfo(5)); none where there is no /proc."""
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            yield _unescaped(os.fsdecode(line.split()[4]))


def refuse_mounts(path: str) -> None:
    """Raise OSError, with words, when a file system is mounted below a path."""
    mounted = next((point for point in mount_points() if point.startswith(f"{path}/")), None)
    if mounted is not None:
        raise OSError(None, f"a file system is mounted at {mounted}")


def _unescaped(word: str) -> str:
    """Return a path of mountinfo, in which blanks are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)
