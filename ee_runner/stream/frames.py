"""Records as binary frames: what our own ends speak once both have said so.

    magic    4 bytes  EE 52 46 01
    kind     1 byte   see `records.Kind`
    flags    1 byte   bit 0: the payload is one zstd frame
    reserved 2 bytes  0
    number   8 bytes  counts the records; 0 for keepalives, which are not counted
    length   4 bytes  of the payload
    crc      4 bytes  CRC-32 of the payload, as it was sent
    check    4 bytes  CRC-32 of the header before this field

All numbers are big-endian. The payload of a message is JSON, that of CONTENT up to 1 MiB of an archive.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ee_runner.errors import BadFrame, StreamError
from ee_runner.stream.lines import (
    MAX_LINE,
    QUOTED,
    Buffer,
    archive_size,
    check_number,
    check_size,
    dumps,
    kind_of,
    loads,
)
from ee_runner.stream.records import Kind, Noise, Record, compact

MAGIC = b"\xeeRF\x01"
LARGEST = 1024 * 1024
"""Bytes of content that a frame may hold."""

PIECE = 128 * 1024
"""Bytes of content that are put into a frame: memory for much more comes from the system, page by page, each time."""

_FIELDS = struct.Struct(">4sBBHQII")
_CHECK = struct.Struct(">I")
HEADER_SIZE = _FIELDS.size + _CHECK.size
_PACKED = 1
_LEVEL = 1
_WORTH_PACKING = 128
_KINDS = frozenset(int(kind) for kind in Kind)
_INSIDE = frozenset({int(Kind.CONTENT), int(Kind.ARCHIVE_END)})
_LIMITS: Mapping[int, int] = {Kind.ARCHIVE: 4096, Kind.CONTENT: 2 * LARGEST, Kind.ARCHIVE_END: 0, Kind.KEEPALIVE: 0}


class FrameEncoder:
    """Records to frames, numbered from `first`; content is gathered, and compressed where that makes it smaller.

    ValueError for a message while an archive is open, for content while none is, and for an archive that is longer
    or shorter than its announced size.
    """

    def __init__(self, *, first: int = 1) -> None:
        self.next = first
        self._open = False
        self._size: int | None = None
        self._sent = 0
        self._gathered = bytearray()
        self._pack: Callable[[bytes | bytearray | memoryview], bytes] | None = None

    def message(self, kind: Kind, body: Mapping[str, Any]) -> bytes:
        """Return the record's frame; StreamError if it is longer than our own ends take."""
        self._check_open(False)
        payload = dumps(kind, body)
        check_size(len(payload), kind=kind, number=self.next)
        return self._frame(kind, payload)

    def keepalive(self) -> bytes:
        return _frame(Kind.KEEPALIVE, b"", number=0)

    def archive(self, size: int | None) -> bytes:
        self._check_open(False)
        self._open, self._size, self._sent = True, size, 0
        return self._frame(Kind.ARCHIVE, compact({"size": size}))

    def content(self, data: bytes | memoryview) -> bytes:
        self._check_open(True)
        view = memoryview(data).cast("B")
        self._sent += len(view)
        frames = []
        if self._gathered:
            room = PIECE - len(self._gathered)
            self._gathered += view[:room]
            view = view[room:]
            if len(self._gathered) == PIECE:
                frames.append(self._flush())
        whole = len(view) // PIECE * PIECE
        frames += [self._frame(Kind.CONTENT, view[at : at + PIECE]) for at in range(0, whole, PIECE)]
        self._gathered += view[whole:]
        return b"".join(frames)

    def archive_end(self) -> bytes:
        self._check_open(True)
        if self._size is not None and self._sent != self._size:
            raise ValueError(f"the archive has {self._sent} bytes, and {self._size} were announced")
        rest = self._flush() if self._gathered else b""
        self._open = False
        return rest + self._frame(Kind.ARCHIVE_END, b"")

    def _flush(self) -> bytes:
        frame = self._frame(Kind.CONTENT, self._gathered)
        self._gathered.clear()
        return frame

    def _check_open(self, wanted: bool) -> None:
        if self._open is not wanted:
            raise ValueError("no archive is open" if wanted else "an archive is open")

    def _frame(self, kind: Kind, payload: bytes | bytearray | memoryview) -> bytes:
        number, self.next = self.next, self.next + 1
        if len(payload) >= _WORTH_PACKING:
            self._pack = self._pack or _packer()
            packed = self._pack(payload)
            if len(packed) < len(payload):
                return _frame(kind, packed, number=number, flags=_PACKED)
        return _frame(kind, payload, number=number)


def _packer() -> Callable[[bytes | bytearray | memoryview], bytes]:
    try:
        import zstandard
    except ImportError:  # a frame may go as it is
        return bytes
    return zstandard.ZstdCompressor(level=_LEVEL).compress


def _frame(kind: Kind, payload: bytes | bytearray | memoryview, *, number: int, flags: int = 0) -> bytes:
    fields = _FIELDS.pack(MAGIC, kind, flags, 0, number, len(payload), zlib.crc32(payload))
    return b"".join((fields, _CHECK.pack(zlib.crc32(fields)), payload))


class Header(NamedTuple):
    """The fields of a frame's header, of which nothing but its checksum has been looked at."""

    kind: int
    flags: int
    reserved: int
    number: int
    length: int
    crc: int

    def __str__(self) -> str:
        return f"record {self.number} ({Kind(self.kind).name.lower()})" if self.number else "a keepalive"


def _parse(data: bytes) -> Header | None:
    fields = data[: _FIELDS.size]
    if _CHECK.unpack_from(data, _FIELDS.size) != (zlib.crc32(fields),):
        return None
    _, *values = _FIELDS.unpack(fields)
    return Header(*values)


class FrameReader:
    """Frames to records; `first` is the number that is due.

    What is no frame is passed over up to the next header that is whole, and comes as one Noise. Raises BadFrame
    for a header that says what the protocol does not allow, and for a payload that is not what its header says.
    """

    def __init__(self, *, first: int) -> None:
        self.next = first
        self._header: Header | None = None
        self._kept = b""
        self._passed = 0
        self._open = False
        self._size: int | None = None
        self._got = 0
        self._unpacker: Any = None

    def read(self, buffer: Buffer) -> Iterator[Record | Noise]:
        """Yield what is whole in the buffer, and take it out."""
        while True:
            if self._header is None:
                header = self._find(buffer)
                if header is None:
                    return
                yield from self._noise()
                self._check(header)
                self._header = header
            if len(buffer) < HEADER_SIZE + self._header.length:
                return
            header, self._header = self._header, None
            buffer.take(HEADER_SIZE)
            yield self._record(header, buffer.take(header.length))

    def rest(self, buffer: Buffer) -> Iterator[Noise]:
        """Yield at the end of the stream what is no part of a frame."""
        if self._header is None:
            self._pass(buffer.take(len(buffer)))
        yield from self._noise()

    def _find(self, buffer: Buffer) -> Header | None:
        """Pass over what comes before the next header; None if that is not there yet."""
        while (at := buffer.find(MAGIC)) >= 0:
            self._pass(buffer.take(at))
            if len(buffer) < HEADER_SIZE:
                return None
            header = _parse(buffer.peek(HEADER_SIZE))
            if header is not None:
                return header
            self._pass(buffer.take(len(MAGIC)))
        self._pass(buffer.take(max(0, len(buffer) - len(MAGIC) + 1)))
        return None

    def _pass(self, data: bytes) -> None:
        self._kept += data[: QUOTED - len(self._kept)]
        self._passed += len(data)

    def _noise(self) -> Iterator[Noise]:
        if self._passed:
            passed = Noise(self._kept, self._passed)
            self._kept, self._passed = b"", 0
            yield passed

    def _check(self, header: Header) -> None:
        """Raise BadFrame for a header that can not be at this place."""
        if header.kind not in _KINDS or header.flags & ~_PACKED or header.reserved:
            what = f"kind {header.kind}, flags {header.flags:#x}, reserved {header.reserved:#x}"
            raise BadFrame(f"a frame comes that this end does not know ({what}): upgrade ee-runner on this end")
        if header.kind != Kind.KEEPALIVE:
            check_number(header.number, self.next)
        elif header.number:
            raise BadFrame(f"a keepalive has the number {header.number}, where keepalives are not counted")
        limit = _LIMITS.get(header.kind, MAX_LINE)
        if header.length > limit:
            raise BadFrame(f"{header} is {header.length} bytes long, where {limit} are the most")
        if header.kind != Kind.KEEPALIVE and self._open is not (header.kind in _INSIDE):
            raise BadFrame(f"{header} comes {'in the middle of' if self._open else 'outside'} an archive")

    def _record(self, header: Header, payload: bytes) -> Record:
        if zlib.crc32(payload) != header.crc:
            raise BadFrame(f"{header} is damaged: its checksum does not fit")
        data = self._unpack(header, payload) if header.flags & _PACKED else payload
        kind = Kind(header.kind)
        if kind is Kind.KEEPALIVE:
            return Record(kind, {})
        self.next += 1
        return Record(kind, self._body(header, data), header.number)

    def _body(self, header: Header, data: bytes) -> Mapping[str, Any] | bytes:
        if header.kind == Kind.CONTENT:
            self._got += len(data)
            self._check_size(complete=False)
            return data
        if header.kind == Kind.ARCHIVE_END:
            self._check_size(complete=True)
            self._open = False
            return {}
        body = loads(data)
        if header.kind == Kind.ARCHIVE and body is not None:
            return self._begin(body)
        if body is None or kind_of(body) != header.kind:
            raise BadFrame(f"{header} is not the JSON object of one: {data[:100]!a}")
        return body

    def _begin(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        size = body.get("size")
        self._open, self._size, self._got = True, None if size is None else archive_size(size), 0
        return {"size": self._size}

    def _check_size(self, *, complete: bool) -> None:
        if self._size is not None and (self._got > self._size or (complete and self._got < self._size)):
            raise BadFrame(f"an archive of {self._size} bytes was announced, and {self._got} came")

    def _unpack(self, header: Header, payload: bytes) -> bytes:
        """Decompress into a bounded place."""
        try:
            import zstandard
        except ImportError as error:
            raise StreamError("Compressed frames need the Python package zstandard; install it here.") from error
        limit = _LIMITS.get(header.kind, MAX_LINE)
        try:
            size = zstandard.frame_content_size(payload)
            if size > limit:
                raise BadFrame(f"{header} says that it is {size} bytes long, where {limit} are the most")
            self._unpacker = self._unpacker or zstandard.ZstdDecompressor()
            data: bytes = self._unpacker.decompress(payload, max_output_size=limit, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise BadFrame(f"{header} can not be decompressed to at most {limit} bytes: {error}") from None
        return data
