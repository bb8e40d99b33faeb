"""Cleans up after this user's jobs on this machine: lost jobs, their containers and directories, old artifacts."""

from __future__ import annotations

import functools
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ee_runner import names, underway
from ee_runner.cleanup import Say, endings, lost, patterns, trees, usage
from ee_runner.errors import ArtifactError, ConfigurationError, EngineError, EngineUnavailable, RunnerError

if TYPE_CHECKING:
    from ee_runner.engines.labels import JobContainer
    from ee_runner.engines.oci import OciEngine

ENGINES = ("podman", "docker")
"""Whose containers are looked at when no engine is named."""

_AGE = 60.0
"""Seconds for which a run directory is left alone: it is made before it is held."""

_CIRCUMSTANCES = "nothing runs it any more; that was found by ansible-runner cleanup at %Y-%m-%d %H:%M:%S%z"


@dataclass(frozen=True, slots=True)
class Scope:
    """What is cleaned up: beside lost jobs, in an `artifacts` directory, what belongs to a `private_data_dir`.

    `engine` is the one whose containers are looked at, which must answer then. `keep`, `age` (seconds) and `size`
    (bytes) are for `retention.rotate`; 0 or None keeps all.
    """

    private_data_dir: Path | None = None
    artifacts: Path | None = None
    engine: str | None = None
    keep: int = 0
    age: float | None = None
    size: int | None = None


def clean(scope: Scope, *, say: Say, complain: Say) -> bool:
    """Clean up, and return whether all could be done; `say` gets a line for each thing done, `complain` for the others.

    No job that runs is touched, nor anything of it. Raises ConfigurationError, with nothing done, for an engine that
    there is not.
    """
    broom = _Broom(scope, say, complain)
    engines = _engines(scope)
    broom.settle()
    for engine in engines:
        broom.remove_containers(engine)
    broom.remove_run_directories()
    if scope.artifacts is not None:
        broom.settle_artifacts(scope.artifacts)
        broom.rotate(scope.artifacts)
    if not (broom.done or broom.failed):
        say("There was nothing to clean up.")
    return not broom.failed


class _Broom:
    """Goes over what jobs leave; `done` and `failed` count."""

    def __init__(self, scope: Scope, say: Say, complain: Say) -> None:
        self._scope = scope
        self._say = say
        self._complain = complain
        self._usage = usage.Usage("")
        self.done = 0
        self.failed = 0

    def settle(self) -> None:
        for settled in lost.settle_all():
            for line in settled.failures:
                self._fail(f"{settled.job}: {line}")
            if settled.done or not settled.failures:
                self._did(f"Settled {settled.job}: {'; '.join(settled.done) or 'nothing of it was left'}")
        for record in underway.abandoned():
            if not record.is_of_this_host:
                self._say(
                    _plain(f"Left to {record.host}, where it ran: {record.file}. Remove it if that host is no more.")
                )

    def remove_containers(self, engine: OciEngine) -> None:
        try:
            for container in engine.list_containers():
                if container.abandoned and self._is_meant(container):
                    self._remove_container(engine, container)
        except EngineUnavailable as error:
            if self._scope.engine is not None:
                self._fail(str(error))
        except EngineError as error:
            self._fail(str(error))

    def remove_run_directories(self) -> None:
        for path in _run_directories():
            self._attempt(functools.partial(self._remove_run_directory, path))

    def settle_artifacts(self, root: Path) -> None:
        """Settle the jobs of whom there is no record; one of another program holds no lock, but has files open."""
        running = {record.artifact_dir for record in underway.underway()}
        for path in _unfinished(root):
            if path not in running and not self._usage.by_process(path.resolve()):
                self._attempt(functools.partial(self._settle_artifacts_in, path))

    def rotate(self, root: Path) -> None:
        from ee_runner import retention

        scope = self._scope
        if not (scope.keep > 0 or scope.age or scope.size):
            return
        if root.parent == scope.private_data_dir and root.is_symlink():
            self._fail(
                f"{root} is a symbolic link, which a job may have made; no artifacts were removed. If it is yours, "
                "name the directory behind it with --artifact-dir."
            )
            return
        try:
            for path in retention.rotate(root, keep=scope.keep, age=scope.age, size=scope.size):
                self._did(f"Removed the artifacts {path}")
        except ArtifactError as error:
            self._fail(str(error))

    def _is_meant(self, container: JobContainer) -> bool:
        directory = self._scope.private_data_dir
        return directory is None or container.private_data_dir.resolve() == directory.resolve()

    def _remove_container(self, engine: OciEngine, container: JobContainer) -> None:
        def remove() -> str:
            gone = engine.stop(container.id, 0)
            return (
                f"Removed the container {container.name} of the job {container.ident} ({engine.name})" if gone else ""
            )

        self._attempt(remove)

    def _remove_run_directory(self, path: Path) -> str:
        if self._usage.by_process(path):
            return ""
        try:
            usage.refuse_mounts(str(path))
            return f"Removed {path}" if trees.discard(str(path)) else ""
        except BlockingIOError:  # a job holds it
            return ""
        except OSError as error:
            raise ArtifactError(f"{path} can not be removed: {error.strerror or error}") from error

    def _settle_artifacts_in(self, path: Path) -> str:
        lost_here = endings.lose(path, time.strftime(_CIRCUMSTANCES), below=self._scope.private_data_dir)
        return f"Settled the job {path.name}: {path}: status error, reason lost" if lost_here else ""

    def _attempt(self, step: Callable[[], str]) -> None:
        try:
            line = step()
        except RunnerError as error:
            self._fail(str(error))
        else:
            if line:
                self._did(line)

    def _did(self, line: str) -> None:
        self.done += 1
        self._say(_plain(line))

    def _fail(self, line: str) -> None:
        self.failed += 1
        self._complain(_plain(line))


def _engines(scope: Scope) -> list[OciEngine]:
    """Return the engines whose containers are looked at: the one that is named, else those that are installed."""
    from ee_runner.engines import registry
    from ee_runner.engines.oci import OciEngine

    if scope.engine is None:
        return list(usage.installed(map(registry.get, ENGINES)))
    named = registry.get(scope.engine)
    return [named] if isinstance(named, OciEngine) else []


def _run_directories() -> Iterator[Path]:
    """Yield this user's run directories that have not changed for a while."""
    from ee_runner.workspace.places import run_directory_bases

    for base in dict.fromkeys(base.resolve() for base in run_directory_bases(os.environ)):
        with suppress(OSError):
            yield from (path for path in sorted(base.iterdir()) if names.maker_of(path.name) and _is_old(path))


def _is_old(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return False
    return found.st_mtime < time.time() - _AGE


def _unfinished(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if endings.is_unfinished(path))
    except OSError:
        return []


def _plain(line: str) -> str:
    return patterns.plain(line)


def check_directory(path: Path) -> Path:
    """Return a private data directory that is there, absolute; raises ConfigurationError."""
    if not path.is_dir():
        raise ConfigurationError(f"There is no private data directory {path}")
    return path.absolute()
