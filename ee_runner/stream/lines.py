"""Records as lines of JSON, the way ansible-runner writes them, and the seals that our own ends add to them."""

from __future__ import annotations

import binascii
import contextlib
import json
import re
import string
import sys
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType
from typing import Any

from ee_runner.errors import BadFrame, StreamError
from ee_runner.stream.records import HELLO, KEEPALIVE, OWN, VERSION, Hello, Kind, Noise, Record, compact
from ee_runner.values import replace

Item = Record | Noise | Hello

MAX_LINE = 64 * 1024 * 1024
_PIECE = 128 * 1024
QUOTED = 1000
_MAX_WORDS = 16 * 1024
_LONGEST_SILENCE = 24 * 60 * 60
_BITS = 64

_SPACE = b" \t\r\n\x0b\x0c"
_BASE64 = (string.ascii_letters + string.digits + "+/").encode()
_KEEPALIVE_LINE = compact(KEEPALIVE) + b"\n"
_OWN_START = compact(KEEPALIVE)[:-1] + b',"%s":' % OWN.encode()
# A whole pair, half of one, or another escape sequence, from left to right so that `\\ud800` is none.
_ESCAPE = rb"(?s)\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
_OF_AN_EVENT = b'"event_data"'

_KEYS: tuple[tuple[str, Kind], ...] = (
    ("kwargs", Kind.REQUEST),
    ("status", Kind.STATUS),
    ("zipfile", Kind.ARCHIVE),
    ("eof", Kind.END),
)
MESSAGES = frozenset({Kind.REQUEST, Kind.STATUS, Kind.EVENT, Kind.END})


def kind_of(body: Mapping[str, Any]) -> Kind | None:
    """Say what a line is by its keys, in the order in which ansible-runner looks for them."""
    for key, kind in _KEYS:
        if key in body:
            return kind
    if body.get("event") == "keepalive":
        return Kind.KEEPALIVE
    return Kind.EVENT if "event" in body or ("counter" in body and "uuid" in body) else None


def dumps(kind: Kind, body: Mapping[str, Any]) -> bytes:
    """Return a message as JSON in one line.

    Raises ValueError for a body that would be read as a record of another kind.
    """
    if kind not in MESSAGES or kind_of(body) is not kind:
        raise ValueError(f"a body with the keys {sorted(body)} makes no {kind.name} record")
    if kind is not Kind.EVENT:
        with contextlib.suppress(TypeError, ValueError):  # what json does not know, msgspec may
            return compact(body)
    try:
        line: bytes = _msgspec().encode(body)
        return line
    except UnicodeEncodeError:  # half of a surrogate pair, as in a file name that is no UTF-8
        return json.dumps(body).encode()


@cache
def _msgspec() -> ModuleType:
    """Return msgspec's JSON; to load it takes 20 ms, which a request and the beginning of a job are not worth."""
    import msgspec

    return msgspec.json


def loads(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object that the data is; None if it is none.

    What Python's json writes beyond the standard is read too: NaN and Infinity, and halves of surrogate pairs,
    which come out as U+FFFD. So every text in it can be written as UTF-8.
    """
    if not data.rstrip(_SPACE).endswith(b"}"):
        return None
    if _OF_AN_EVENT not in data and "msgspec" not in sys.modules:
        body = _loads_more(data)
    else:
        try:
            body = _msgspec().decode(data)
        except RecursionError:
            return None
        except ValueError:
            body = _loads_more(data)
    return body if isinstance(body, dict) else None


def _loads_more(data: bytes) -> object:
    if b"\\" in data:
        data = re.sub(_ESCAPE, lambda escape: rb"\ufffd" if escape[1] else escape[0], data)
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError):
        return None


def noise(data: bytes) -> Noise:
    return Noise(data[:QUOTED], len(data))


def check_number(number: int, expected: int) -> None:
    """Raise BadFrame unless this record is the one that is due."""
    if number < expected:
        raise BadFrame(f"record {number} came twice or out of order, where record {expected} was due")
    if number == expected + 1:
        raise BadFrame(f"record {expected} is missing")
    if number > expected:
        raise BadFrame(f"records {expected} to {number - 1} are missing")


def check_size(size: int, *, kind: Kind, number: int) -> None:
    """Raise StreamError for a message that is longer than our own ends take."""
    if size > MAX_LINE:
        raise StreamError(f"record {number} ({kind.name.lower()}) of {size} bytes is too long: {MAX_LINE} are the most")


class Buffer:
    """Bytes that wait for more; what is taken from its front costs no copy of the rest."""

    def __init__(self) -> None:
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    def append(self, data: bytes) -> None:
        self._data += data

    def find(self, what: bytes, start: int = 0) -> int:
        return self._data.find(what, start)

    def peek(self, size: int) -> bytes:
        with memoryview(self._data) as view:
            return bytes(view[:size])

    def take(self, size: int) -> bytes:
        data = self.peek(size)
        del self._data[:size]
        return data

    def replace(self, size: int, data: bytes) -> None:
        """Put something shorter in the place of the first bytes."""
        self._data[:size] = data


class LineEncoder:
    """Records to lines; `sealed` adds to each its number, counted from `first`, and its checksum.

    ansible-runner reads both. Nothing can be said while an archive is open: `keepalive` is empty then, and `message`
    raises ValueError, as does an archive that becomes longer or shorter than its announced size.
    """

    def __init__(self, *, sealed: bool, first: int = 1) -> None:
        self.next = first
        self._sealed = sealed
        self._open = False
        self._missing = 0
        self._rest = b""
        self._crc = 0

    def message(self, kind: Kind, body: Mapping[str, Any]) -> bytes:
        """Return the record's line; StreamError if it is longer than our own ends take."""
        self._check_open(False)
        line = dumps(kind, body)
        if self._sealed:
            check_size(len(line), kind=kind, number=self.next)
        return line + b"\n" + self._seal(zlib.crc32(line))

    def keepalive(self) -> bytes:
        return b"" if self._open else _KEEPALIVE_LINE

    def archive(self, size: int | None) -> bytes:
        self._check_open(False)
        if size is None or size < 0:
            raise ValueError("an archive in lines begins with its size")
        line = b'{"zipfile":%d}' % size
        self._open, self._missing, self._crc = True, size, zlib.crc32(line)
        return line + b"\n"

    def content(self, data: bytes | memoryview) -> bytes:
        self._check_open(True)
        data = self._rest + bytes(data) if self._rest else memoryview(data).cast("B")
        whole = len(data) // 3 * 3
        self._rest = bytes(data[whole:])
        return self._encode(data[:whole])

    def archive_end(self) -> bytes:
        self._check_open(True)
        rest, self._rest = self._encode(self._rest), b""
        if self._missing:
            raise ValueError(f"the archive ends {self._missing} bytes before its announced size")
        self._open = False
        return rest + self._seal(self._crc)

    def _encode(self, data: bytes | memoryview) -> bytes:
        self._missing -= len(data)
        if self._missing < 0:
            raise ValueError(f"the archive is {-self._missing} bytes longer than its announced size")
        if self._sealed:
            self._crc = zlib.crc32(data, self._crc)
        return binascii.b2a_base64(data, newline=False)

    def _check_open(self, wanted: bool) -> None:
        if self._open is not wanted:
            raise ValueError("no archive is open" if wanted else "an archive is open")

    def _seal(self, crc: int) -> bytes:
        number, self.next = self.next, self.next + 1
        return b'%s{"seq":%d,"crc":"%08x"}}\n' % (_OWN_START, number, crc) if self._sealed else b""


def own_words(line: bytes) -> tuple[int, object] | None:
    """Find what one of our own ends says to the other in a line: where in the line it begins, and what it is.

    It may come behind noise that did not end its line, if it is spelled as our own ends spell it.
    """
    start = line.rfind(_OWN_START, max(0, len(line) - _MAX_WORDS))
    if start < 0:
        if len(line) > _MAX_WORDS or b'"%s"' % OWN.encode() not in line:
            return None
        start = 0
    body = loads(line[start:])
    return (start, body[OWN]) if body and body.get("event") == "keepalive" and OWN in body else None


def read_hello(words: Mapping[str, Any]) -> Hello:
    """Return what a HELLO says; keys of later versions are passed over.

    A `keepalive` of more than a day is none. Raises BadFrame for a version above ours, and for values that it can not
    have: a stream whose HELLO was taken for noise would be read without its checks.
    """
    version = words["version"]
    if type(version) is int and version > VERSION:
        remedy = f"this end knows versions up to {VERSION}: upgrade ee-runner on this end"
        raise BadFrame(f"the other end speaks version {version} of the protocol, and {remedy}")
    known = {name: words[name] for name in HELLO if name in words}
    for name, value in known.items():
        if type(value) not in HELLO[name] or (type(value) is int and value.bit_length() > _BITS):
            what = f"its {name} is {ascii(value)[:50]}"
            raise BadFrame(f"the greeting of the other end can not be read: {what}")
    hello = Hello(**known)
    if hello.version < 1 or not (hello.keepalive or 0) >= 0:
        raise BadFrame("the greeting of the other end can not be read: a number in it is too small")
    return replace(hello, keepalive=None) if (hello.keepalive or 0) > _LONGEST_SILENCE else hello


def archive_size(size: object) -> int:
    if type(size) is not int or not 0 <= size < 1 << 63:
        shown = ascii(size)[:100]
        raise BadFrame(f'the size of an archive is {shown}, where {{"zipfile": N}} with a whole number was expected')
    return size


class Content:
    """The base64 text of an archive: as long as its size says, and followed directly by the next line."""

    def __init__(self, size: int, *, crc: int) -> None:
        self.missing = size
        self.crc = crc
        self._quickly: Callable[[bytes], bytes] = _msgspec().Decoder(bytes).decode

    def read(self, buffer: Buffer) -> bytes:
        """Take what can be decoded from the buffer; empty when more is needed.

        Space is passed over. Raises BadFrame when anything else is the next.
        """
        while True:
            taken = buffer.peek(min(-(-self.missing // 3) * 4, _PIECE))
            text, data = self._next(taken)
            buffer.replace(len(taken), text[-(-len(data) // 3) * 4 :])
            if data or len(text) == len(taken):  # else there was nothing but space, and more may be behind it
                break
        self.missing -= len(data)
        self.crc = zlib.crc32(data, self.crc)
        return data

    def _next(self, text: bytes) -> tuple[bytes, bytes]:
        """Return the text, without space if there was any, and what its beginning decodes to."""
        data = self._decode(text)
        if data is None:
            text = text.translate(None, _SPACE)
            data = self._decode(text)
        if data is None:
            data = self._decode(text[: _base64_groups(text)])
            if not data:
                raise BadFrame(_no_base64(text[:4]))
        return text, data

    def _decode(self, text: bytes) -> bytes | None:
        """Decode what is whole groups of four; None if anything but base64 is in them, which the length tells."""
        whole = len(text) // 4 * 4
        wanted = min(whole // 4 * 3, self.missing)
        with contextlib.suppress(ValueError):  # three times as fast, and stricter
            data = self._quickly(b'"%b"' % text[:whole])
            if len(data) == wanted:
                return data
        try:
            data = binascii.a2b_base64(text[:whole])
        except binascii.Error:
            return None
        return data if len(data) == wanted else None


def _base64_groups(text: bytes) -> int:
    """How long the good groups before a bad one are; where all look good, the last has no padding and needs it."""
    good = len(text) - len(text.lstrip(_BASE64))
    return min(good, len(text) - 1) // 4 * 4


def _no_base64(text: bytes) -> str:
    foreign = text.translate(None, _BASE64 + b"=")[:1] or text
    return f"{foreign.decode('latin-1')!a} was found where the base64 text of the archive goes on"
