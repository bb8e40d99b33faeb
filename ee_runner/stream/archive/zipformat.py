"""The records of a zip archive as this project writes it, to bytes and back; nothing here reads or writes a file.

Others read it too: sizes beyond 32 bits are in ZIP64, UTF-8 names have their flag, modes are in the external
attributes, and a descriptor follows the content whose checksum is not known ahead (APPNOTE 6.3, sections 4.3 to 4.5).
What zip can not say, or says at its end alone, stands in a field of our own, in the local header and in the central
directory: id 0x4545, then ``<BBIqQ``: version, flags, st_mode, mtime in ns, size of the content; then, as the flags
say, the SHA-256 (2), a link's target behind its length as u16 (8), the name (1, the rest). Flag 4 says that the
content is absent.

Every parser takes exactly the bytes of its record, and raises UnsafeArchive for one that is malformed.
"""

from __future__ import annotations

import stat
import struct
import time
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from ee_runner.errors import UnsafeArchive
from ee_runner.values import dataclass

STORED = 0
DEFLATED = 8

STREAMED = 0x0008
"""The flag of an entry whose checksum comes in a descriptor after its content."""

UTF8 = 0x0800

ZIP64_LIMIT = 0xFFFFFFFF
"""The first size or offset that needs ZIP64: it is the mark that stands in for one."""

COUNT_LIMIT = 0xFFFF

SIGNATURE_SIZE = 4
LOCAL = b"PK\x03\x04"
CENTRAL = b"PK\x01\x02"
DESCRIPTOR = b"PK\x07\x08"
END = b"PK\x05\x06"
END64 = b"PK\x06\x06"
LOCATOR = b"PK\x06\x07"

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s4B4H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_NARROW = struct.Struct("<4s3L")
_WIDE = struct.Struct("<4sL2Q")
_SIZES = struct.Struct("<3L")
_PLACE = struct.Struct("<3H2L")
_FIELD = struct.Struct("<2H")
_OWN = struct.Struct("<BBIqQ")

LOCAL_SIZE = _LOCAL.size
CENTRAL_SIZE = _CENTRAL.size
END_SIZE = _END.size
END64_SIZE = _END64.size
LOCATOR_SIZE = _LOCATOR.size

_ZIP64_FIELD = 0x0001
_OWN_FIELD = 0x4545
_OWN_VERSION = 1
_RAW_NAME, _DIGEST, _ABSENT, _RAW_LINK = 1, 2, 4, 8
_DIGEST_SIZE = 32
_UNIX = 3
_BY = 45
_MS_DIRECTORY = 0x10
_CENTRAL_START = CENTRAL + bytes((_BY, _UNIX))  # between it and the place both records say the same, in one order
_KNOWN_FLAGS = 0x0002 | 0x0004 | STREAMED | UTF8  # the first two say how hard deflate has tried
_NAME_MAX = 255


class Entry(NamedTuple):
    """One entry of an archive; several are made for each file, and a tuple is made soonest. Name what you give.

    `name` is the true one: relative, '/' between its parts and at the end of a directory. `size` counts the bytes of
    the content, `packed` those in the archive. When the content is `absent`, `size` is that of the blob which `digest`
    names, and `packed` is 0. `link` is set where a link's content only resembles its target, so that older ends can
    read it as text: see `target`.

    Of a parsed one: `zip_name` is the name as the archive spells it. `own` says that our field was there, and `field`
    is its body; without it a local header has mode 0, and the mtime is local time, to 2 s. `wide` says that ZIP64 was,
    which the descriptor then is too. In the local header of a `streamed` entry crc and packed are 0, and so is size
    unless the entry is `own`.
    """

    name: bytes
    mode: int
    mtime_ns: int
    size: int
    packed: int = 0
    crc: int = 0
    method: int = STORED
    flags: int = 0
    digest: bytes | None = None
    absent: bool = False
    offset: int = 0
    link: bytes | None = None
    zip_name: bytes = b""
    own: bool = True
    field: bytes = b""
    wide: bool = False

    @property
    def streamed(self) -> bool:
        return bool(self.flags & STREAMED)

    @property
    def directory(self) -> bool:
        return self.name.endswith(b"/")

    def target(self, content: bytes) -> bytes:
        """Return what the symbolic link points to, given its content."""
        return content if self.link is None else self.link


@dataclass(frozen=True, slots=True)
class End:
    """What an end record says of the central directory; `comment` bytes follow; `wide`: ask the ZIP64 one."""

    count: int
    size: int
    offset: int
    comment: int = 0
    wide: bool = False


def shown(name: bytes) -> str:
    """Return a name for a message: one line, without what a terminal would obey."""
    text = (name[:200] + b"..." if len(name) > 200 else name).decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


# Names


def spelled(name: bytes) -> tuple[bytes, int]:
    """Return how the archive spells a name, and the flag that goes with it.

    Bytes that are no UTF-8 are there without the flag, so that older ends read them as code page 437: an odd name, but
    one that they can make, since it is kept below the system's limit.
    """
    if name.isascii():
        return name, 0
    try:
        name.decode()
    except UnicodeDecodeError:
        return b"/".join(map(_short, name.split(b"/"))), 0
    return name, UTF8


def resembling(target: bytes) -> bytes:
    """Return a link's target as UTF-8: itself, or as `spelled` has older ends read such a name."""
    spelling, flag = spelled(target)
    return spelling if flag or spelling.isascii() else spelling.decode("cp437").encode()


def _short(part: bytes) -> bytes:
    if len(part.decode("cp437").encode()) <= _NAME_MAX:
        return part
    return part[:80] + b"~%08x" % zlib.crc32(part)


def _true_name(spelling: bytes, flags: int) -> bytes:
    """Read a name without our field as Python's zipfile does; ansible-runner puts ./ before some links."""
    name = spelling
    if not name.isascii():
        try:
            name = spelling if flags & UTF8 else spelling.decode("cp437").encode()
            name.decode()
        except UnicodeDecodeError:
            raise _malformed("the name of an entry is not the UTF-8 that it claims to be", spelling) from None
    return name.removeprefix(b"./")


# Times


def dos_time(mtime_ns: int) -> tuple[int, int]:
    """Return date and time in local time as zip has them, within the years that it knows."""
    moment = time.localtime(mtime_ns // 1_000_000_000)
    if moment.tm_year < 1980:
        return 1 << 5 | 1, 0
    if moment.tm_year > 2107:
        return 127 << 9 | 12 << 5 | 31, 23 << 11 | 59 << 5 | 29
    date = (moment.tm_year - 1980) << 9 | moment.tm_mon << 5 | moment.tm_mday
    return date, moment.tm_hour << 11 | moment.tm_min << 5 | min(moment.tm_sec, 59) // 2


def _from_dos(date: int, clock: int) -> int:
    month, day = max(1, date >> 5 & 15), max(1, date & 31)
    parts = (1980 + (date >> 9), month, day, clock >> 11, clock >> 5 & 63, (clock & 31) * 2, 0, 0, -1)
    return int(time.mktime(parts)) * 1_000_000_000


# To bytes


def local_header(entry: Entry) -> bytes:
    """Return what goes before the content; crc, size and packed are used unless the entry is streamed."""
    name, flag = spelled(entry.name)
    known = not entry.streamed
    size, packed, crc = (_in_archive(entry), entry.packed, entry.crc) if known else (0, 0, 0)
    extra = _own_field(entry)
    wide = _wide(entry)
    if wide:
        extra = _FIELD.pack(_ZIP64_FIELD, 16) + size.to_bytes(8, "little") + packed.to_bytes(8, "little") + extra
        size = packed = 0xFFFFFFFF
    date, clock = dos_time(entry.mtime_ns)
    flags = entry.flags | flag
    head = (LOCAL, _needed(wide=wide), flags, entry.method, clock, date, crc, packed, size, len(name), len(extra))
    return _LOCAL.pack(*head) + name + extra


def descriptor(entry: Entry) -> bytes:
    """Return what goes after the content of a streamed entry: its checksum and sizes."""
    return (_WIDE if _wide(entry) else _NARROW).pack(DESCRIPTOR, entry.crc, entry.packed, entry.size)


def central_entry(entry: Entry, *, local: bytes = b"") -> bytes:
    """Return the entry's record in the central directory; `local` is its local header, where that is at hand."""
    numbers = (_in_archive(entry), entry.packed, entry.offset)
    attributes = (entry.mode & 0xFFFF) << 16 | (_MS_DIRECTORY if entry.directory else 0)
    if max(numbers) >= ZIP64_LIMIT:
        return _wide_central_entry(entry, numbers, attributes=attributes)
    local = local or local_header(entry)
    sizes = _SIZES.pack(entry.crc, entry.packed, numbers[0])
    place = _PLACE.pack(0, 0, 0, attributes, entry.offset)
    return b"".join((_CENTRAL_START, local[4:14], sizes, local[26:LOCAL_SIZE], place, local[LOCAL_SIZE:]))


def _wide_central_entry(entry: Entry, numbers: tuple[int, int, int], *, attributes: int) -> bytes:
    name, flag = spelled(entry.name)
    beyond = [number for number in numbers if number >= ZIP64_LIMIT]
    size, packed, offset = (0xFFFFFFFF if number >= ZIP64_LIMIT else number for number in numbers)
    extra = _FIELD.pack(_ZIP64_FIELD, 8 * len(beyond)) + struct.pack(f"<{len(beyond)}Q", *beyond) + _own_field(entry)
    date, clock = dos_time(entry.mtime_ns)
    made = (CENTRAL, _BY, _UNIX, _needed(wide=True), 0, entry.flags | flag, entry.method, clock, date)
    rest = (entry.crc, packed, size, len(name), len(extra), 0, 0, 0, attributes, offset)
    return _CENTRAL.pack(*made, *rest) + name + extra


def end_records(end: End) -> bytes:
    """Return what goes after the central directory, ZIP64 records among it when they are needed."""
    wide = b""
    if max(end.size, end.offset) >= ZIP64_LIMIT or end.count >= COUNT_LIMIT:
        numbers = (end.count, end.count, end.size, end.offset)
        wide = _END64.pack(END64, END64_SIZE - 12, _UNIX << 8 | _BY, _BY, 0, 0, *numbers)
        wide += _LOCATOR.pack(LOCATOR, 0, end.offset + end.size, 1)
    count = 0xFFFF if end.count >= COUNT_LIMIT else end.count
    size, offset = (0xFFFFFFFF if number >= ZIP64_LIMIT else number for number in (end.size, end.offset))
    return wide + _END.pack(END, 0, 0, count, count, size, offset, 0)


def _own_field(entry: Entry) -> bytes:
    """Return our field with its header."""
    flags, tail = 0, b""
    if entry.digest is not None:
        flags, tail = _DIGEST, entry.digest
    if entry.absent:
        flags |= _ABSENT
    if entry.link is not None:
        flags, tail = flags | _RAW_LINK, tail + len(entry.link).to_bytes(2, "little") + entry.link
    if not entry.name.isascii() and spelled(entry.name)[1] == 0:
        flags, tail = flags | _RAW_NAME, tail + entry.name
    body = _OWN.pack(_OWN_VERSION, flags, entry.mode, entry.mtime_ns, entry.size) + tail
    return _FIELD.pack(_OWN_FIELD, len(body)) + body


def _in_archive(entry: Entry) -> int:
    return 0 if entry.absent else entry.size


def _wide(entry: Entry) -> bool:
    return max(_in_archive(entry), entry.packed) >= ZIP64_LIMIT


def _needed(*, wide: bool) -> int:
    return 45 if wide else 20


# And back


def local_length(head: bytes) -> int:
    """Return how long a local header is, given its first `LOCAL_SIZE` bytes."""
    fields = _unpacked(_LOCAL, head, LOCAL)
    return LOCAL_SIZE + int(fields[-2]) + int(fields[-1])


def parse_local(data: bytes) -> Entry:
    """Read a whole local header."""
    _, _, flags, method, clock, date, crc, packed, size, *lengths = _unpacked(_LOCAL, data, LOCAL)
    name, fields = _tail(data, LOCAL_SIZE, *lengths)
    size, packed = _widened((size, packed), fields, name)
    if flags & STREAMED and (crc or packed or size):
        raise _malformed("a size or checksum stands both before and after the content", name)
    record = _Record(flags, method, crc, packed, size)
    return _parsed(record, name, fields, mode=0, moment=(date, clock))


def central_length(head: bytes) -> int:
    """Return how long a record of the central directory is, given its first `CENTRAL_SIZE` bytes."""
    fields = _unpacked(_CENTRAL, head, CENTRAL)
    return CENTRAL_SIZE + sum(int(number) for number in fields[12:15])


def parse_central(data: bytes) -> Entry:
    """Read a whole record of the central directory; one with a comment is refused."""
    _, _, system, _, _, flags, method, clock, date, crc, packed, size, *rest = _unpacked(_CENTRAL, data, CENTRAL)
    name_size, extra_size, comment, disk, _, attributes, offset = rest
    name, fields = _tail(data, CENTRAL_SIZE, name_size, extra_size + comment)
    if comment or disk:
        raise _malformed("it has a comment, or lies on another disk", name)
    size, packed, offset = _widened((size, packed, offset), fields, name)
    mode = attributes >> 16 if system == _UNIX else 0
    record = _Record(flags, method, crc, packed, size, offset)
    entry = _parsed(record, name, fields, mode=mode, moment=(date, clock))
    if entry.own and entry.mode & 0xFFFF != mode:
        raise _malformed("it has two modes", name)
    if entry.own and _in_archive(entry) != size:
        raise _malformed("it has two sizes", name)
    return entry


def descriptor_length(entry: Entry) -> int:
    """Return how long the descriptor of a streamed entry is, given its parsed local header."""
    return (_WIDE if entry.wide else _NARROW).size


def parse_descriptor(data: bytes, *, wide: bool) -> tuple[int, int, int]:
    """Return checksum, bytes in the archive and size of the content; a descriptor without signature is refused."""
    _, crc, packed, size = _unpacked(_WIDE if wide else _NARROW, data, DESCRIPTOR)
    return crc, packed, size


def parse_end(data: bytes) -> End:
    """Read the `END_SIZE` bytes of the last record."""
    _, disk, start, here, count, size, offset, comment = _unpacked(_END, data, END)
    if disk or start or here != count:
        raise _malformed("it is one of several disks")
    wide = count == 0xFFFF or 0xFFFFFFFF in (size, offset)
    return End(count, size, offset, comment, wide)


def parse_end64(data: bytes) -> End:
    """Read the `END64_SIZE` bytes of the ZIP64 end record; one with more in it is refused."""
    _, length, _, _, disk, start, here, count, size, offset = _unpacked(_END64, data, END64)
    if length != END64_SIZE - 12 or disk or start or here != count:
        raise _malformed("its ZIP64 end record is of an unknown form")
    return End(count, size, offset)


def parse_locator(data: bytes) -> int:
    """Return where the ZIP64 end record begins, from the `LOCATOR_SIZE` bytes that say so."""
    _, disk, offset, disks = _unpacked(_LOCATOR, data, LOCATOR)
    if disk or disks != 1:
        raise _malformed("it is one of several disks")
    return int(offset)


def _unpacked(form: struct.Struct, data: bytes, signature: bytes) -> tuple[int, ...]:
    if len(data) < form.size or data[:SIGNATURE_SIZE] != signature:
        raise _malformed(f"a record that should begin with {signature!r} begins with {bytes(data[:8])!r}")
    return form.unpack_from(data)


def _tail(data: bytes, start: int, name_size: int, extra_size: int) -> tuple[bytes, dict[int, bytes]]:
    """Return the name and the extra fields that follow a record's fixed part."""
    name = bytes(data[start : start + name_size])
    if len(data) != start + name_size + extra_size:
        raise _malformed("an entry is cut", name)
    if b"\0" in name:
        raise _malformed("the name of an entry has a zero byte", name)
    fields: dict[int, bytes] = {}
    for kind, body in _fields(bytes(data[start + name_size :]), name):
        if kind in fields and kind in (_ZIP64_FIELD, _OWN_FIELD):
            raise _malformed(f"an entry has the extra field {kind:#06x} twice", name)
        fields[kind] = body
    return name, fields


def _fields(extra: bytes, name: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + _FIELD.size <= len(extra):
        kind, length = _FIELD.unpack_from(extra, place)
        place += _FIELD.size + length
        if place > len(extra):
            break
        yield kind, extra[place - length : place]
    if place != len(extra):
        raise _malformed("an extra field is cut", name)


def _widened(numbers: tuple[int, ...], fields: dict[int, bytes], name: bytes) -> tuple[int, ...]:
    """Replace the numbers that stand in ZIP64, in its order: size, packed, offset."""
    missing = numbers.count(0xFFFFFFFF)
    body = fields.get(_ZIP64_FIELD, b"")
    if not missing:
        return numbers
    if len(body) < 8 * missing:
        raise _malformed("a size beyond 32 bits is missing", name)
    wide = iter(struct.unpack_from(f"<{missing}Q", body))
    return tuple(next(wide) if number == 0xFFFFFFFF else number for number in numbers)


class _Record(NamedTuple):
    """What both records of an entry say of its content; the offset only the one in the central directory."""

    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int = 0


def _parsed(record: _Record, zip_name: bytes, fields: dict[int, bytes], *, mode: int, moment: tuple[int, int]) -> Entry:
    """Return the entry that a record tells of, with what our field says in place of what zip can not say."""
    flags, method, crc, packed, size, offset = record
    if flags & ~_KNOWN_FLAGS or method not in (STORED, DEFLATED):
        raise _malformed(f"method {method}, flags {flags:#06x}: encrypted, or unknown here", zip_name)
    if method == STORED and size != packed:
        raise _malformed("it has two sizes, and is not compressed", zip_name)
    name, field = _true_name(zip_name, flags), fields.get(_OWN_FIELD)
    own = _Own(name, mode, 0, size) if field is None else _read_own(field, name, zip_name)
    entry = Entry(
        name=own.name,
        mode=own.mode,
        mtime_ns=_from_dos(*moment) if field is None else own.mtime_ns,
        size=own.size,
        packed=packed,
        crc=crc,
        method=method,
        flags=flags,
        digest=own.digest,
        absent=own.absent,
        offset=offset,
        link=own.link,
        zip_name=zip_name,
        own=field is not None,
        field=field or b"",
        wide=_ZIP64_FIELD in fields,
    )
    if field is not None:
        _check_own(entry, size=size, is_directory=name.endswith(b"/"))
    return entry


def _check_own(entry: Entry, *, size: int, is_directory: bool) -> None:
    """Hold what our field says against the record."""
    if size != _in_archive(entry) and not entry.streamed:
        raise _malformed("it has two sizes", entry.zip_name)
    content = entry.packed or entry.crc or entry.streamed
    if entry.absent and (entry.digest is None or content or not stat.S_ISREG(entry.mode)):
        raise _malformed("its absent content is there, or has no digest, or is no file", entry.zip_name)
    if not entry.directory == is_directory == stat.S_ISDIR(entry.mode):
        raise _malformed("its name and its mode disagree on whether it is a directory", entry.zip_name)


class _Own(NamedTuple):
    """What our field says."""

    name: bytes
    mode: int
    mtime_ns: int
    size: int
    absent: bool = False
    digest: bytes | None = None
    link: bytes | None = None


def _read_own(body: bytes, name: bytes, zip_name: bytes) -> _Own:
    if len(body) < _OWN.size or body[0] != _OWN_VERSION or body[1] > 15:
        raise _malformed("its field 0x4545 is of an unknown version", zip_name)
    _, flags, mode, mtime_ns, size = _OWN.unpack_from(body)
    if len(body) == _OWN.size and not flags & ~_ABSENT and name:
        return _Own(name, mode, mtime_ns, size, bool(flags))
    rest, digest, link = body[_OWN.size :], None, None
    if flags & _DIGEST:
        digest, rest = _cut(rest, _DIGEST_SIZE, zip_name)
    if flags & _RAW_LINK:
        length, rest = _cut(rest, 2, zip_name)
        link, rest = _cut(rest, int.from_bytes(length, "little"), zip_name)
    name, rest = (rest, b"") if flags & _RAW_NAME else (name, rest)
    if rest or b"\0" in name or b"\0" in (link or b"") or not name:
        raise _malformed("its field 0x4545 is too long, or has a zero byte or an empty name in it", zip_name)
    return _Own(name, mode, mtime_ns, size, bool(flags & _ABSENT), digest, link)


def _cut(data: bytes, size: int, zip_name: bytes) -> tuple[bytes, bytes]:
    if len(data) < size:
        raise _malformed("its field 0x4545 is cut", zip_name)
    return data[:size], data[size:]


def _malformed(reason: str, name: bytes | None = None) -> UnsafeArchive:
    place = "" if name is None else f" at the entry {shown(name)!r}"
    return UnsafeArchive(
        f"The archive is malformed{place}: {reason}. Send it again; if it stays so, its sender is to blame."
    )
