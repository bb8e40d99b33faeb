"""Which artifacts of earlier jobs are kept: by count, by age and by size; the others are removed, the oldest first."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ee_runner import locks
from ee_runner.artifacts import FINAL, describe
from ee_runner.cleanup import trees
from ee_runner.errors import ArtifactError

_ASIDE = ".ee_runner_rotated_"
"""How the name of a directory begins that is being removed: a job of the same ident can begin meanwhile."""

_TOLD = 3
_BLOCK = 512


class _Job(NamedTuple):
    """A job that has ended: when, in nanoseconds since the epoch, and the name of its directory."""

    ended: int
    name: str


def rotate(
    root: Path, *, keep: int = 0, age: float | None = None, size: int | None = None, current: Path | None = None
) -> list[Path]:
    """Remove the artifacts of finished jobs below `root` that are not to be kept, and return their directories.

    What stays are the newest `keep` jobs, of those the ones that ended less than `age` seconds ago, and of those the
    newest whose files take up to `size` bytes of the disk together; 0 or None is no limit. `current`, the caller's own
    job, counts as the newest and always stays (seed, section 4.9). So does a job that runs, or has no terminal status:
    it was lost, and is evidence until it is settled; and whatever is no job's directory. All stays behind a link that
    the current job may have made, since nothing of it is there. A job that others rotate away
    at the same time is theirs. Raises ArtifactError for what can not be listed, and when all else is done for what can
    not be removed.
    """
    if not (keep > 0 or age or size):
        return []
    with _opened(root) as directory:
        if current is not None and root.is_symlink() and _ended(directory, f"{current.name}/status") is None:
            raise ArtifactError(
                f"{root} leads to where this job has no artifacts; nothing was removed. Remove the link."
            )
        names, aside = _entries(directory, current)
        rotation = _Rotation(root, directory)
        rotation.discard(aside)
        allowed = keep - (current is not None) if keep > 0 else len(names)
        if age or size or len(names) > allowed:
            jobs = sorted(_finished(directory, names), reverse=True)
            kept = _fitting(root, _younger(jobs[:allowed], age), size, current)
            rotation.remove(job.name for job in reversed(jobs[kept:]))
    rotation.complain()
    return rotation.removed


@contextlib.contextmanager
def _opened(root: Path) -> Iterator[int]:
    try:
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ArtifactError(f"The old artifacts in {root} can not be listed: {describe(error)}") from error
    try:
        yield directory
    finally:
        os.close(directory)


def _entries(directory: int, current: Path | None) -> tuple[list[str], list[str]]:
    """Return the names of directories that may be jobs', and of those whose removal was begun; links are neither."""
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    aside = [name for name in names if name.startswith(_ASIDE)]
    own = {*aside, current.name if current else ""}
    return [name for name in names if name not in own], aside


def _finished(directory: int, names: Iterable[str]) -> Iterator[_Job]:
    for name in names:
        ended = _ended(directory, f"{name}/status")
        if ended is not None:
            yield _Job(ended, name)


def _ended(directory: int, status: str) -> int | None:
    """Return when a terminal status was written, by the path of its file, or None when there is none."""
    try:
        descriptor = os.open(status, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        terminal = stat.S_ISREG(found.st_mode) and os.read(descriptor, 32).strip().decode("ascii", "replace") in FINAL
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return found.st_mtime_ns if terminal else None


def _younger(jobs: list[_Job], age: float | None) -> list[_Job]:
    if not age:
        return jobs
    oldest = time.time_ns() - int(age * 1e9)
    return [job for job in jobs if job.ended >= oldest]


def _fitting(root: Path, jobs: list[_Job], size: int | None, current: Path | None) -> int:
    """Return how many of the jobs, the newest first, fit in the size beside the current one; no more is measured."""
    if not size:
        return len(jobs)
    left = size - (_usage(current, most=size) if current else 0)
    for number, job in enumerate(jobs):
        left -= _usage(root / job.name, most=left)
        if left < 0:
            return number
    return len(jobs)


def _usage(top: Path, *, most: int) -> int:
    """Return the bytes of the disk that a tree takes; above `most` it is looked at no further."""
    used = 0
    directories = [str(top)]
    while directories and used <= most:
        with contextlib.suppress(OSError), os.scandir(directories.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.path)
                used += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
    return used


class _Rotation:
    """The removal of some jobs' directories; `removed` are those that are gone."""

    def __init__(self, root: Path, directory: int) -> None:
        self._root = root
        self._directory = directory
        self._failures: list[str] = []
        self.removed: list[Path] = []

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            if self._done(name, aside=f"{_ASIDE}{os.urandom(8).hex()}"):
                self.removed.append(self._root / name)

    def discard(self, names: Iterable[str]) -> None:
        """Remove what was put aside, by one who was killed before he had removed it."""
        for name in names:
            self._done(name, aside=name)

    def complain(self) -> None:
        if not self._failures:
            return
        more = len(self._failures) - _TOLD
        told = "; ".join(self._failures[:_TOLD]) + (f"; and {more} more" if more > 0 else "")
        raise ArtifactError(
            f"Old artifacts in {self._root} can not be removed: {told}. Remove them as the user who owns them."
        )

    def _done(self, name: str, *, aside: str) -> bool:
        try:
            with trees.opened(name, within=self._directory) as job, locks.taken(job) as free:
                return free and self._emptied(job, name, aside)
        except FileNotFoundError:  # another one that rotates was faster
            return False
        except OSError as error:
            self._failures.append(f"{self._root / name}: {(error.strerror or str(error)).lower()}")
            return False

    def _emptied(self, job: int, name: str, aside: str) -> bool:
        if name != aside:
            if _ended(job, "status") is None:  # a new job has begun in it, and ended without a status
                return False
            _require_access(job)
            os.rename(name, aside, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        failures = trees.empty(job, self._root / aside)
        self._failures += failures
        if not failures:
            os.rmdir(aside, dir_fd=self._directory)
        return not failures


def _require_access(job: int) -> None:
    """Raise PermissionError for a directory whose files can not be removed, before it loses its name."""
    found = os.fstat(job)
    if found.st_uid != os.geteuid() and not os.access(".", os.W_OK, dir_fd=job, effective_ids=True):
        raise PermissionError(errno.EACCES, f"it belongs to the user {found.st_uid}")
