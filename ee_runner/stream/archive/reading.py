"""Reads one archive as its bytes come in, and holds its records against one another."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Generator
from typing import Protocol, TypeVar

from ee_runner.errors import BadFrame, UnsafeArchive
from ee_runner.stream.archive import zipformat
from ee_runner.stream.archive.admission import damaged, refused
from ee_runner.stream.archive.sink import Sink
from ee_runner.stream.archive.tree import shown
from ee_runner.stream.archive.zipformat import Entry

_T = TypeVar("_T")
_Steps = Generator[None, None, _T]
"""A step of the archive: it yields whenever it needs more bytes, and then all that came is used up."""

_PIECE = 1 << 18
_MARK = struct.Struct("<2HqQLQQH")


class Job(Protocol):
    """The unpacking that an archive belongs to."""

    def admit(self, entry: Entry) -> Sink: ...

    def settle(self, entry: Entry, *, kept_link: bytes | None) -> None: ...


class ArchiveReader:
    """One archive on its way in: reads its records in their order, and checks each against the others."""

    def __init__(self, job: Job) -> None:
        self.complete = False
        self._where, self._entry = "before its first entry", b""
        self._job = job
        self._data = memoryview(b"")
        self._place = 0
        self._before = 0
        self._sink: Sink | None = None
        self._key = os.urandom(16)
        self._told = bytearray()  # a hash of each entry, for the central directory to be held against
        self._links: dict[int, bytes] = {}
        self._steps = self._read()

    @property
    def position(self) -> str:
        """How far the archive was read."""
        return f"{self._where} {shown(self._entry)}" if self._entry else self._where

    def feed(self, data: bytes | memoryview) -> None:
        self._before += len(self._data)
        self._data = memoryview(data).cast("B")
        self._place = 0
        if data and self.complete:
            raise BadFrame(_FOLLOWED)
        next(self._steps, None)

    def stop(self) -> None:
        self._steps.close()
        if self._sink is not None:
            self._sink.abort()
            self._sink = None

    @property
    def _offset(self) -> int:
        return self._before + self._place

    def _some(self, most: int) -> memoryview:
        """Return up to so many bytes of those that are there, perhaps none."""
        piece = self._data[self._place : self._place + most]
        self._place += len(piece)
        return piece

    def _take(self, size: int) -> _Steps[bytes]:
        piece = self._some(size)
        if len(piece) == size:
            return bytes(piece)
        taken = bytearray(piece)
        while len(taken) < size:
            piece = self._some(size - len(taken))
            if not piece:
                yield
            taken += piece
        return bytes(taken)

    def _read(self) -> _Steps[None]:
        count = 0
        while (signature := (yield from self._take(zipformat.SIGNATURE_SIZE))) == zipformat.LOCAL:
            yield from self._read_entry(signature, count)
            count += 1
        self._where, self._entry = "in its central directory", b""
        begin = self._offset - len(signature)
        for number in range(count):
            if signature != zipformat.CENTRAL:
                raise BadFrame(_unexpected(signature, f"the central directory's entry {number + 1} of {count}"))
            yield from self._read_central(signature, number)
            signature = yield from self._take(zipformat.SIGNATURE_SIZE)
        end = self._offset - len(signature)
        yield from self._read_end(signature, zipformat.End(count, end - begin, begin))
        self.complete = True
        if len(self._data) > self._place:
            raise BadFrame(_FOLLOWED)

    def _read_entry(self, signature: bytes, number: int) -> _Steps[None]:
        offset = self._offset - len(signature)
        head = signature + (yield from self._take(zipformat.LOCAL_SIZE - len(signature)))
        head += yield from self._take(zipformat.local_length(head) - len(head))
        entry = zipformat.parse_local(head)
        self._where, self._entry = "in the entry", entry.name
        self._sink = sink = self._job.admit(entry)
        packed = 0
        if not entry.absent:
            packed = yield from (self._inflated if entry.method == zipformat.DEFLATED else self._stored)(entry, sink)
        if entry.streamed:
            data = yield from self._take(zipformat.descriptor_length(entry))
            if zipformat.parse_descriptor(data, wide=entry.wide) != (sink.crc, packed, sink.size):
                raise damaged(entry)
        sink.end()
        self._sink = None
        self._where = "after the entry"
        if sink.link is not None:
            self._links[number] = sink.link
        size = entry.size if entry.absent else sink.size
        self._told += self._hash(entry, offset=offset, crc=sink.crc, size=size, packed=packed)

    def _stored(self, entry: Entry, sink: Sink) -> _Steps[int]:
        left = entry.size
        while left:
            piece = self._some(min(left, _PIECE * 4))
            if not piece:
                yield
                continue
            left -= len(piece)
            sink.write(piece, packed=len(piece))
        return entry.size

    def _inflated(self, entry: Entry, sink: Sink) -> _Steps[int]:
        packed = 0
        inflater = zlib.decompressobj(-15)
        while not inflater.eof and (entry.streamed or packed < entry.packed):
            piece = self._some(_PIECE if entry.streamed else min(_PIECE, entry.packed - packed))
            if not piece:
                yield
                continue
            packed += len(piece)
            _inflate(inflater, piece, entry, sink)
        unused = len(inflater.unused_data)
        if not inflater.eof or (not entry.streamed and (unused or packed != entry.packed)):
            raise refused(entry, "is not compressed into the bytes that it announces")
        self._place -= unused
        return packed - unused

    def _read_central(self, signature: bytes, number: int) -> _Steps[None]:
        head = signature + (yield from self._take(zipformat.CENTRAL_SIZE - len(signature)))
        head += yield from self._take(zipformat.central_length(head) - len(head))
        entry = zipformat.parse_central(head)
        told = self._hash(entry, offset=entry.offset, crc=entry.crc, size=entry.size, packed=entry.packed)
        if told != self._told[number * len(told) : (number + 1) * len(told)]:
            raise refused(entry, "is not the same in the central directory as before its content", _AGAIN)
        self._job.settle(entry, kept_link=self._links.get(number))

    def _read_end(self, signature: bytes, actual: zipformat.End) -> _Steps[None]:
        wide = signature == zipformat.END64
        if wide:
            data = signature + (yield from self._take(zipformat.END64_SIZE - len(signature)))
            self._check_end(zipformat.parse_end64(data), actual)
            locator = yield from self._take(zipformat.LOCATOR_SIZE)
            if zipformat.parse_locator(locator) != actual.offset + actual.size:
                raise BadFrame(f"The archive's end is elsewhere than its locator says. {_AGAIN}")
            signature = yield from self._take(zipformat.SIGNATURE_SIZE)
        if signature != zipformat.END:
            raise BadFrame(_unexpected(signature, "an entry or the end of the archive"))
        end = zipformat.parse_end(signature + (yield from self._take(zipformat.END_SIZE - len(signature))))
        if end.comment:
            raise UnsafeArchive(f"The archive ends with a comment of {end.comment} bytes, which no sender writes.")
        self._check_end(end, actual, wide=wide)

    def _check_end(self, said: zipformat.End, actual: zipformat.End, *, wide: bool = False) -> None:
        pairs = ((said.count, actual.count, 0xFFFF), (said.size, actual.size, -1), (said.offset, actual.offset, -1))
        for number, true, mark in pairs:
            if number != true and not (wide and number == (mark & 0xFFFFFFFF)):
                raise BadFrame(f"The archive's end says {number} of what is {true} in its directory. {_AGAIN}")

    def _hash(self, entry: Entry, *, offset: int, crc: int, size: int, packed: int) -> bytes:
        """Hash what the local header and the central directory must both say, and what was found."""
        name = entry.zip_name
        numbers = (entry.flags, entry.method, entry.mtime_ns, offset, crc, size, packed, len(name))
        said = b"".join((_MARK.pack(*numbers), name, entry.field))  # the field, which is ours alone, has the rest
        return hashlib.blake2b(said, digest_size=8, key=self._key).digest()


_FOLLOWED = "More bytes follow the end of the archive. Send it again."
_AGAIN = "Send it again; if it stays so, its sender is to blame."


def _inflate(inflater: zlib._Decompress, piece: memoryview, entry: Entry, sink: Sink) -> None:
    """Give the sink what a piece of a compressed content inflates to, in small pieces."""
    data: bytes | memoryview = piece
    inflated = bytes(_PIECE)
    while not inflater.eof and (data or len(inflated) == _PIECE):
        try:
            inflated = inflater.decompress(data, _PIECE)
        except zlib.error:
            raise refused(entry, "can not be decompressed") from None
        rest = inflater.unconsumed_tail
        sink.write(inflated, packed=len(data) - len(rest) - len(inflater.unused_data))
        data = rest


def _unexpected(signature: bytes, wanted: str) -> str:
    return f"The archive has {signature!r} where {wanted} should begin. {_AGAIN}"
