"""Shows a job as it runs: to a descriptor, to a text file such as sys.stdout, or to whoever wants the bytes."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any, TextIO, TypeAlias

Writer: TypeAlias = Callable[[bytes], None]


class Console:
    """Passes the job's bytes on untouched, or with a terminal's line ends (CR LF) made plain ones."""

    def __init__(self, out: Writer, err: Writer, *, plain: bool) -> None:
        self._out = out
        self._err = err
        self._plain = plain
        self._held = b""

    def stdout(self, data: bytes) -> None:
        if self._plain:
            data = self._held + data
            self._held = b"\r" if data.endswith(b"\r") else b""
            data = data[: len(data) - len(self._held)].replace(b"\r\n", b"\n")
        self._out(data)

    def stderr(self, data: bytes) -> None:
        self._err(data)

    def event(self, event: dict[str, Any]) -> None: ...


class JsonLines:
    """Writes one JSON object a line, an event each, and nothing else (seed, section 4.8)."""

    def __init__(self, out: Writer) -> None:
        self._out = out

    def stdout(self, data: bytes) -> None: ...

    def stderr(self, data: bytes) -> None: ...

    def event(self, event: dict[str, Any]) -> None:
        import msgspec

        self._out(msgspec.json.encode(event) + b"\n")


class Captured:
    """Keeps in memory what a job does not keep on disk; `out` and `err` read as the artifacts would."""

    def __init__(self) -> None:
        self._out: list[bytes] = []
        self._err: list[bytes] = []

    def stdout(self, data: bytes) -> None:
        self._out.append(data)

    def stderr(self, data: bytes) -> None:
        self._err.append(data)

    @property
    def out(self) -> str:
        """All of the output as text, with plain line ends, what is no UTF-8 replaced."""
        return _as_text(self._out)

    @property
    def err(self) -> str:
        return _as_text(self._err)


def _as_text(chunks: list[bytes]) -> str:
    with io.TextIOWrapper(io.BytesIO(b"".join(chunks)), encoding="utf-8", errors="replace") as file:
        return file.read()


def on_standard_streams() -> Console:
    """Return a console on sys.stdout and sys.stderr, whatever they are; line ends stay a terminal's on a terminal."""
    return Console(to_file(sys.stdout), to_file(sys.stderr), plain=not sys.stdout.isatty())


def to_file(file: TextIO) -> Writer:
    """Return what writes bytes to a text file as they come; a file that fails gets no more, and the job goes on."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    writing = True

    def write_text(data: bytes) -> None:
        nonlocal writing
        if writing:
            try:
                file.write(decoder.decode(data))
                file.flush()
            except (OSError, ValueError):  # the reader has gone, or the file is closed
                writing = False

    return write_text


def to_descriptor(descriptor: int) -> Writer:
    """Return what writes bytes to a descriptor as they are."""
    return lambda data: write(descriptor, data)


def to_any(target: int | TextIO) -> Writer:
    """Return what writes to a descriptor, or to a file: through its descriptor when it has one."""
    if isinstance(target, int):
        return to_descriptor(target)
    target.flush()
    descriptor = descriptor_of(target)
    return to_file(target) if descriptor is None else to_descriptor(descriptor)


def descriptor_of(file: int | TextIO) -> int | None:
    """Return the descriptor of an open file, or None when it has none (io.StringIO)."""
    if isinstance(file, int):
        return file
    try:
        return file.fileno()
    except (io.UnsupportedOperation, ValueError, AttributeError):
        return None


def write(descriptor: int, data: bytes) -> None:
    """Write all of the data; where nobody can take it any more, what follows goes nowhere and the job goes on."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
        except OSError:  # the reader has gone, the disk of a redirection is full, the terminal is closed
            _send_nowhere(descriptor)
            return


def _send_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        with contextlib.suppress(OSError):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
