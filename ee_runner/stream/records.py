"""What goes over the stream of a remote job, whatever its form: lines, sealed lines or frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

from ee_runner.values import dataclass

OWN = "ee_runner"
"""The key under which our own ends speak to each other, in lines that ansible-runner passes over."""

VERSION = 1
"""The version of what is said there."""

KEEPALIVE: Mapping[str, Any] = {"event": "keepalive", "counter": 0, "uuid": 0}
"""The line that ansible-runner knows as a keepalive, and does nothing with."""


class Kind(IntEnum):
    """What a record is; the numbers are those of the frames."""

    REQUEST = 1
    ARCHIVE = 2
    CONTENT = 3
    ARCHIVE_END = 4
    STATUS = 5
    EVENT = 6
    KEEPALIVE = 7
    END = 8


class Record(NamedTuple):
    """One record; `body` is the JSON object, the bytes of CONTENT, and empty for ARCHIVE_END and KEEPALIVE.

    `sequence` counts the records from 1; None from an end that does not count. The CONTENT and the ARCHIVE_END of
    sealed lines have their archive's number.
    """

    kind: Kind
    body: Mapping[str, Any] | bytes
    sequence: int | None = None


class Noise(NamedTuple):
    """Bytes that are no record; `data` is their beginning, `size` how many there were."""

    data: bytes
    size: int

    def __str__(self) -> str:
        shown = ascii(self.data.decode("utf-8", "replace").strip()[:200])
        return f"{self.size} bytes that belong to no record, beginning with {shown}"


@dataclass(frozen=True, slots=True)
class Hello:
    """What one of our own ends says of itself before its records.

    `stream` names the stream, so that it can be taken up again; `keepalive` is the longest silence in seconds that is
    to be expected, None for one without limit; `offers` says that an answer is waited for before the payload;
    `cache` names the cache that the sender of it keeps; with `durable` its records can be had again later.
    """

    version: int = VERSION
    frames: bool = False
    stream: str = ""
    keepalive: float | None = None
    offers: bool = False
    cache: str = ""
    durable: bool = False


HELLO: Mapping[str, tuple[type, ...]] = {
    "version": (int,),
    "frames": (bool,),
    "stream": (str,),
    "keepalive": (int, float, type(None)),
    "offers": (bool,),
    "cache": (str,),
    "durable": (bool,),
}
"""The types of what a hello says."""


def hello_line(hello: Hello) -> bytes:
    """Return the line that says hello, with its newline."""
    return compact({**KEEPALIVE, OWN: {name: getattr(hello, name) for name in HELLO}}) + b"\n"


def compact(body: Mapping[str, Any]) -> bytes:
    """Return small JSON in one line, without spaces; raises TypeError and ValueError for what JSON can not say."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


class Encoder(Protocol):
    """Turns records into bytes; `next` is the number of the next record."""

    next: int

    def message(self, kind: Kind, body: Mapping[str, Any]) -> bytes:
        """Return a REQUEST, STATUS, EVENT or END record."""
        ...

    def keepalive(self) -> bytes: ...

    def archive(self, size: int | None) -> bytes:
        """Begin an archive; its size in bytes is needed for lines, and not for frames."""
        ...

    def content(self, data: bytes | memoryview) -> bytes:
        """Return what can be sent of the archive so far; some of it may be held back."""
        ...

    def archive_end(self) -> bytes:
        """Return the rest of the archive, and its end."""
        ...
