"""Settles jobs whose supervisor died: what runs is ended, what is temporary removed, and the status says ``lost``.

Run as a program with the file of a record, it settles that job: a minder becomes this when its supervisor dies.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ee_runner import names, underway
from ee_runner.errors import ArtifactError, EngineError, EngineUnavailable, RunnerError
from ee_runner.logs import log
from ee_runner.underway import Underway
from ee_runner.values import dataclass

RETRY = 60.0
"""Seconds after which what could not be settled is tried again by a start."""

_TIME_OF_A_START = 10.0
"""Seconds after which a start leaves the rest to the next."""

_LAST_BREATH = 10.0
"""Seconds in which a supervisor that was killed lets go of its record; one with much memory takes a while."""

_OTHER_PROCESS = 300.0
_PARTIAL_AGE = 60.0


@dataclass(frozen=True, slots=True)
class Settled:
    """One record that was seen to: what was done, and what could not be; with failures, the record is still there.

    `record` is None when the file was none.
    """

    file: Path
    record: Underway | None = None
    done: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def job(self) -> str:
        """The job in words."""
        if self.record is None:
            return f"the job of the record {self.file}"
        return f"the job {self.record.ident} of {self.record.private_data_dir}"


def settle(record: Underway, *, patience: float = 0.0) -> Settled | None:
    """Settle one job that was abandoned; None when it lives, is another machine's, or somebody else settles it.

    So many seconds of `patience` are had with a supervisor that is about to end. What runs of the job is ended, and its
    container removed; unless it has ended, its status becomes ``error``, its rc 254 and its reason ``lost``; its
    temporary files and directories and the record are removed. Whatever fails is said, and does not keep the rest from
    being done; the record stays then, and the next start tries again, but not within a minute.
    """
    return _Settler().settle(record.file, patience=patience)


def settle_abandoned() -> list[Settled]:
    """Settle this user's jobs that were abandoned, before another is started; what was done, and not done, is logged.

    With very many of them, what is left after some seconds is left to the next start.
    """
    files = underway.files()
    if not files:
        return []
    settler, end = _Settler(), time.monotonic() + _TIME_OF_A_START
    found = []
    for file in files:
        if time.monotonic() >= end:
            break
        settled = settler.settle(file) if _is_due(file) else None
        if settled is not None:
            found.append(settled)
            _tell(settled)
    if found:
        remove_partials()
    return found


def settle_all() -> list[Settled]:
    """Settle all of this user's jobs that were abandoned, however long that takes, and whenever it was tried last."""
    remove_partials()
    settler = _Settler()
    return [settled for file in underway.files() if (settled := settler.settle(file)) is not None]


def remove_partials() -> None:
    """Remove what is left of records whose writer was killed while it wrote them."""
    with suppress(OSError, RunnerError):
        for file in underway.directory().glob(f"*{underway.PARTIAL}"):
            with suppress(OSError):
                if file.lstat().st_mtime < time.time() - _PARTIAL_AGE:
                    file.unlink()


def command(file: Path) -> tuple[str, ...]:
    """Return the command line that settles the job of one record file, wherever it is started; none without a Python.

    It finds this library where this process does.
    """
    if not sys.executable:
        return ()
    path = [str(Path(entry).absolute()) for entry in sys.path]
    program = (
        f"import sys; sys.path[:] = {path!a}; from ee_runner.cleanup.lost import main; sys.exit(main(sys.argv[1:]))"
    )
    return (sys.executable, "-I", "-c", program, str(file))


def main(argv: Sequence[str]) -> int:
    """Settle the job of one record file, in a process of its own; return 0 when nothing of it is left.

    What was done goes to standard output, a line each, and what could not be to standard error.
    """
    settled = _Settler(own_process=True).settle(Path(argv[0]), patience=_LAST_BREATH)
    if settled is None:
        return 0
    for stream, lines in ((sys.stdout, settled.done), (sys.stderr, settled.failures)):
        with suppress(OSError, ValueError, AttributeError):  # nobody reads it, or there is none
            stream.writelines(f"{line}\n" for line in lines)
            stream.flush()
    return 1 if settled.failures else 0


class _Settler:
    """Settles one job after the other; an engine that did not answer is not asked again.

    In its `own_process` it may set the variables that say where the engine is.
    """

    def __init__(self, *, own_process: bool = False) -> None:
        self._own_process = own_process
        self._given_up: dict[str, str] = {}

    def settle(self, file: Path, *, patience: float = 0.0) -> Settled | None:
        try:
            with underway.seized(file, patience=patience) as record:
                if record is None or not record.is_of_this_host:
                    return None
                if self._own_process:
                    _take_address(record)
                if record.is_of_this_engine:
                    return self._settle(record)
        except ArtifactError as error:
            _postpone(file)
            return Settled(file, failures=(str(error),))
        return _settled_elsewhere(record)

    def _settle(self, record: Underway) -> Settled:
        done: list[str] = []
        failures: list[str] = []

        def attempt(step: Callable[[], str]) -> None:
            try:
                done.append(step())
            except Exception as error:  # whatever it is, the rest is to be done
                failures.append(_words(error))

        attempt(lambda: self._clear(record))
        attempt(lambda: _end_artifacts(record))
        for path in _places(record):
            attempt(functools.partial(_remove, path))
        if not failures:
            attempt(lambda: _forget(record))
        if failures:
            _postpone(record.file)
        return Settled(record.file, record, tuple(filter(None, done)), tuple(failures))

    def _clear(self, record: Underway) -> str:
        """End and remove what the engine has of the job; whether there was something it does not tell."""
        from ee_runner.engines import registry

        if record.engine in self._given_up:
            raise EngineError(self._given_up[record.engine])
        try:
            engine, _ = registry.choose(record.engine)
            engine.clear(record.mark)
        except EngineUnavailable as error:
            self._given_up[record.engine] = str(error)
            raise
        return ""


def _end_artifacts(record: Underway) -> str:
    from ee_runner.cleanup import endings

    when = time.strftime("%Y-%m-%d %H:%M:%S%z")
    detail = f"process {record.supervisor.pid}, which ran the job, ended before it; this was found at {when}"
    lost = endings.lose(record.artifact_dir, detail, below=record.private_data_dir)
    return f"{record.artifact_dir}: status error, reason lost" if lost else ""


def _remove(path: Path) -> str:
    from ee_runner.cleanup import patterns, trees, usage

    real = patterns.real(str(path))
    if not names.is_own(path.name) and patterns.is_precious(real):
        raise ArtifactError(f"{path} is not removed: it is a directory of the system or a home, or holds such.")
    try:
        usage.refuse_mounts(str(real))
        return f"removed {path}" if trees.discard(str(real)) else ""
    except OSError as error:
        raise ArtifactError(f"{path} can not be removed: {error.strerror or error}") from error


def _forget(record: Underway) -> str:
    record.file.unlink(missing_ok=True)
    return ""


def _places(record: Underway) -> Iterator[Path]:
    yield from record.paths
    for base in record.bases if record.prefix else ():
        with suppress(OSError):
            yield from (path for path in base.iterdir() if path.name.startswith(record.prefix))


def _settled_elsewhere(record: Underway) -> Settled | None:
    """Settle in a process whose variables say where the job's engine is; this one's may not be changed."""
    from ee_runner.executor import capture

    others = {name: value for name, value in os.environ.items() if name not in underway.address()}
    try:
        ended = capture(command(record.file), env={**others, **(record.address or {})}, timeout=_OTHER_PROCESS)
    except EngineError as error:
        return Settled(record.file, record, failures=(str(error),))
    failures = tuple(ended.stderr.splitlines())
    if not (ended.rc or failures) and record.file.exists():  # somebody else had it
        return None
    if ended.rc and not failures:
        failures = (f"the process that was to settle it ended with {ended.rc}",)
    return Settled(record.file, record, tuple(ended.stdout.splitlines()), failures)


def _take_address(record: Underway) -> None:
    for name in underway.address():
        del os.environ[name]
    os.environ.update(record.address or {})


def _is_due(file: Path) -> bool:
    """Say whether a record may be tried: its time of change is when; one far in the future is another clock's."""
    try:
        return not time.time() < file.lstat().st_mtime <= time.time() + RETRY
    except OSError:
        return False


def _postpone(file: Path) -> None:
    when = time.time() + RETRY
    with suppress(OSError):
        os.utime(file, (when, when), follow_symlinks=False)


def _tell(settled: Settled) -> None:
    if settled.done:
        log.info("Settled %s, which was lost: %s", settled.job, "; ".join(settled.done))
    if settled.failures:
        log.info("Of %s, which was lost, something is left: %s", settled.job, "; ".join(settled.failures))


def _words(error: Exception) -> str:
    if isinstance(error, RunnerError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
