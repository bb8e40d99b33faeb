"""How a job ended that nobody saw ending: it was lost. Its artifact directory comes to say so."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ee_runner import locks
from ee_runner.artifacts import FINAL, ArtifactStore, describe
from ee_runner.cleanup import trees
from ee_runner.errors import ArtifactError
from ee_runner.events import appending
from ee_runner.events.kept import LOG
from ee_runner.job import Outcome

RC = 254
UNFINISHED = frozenset({"", "unstarted", "starting", "running"})
"""What `status` says of a job that has not ended; nothing, when the power was cut."""

_LONGEST = 64
_PARTIAL = (".partial", "-partial.json")
_WRITTEN = ("reason", "rc", "status")
_OBSERVERS = ".events"


def lose(directory: Path, detail: str, *, below: Path | None = None) -> bool:
    """Have an artifact directory say that its job was lost, and say whether it had to be told.

    The status is ``error``, the rc 254, the reason ``lost``, for which `detail` gives the circumstances. One that has
    ended stays as it is, and so does one that a job works in: a later one of the same ident. A directory that is not
    there is none. No symbolic link is followed, nor any on the way from `below`. Raises ArtifactError.
    """
    try:
        with _opened(directory, below) as opened, locks.taken(opened) as free:
            if not free:
                return False
            _tidy(opened, directory)
            if _is_told(opened):
                return False
            _make_way(opened, directory)
            with ArtifactStore(directory, keeps_output=False) as store:
                store.write_outcome(Outcome("error", RC, "lost", detail))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ArtifactError(f"The status in {directory} can not be written: {describe(error)}") from error
    return True


def is_unfinished(directory: Path) -> bool:
    """Say whether a directory is that of a job whose status says that it has not ended."""
    try:
        with trees.opened(directory) as opened:
            return _status(opened) in UNFINISHED
    except OSError:
        return False


@contextmanager
def _opened(directory: Path, below: Path | None) -> Iterator[int]:
    """Open a directory through no link, be it at its end or after `below`: a job may have written there."""
    with ExitStack() as stack:
        if below is None or below not in directory.parents:
            opened = stack.enter_context(trees.opened(directory))
        else:
            opened = stack.enter_context(trees.opened(below.resolve()))
            for part in directory.relative_to(below).parts:
                opened = stack.enter_context(trees.opened(part, within=opened))
        if not os.path.samestat(os.fstat(opened), directory.lstat()):
            raise ArtifactError(f"The artifact directory {directory} has been replaced meanwhile.")
        yield opened


def _status(directory: int) -> str | None:
    """Return the first word of the file `status`; None when there is none, or something else in its place."""
    try:
        file = os.open("status", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    try:
        regular = stat.S_ISREG(os.fstat(file).st_mode)
        return os.read(file, _LONGEST).decode("utf-8", "replace").strip() if regular else None
    finally:
        os.close(file)


def _is_told(directory: int) -> bool:
    """Say whether the end of a job is there as a whole; of an error on a full disk it may be the status alone."""
    status = _status(directory)
    return status in FINAL and (status != "error" or "rc" in os.listdir(directory))


def _tidy(directory: int, path: Path) -> None:
    """Remove what a job removes at its end: the observer's records, and files that were not written whole."""
    with suppress(OSError):
        _take_away(_OBSERVERS, directory, path)
    _remove_partials(directory, path)
    with suppress(OSError), trees.opened("job_events", within=directory) as events:
        _remove_partials(events, path / "job_events")
    with suppress(OSError):
        _mend_log(directory)


def _mend_log(directory: int) -> None:
    """Cut from the log of the events one that was not written whole."""
    log = os.open(LOG, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        appending.mend(log)
    finally:
        os.close(log)


def _remove_partials(directory: int, path: Path) -> None:
    for name in os.listdir(directory):
        if name.endswith(_PARTIAL):
            with suppress(OSError):
                _take_away(name, directory, path)


def _make_way(directory: int, path: Path) -> None:
    """Take away what the job has put in the place of what is written, and make the directory of the events."""
    for name in _WRITTEN:
        if _kind(name, directory) not in (0, stat.S_IFREG):
            _take_away(name, directory, path)
    if _kind("job_events", directory) == stat.S_IFDIR:
        return
    with suppress(FileNotFoundError):
        os.unlink("job_events", dir_fd=directory)
    os.mkdir("job_events", 0o700, dir_fd=directory)


def _kind(name: str, directory: int) -> int:
    """Return the type bits of what has a name, 0 when nothing has."""
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return 0


def _take_away(name: str, directory: int, path: Path) -> None:
    if _kind(name, directory) != stat.S_IFDIR:
        os.unlink(name, dir_fd=directory)
        return
    with trees.opened(name, within=directory) as opened:
        trees.empty(opened, path / name)
    os.rmdir(name, dir_fd=directory)
