"""The ends of a stream: any file object or socket that bytes are read from, or written to, without polling."""

from __future__ import annotations

import contextlib
import io
import os
import queue
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

from ee_runner.errors import ConfigurationError, StreamError
from ee_runner.executor import Cancellation

_CHUNK = 256 * 1024

_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Silence(StreamError):
    """Nothing was heard from the other end for longer than it may be silent."""


class Canceled(StreamError):
    """The caller asked to stop."""


class Input:
    """Reads chunks from a file object, a socket or a descriptor, none of which it closes.

    `silence` is how many seconds may pass without a byte, None for any number; it may be changed at any time by who
    takes the chunks. Raises Silence, Canceled when `cancellation` is requested, and StreamError when reading fails.
    """

    def __init__(self, source: Any, *, cancellation: Cancellation | None = None, silence: float | None = None) -> None:
        self._source = source
        self._cancellation = cancellation or Cancellation()
        self.silence = silence

    def chunks(self) -> Generator[bytes, None, None]:
        """Yield what comes, until the other end closes."""
        descriptor = _plain_descriptor(self._source)
        with contextlib.ExitStack() as stack:
            next_chunk = self._through_thread(stack) if descriptor is None else self._directly(descriptor, stack)
            while data := next_chunk():
                yield data

    def _directly(self, descriptor: int, stack: contextlib.ExitStack) -> Callable[[], bytes]:
        """Wait for the descriptor itself, and for a wake-up."""
        woken = stack.enter_context(_wake_pipe(self._cancellation))
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.register(woken, select.POLLIN)

        def take() -> bytes:
            deadline = self._deadline()
            while True:
                ready = dict(poller.poll(_milliseconds(self._patience(deadline))))
                if woken in ready:
                    os.read(woken, _CHUNK)
                self._check(deadline)
                if descriptor in ready:
                    return self._read(lambda: os.read(descriptor, _CHUNK))

        return take

    def _through_thread(self, stack: contextlib.ExitStack) -> Callable[[], bytes]:
        """Have a thread read what can not be waited for, each chunk when it is asked for.

        After the last record it reads no more: it would hold the file's lock, and closing that wait for the other end.
        """
        chunks: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
        wanted = threading.Semaphore(0)
        read = _reading(self._source)
        left = threading.Event()

        def feed() -> None:
            data: bytes | BaseException = b"-"
            while data:
                wanted.acquire()
                if left.is_set():
                    return
                try:
                    data = read()
                except BaseException as error:
                    data = error
                chunks.put(data)
                if isinstance(data, BaseException):
                    return

        def leave() -> None:
            left.set()
            wanted.release()

        stack.callback(leave)
        stack.enter_context(self._cancellation.waking(lambda: chunks.put(None)))
        threading.Thread(target=feed, name="ee_runner stream", daemon=True).start()

        def take() -> bytes:
            deadline = self._deadline()
            wanted.release()
            while True:
                try:
                    data = chunks.get(timeout=self._patience(deadline))
                except queue.Empty:
                    data = None
                self._check(deadline)
                if isinstance(data, BaseException):
                    return self._read(_raising(data))
                if data is not None:
                    return data

        return take

    def _read(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except (OSError, ValueError) as error:
            if isinstance(error, ConnectionError):  # a peer that was killed: its stream ends here
                return b""
            raise StreamError(f"The stream can not be read: {_words(error)}.") from error

    def _deadline(self) -> float | None:
        return None if not self.silence else time.monotonic() + self.silence

    def _patience(self, deadline: float | None) -> float | None:
        waits = [max(deadline - time.monotonic(), 0.0)] if deadline is not None else []
        asking = self._cancellation.patience
        return min([*waits, asking], default=None) if asking is not None else min(waits, default=None)

    def _check(self, deadline: float | None) -> None:
        if self._cancellation.check():
            raise Canceled("The caller asked to stop.")
        if deadline is not None and time.monotonic() >= deadline:
            raise Silence(f"Nothing came over the stream for {self.silence:g} seconds")


def line_of(source: Any, *, seconds: float) -> bytes:
    """Read one line that comes within so many seconds, and nothing beyond it; empty when none comes.

    Raises ConfigurationError for an object that can not be waited for: one without a descriptor.
    """
    descriptor = _descriptor(source)
    if descriptor is None:
        raise ConfigurationError("_input: a socket, a pipe or a descriptor is expected, for the worker's answer")
    if isinstance(source, io.BufferedIOBase):
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return source.readline(_CHUNK) if poller.poll(_milliseconds(seconds)) else b""
    line = bytearray()
    deadline = time.monotonic() + seconds
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    while not line.endswith(b"\n") and poller.poll(_milliseconds(max(deadline - time.monotonic(), 0))):
        letter = os.read(descriptor, 1)
        if not letter:
            break
        line += letter
    return bytes(line)


class Output:
    """Writes whole records to a file object, a socket or a descriptor, none of which it closes, from any thread.

    With `keepalive` seconds, `idle` gives what is sent after that time without a record. `gone` is called, from a
    thread, when the reader has gone away, as soon as that shows. Once `cancellation` was requested, a pipe's reader has
    `patience` seconds to take more, then `write` raises Canceled. Use it as a context manager: its thread ends with it.
    """

    def __init__(
        self,
        target: Any,
        *,
        keepalive: float | None = None,
        idle: Callable[[], bytes] = bytes,
        gone: Callable[[], None] | None = None,
        cancellation: Cancellation | None = None,
        patience: float = 0.0,
    ) -> None:
        self._write = _writing(target)
        self._cancellation = cancellation
        self._patience = patience
        self._stack = contextlib.ExitStack()
        self._descriptor = _descriptor(target)
        self._keepalive = keepalive or None
        self._idle = idle
        self._gone = gone
        self._lock = threading.RLock()
        self._due = time.monotonic() + (keepalive or 0)
        self._wake: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        self._failed = False

    def __enter__(self) -> Output:
        pipe = _own_end(self._descriptor) if self._cancellation is not None else None
        if pipe is not None and self._cancellation is not None:
            self._stack.callback(os.close, pipe)
            woken = self._stack.enter_context(_wake_pipe(self._cancellation))
            self._write = _Abortable(pipe, woken, self._cancellation, patience=self._patience).write
        if self._keepalive or (self._gone and self._descriptor is not None):
            self._wake = os.pipe()
            self._thread = threading.Thread(target=self._watch, name="ee_runner keepalive", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._wake is not None and self._thread is not None:
            os.close(self._wake[1])
            self._thread.join()
            os.close(self._wake[0])
            self._wake = self._thread = None
        self._stack.close()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Keep keepalives and other threads out of what is written in the block."""
        with self._lock:
            yield

    def write(self, data: bytes) -> None:
        """Write one record, or a part of an archive; StreamError when the reader has gone."""
        with self._lock:
            try:
                self._write(data)
            except Canceled:
                self._failed = True
                raise
            except (OSError, ValueError) as error:
                self._failed = True
                if isinstance(error, BrokenPipeError | ConnectionError):
                    raise StreamError("Nobody reads the stream any more: the other end has gone.") from error
                raise StreamError(f"The stream can not be written: {_words(error)}.") from error
            self._due = time.monotonic() + (self._keepalive or 0)

    def _watch(self) -> None:
        """Send keepalives when they are due, and notice a reader that goes."""
        if self._wake is None:
            return
        poller = select.poll()
        poller.register(self._wake[0], select.POLLIN)
        if self._descriptor is not None and self._gone is not None:
            poller.register(self._descriptor, 0)
        while True:
            pause = self._due - time.monotonic() if self._keepalive and not self._failed else None
            ready = dict(poller.poll(_milliseconds(pause)))
            if self._wake[0] in ready:
                return
            if self._descriptor is not None and ready.get(self._descriptor, 0) & _GONE:
                self._tell_gone()
                return
            if self._keepalive and not self._failed and time.monotonic() >= self._due:
                self._send_keepalive()

    def _send_keepalive(self) -> None:
        if not self._lock.acquire(blocking=False):  # a record is on its way
            self._due = time.monotonic() + (self._keepalive or 0)
            return
        try:
            self.write(self._idle())
        except StreamError:
            self._tell_gone()
        finally:
            self._lock.release()

    def _tell_gone(self) -> None:
        self._failed = True
        if self._gone is not None:
            self._gone()


class _Abortable:
    """Writes to a pipe that does not block, and gives up a reader that stands still when the caller asks to stop."""

    def __init__(self, pipe: int, woken: int, cancellation: Cancellation, *, patience: float) -> None:
        self._pipe = pipe
        self._woken = woken
        self._cancellation = cancellation
        self._patience = patience
        self._asked = False  # stays, though the request is forgotten when the job has ended

    def write(self, data: bytes) -> None:
        self._asked = self._asked or bool(self._cancellation.requested)
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._pipe, view) :]
            except BlockingIOError:
                self._wait()

    def _wait(self) -> None:
        """Wait until there is room; once the caller has asked to stop, no longer than the patience lasts."""
        deadline: float | None = None
        poller = select.poll()
        poller.register(self._pipe, select.POLLOUT)
        poller.register(self._woken, select.POLLIN)
        while True:
            self._asked = self._asked or bool(self._cancellation.requested)
            if self._asked and deadline is None:
                deadline = time.monotonic() + self._patience
            pause = None if deadline is None else max(deadline - time.monotonic(), 0)
            ready = dict(poller.poll(_milliseconds(pause)))
            if self._pipe in ready:
                return
            if self._woken in ready:
                os.read(self._woken, _CHUNK)
            if deadline is not None and time.monotonic() >= deadline:
                raise Canceled("The caller asked to stop, and nobody reads the stream.")


def is_live(target: Any) -> bool:
    """Say whether a reader may wait at the other end: it is a pipe or a socket."""
    descriptor = _descriptor(target)
    if descriptor is None:
        return not isinstance(target, io.BytesIO)
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _descriptor(target: Any) -> int | None:
    if isinstance(target, int):
        return target
    try:
        return int(target.fileno())
    except (AttributeError, OSError, ValueError, TypeError):
        return None


def _own_end(descriptor: int | None) -> int | None:
    """Open a pipe's writing end once more, so that it does not block here and still does for those who share it."""
    try:
        if descriptor is None or not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return None
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no /proc, or nobody reads any more: the plain way tells
        return None


def _plain_descriptor(source: Any) -> int | None:
    """Return the descriptor of what keeps no bytes back: a descriptor, a raw file; None for all else."""
    if isinstance(source, int | io.RawIOBase) and not isinstance(source, socket.SocketIO):
        return _descriptor(source)
    if isinstance(source, socket.socket) and source.gettimeout() is None:
        return source.fileno()
    return None


def _reading(source: Any) -> Callable[[], bytes]:
    """Return what reads the next bytes that are there, of the kinds of object that programs hand in."""
    source = getattr(source, "buffer", source)  # a text file
    if isinstance(source, socket.socket):
        return lambda: source.recv(_CHUNK)
    if callable(getattr(source, "read1", None)):
        return lambda: _bytes(source.read1(_CHUNK))
    if isinstance(source, io.RawIOBase):
        return lambda: _bytes(source.read(_CHUNK))
    if callable(getattr(source, "readline", None)):
        return lambda: _bytes(source.readline(_CHUNK))
    raise ConfigurationError(f"_input: a file that can be read is expected, found a {type(source).__name__}")


def _writing(target: Any) -> Callable[[bytes], None]:
    """Return what writes all of some bytes, and lets them out."""
    if isinstance(target, int):
        return lambda data: _write_all(lambda view: os.write(target, view), data)
    if isinstance(target, socket.socket):
        return target.sendall
    target = getattr(target, "buffer", target)
    write = getattr(target, "write", None)
    if not callable(write):
        raise ConfigurationError(f"_output: a file that can be written is expected, found a {type(target).__name__}")
    flush = getattr(target, "flush", None)
    if isinstance(target, io.RawIOBase):
        return lambda data: _write_all(write, data)

    def write_out(data: bytes) -> None:
        write(data)
        if flush is not None:
            flush()

    return write_out


def _write_all(write: Callable[[memoryview], int | None], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[write(view) or 0 :]


def _bytes(data: Any) -> bytes:
    if data is None:
        raise StreamError("The stream can not be read: it does not block; give a file that does.")
    return data.encode() if isinstance(data, str) else bytes(data)


@contextlib.contextmanager
def _wake_pipe(cancellation: Cancellation) -> Iterator[int]:
    """Give a descriptor that can be read once the cancellation wakes its waiters."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def wake() -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(writing, b"w")

    try:
        with cancellation.waking(wake):
            yield reading
    finally:
        os.close(reading)
        os.close(writing)


def _raising(error: BaseException) -> Callable[[], bytes]:
    def read() -> bytes:
        raise error

    return read


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else max(seconds * 1000, 0) + 1


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()
