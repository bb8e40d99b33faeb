"""What a worker keeps of the files that it was sent: contents by their digest, for the jobs to come.

What is in the directory is trusted: it has to be the user's own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import struct
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from ee_runner import locks
from ee_runner.artifacts import describe
from ee_runner.errors import ArtifactError, BadFrame, ConfigurationError
from ee_runner.workspace.places import private_directory

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
WIDTH = 32
"""Bytes of a digest."""

_BLOB = re.compile("[0-9a-f]{64}")
_HOUR = 3600
_DAY = 24 * _HOUR


class BlobStore:
    """Files by the SHA-256 of their content: ``<first two hex digits>/<hex digest>``, 0600 in directories of 0700.

    Any number of processes use one directory at once; it is made when it is missing. `name` tells one cache from
    another, for good. Raises ConfigurationError for a directory that is another user's, or writable by others;
    every method raises ArtifactError when the disk is full or refuses.
    """

    def __init__(self, directory: Path) -> None:
        private_cache(directory)
        self._directory = directory
        self._partial = directory / "partial"
        with _explained(directory):
            self._partial.mkdir(mode=0o700, exist_ok=True)
            self.name = _name(directory / "name")

    def __contains__(self, digest: object) -> bool:
        if not isinstance(digest, bytes) or len(digest) != WIDTH:
            return False
        try:
            return stat.S_ISREG(os.lstat(self._path(digest)).st_mode)
        except OSError:
            return False

    def open(self, digest: bytes) -> int:
        """Return a descriptor for reading, which the caller closes; KeyError when there is no such blob.

        The content was right when it was added; whoever needs to be sure after a crash of the machine checks it while
        copying, and adds it again.
        """
        path = self._path(digest)
        try:
            descriptor = os.open(path, READING)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):  # a link or a socket is no blob
                raise KeyError(digest.hex()) from None
            raise _failure(path, error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise KeyError(digest.hex())
        with contextlib.suppress(OSError):  # on a read-only file system nothing is pruned either
            os.utime(descriptor)
        return descriptor

    @contextlib.contextmanager
    def add(self, digest: bytes) -> Iterator[BlobWriter]:
        """Give a writer for the content; at the end of the block the blob is there, in one step.

        Raises BadFrame, naming the digest, when the content is another one. Nothing stays of a block that fails.
        """
        partial = str(self._partial / uuid.uuid4().hex)
        with _explained(self._partial):
            descriptor = os.open(partial, NEW, 0o600)
        try:
            try:
                writer = BlobWriter(descriptor, self._directory)
                yield writer
            finally:
                os.close(descriptor)
            writer.verify(digest)
            self._keep(partial, self._path(digest))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)  # noqa: PTH108 - one of very many
            raise

    def prune(self, max_bytes: int) -> None:
        """Remove the blobs that were not used for longest until `max_bytes` of content are left.

        What was used within the last hour stays. What killed writers left a day ago goes too.
        """
        now = time.time()
        with _explained(self._directory):
            for path, found in files(self._partial):
                if found.st_mtime < now - _DAY:
                    unlink(path)
            self._prune(max_bytes, before=int(now - _HOUR) * 10**9)

    def _prune(self, max_bytes: int, *, before: int) -> None:
        total = 0
        old: list[bytes] = []  # as bytes, which sort as their numbers do: there may be half a million
        for digest, found in self._blobs():
            total += found.st_size
            if found.st_mtime_ns < before:
                old.append(struct.pack(">qQ", found.st_mtime_ns, found.st_size) + digest)
        if total <= max_bytes:
            return
        old.sort()
        for each in old:
            unlink(self._path(each[16:]))
            total -= struct.unpack_from(">Q", each, 8)[0]
            if total <= max_bytes:
                return

    def _blobs(self) -> Iterator[tuple[bytes, os.stat_result]]:
        for number in range(256):
            for path, found in files(self._directory / f"{number:02x}"):
                name = path.rpartition("/")[2]
                if _BLOB.fullmatch(name):  # what somebody else put there stays
                    yield bytes.fromhex(name), found

    def _path(self, digest: bytes) -> str:
        name = digest.hex()
        return f"{self._directory}/{name[:2]}/{name}"

    def _keep(self, partial: str, path: str) -> None:
        """Put a blob in its place, also over one that is there: that one may be damaged, and this one is not."""
        with _explained(self._directory):
            try:
                os.rename(partial, path)  # noqa: PTH104 - one of very many
            except FileNotFoundError:
                Path(path).parent.mkdir(mode=0o700, exist_ok=True)
                os.rename(partial, path)  # noqa: PTH104


class BlobWriter:
    """Takes the content of one blob, a piece at a time."""

    def __init__(self, descriptor: int, directory: Path) -> None:
        self._descriptor = descriptor
        self._directory = directory
        self._sum = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Take the next piece; ArtifactError when it can not be written."""
        self._sum.update(data)
        rest = memoryview(data)
        with _explained(self._directory):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def verify(self, digest: bytes) -> None:
        """Raise BadFrame unless the content so far has this digest."""
        if self._sum.digest() != digest:
            raise BadFrame(
                f"A file announced with the SHA-256 {digest.hex()} came with the content of {self._sum.hexdigest()}: "
                "it changed while it was sent, or was damaged on the way. Send the job again."
            )


def private_cache(directory: Path) -> None:
    """Make a directory if it is missing; what others can write to is refused, and so is a link that others made."""
    private_directory(directory)
    with _explained(directory):
        found, link = directory.stat(), directory.lstat()
    if {found.st_uid, link.st_uid} != {os.geteuid()}:
        raise ConfigurationError(f"The cache {directory} belongs to another user; choose a directory of your own.")
    if found.st_mode & 0o022:
        raise ConfigurationError(
            f"The cache {directory} can be written by other users, who could put files into your jobs. "
            f"Look at what is in it and take their access (chmod go-w {directory}), or choose another directory."
        )


def _name(path: Path) -> str:
    """Read a cache's name; the first who comes gives it one, and the others wait so long."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        locks.take(descriptor, wait=True)
        name = os.read(descriptor, 64).decode("ascii", "replace")
        with contextlib.suppress(ValueError):
            return str(uuid.UUID(name))
        name = str(uuid.uuid4())  # also in the place of a damaged one: then the cache may be, too
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, name.encode(), 0)
        return name
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        locks.take(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def files(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """List regular files, without those that another process removes meanwhile."""
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    yield entry.path, found


def unlink(path: str | os.PathLike[str]) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - one of very many


@contextlib.contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(path, error) from error


def _failure(path: str | Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"The cache {path} can not be used: {describe(error, option='--cache')}")
