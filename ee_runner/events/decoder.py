"""From the bytes of a job to its text and its events, without doing any I/O.

`Decoder` takes the marks of the callback plugin (see `ee_runner/callback/ee_events.py`) out of the stream. What is left
is what a user is to see, and it comes out at once. `EventAssembler` joins the text between the marks with the
records that they name, and numbers the events.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

EventDict = dict[str, Any]

MAX_TEXT = 64 * 1024 * 1024
_NUMBER = r"\d{1,19}"
_UUID = r"[0-9A-Za-z-]{1,64}"  # it names a file


class Text(NamedTuple):
    """Output for the user, marks taken out."""

    data: bytes


class Boundary(NamedTuple):
    """An event starts: text from here to its mark is its own."""


class EventMark(NamedTuple):
    """An event ends, and its record is at this place (in bytes) of the spool.

    A length of 0 says that there is no record: the text since the boundary belongs to no event.
    """

    offset: int
    length: int


Item = Text | Boundary | EventMark


class Decoder:
    """Cuts a stream at the marks that carry the nonce.

    Any other byte is text, marks with another nonce too. Only what may be the start of a mark is held back, so a
    prompt without a newline comes out at once. Time is linear in the input, and a mark is short.
    """

    def __init__(self, nonce: str) -> None:
        self._start = f"\x1b_ee;{nonce};".encode()
        start, end = re.escape(self._start), re.escape(b"\x1b\\")
        number = _NUMBER.encode()
        self._mark = re.compile(start + rb"(?:B|E;(%b);(%b))" % (number, number) + end)
        self._rest = re.compile(rb"(?:B|E(?:;(?:%b(?:;(?:%b)?)?)?)?)?" % (number, number))
        self._longest = len(self._start) + len("E;;") + 2 * 19 + len("\x1b\\")
        self._pending = b""

    def feed(self, data: bytes) -> list[Item]:
        """Take the next bytes, and give in order what is certain by now."""
        if self._pending:
            data = self._pending + data
        items: list[Item] = []
        done = 0
        for mark in self._mark.finditer(data):
            start, end = mark.span()
            if start > done:
                items.append(Text(data[done:start]))
            offset, length = mark.groups()
            items.append(_BOUNDARY if offset is None else EventMark(int(offset), int(length)))
            done = end
        held = self._hold_from(data, done)
        if held > done:
            items.append(Text(data[done:held] if done or held < len(data) else data))
        self._pending = data[held:]
        return items

    def close(self) -> list[Item]:
        """At the end of the stream: what was held back is text after all."""
        rest, self._pending = self._pending, b""
        return [Text(rest)] if rest else []

    def _hold_from(self, data: bytes, done: int) -> int:
        """Where an unfinished mark may start; the length of the data if nowhere."""
        whole = len(data)
        window = max(done, whole - self._longest)
        escape = data.rfind(b"\x1b", window)
        if escape == -1:
            return whole
        if self._may_become_mark(data[escape:]):
            if escape == whole - 1:  # the first byte of a mark, or the last but one of another
                start = data.rfind(self._start, window, escape)
                return start if start != -1 and self._may_become_mark(data[start:escape]) else escape
            return escape
        return whole

    def _may_become_mark(self, tail: bytes) -> bool:
        if len(tail) <= len(self._start):
            return self._start.startswith(tail)
        return tail.startswith(self._start) and self._rest.fullmatch(tail, len(self._start)) is not None


_BOUNDARY = Boundary()


class _Collected:
    """Text of one event or line, whole up to a limit; beyond it only counted."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._lost = 0
        self.newlines = 0

    def add(self, data: bytes) -> None:
        self.newlines += data.count(b"\n")
        room = self._limit - len(self._kept)
        self._kept += data[:room] if len(data) > room else data
        self._lost += max(len(data) - room, 0)

    def text(self) -> str:
        """The text without its line end, with a note at the end if something is missing."""
        text = self._kept.decode("utf-8", "replace").rstrip("\r\n")
        return f"{text}\n[ee-runner cut {self._lost} bytes of text]" if self._lost else text

    def data(self) -> bytes:
        note = b"\n[ee-runner cut %d bytes of text]\n" % self._lost if self._lost else b""
        return bytes(self._kept) + note

    def __bool__(self) -> bool:
        return bool(self._kept)


def _new_uuid() -> str:
    import uuid  # msgspec has loaded it, in the first event but for a line of text

    return str(uuid.uuid4())


def _utc_now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")


class EventAssembler:
    """Joins text and records to events (section 1.14 of the ansible-runner documentation).

    `read_record` gives the bytes of the record at an offset and of a length. Text outside events becomes one
    `verbose` event a line. No text is lost: what has no readable record comes as an `error` event, and what an event
    that never ended had said comes as `verbose` events. An event's text is kept whole up to `max_text` bytes, and
    then says how much is missing.
    """

    def __init__(
        self,
        *,
        ident: str,
        read_record: Callable[[int, int], bytes],
        new_uuid: Callable[[], str] = _new_uuid,
        now: Callable[[], str] = _utc_now,
        max_text: int = MAX_TEXT,
    ) -> None:
        self._ident = ident
        self._read_record = read_record
        self._new_uuid = new_uuid
        self._now = now
        self._max_text = max_text
        self._counter = 0
        self._line = 0
        self._outside = _Collected(max_text)
        self._inside: _Collected | None = None

    def push(self, item: Item) -> list[EventDict]:
        """Take the decoder's next item, and give the events that are complete with it."""
        if isinstance(item, Text):
            if self._inside is None:
                return self._add_outside(item.data)
            self._inside.add(item.data)
            return []
        if isinstance(item, EventMark) and item.length:
            return [self._finish(item)]
        events = self._abandon()
        if isinstance(item, Boundary):
            self._inside = _Collected(self._max_text)
        return events

    def close(self) -> list[EventDict]:
        """At the end of the stream: what is left becomes `verbose` events."""
        return self._abandon()

    def _add_outside(self, data: bytes) -> list[EventDict]:
        *lines, rest = data.split(b"\n")
        events = []
        came = self._now() if lines else ""
        for line in lines:
            self._outside.add(line + b"\n")
            events.append(self._verbose(came))
        self._outside.add(rest)
        return events

    def _verbose(self, came: str) -> EventDict:
        collected, self._outside = self._outside, _Collected(self._max_text)
        return self._event(collected, {"event": "verbose", "created": came})

    def _abandon(self) -> list[EventDict]:
        """End what is open without a record."""
        events = []
        if self._inside is not None:
            data, self._inside = self._inside.data(), None
            events += self._add_outside(data)
        if self._outside:
            events.append(self._verbose(self._now()))
        return events

    def _finish(self, mark: EventMark) -> EventDict:
        collected = self._inside or _Collected(self._max_text)
        self._inside = None
        return self._event(collected, self._record(mark))

    def _record(self, mark: EventMark) -> EventDict:
        try:
            decode, is_uuid = _reading()
            record = decode(self._read_record(mark.offset, mark.length))
            if is_uuid(record["uuid"]) and isinstance(record["event"], str):
                return record
            problem = "its uuid or event is none"
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        note = f"the record of this event ({mark.length} bytes at {mark.offset}) could not be read: {problem}"
        return {"event": "error", "created": self._now(), "event_data": {"error": note}}

    def _event(self, collected: _Collected, record: EventDict) -> EventDict:
        self._counter += 1
        start, self._line = self._line, self._line + collected.newlines
        own: EventDict = {
            "uuid": record.get("uuid") or self._new_uuid(),
            "counter": self._counter,
            "stdout": collected.text(),
            "start_line": start,
            "end_line": self._line,
            "runner_ident": self._ident,
        }
        if "stdout" in record:  # messages that went to a stream without marks
            texts = (str(record["stdout"]).rstrip("\r\n"), own["stdout"])
            own["stdout"] = "\n".join(text for text in texts if text)
        return {**own, **record, **own}


@functools.cache
def _reading() -> tuple[Callable[[bytes], EventDict], Callable[[str], object]]:
    """What decodes a record and checks its uuid; loaded with the first one, while Ansible is at work."""
    import msgspec

    return msgspec.json.Decoder(EventDict).decode, re.compile(_UUID).fullmatch
