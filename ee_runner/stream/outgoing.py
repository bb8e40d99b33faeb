"""The results of a job on their way: in the form that the requester's end reads, and into the worker's journal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ee_runner.errors import ArtifactError, StreamError
from ee_runner.logs import log
from ee_runner.names import new_ident
from ee_runner.stream import records
from ee_runner.stream.archive import pack
from ee_runner.stream.frames import FrameEncoder
from ee_runner.stream.lines import LineEncoder
from ee_runner.stream.output import Output
from ee_runner.stream.records import OWN, Encoder, Hello, Kind

if TYPE_CHECKING:
    from ee_runner.stream.cache import BlobStore
    from ee_runner.stream.journal import Journal


KEPT = 100
"""Durable jobs whose results stay."""

SILENCE = 10.0
"""Seconds, or four keepalives if these are longer, after which a reader that takes nothing counts as gone: only where a
journal keeps what it misses; any other is waited for."""


class Outgoing:
    """Writes one job's records; to an older end as ansible-runner writes them, to one of ours sealed or in frames.

    When nobody reads any more, `lost` is called once and the rest is dropped, unless a journal keeps it: then the job
    goes on. `failure` is why nothing could be written.
    """

    def __init__(self, *, keepalive: float, lost: Callable[[], None]) -> None:
        self._keepalive = keepalive
        self._lost = lost
        self._output: Output | None = None
        self._journal: Journal | None = None
        self._encoder: Encoder = LineEncoder(sealed=False)
        self._begun = False
        self._ended = False
        self.failure: StreamError | None = None
        self.last_status = ""

    def to(self, output: Output) -> None:
        self._output = output

    @property
    def is_durable(self) -> bool:
        """Whether what is written can be had again later."""
        return self._journal is not None

    @property
    def frames(self) -> bool:
        return isinstance(self._encoder, FrameEncoder)

    def answer(self) -> None:
        """Tell a requester that waits for it that frames are understood here."""
        self._write(records.hello_line(Hello(keepalive=self._keepalive or None)), kept=False)

    def begin(self, asked: Hello | None, *, ident: str, cache: BlobStore | None, journals: Path | None) -> None:
        """Take the form in which the requester wrote; the first call counts."""
        if self._begun:
            return
        if journals is not None:
            from ee_runner.stream import journal

            self._journal = journal.Journal.create(journals, ident)
            self._bear_silence(max(4 * self._keepalive, SILENCE))
            journal.rotate(journals, KEPT)
        self._begun = True
        if asked is None:
            return
        hello = Hello(
            frames=asked.frames,
            stream=asked.stream or new_ident(),
            keepalive=self._keepalive or None,
            cache=cache.name if cache is not None else "",
            durable=self.is_durable,
        )
        output = self._output
        with output.together() if output is not None else contextlib.nullcontext():
            self._write(records.hello_line(hello))
            self._encoder = FrameEncoder() if asked.frames else LineEncoder(sealed=True)

    def status(self, data: Mapping[str, Any]) -> None:
        self.last_status = str(data.get("status"))
        self._message(Kind.STATUS, data)

    def event(self, data: Mapping[str, Any]) -> None:
        self._message(Kind.EVENT, data)

    def end(self, outcome: Mapping[str, Any]) -> None:
        """Write the END, with how it ended under a key that an older end does not look at; the first call counts."""
        if not self._ended:
            self._ended = True
            self._message(Kind.END, {"eof": True, OWN: dict(outcome)})

    def archive(self, packing: pack.Packing) -> None:
        """Write an archive; nothing else gets in between."""
        output = self._output
        with output.together() if output is not None else contextlib.nullcontext():
            self._write(self._encoder.archive(packing.size))
            for chunk in packing.chunks:
                self._write(self._encoder.content(chunk))
            self._write(self._encoder.archive_end())

    def idle(self) -> bytes:
        """Return what is sent when there is nothing to say."""
        return b"" if self._ended else self._encoder.keepalive()

    def gone(self) -> None:
        """Take note that the reader has gone; one that goes after the END has got all."""
        if not self._ended:  # if it is not written yet, writing it tells
            self._fail(StreamError("Nobody reads the results any more: the other end has gone."))

    def close(self) -> None:
        """Let the journal end; one that can not be written says so in the log."""
        if self._journal is not None:
            with contextlib.suppress(ArtifactError):
                self._journal.end()

    def _message(self, kind: Kind, body: Mapping[str, Any]) -> None:
        output = self._output
        with output.together() if output is not None else contextlib.nullcontext():
            self._write(self._encoder.message(kind, body))

    def _write(self, data: bytes, *, kept: bool = True) -> None:
        if not data:
            return
        if kept and self._journal is not None:
            self._keep(data)
        if self.failure is None and self._output is not None:
            try:
                self._output.write(data)
            except StreamError as error:
                self._fail(error)

    def _keep(self, data: bytes) -> None:
        try:
            if self._journal is not None:
                self._journal.append(data)
        except ArtifactError as error:
            log.error("%s", error)
            self._journal = None
            self._bear_silence(None)
            if self.failure is not None:
                self._lost()

    def _bear_silence(self, seconds: float | None) -> None:
        if self._output is not None:
            self._output.silence = seconds

    def _fail(self, error: StreamError) -> None:
        if self.failure is None:
            self.failure = error
            if self._journal is None:
                self._lost()
