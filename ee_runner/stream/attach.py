"""Writes the results of a durable job once more, from their beginning, and goes on while the job runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ee_runner.errors import BadFrame
from ee_runner.executor import Cancellation
from ee_runner.stream import journal
from ee_runner.stream.decoder import StreamDecoder
from ee_runner.stream.frames import FrameEncoder
from ee_runner.stream.lines import LineEncoder
from ee_runner.stream.output import Output
from ee_runner.stream.records import Encoder, Hello, Kind, Noise, Record


def attach(directory: Path, ident: str, *, output: Any, cancellation: Cancellation | None = None) -> None:
    """Write the journal of this job to a file object, a socket or a descriptor, with keepalives while it is silent.

    Raises ConfigurationError for an ident that has no journal, and StreamError when the reader goes away.
    """
    with journal.attached(directory, ident) as results:
        begun = next(results, b"")
        written = _Written()
        written.add(begun)
        keepalive = written.hello.keepalive if written.hello else None
        with Output(output, keepalive=keepalive, idle=written.keepalive, cancellation=cancellation) as out:
            out.write(begun)
            for data in results:
                with out.together():
                    written.add(data)
                    out.write(data)


class _Written:
    """What was written so far: its greeting, and whether a keepalive may follow."""

    def __init__(self) -> None:
        self._decoder = StreamDecoder()
        self._encoder: Encoder = LineEncoder(sealed=False)
        self._is_whole = False

    @property
    def hello(self) -> Hello | None:
        return self._decoder.hello

    def add(self, data: bytes) -> None:
        """Take note of what is written; a record is whole when its last byte brings it forth."""
        try:
            for _ in self._decoder.feed(data[:-1]):
                pass
            last = list(self._decoder.feed(data[-1:]))
        except BadFrame:  # the reader will say so
            last = []
        if self.hello is not None and self.hello.frames:
            self._encoder = FrameEncoder()
        open_ends = () if isinstance(self._encoder, FrameEncoder) else (Kind.ARCHIVE, Kind.CONTENT)
        ends = [item for item in last if not isinstance(item, Noise)]
        self._is_whole = bool(ends) and not (isinstance(ends[-1], Record) and ends[-1].kind in open_ends)

    def keepalive(self) -> bytes:
        return self._encoder.keepalive() if self._is_whole and not self._decoder.ended else b""
