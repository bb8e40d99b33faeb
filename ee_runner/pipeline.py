"""The way of output, events and status: bytes in; handlers, artifacts, emitters and the display out, in this order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ee_runner.artifacts import ArtifactStore
from ee_runner.errors import CallbackError
from ee_runner.events.decoder import Decoder, EventAssembler, Item, Text
from ee_runner.handlers import Handlers
from ee_runner.job import Status

if TYPE_CHECKING:
    from ee_runner.console import Captured
    from ee_runner.emitters import Emitter


_UNFIT = (KeyError, TypeError, ValueError, RecursionError)
"""What writing an event raises whose handler took out what it needs, or put in what JSON can not say."""


class Display(Protocol):
    """Shows a job to a person: its output as it comes, and its events."""

    def stdout(self, data: bytes) -> None: ...

    def stderr(self, data: bytes) -> None: ...

    def event(self, event: dict[str, Any]) -> None: ...


class Distributor:
    """The one place that tells of a job's events and status: handlers, artifacts, emitters and display, in this order.

    `handlers` see each event first, and may drop its file. `announce` gets of each event that is in place
    what `ArtifactStore.write_event` returns.
    """

    def __init__(
        self,
        *,
        store: ArtifactStore,
        handlers: Handlers,
        emitters: Sequence[Emitter] = (),
        announce: Callable[[str | int], None] = lambda _: None,
        display: Display | None = None,
    ) -> None:
        self._store = store
        self._handlers = handlers
        self._emitters = emitters
        self._announce = announce
        self._display = display
        self.stats: Mapping[str, Any] | None = None
        """The data of the last ``playbook_on_stats`` event."""

    def event(self, event: dict[str, Any]) -> None:
        """Tell of one event; raises CallbackError for what a handler or a plugin raises, when the event is kept."""
        if event["event"] == "playbook_on_stats":
            self.stats = event.get("event_data")
        try:
            kept = self._handlers.keeps(event)
        except CallbackError:
            with contextlib.suppress(*_UNFIT):
                self._keep(event)
            raise
        try:
            if kept:
                self._keep(event)
            self._write_out(event)
        except _UNFIT as error:
            said = f"{type(error).__name__}: {error}"
            raise CallbackError(f"The event handler left an event that can not be written: {said}") from error
        for emitter in self._emitters:
            emitter.event(event)
        if self._display is not None:
            self._display.event(event)

    def status(self, status: Status, config: object, /, **details: object) -> None:
        """Tell emitters and the caller's handler of a status that the artifacts hold already (seed, section 5.21)."""
        try:
            for emitter in self._emitters:
                emitter.status({"status": status, **details})
        finally:  # a plugin that raises keeps nothing from the caller
            self._handlers.told({"status": status, **details}, config)

    def _keep(self, event: dict[str, Any]) -> None:
        self._announce(self._store.write_event(event))

    def _write_out(self, event: dict[str, Any]) -> None:
        """Add the event to the output, where that is made of events."""


class Pipeline(Distributor):
    """The executor's sink: a distributor whose events come from the job's output.

    With `json_mode` the stdout artifact holds one JSON event a line in place of the text (seed, section 4.8).
    Without a decoder the output is passed on as it is, and makes no events.
    """

    def __init__(
        self,
        *,
        assembler: EventAssembler,
        store: ArtifactStore,
        handlers: Handlers,
        decoder: Decoder | None,
        emitters: Sequence[Emitter] = (),
        announce: Callable[[str | int], None] = lambda _: None,
        display: Display | None = None,
        captured: Captured | None = None,
        json_mode: bool = False,
    ) -> None:
        super().__init__(store=store, handlers=handlers, emitters=emitters, announce=announce, display=display)
        self._decoder = decoder
        self._assembler = assembler
        self._captured = captured
        self._json_mode = json_mode

    def stdout(self, data: bytes) -> None:
        if self._decoder is None:
            self._show(data)
            return
        self._take(self._decoder.feed(data))

    def stderr(self, data: bytes) -> None:
        self._store.write_stderr(data)
        if self._captured is not None:
            self._captured.stderr(data)
        if self._display is not None:
            self._display.stderr(data)

    def close(self) -> None:
        """Let out what the end of the stream decides: a last line without newline, an event cut short."""
        if self._decoder is not None:
            self._take(self._decoder.close())
        for event in self._assembler.close():
            self.event(event)

    def say(self, text: str, *, shown: bool) -> None:
        """Add a line of the runner's own to the artifacts, as a verbose event, and show it if the caller does not."""
        self._take([Text(text.encode() + b"\r\n")], shown=shown)

    def _take(self, items: Sequence[Item], *, shown: bool = True) -> None:
        """Pass on what has come: all of its text first, in one piece, then its events."""
        text = b"".join([item.data for item in items if isinstance(item, Text)])
        if text:
            self._show(text, displayed=shown)
        for item in items:
            for event in self._assembler.push(item):
                self.event(event)

    def _show(self, data: bytes, *, displayed: bool = True) -> None:
        if not self._json_mode:
            self._keep_output(data)
        if displayed and self._display is not None:
            self._display.stdout(data)

    def _write_out(self, event: dict[str, Any]) -> None:
        if self._json_mode:
            import msgspec

            self._keep_output(msgspec.json.encode(event) + b"\n")

    def _keep_output(self, data: bytes) -> None:
        self._store.write_stdout(data)
        if self._captured is not None:
            self._captured.stdout(data)
