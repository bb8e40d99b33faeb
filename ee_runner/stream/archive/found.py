"""Something that is sent in an archive, and what is said when that fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ee_runner.errors import StreamError
from ee_runner.stream.archive import zipformat
from ee_runner.stream.archive.zipformat import Entry
from ee_runner.values import dataclass

BLOCK = 128 * 1024
"""How much of a file is read at once."""

SMALL = 1024 * 1024
"""Up to this size a file is read as a whole, so that its checksum can stand before it."""

ZEROS = bytes(BLOCK)

Digests = Callable[[str, int, os.stat_result], bytes | None]
"""Gives the SHA-256 of an open file of this name, or None; may move its offset."""

_OVERHEAD = 256  # about what an entry needs beside its content and its name


class Open:
    """An open file; it knows that it is closed, which a number does not."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)


class Found(NamedTuple):
    """Something to send; `file` is open until the next is asked for, `data` the content of what is no open file."""

    source: Path
    name: bytes
    mode: int
    mtime_ns: int
    size: int = 0
    data: bytes = b""
    file: Open | None = None
    status: os.stat_result | None = None
    link: bytes | None = None

    @property
    def weight(self) -> int:
        """About what it takes in an archive."""
        return self.size + len(self.name) + _OVERHEAD

    @property
    def sparse(self) -> bool:
        return self.status is not None and self.size > SMALL and self.status.st_blocks * 512 < self.size // 2

    def entry(self, *, digest: bytes | None = None, absent: bool = False) -> Entry:
        """Return its entry, to be stored, without checksum and offset."""
        return Entry(
            name=self.name,
            mode=self.mode,
            mtime_ns=max(-(1 << 63), min(self.mtime_ns, (1 << 63) - 1)),
            size=self.size,
            packed=0 if absent else self.size,
            flags=zipformat.STREAMED if self.size > SMALL and not absent else 0,
            digest=digest,
            absent=absent,
            link=self.link,
        )

    def digest(self, digests: Digests) -> bytes | None:
        if self.file is None or self.status is None:
            return None
        return digests(os.fsdecode(self.name), self.file.descriptor, self.status)

    def whole(self) -> bytes:
        if self.file is None:
            return self.data
        if 0 < self.size <= BLOCK:
            data = self._read(self.file, self.size, 0)
            if len(data) == self.size:
                return data
        return b"".join(self.blocks())

    def blocks(self) -> Iterator[bytes]:
        """Give the content, as much of it as was announced; the holes of a sparse file are not read."""
        if self.file is None:
            yield self.data
            return
        place, sparse = 0, self.sparse
        while place < self.size:
            width = min(BLOCK, self.size - place)
            hole = sparse and _hole(self.file.descriptor, place, width)
            block = ZEROS[:width] if hole else self._read(self.file, width, place)
            if not block:
                raise changed(self.source, self.name)
            place += len(block)
            yield block
        if sparse and os.fstat(self.file.descriptor).st_size < self.size:
            raise changed(self.source, self.name)

    def _read(self, file: Open, width: int, place: int) -> bytes:
        try:
            return os.pread(file.descriptor, width, place)
        except OSError as error:
            raise explained(error, self.source, self.name) from error

    def verify(self) -> None:
        """Raise StreamError when the file has been written to since it was opened."""
        if self.file is None or self.status is None:
            return
        with Explained(self.source, self.name):
            now = os.fstat(self.file.descriptor)
        if _written(now) != _written(self.status):
            raise changed(self.source, self.name)


def _hole(file: int, place: int, width: int) -> bool:
    try:
        return os.lseek(file, place, os.SEEK_DATA) >= place + width
    except OSError as error:
        return error.errno == errno.ENXIO  # no data behind this place; whatever else it is, reading tells


def _written(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


# Errors


class GoneError(StreamError):
    """What was listed is not there any more."""


@dataclass(frozen=True, slots=True)
class Explained:
    """Turns an error of the operating system into one that says which file it is, and what to do."""

    source: Path
    name: bytes = b""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise explained(error, self.source, self.name) from error


def explained(error: OSError, source: Path, name: bytes) -> StreamError:
    kind = GoneError if error.errno == errno.ENOENT else StreamError
    return kind(f"{where(source, name)} can not be sent: {_remedy(error)}")


def _remedy(error: OSError) -> str:
    remedies = {
        errno.EACCES: "permission denied. Make it readable for the user who sends it, or move it away.",
        errno.EPERM: "permission denied. Make it readable for the user who sends it, or move it away.",
        errno.ENOENT: "it does not exist.",
        errno.ENOTDIR: "it is no directory.",
        errno.ELOOP: "a link was put in its place while it was sent. Send again when nothing changes it.",
        errno.EMFILE: "too many files are open. Raise the limit, see ulimit -n.",
    }
    return remedies.get(error.errno or 0, f"{error.strerror or error}.")


def changed(source: Path, name: bytes = b"") -> StreamError:
    return StreamError(f"{where(source, name)} changed while it was sent. Send again when nothing changes it.")


def where(source: Path, name: bytes = b"") -> str:
    return zipformat.shown(os.path.join(os.fsencode(source), name) if name else os.fsencode(source))  # noqa: PTH118
