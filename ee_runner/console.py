"""Shows a job as it runs: to a descriptor, to a text file such as sys.stdout, or to whoever wants the bytes."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any, TextIO, TypeAlias

from ee_runner.errors import ConfigurationError

Writer: TypeAlias = Callable[[bytes], None]

_JOINED = 1 << 20
"""Characters that are gathered before a text is lengthened, at least."""


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
    """Keeps a job's output in memory, as text, while it comes; `out` and `err` read as the artifacts would.

    What is not wanted is let go, and reads as an empty text.
    """

    def __init__(self, *, out: bool = True, err: bool = True) -> None:
        self._out = _Growing() if out else None
        self._err = _Growing() if err else None

    def stdout(self, data: bytes) -> None:
        if self._out is not None:
            self._out.add(data)

    def stderr(self, data: bytes) -> None:
        if self._err is not None:
            self._err.add(data)

    @property
    def out(self) -> str:
        """All of the output as text, with plain line ends, what is no UTF-8 replaced; nothing may come after that."""
        return "" if self._out is None else self._out.end()

    @property
    def err(self) -> str:
        return "" if self._err is None else self._err.end()


class _Growing:
    """A text that bytes are added to: it takes its own size of memory and little more, and time linear in its size."""

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._text = ""
        self._pieces: list[str] = []
        self._size = 0

    def add(self, data: bytes, *, final: bool = False) -> None:
        piece = self._decoder.decode(data, final=final)
        self._pieces.append(piece)
        self._size += len(piece)
        if final or self._size >= max(len(self._text) // 16, _JOINED):
            self._lengthen("".join(self._pieces))

    def end(self) -> str:
        self.add(b"", final=True)
        return self._text

    def _lengthen(self, more: str) -> None:
        text, self._text = self._text, ""  # CPython lengthens a text in its place when there is no other reference
        text += more
        self._text = text
        self._pieces.clear()
        self._size = 0


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
            text = decoder.decode(data)
            try:
                try:
                    file.write(text)
                except UnicodeEncodeError:  # the file's encoding lacks a letter
                    file.write(text.encode("ascii", "replace").decode())
                file.flush()
            except (OSError, ValueError):  # the reader has gone, or the file is closed
                writing = False

    return write_text


def to_descriptor(descriptor: int) -> Writer:
    """Return what writes bytes to a descriptor as they are."""
    return lambda data: write(descriptor, data)


def to_lent(descriptor: int) -> Writer:
    """Return what writes to a descriptor of the caller's, which stays as it is: one that fails gets no more."""
    writing = True

    def write_bytes(data: bytes) -> None:
        nonlocal writing
        if writing:
            try:
                _write_all(descriptor, data)
            except OSError:  # the reader has gone, the disk is full, the file was closed meanwhile
                writing = False

    return write_bytes


def to_any(name: str, target: int | TextIO) -> Writer:
    """Return what writes to a descriptor, or to a file: through its descriptor when it has one.

    Raises ConfigurationError, with the name of the argument, for what can not be written to.
    """
    descriptor = checked(name, target, writing=True)
    if isinstance(target, int):
        return to_lent(target)
    try:
        target.flush()
    except (AttributeError, ValueError, OSError):
        raise ConfigurationError(f"{name}: a file that is open for writing is expected, found {target!r}") from None
    if descriptor is not None:
        return to_lent(descriptor)
    if isinstance(target, io.RawIOBase | io.BufferedIOBase):
        raise ConfigurationError(f"{name}: a text file is expected, found {target!r}")
    return to_file(target)


def checked(name: str, file: int | TextIO, *, writing: bool) -> int | None:
    """Return the descriptor of what a command is to be connected to, None for a file that has none.

    Raises ConfigurationError, with the name of the argument, for a descriptor that is closed or open the other way.
    """
    descriptor = descriptor_of(file)
    if descriptor is None:
        return None
    way = "writing" if writing else "reading"
    try:
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    except (OSError, ValueError, OverflowError):
        raise ConfigurationError(f"{name}: a descriptor that is open for {way} is expected, found {file}") from None
    if mode == (os.O_RDONLY if writing else os.O_WRONLY):
        raise ConfigurationError(f"{name}: a file that is open for {way} is expected")
    return descriptor


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
    try:
        _write_all(descriptor, data)
    except OSError:  # the reader has gone, the disk of a redirection is full, the terminal is closed
        _send_nowhere(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


def _send_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        with contextlib.suppress(OSError):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
