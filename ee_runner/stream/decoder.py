"""From the bytes of a remote job's stream to its records, without doing any I/O.

A stream starts as lines. Those of an older end are taken for what they say; after a HELLO each line needs its seal, and
after a HELLO that says so frames follow. What belongs to no record is passed over and reported as Noise.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping

from ee_runner.errors import BadFrame, TruncatedStream
from ee_runner.stream.frames import FrameReader
from ee_runner.stream.lines import (
    MAX_LINE,
    MESSAGES,
    Buffer,
    Content,
    Item,
    archive_size,
    check_number,
    kind_of,
    loads,
    noise,
    own_words,
    read_hello,
)
from ee_runner.stream.records import Hello, Kind, Noise, Record

_MAX_TRIES = 64
_LINE_END = b"\r\n"
_CRC = re.compile(r"[0-9a-f]{8}")
# What has no seal directly behind it: archives, which are too long to be held back, and keepalives.
_UNSEALED = re.compile(
    rb'(\{(?:"zipfile": ?(\d{1,18})|"event": ?"keepalive", ?"counter": ?0, ?"uuid": ?0)\})[ \t\r\n]{0,4}\Z'
)
_MAX_UNSEALED = 100
_NAMES = {
    Kind.REQUEST: "a request",
    Kind.ARCHIVE_END: "an archive",
    Kind.STATUS: "a status",
    Kind.EVENT: "an event",
    Kind.END: "the end record",
}


class LineReader:
    """Lines to records, sealed ones after a HELLO.

    A sealed line is held until its seal comes; without one it is Noise. In front of a record, of a seal and of a HELLO
    there may be noise on the same line, but not in front of the lines of an older end.
    """

    def __init__(self) -> None:
        self.next = 1
        self._sealed = False
        self._searched = 0
        self._held: bytes | None = None
        self._archive: Content | None = None

    def read(self, buffer: Buffer) -> Iterator[Item]:
        """Yield what is whole in the buffer, and take it out."""
        while True:
            if self._archive and self._archive.missing:
                while data := self._archive.read(buffer):
                    yield Record(Kind.CONTENT, data, self._number())
                if self._archive.missing:
                    return
            if self._archive and not self._sealed:
                self._archive = None
                yield Record(Kind.ARCHIVE_END, {})
            line = self._line(buffer)
            if line is None:
                return
            yield from self._take_sealed(line) if self._sealed else self._take(line)

    def rest(self, buffer: Buffer) -> Iterator[Noise]:
        """Yield at the end of the stream what is no part of an archive."""
        yield from self._drop_held()
        if len(buffer) and not (self._archive and self._archive.missing):
            yield noise(buffer.take(len(buffer)))

    def ends(self, buffer: Buffer) -> bool:
        """Say whether an older end's last line, which lacks its line end, is the end record."""
        body = None if self._sealed or self._archive else loads(buffer.peek(len(buffer)))
        return body is not None and kind_of(body) is Kind.END

    def _number(self) -> int | None:
        return self.next if self._sealed else None

    def _line(self, buffer: Buffer) -> bytes | None:
        end = buffer.find(b"\n", self._searched)
        if (end if end >= 0 else len(buffer)) > MAX_LINE:
            raise BadFrame(f"a line is longer than {MAX_LINE} bytes")
        self._searched = 0 if end >= 0 else len(buffer)
        return buffer.take(end + 1) if end >= 0 else None

    def _take(self, line: bytes) -> Iterator[Item]:
        """Take a line of an older end."""
        if (words := own_words(line)) is not None:
            yield from self._own(line, *words)
            return
        body = loads(line)
        kind = kind_of(body) if body is not None else None
        if body is None or kind is None:
            yield noise(line)
        elif kind is Kind.ARCHIVE:
            yield self._begin(archive_size(body["zipfile"]), crc=0)
        else:
            yield Record(kind, {} if kind is Kind.KEEPALIVE else body)

    def _take_sealed(self, line: bytes) -> Iterator[Item]:
        if (words := own_words(line)) is not None:
            yield from self._own(line, *words)
            return
        yield from self._drop_held()
        unsealed = _UNSEALED.search(line, max(0, len(line) - _MAX_UNSEALED))
        if self._archive or not (unsealed or line.rstrip(_LINE_END).endswith(b"}")):
            yield noise(line)
        elif not unsealed:
            self._held = line
        else:
            yield from _in_front(line, unsealed.start())
            if unsealed[2]:
                yield self._begin(int(unsealed[2]), crc=zlib.crc32(unsealed[1]))
            else:
                yield Record(Kind.KEEPALIVE, {})

    def _begin(self, size: int, *, crc: int) -> Record:
        self._archive = Content(size, crc=crc)
        return Record(Kind.ARCHIVE, {"size": size}, self._number())

    def _own(self, line: bytes, start: int, words: object) -> Iterator[Item]:
        """Take a line of our own end's: what it begins with in front of `start` is noise."""
        if isinstance(words, Mapping) and "seq" in words and "version" not in words:
            yield from _in_front(line, start)
            yield from self._seal(words)
            return
        yield from self._drop_held()
        if isinstance(words, Mapping) and "version" in words:
            yield from _in_front(line, start)
            yield self._hello(words)
        else:
            yield noise(line)

    def _hello(self, words: Mapping[str, object]) -> Hello:
        if self._archive:
            raise BadFrame(f"record {self.next} (an archive) is not sealed: a greeting comes in its place")
        hello = read_hello(words)
        self._sealed = True
        return hello

    def _seal(self, words: Mapping[str, object]) -> Iterator[Record | Noise]:
        number, crc = words["seq"], words.get("crc")
        if type(number) is not int or not 0 < number < 1 << 63 or not isinstance(crc, str) or not _CRC.fullmatch(crc):
            raise BadFrame(f"the seal of a record can not be read: {ascii(words)[:100]}")
        if not self._sealed:
            raise BadFrame(f"record {number} is sealed, but the greeting that comes before sealed records is missing")
        check_number(number, self.next)
        yield from self._archive_end(int(crc, 16)) if self._archive else self._release(int(crc, 16))

    def _archive_end(self, crc: int) -> Iterator[Record]:
        if self._archive is None or self._archive.crc != crc:
            raise BadFrame(f"record {self.next} (an archive) is damaged: its checksum does not fit")
        self._archive = None
        self.next += 1
        yield Record(Kind.ARCHIVE_END, {}, self.next - 1)

    def _release(self, crc: int) -> Iterator[Record | Noise]:
        """Give the line that was held until its seal came."""
        held, self._held = (self._held or b"").rstrip(_LINE_END), None
        start = _fitting(held, crc)
        if start is None:
            raise BadFrame(f"record {self.next} is damaged: its checksum does not fit")
        body = loads(held[start:])
        kind = kind_of(body) if body is not None else None
        if body is None or kind not in MESSAGES:
            shown = ascii(held[start : start + 100])
            raise BadFrame(f"record {self.next} is none that this end knows ({shown}): upgrade ee-runner on this end")
        yield from _in_front(held, start)
        self.next += 1
        yield Record(kind, body, self.next - 1)

    def _drop_held(self) -> Iterator[Noise]:
        if self._held is not None:
            dropped, self._held = noise(self._held), None
            yield dropped


def _in_front(line: bytes, start: int) -> Iterator[Noise]:
    if start:
        yield noise(line[:start])


def _fitting(line: bytes, crc: int) -> int | None:
    """Where in the line the record begins that has this checksum; a few places are tried, so time stays linear."""
    start = 0
    for _ in range(_MAX_TRIES):
        if zlib.crc32(memoryview(line)[start:]) == crc:
            return start if line else None
        start = line.find(b'{"', start + 1)
        if start < 0:
            break
    return None


class StreamDecoder:
    """Takes a stream as it comes, and gives its records, its noise and its greetings in order.

    It gives the same however the stream is cut, in time linear in its length, and holds no more than two lines or one
    payload, each of 64 MiB at the most. An archive comes as ARCHIVE {"size": N or None}, CONTENT as it arrives, and
    ARCHIVE_END. `hello` is the last greeting; `ended` says that the END record was seen, and `leftover` how many bytes
    came after it, which are not looked at. `count` is the number of the last record (an archive is one record in lines,
    and keepalives are none).
    """

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self.ended = False
        self.count = 0
        self.leftover = 0
        self._buffer = Buffer()
        self._reader: LineReader | FrameReader = LineReader()
        self._failure: str | None = None
        self._last: Kind | None = None
        self._size: int | None = None
        self._got = 0
        self._noise: Noise | None = None

    def feed(self, data: bytes) -> Iterator[Item]:
        """Take the next bytes; iterate over what they complete to its end before the next are fed.

        The iteration raises BadFrame for what the protocol does not allow, and does so again from then on.
        """
        if self.ended:
            self.leftover += len(data)
        elif self._failure is None:
            self._buffer.append(data)
        return self._items()

    def close(self) -> Iterator[Noise]:
        """At the end of the stream: give what is left, and raise TruncatedStream if no END record was seen."""
        if self._failure is not None:
            raise BadFrame(self._failure)
        if not self.ended and isinstance(self._reader, LineReader):
            self.ended = self._reader.ends(self._buffer)
        if self.ended:
            return
        for rest in self._reader.rest(self._buffer):
            self._note(rest)
            yield rest
        raise TruncatedStream(self._truncated())

    @property
    def position(self) -> str:
        """How far the stream was read, in words that follow those of an error."""
        if self._last in (Kind.ARCHIVE, Kind.CONTENT):
            size = "" if self._size is None else f" of {self._size}"
            return f"in the middle of an archive (record {self.count}), after {self._got}{size} bytes"
        if self._last is not None:
            return f"after record {self.count} ({_NAMES[self._last]})"
        return "after its greeting" if self.hello else "at its beginning"

    def _items(self) -> Iterator[Item]:
        if self._failure is not None:
            raise BadFrame(self._failure)
        try:
            yield from self._read()
        except BadFrame as error:
            self._failure = f"The stream can not be read {self.position}: {error}."
            raise BadFrame(self._failure) from None

    def _read(self) -> Iterator[Item]:
        switched = True
        while switched and not self.ended:
            switched = False
            for item in self._reader.read(self._buffer):
                self._note(item)
                yield item
                switched = isinstance(item, Hello) and item.frames
                if self.ended or switched:
                    break
        if self.ended:
            self.leftover += len(self._buffer.take(len(self._buffer)))

    def _note(self, item: Item) -> None:
        """Remember what the position and the end depend on."""
        if isinstance(item, Noise):
            self._noise = Noise(self._noise.data, self._noise.size + item.size) if self._noise else item
        elif isinstance(item, Hello):
            self.hello = item
            if item.frames:
                self._reader = FrameReader(first=self._reader.next)
        elif item.kind is not Kind.KEEPALIVE:
            self._note_record(item)

    def _note_record(self, record: Record) -> None:
        within = record.kind in (Kind.CONTENT, Kind.ARCHIVE_END)
        self.count = record.sequence or self.count + (not within)
        self._last = record.kind
        self.ended = record.kind is Kind.END
        if isinstance(record.body, bytes):
            self._got += len(record.body)
        elif record.kind is Kind.ARCHIVE:
            self._size, self._got = record.body["size"], 0

    def _truncated(self) -> str:
        if self._last is not None or (self.hello and not self._noise):
            return f"The stream ended {self.position}, before its end record."
        if self._noise is None:
            return "The stream ended before it began: not one byte came."
        return f"The stream holds no record, only {self._noise}."
