"""Writes the results of a durable job once more, from their beginning, and goes on while the job runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ee_runner.stream import journal
from ee_runner.stream.decoder import StreamDecoder
from ee_runner.stream.frames import FrameEncoder
from ee_runner.stream.lines import LineEncoder
from ee_runner.stream.wire import Output


def attach(directory: Path, ident: str, *, output: Any) -> None:
    """Write the journal of this job to a file object, a socket or a descriptor, with keepalives while it is silent.

    Raises ConfigurationError for an ident that has no journal, and StreamError when the reader goes away.
    """
    with journal.attached(directory, ident) as results:
        begun = next(results, b"")
        decoder = StreamDecoder()
        for _ in decoder.feed(begun[: begun.find(b"\n") + 1]):
            pass
        hello = decoder.hello
        encoder = FrameEncoder() if hello is not None and hello.frames else LineEncoder(sealed=False)
        with Output(output, keepalive=hello.keepalive if hello else None, idle=encoder.keepalive) as out:
            out.write(begun)
            for data in results:
                out.write(data)
