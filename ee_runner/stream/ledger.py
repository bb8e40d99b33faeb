"""What a sender knows of a worker's cache, and of its own files, so that only what changed is read and sent.

What is in the directory is trusted: it has to be the user's own. A worker's cache may lie in it, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import os
import struct
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ee_runner.stream.cache import NEW, READING, WIDTH, files, locked, private_cache, unlink

if TYPE_CHECKING:
    import sqlite3

_CHUNK = 1 << 18
_HELD = b"ee_runner held 1".ljust(WIDTH)
_PENDING = b"ee_runner pending 1".ljust(WIDTH)
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


class Ledger:
    """The sender's memory: which digests a worker's cache holds, and the digests of files that did not change since.

    `transmit` notes what a request holds, `process` that a worker has it in its cache. Any number of processes use
    one directory at once, each Ledger in one thread at a time. Raises ConfigurationError for a directory that is
    another user's, or writable by others. A ledger that can not be read or written knows less, fails no job, and
    says so in a line to `explain`. Close it, or use it as a context manager: the last digests are written then.
    """

    def __init__(self, directory: Path, *, explain: Callable[[str], object] = lambda _: None) -> None:
        private_cache(directory)
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
            noted = sorted((-found.st_mtime_ns, path) for path, found in files(pending.parent))
            for _, path in noted[_PENDING_KEPT:]:
                unlink(path)

    def confirmed(self, request: str, cache: str) -> None:
        """The worker has unpacked the request into the cache of this name: it holds what was noted as sent.

        Only the cache that was confirmed last is remembered.
        """
        with self._forgiving(), locked(self._place):
            pending = self._pending(request)
            fresh = _read(pending, _PENDING)
            header = _HELD + hashlib.sha256(cache.encode("utf-8", "surrogatepass")).digest()
            held = self._held(header)
            if len(held) + len(fresh) > _MOST:
                held = _Digests(b"")
            _write(self._place / "held", header, heapq.merge(held, fresh))
            unlink(pending)

    def known(self) -> Container[bytes]:
        """Return the digests that the worker's cache held when it was last heard of; what comes later is not in it."""
        with self._forgiving(), contextlib.suppress(FileNotFoundError):
            return _read(self._place / "held", _HELD, more=WIDTH)
        return frozenset()

    def forget(self) -> None:
        """The worker lacks what it was believed to hold: believe nothing until the next confirmation."""
        with self._forgiving(), locked(self._place):
            unlink(self._place / "held")

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
        return len(self._data) // WIDTH

    def __getitem__(self, number: int) -> bytes:
        return self._data[number * WIDTH : (number + 1) * WIDTH]

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
            os.close(os.open(self._path, NEW, 0o600))
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


def _read(path: Path, header: bytes, *, more: int = 0) -> _Digests:
    """Read digests behind a header and `more` bytes; ValueError when it is not that header."""
    with open(os.open(path, READING), "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
        size = os.fstat(file.fileno()).st_size - len(header) - more
        if file.read(len(header)) != header or size % WIDTH or len(file.read(more)) != more:
            raise ValueError(f"{path} is damaged")
        return _Digests(file.readall())


def _write(path: Path, header: bytes, digests: Iterable[bytes]) -> None:
    """Write sorted digests in one step, each of them once."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with open(os.open(partial, NEW, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(header)
            file.writelines(digest for digest, _ in groupby(digests))
        partial.rename(path)
    except BaseException:
        unlink(partial)
        raise
