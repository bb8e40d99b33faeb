"""Removes a directory tree by descriptors: through no link, onto no other file system, however deep it is.

The guards of a worker load this: little else is imported.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ee_runner import locks

_DEEPEST = 50
"""Levels that are held open at once; what lies deeper is first moved to the top."""

_LISTED, _EMPTIED = 0o500, 0o700
_HANDLE: int = getattr(os, "O_PATH", os.O_RDONLY)
"""How to open a directory that may not be readable; where there is no such way, only readable ones are opened."""

_NO_FOLLOW = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_Entry = tuple[str, bool]
"""A name in a directory, and whether it is that of a directory."""


def identity(found: os.stat_result) -> str:
    """Return what tells a file from another that takes its place."""
    return f"{found.st_dev}:{found.st_ino}"


def discard(path: str, known: str = "") -> bool:
    """Remove a directory tree, or a file, without following a symbolic link anywhere; say whether it was there.

    A link is left, and so is what is not the one `known` by its identity; of what is not known, what belongs to another
    user. Raises OSError with words: BlockingIOError for a directory that somebody holds a lock on.
    """
    above, _, name = path.rpartition("/")
    try:
        parent = _way(above)
    except FileNotFoundError:
        return False
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        own = identity(found) == known if known else found.st_uid == os.geteuid()
        if stat.S_ISLNK(found.st_mode) or not own:
            return False
        if stat.S_ISDIR(found.st_mode):
            _discard_tree(parent, name, Path(path))
        else:
            os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return False
    finally:
        os.close(parent)
    return True


@contextmanager
def opened(path: str | Path, *, within: int | None = None, access: int = _LISTED) -> Iterator[int]:
    """Open a directory that is no symbolic link; one of this user's gets the owner's access that this takes.

    Raises OSError, NotADirectoryError for a link or a file among them.
    """
    place = os.open(path, _HANDLE | _NO_FOLLOW, dir_fd=within)
    try:
        found = os.fstat(place)
        if found.st_uid == os.geteuid() and found.st_mode & access != access:
            os.chmod(place if _HANDLE == os.O_RDONLY else f"/proc/self/fd/{place}", 0o700)  # noqa: PTH101 - a descriptor
        directory = os.open(".", os.O_RDONLY | _NO_FOLLOW, dir_fd=place)
    finally:
        os.close(place)
    try:
        yield directory
    finally:
        os.close(directory)


def remove(directory: int, path: Path) -> list[str]:
    """Remove an open directory, and all in it, from its path; return what could not be removed, each with the reason.

    Raises OSError when it is another user's and can not be read.
    """
    failures = empty(directory, path)
    if not failures:
        try:
            path.rmdir()
        except FileNotFoundError:  # someone else was faster
            return []
        except OSError as error:
            return [_reason(path, error)]
    return failures


def empty(directory: int, path: Path) -> list[str]:
    """Remove all in an open directory whose path is `path`; returns and raises as `remove` does."""
    found = os.fstat(directory)
    if found.st_uid == os.geteuid() and found.st_mode & _EMPTIED != _EMPTIED:
        os.fchmod(directory, 0o700)
    removal = _Removal(directory, path)
    removal.run()
    return removal.failures


def _way(directory: str) -> int:
    """Open a directory from the root on, through no link."""
    here = os.open("/", _HANDLE | _NO_FOLLOW)
    for part in filter(None, directory.split("/")):
        try:
            below = os.open(part, _HANDLE | _NO_FOLLOW, dir_fd=here)
        finally:
            os.close(here)
        here = below
    return here


def _discard_tree(parent: int, name: str, path: Path) -> None:
    """Empty a directory while it is locked, so that no job begins in it, and remove it."""
    with opened(name, within=parent, access=_EMPTIED) as directory:
        if not locks.take(directory):
            raise BlockingIOError(errno.EWOULDBLOCK, "a job works in it")
        failures = empty(directory, path)
        if failures:
            more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
            raise OSError(None, f"{failures[0]}{more}")
        os.rmdir(name, dir_fd=parent)


class _Removal:
    """The emptying of one directory."""

    def __init__(self, top: int, path: Path) -> None:
        self._top = top
        self._path = path
        self._device = os.fstat(top).st_dev
        self.failures: list[str] = []

    def run(self) -> None:
        stuck: set[str] = set()
        while entries := [entry for entry in _entries(self._top) if entry[0] not in stuck]:
            stuck |= {entry[0] for entry in entries if not self._gone(entry, self._top, self._path, depth=1)}

    def _gone(self, entry: _Entry, parent: int, above: Path, *, depth: int) -> bool:
        """Remove an entry and say whether it is gone; a failure is noted."""
        name, is_directory = entry
        try:
            if is_directory:
                return self._directory_gone(name, parent, above / name, depth=depth)
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return True
        except OSError as error:
            self.failures.append(_reason(above / name, error))
            return False
        return True

    def _directory_gone(self, name: str, parent: int, path: Path, *, depth: int) -> bool:
        with opened(name, within=parent, access=_EMPTIED) as directory:
            if os.fstat(directory).st_dev != self._device:
                raise OSError(errno.EXDEV, "another file system is mounted there")
            if depth == _DEEPEST:
                os.rename(name, f".{os.urandom(8).hex()}", src_dir_fd=parent, dst_dir_fd=self._top)
                return True
            gone = [self._gone(entry, directory, path, depth=depth + 1) for entry in _entries(directory)]
        if all(gone):
            os.rmdir(name, dir_fd=parent)
        return all(gone)


def _entries(directory: int) -> list[_Entry]:
    with os.scandir(directory) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def _reason(path: Path, error: OSError) -> str:
    return f"{path}: {(error.strerror or str(error)).lower()}"
