"""The way of output and events: bytes in; handlers, artifacts and the display out, in this order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import msgspec

from ee_runner.artifacts import ArtifactStore
from ee_runner.errors import CallbackError
from ee_runner.events.decoder import Decoder, EventAssembler, Text

EventHandler: TypeAlias = Callable[[dict[str, Any]], object]


class Display(Protocol):
    """Shows a job to a person: its output as it comes, and its events."""

    def stdout(self, data: bytes) -> None: ...

    def stderr(self, data: bytes) -> None: ...

    def event(self, event: dict[str, Any]) -> None: ...


class Pipeline:
    """The executor's sink for a job whose output carries event marks.

    `event_handler` sees each event first and drops its file by returning False; what it raises ends the job as
    CallbackError. With `json_mode` the stdout artifact holds one JSON event a line in place of the text
    (seed, section 4.8).
    """

    def __init__(
        self,
        *,
        decoder: Decoder,
        assembler: EventAssembler,
        store: ArtifactStore,
        display: Display | None = None,
        event_handler: EventHandler | None = None,
        json_mode: bool = False,
    ) -> None:
        self._decoder = decoder
        self._assembler = assembler
        self._store = store
        self._display = display
        self._event_handler = event_handler
        self._json_mode = json_mode

    def stdout(self, data: bytes) -> None:
        for item in self._decoder.feed(data):
            self._take(item)

    def stderr(self, data: bytes) -> None:
        self._store.write_stderr(data)
        if self._display is not None:
            self._display.stderr(data)

    def close(self) -> None:
        """Let out what the end of the stream decides: a last line without newline, an event cut short."""
        for item in self._decoder.close():
            self._take(item)
        for event in self._assembler.close():
            self._emit(event)

    def say(self, text: str) -> None:
        """Add a line of the runner's own to the artifacts, as a verbose event; the caller shows the text itself."""
        self._take(Text(text.encode() + b"\r\n"), shown=False)

    def _take(self, item: Any, *, shown: bool = True) -> None:
        if isinstance(item, Text):
            if not self._json_mode:
                self._store.write_stdout(item.data)
            if shown and self._display is not None:
                self._display.stdout(item.data)
        for event in self._assembler.push(item):
            self._emit(event)

    def _emit(self, event: dict[str, Any]) -> None:
        if self._is_kept(event):
            self._store.write_event(event)
        if self._json_mode:
            self._store.write_stdout(msgspec.json.encode(event) + b"\n")
        if self._display is not None:
            self._display.event(event)

    def _is_kept(self, event: dict[str, Any]) -> bool:
        """Ask the caller's handler; one that raised is not asked again while the job is brought to its end."""
        handler = self._event_handler
        if handler is None:
            return True
        self._event_handler = None
        try:
            keep = handler(event) is not False
        except Exception as error:
            raise CallbackError(f"The event handler raised {type(error).__name__}: {error}") from error
        self._event_handler = handler
        return keep
