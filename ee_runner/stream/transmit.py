"""Writes a job to a stream: its options, and its private data directory (seed, chapter 8)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ee_runner.errors import ConfigurationError
from ee_runner.executor import Cancellation
from ee_runner.handlers import check_callbacks
from ee_runner.logs import log
from ee_runner.names import new_ident
from ee_runner.sources import Resolved
from ee_runner.stream import records, request
from ee_runner.stream.archive import pack
from ee_runner.stream.decoder import StreamDecoder
from ee_runner.stream.frames import FrameEncoder
from ee_runner.stream.input import pieces_until
from ee_runner.stream.lines import LineEncoder
from ee_runner.stream.output import Canceled, Output
from ee_runner.stream.records import Encoder, Hello, Kind
from ee_runner.values import replace

if TYPE_CHECKING:
    from ee_runner.stream.ledger import Ledger

NEGOTIATION = 10.0
"""Seconds that a worker has for its answer, where there is a way back for one; an older one never answers."""

_ARTIFACTS = "artifacts"
_ENV = "env/"
"""What a cache does not keep: passwords, keys and variables of one job."""

_OF_THIS_HOST = ("daemon.log", "pid")


class Transmitter:
    """One job to send; `run` writes all of it (seed, chapter 8, ``streamer="transmit"``).

    `output` is any file object, socket or descriptor, sys.stdout when there is none. `answers` is where the worker's
    results will be read, if that is in the same hands: a worker of this kind is recognised there, and gets frames.
    Raises ConfigurationError here for a job that is none. `status` stays ``unstarted`` and `rc` None, for the job runs
    elsewhere.
    """

    def __init__(
        self,
        resolved: Resolved,
        *,
        output: Any = None,
        answers: Any = None,
        cancellation: Cancellation | None = None,
        callbacks: Mapping[str, object] | None = None,
        warn: Callable[[str], None] = log.warning,
    ) -> None:
        check_callbacks(callbacks or {})
        if resolved.values["ident"] is None:
            values = MappingProxyType({**resolved.values, "ident": new_ident()})
            resolved = replace(resolved, values=values)
        self.request = request.of_options(resolved)
        self._values = resolved.values
        if self._values["cache"] and self._values["wire"] == "lines":
            raise ConfigurationError("wire: a cache needs frames; leave out --wire lines, or --cache")
        self._output = output
        self._answers = answers
        self._cancellation = cancellation or Cancellation()
        self._warn = warn
        self._stream = new_ident()
        self._artifacts = self._artifacts_within()
        self._facts = (*self._artifacts, self.request.ident, *Path(self._values["fact_cache"]).parts)
        self.status = "unstarted"
        self.rc: int | None = None

    def cancel(self) -> None:
        """Stop writing; the worker finds its stream cut, and runs nothing."""
        self._cancellation.request()

    def run(self) -> tuple[str, int | None]:
        """Write the job; raises StreamError when the reader goes away, or a file can not be read or changes."""
        target = sys.stdout.buffer if self._output is None else self._output
        with Output(target, cancellation=self._cancellation) as output:
            self._send(output)
        return self.status, self.rc

    def _send(self, output: Output) -> None:
        frames = self._values["wire"] == "frames" or self._values["cache"] is not None
        asks = self._values["wire"] == "auto" and not frames and self._answers is not None
        output.write(records.hello_line(Hello(stream=self._stream, offers=asks)))
        encoder: Encoder = LineEncoder(sealed=True)
        if frames or (asks and self._is_answered()):
            output.write(records.hello_line(Hello(stream=self._stream, frames=True)))
            encoder = FrameEncoder(first=encoder.next)
        output.write(encoder.message(Kind.REQUEST, self.request.body))
        if not self._values["only_transmit_kwargs"]:
            with contextlib.ExitStack() as stack:
                for packing in self._packings(encoder, stack):
                    self._send_archive(output, encoder, packing)
        output.write(encoder.message(Kind.END, {"eof": True}))

    def _is_answered(self) -> bool:
        """Say whether the worker is of this kind: it says hello as soon as it is offered frames."""
        decoder = StreamDecoder()
        for data in pieces_until(NEGOTIATION, self._answers, cancellation=self._cancellation):
            for _ in decoder.feed(data):
                pass
            if decoder.hello is not None:
                return True
        return False

    def _packings(self, encoder: Encoder, stack: contextlib.ExitStack) -> Iterable[pack.Packing]:
        source, files = self.request.source, self.request.files
        if isinstance(encoder, LineEncoder):
            return pack.batches(source, exclude=self._stays, extra=files, skipped=self._tell_skipped)
        if self._values["cache"] is None:
            return [pack.stream(source, exclude=self._stays, extra=files, skipped=self._tell_skipped)]
        ledger = stack.enter_context(self._ledger())
        sent: list[bytes] = []

        def digest(name: str, descriptor: int, found: os.stat_result) -> bytes | None:
            if name.startswith(_ENV):
                return None
            sent.append(ledger.digest(descriptor, found))
            return sent[-1]

        packing = pack.stream(
            source, exclude=self._stays, extra=files, skipped=self._tell_skipped, known=ledger.known(), digests=digest
        )
        return _then(packing, lambda: ledger.sent(self._stream, sent))

    def _send_archive(self, output: Output, encoder: Encoder, packing: pack.Packing) -> None:
        output.write(encoder.archive(packing.size))
        for chunk in packing.chunks:
            if self._cancellation.check():
                raise Canceled("The caller asked to stop; the job is not sent.")
            if data := encoder.content(chunk):
                output.write(data)
        output.write(encoder.archive_end())

    def _stays(self, name: str) -> bool:
        """Say whether a part of the directory is not sent: artifacts, but for the facts of this very job."""
        if name in _OF_THIS_HOST:
            return True
        parts, artifacts, facts = tuple(name.split("/")), self._artifacts, self._facts
        return parts[: len(artifacts)] == artifacts and parts[: len(facts)] != facts[: len(parts)]

    def _artifacts_within(self) -> tuple[str, ...]:
        """Return the parts of the artifacts' path below the private data directory."""
        given = self._values["artifact_dir"]
        path = Path(os.path.normpath(given.absolute())) if given is not None else None
        if path is not None and path != self.request.source and path.is_relative_to(self.request.source):
            return path.relative_to(self.request.source).parts
        return (_ARTIFACTS,)

    def _ledger(self) -> Ledger:
        from ee_runner.stream.ledger import Ledger

        return Ledger(Path(self._values["cache"]).absolute(), explain=log.debug)

    def _tell_skipped(self, name: str, reason: str) -> None:
        self._warn(f"{name} is not sent: {reason}")


def _then(packing: pack.Packing, done: Callable[[], None]) -> Iterable[pack.Packing]:
    """Give one packing, and do something when it was sent."""
    yield packing
    done()
