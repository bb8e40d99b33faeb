"""What a worker keeps of the files that it was sent, and what the sender knows of that.

Both may lie in one directory. What is in it is trusted: it has to be the user's own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import heapq
import os
import re
import stat
import struct
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ee_runner.artifacts import describe
from ee_runner.errors import ArtifactError, BadFrame, ConfigurationError
from ee_runner.workspace.places import private_directory

if TYPE_CHECKING:
    import sqlite3

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WIDTH = 32
_BLOB = re.compile("[0-9a-f]{64}")
_CHUNK = 1 << 18
_HOUR = 3600
_DAY = 24 * _HOUR
_HELD = b"ee_runner held 1".ljust(_WIDTH)
_PENDING = b"ee_runner pending 1".ljust(_WIDTH)
_PENDING_KEPT = 20
_MOST = 2_000_000
"""How many digests a ledger may know; beyond it starts anew with the latest request's."""
_SETTLED = 2_000_000_000
"""Nanoseconds after its last change in which a file may change again without a trace in its times."""
_BATCH = 4096
_INDEX_LIMIT = 512 << 20
_CREATE = "CREATE TABLE IF NOT EXISTS files (place BLOB PRIMARY KEY, note BLOB NOT NULL) WITHOUT ROWID"
_SELECT = "SELECT note FROM files WHERE place = ?"
_INSERT = "INSERT OR REPLACE INTO files VALUES (?, ?)"
_T = TypeVar("_T")


class BlobStore:
    """Files by the SHA-256 of their content: ``<first two hex digits>/<hex digest>``, 0600 in directories of 0700.

    Any number of processes use one directory at once; it is made when it is missing. `name` tells one cache from
    another, for good. Raises ConfigurationError for a directory that is another user's, or writable by others;
    every method raises ArtifactError when the disk is full or refuses.
    """

    def __init__(self, directory: Path) -> None:
        _private(directory)
        self._directory = directory
        self._partial = directory / "partial"
        with _explained(directory):
            self._partial.mkdir(mode=0o700, exist_ok=True)
            self.name = _name(directory / "name")

    def __contains__(self, digest: object) -> bool:
        if not isinstance(digest, bytes) or len(digest) != _WIDTH:
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
            descriptor = os.open(path, _READING)
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
            descriptor = os.open(partial, _NEW, 0o600)
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
            for path, found in _files(self._partial):
                if found.st_mtime < now - _DAY:
                    _unlink(path)
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
            _unlink(self._path(each[16:]))
            total -= struct.unpack_from(">Q", each, 8)[0]
            if total <= max_bytes:
                return

    def _blobs(self) -> Iterator[tuple[bytes, os.stat_result]]:
        for number in range(256):
            for path, found in _files(self._directory / f"{number:02x}"):
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


class Ledger:
    """The sender's memory: which digests a worker's cache holds, and the digests of files that did not change since.

    `transmit` notes what a request holds, `process` that a worker has it in its cache. Any number of processes use
    one directory at once, each Ledger in one thread at a time. Raises ConfigurationError for a directory that is
    another user's, or writable by others. A ledger that can not be read or written knows less, fails no job, and
    says so in a line to `explain`. Close it, or use it as a context manager: the last digests are written then.
    """

    def __init__(self, directory: Path, *, explain: Callable[[str], object] = lambda _: None) -> None:
        _private(directory)
        self._place = directory / "ledger"
        self._explain = explain
        self._index = _Index(self._place / "digests-1.sqlite", explain)
        with self._forgiving():
            (self._place / "pending").mkdir(mode=0o700, parents=True, exist_ok=True)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still to be written; may be called again."""
        self._index.close()

    def sent(self, request: str, digests: Iterable[bytes]) -> None:
        """Note the digests of all files of a request, those that went without their content included.

        They count once the request is confirmed; the notes of the newest twenty requests are kept.
        """
        with self._forgiving():
            pending = self._pending(request)
            _write(pending, _PENDING, sorted(digests))
            noted = sorted((-found.st_mtime_ns, path) for path, found in _files(pending.parent))
            for _, path in noted[_PENDING_KEPT:]:
                _unlink(path)

    def confirmed(self, request: str, cache: str) -> None:
        """The worker has unpacked the request into the cache of this name: it holds what was noted as sent.

        Only the cache that was confirmed last is remembered.
        """
        with self._forgiving(), _locked(self._place):
            pending = self._pending(request)
            fresh = _read(pending, _PENDING)
            header = _HELD + hashlib.sha256(cache.encode("utf-8", "surrogatepass")).digest()
            held = self._held(header)
            if len(held) + len(fresh) > _MOST:
                held = _Digests(b"")
            _write(self._place / "held", header, heapq.merge(held, fresh))
            _unlink(pending)

    def known(self) -> Container[bytes]:
        """Return the digests that the worker's cache held when it was last heard of; what comes later is not in it."""
        with self._forgiving(), contextlib.suppress(FileNotFoundError):
            return _read(self._place / "held", _HELD, more=_WIDTH)
        return frozenset()

    def forget(self) -> None:
        """The worker lacks what it was believed to hold: believe nothing until the next confirmation."""
        with self._forgiving(), _locked(self._place):
            _unlink(self._place / "held")

    def digest(self, fd: int, found: os.stat_result) -> bytes:
        """Return the SHA-256 of an open file, read only if it is not known by its inode, its size and its times.

        The position of the descriptor stays where it is. Raises OSError when the file can not be read.
        """
        place, stamp = _identity(found)
        known = self._index.find(place, stamp)
        if known is None:
            settled = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED
            known = _sum(fd)
            if settled and _identity(os.fstat(fd)) == (place, stamp):
                self._index.note(place, stamp, known)
        return known

    def _held(self, header: bytes) -> _Digests:
        try:
            return _read(self._place / "held", header)
        except (FileNotFoundError, ValueError):  # none, another cache's, or a damaged one: it is replaced
            return _Digests(b"")

    def _pending(self, request: str) -> Path:
        """Return the file of a request, whose name comes from the other end and is no file's."""
        return self._place / "pending" / hashlib.sha256(request.encode("utf-8", "surrogatepass")).hexdigest()

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            self._explain(f"The cache's ledger knows no {error.filename}: files may be sent that the worker has.")
        except (OSError, ValueError) as error:
            self._explain(f"The cache's ledger {self._place} can not be used: {error}. Files are sent anew; remove it.")


class _Digests:
    """Sorted digests, one after another in memory as they are in the file."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data) // _WIDTH

    def __getitem__(self, number: int) -> bytes:
        return self._data[number * _WIDTH : (number + 1) * _WIDTH]

    def __iter__(self) -> Iterator[bytes]:
        return map(self.__getitem__, range(len(self)))

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, bytes) and self[bisect_left(self, digest)] == digest


class _Index:
    """The digests of files as they were when read, in SQLite: it survives a crash and several writers.

    Each row is sealed with a checksum, so that a damaged one is not believed: a wrong digest would be a wrong file.
    """

    def __init__(self, path: Path, explain: Callable[[str], object]) -> None:
        self._path = path
        self._explain = explain
        self._fresh: dict[bytes, bytes] = {}
        self._opened: sqlite3.Connection | None = None
        self._usable = True

    def find(self, place: bytes, stamp: bytes) -> bytes | None:
        note = self._fresh.get(place) or self._stored(place)
        if note is None or not note.startswith(stamp) or note[-8:] != _seal(place, note[:-8]):
            return None
        return note[len(stamp) : -8]

    def note(self, place: bytes, stamp: bytes, digest: bytes) -> None:
        if self._usable:
            self._fresh[place] = stamp + digest + _seal(place, stamp + digest)
            if len(self._fresh) >= _BATCH:
                self._flush()

    def close(self) -> None:
        self._flush()
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _stored(self, place: bytes) -> bytes | None:
        rows = self._run(lambda connection: connection.execute(_SELECT, (place,)).fetchall())
        return rows[0][0] if rows and isinstance(rows[0][0], bytes) else None

    def _flush(self) -> None:
        rows, self._fresh = sorted(self._fresh.items()), {}
        if rows:
            self._run(lambda connection: _insert(connection, rows))

    def _run(self, action: Callable[[sqlite3.Connection], _T]) -> _T | None:
        """Do something with the index; after trouble it is left alone, and one that is damaged removed."""
        if self._usable:
            try:
                import sqlite3
            except ImportError as error:  # a Python that was built without it
                self._give_up(error)
                return None
            try:
                if self._opened is None:
                    self._opened = self._open()
                return action(self._opened)
            except (sqlite3.Error, OSError) as error:
                if type(error) is sqlite3.DatabaseError:  # not one, or malformed; a full or locked one is a subclass
                    self._remove()
                self._give_up(error)
        return None

    def _open(self) -> sqlite3.Connection:
        import sqlite3

        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size > _INDEX_LIMIT:
                self._remove()
        with contextlib.suppress(FileExistsError):  # closing one that is in use would drop SQLite's locks
            os.close(os.open(self._path, _NEW, 0o600))
        connection = sqlite3.connect(self._path, timeout=5, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = OFF")  # the seals tell what a crash of the machine has damaged
            connection.execute(_CREATE)
        except BaseException:
            connection.close()
            raise
        return connection

    def _remove(self) -> None:
        for path in (self._path, self._path.with_name(f"{self._path.name}-journal")):
            with contextlib.suppress(OSError):
                path.unlink()

    def _give_up(self, error: Exception) -> None:
        self._usable = False
        self._explain(f"The digests in {self._path} can not be used: {error}. Files are read again.")


def _insert(connection: sqlite3.Connection, rows: list[tuple[bytes, bytes]]) -> None:
    with connection:
        connection.executemany(_INSERT, rows)


def _identity(found: os.stat_result) -> tuple[bytes, bytes]:
    """Return what names a file, and what changes when its content does."""
    place = struct.pack(">QQ", found.st_dev, found.st_ino)
    return place, struct.pack(">Qqq", found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _seal(place: bytes, note: bytes) -> bytes:
    return hashlib.blake2b(place + note, digest_size=8).digest()


def _sum(fd: int) -> bytes:
    total, offset = hashlib.sha256(), 0
    while data := os.pread(fd, _CHUNK, offset):
        total.update(data)
        offset += len(data)
    return total.digest()


def _private(directory: Path) -> None:
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
        _lock(descriptor)
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
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Wait for a lock and take it; where the file system knows none, whole files are still replaced in one step."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP):
            raise


def _read(path: Path, header: bytes, *, more: int = 0) -> _Digests:
    """Read digests behind a header and `more` bytes; ValueError when it is not that header."""
    with open(os.open(path, _READING), "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
        size = os.fstat(file.fileno()).st_size - len(header) - more
        if file.read(len(header)) != header or size % _WIDTH or len(file.read(more)) != more:
            raise ValueError(f"{path} is damaged")
        return _Digests(file.readall())


def _write(path: Path, header: bytes, digests: Iterable[bytes]) -> None:
    """Write sorted digests in one step, each of them once."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with open(os.open(partial, _NEW, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(header)
            file.writelines(digest for digest, _ in groupby(digests))
        partial.rename(path)
    except BaseException:
        _unlink(partial)
        raise


def _files(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """List regular files, without those that another process removes meanwhile."""
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    yield entry.path, found


def _unlink(path: str | os.PathLike[str]) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - one of very many


@contextlib.contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(path, error) from error


def _failure(path: str | Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"The cache {path} can not be used: {describe(error).replace('--artifact-dir', '--cache')}")
