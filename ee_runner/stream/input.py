"""The end of a stream that is read: any file object, socket or descriptor, waited for without polling."""

from __future__ import annotations

import contextlib
import io
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

from ee_runner.errors import ConfigurationError, StreamError
from ee_runner.executor import Cancellation
from ee_runner.stream.output import Canceled, milliseconds, words_of
from ee_runner.stream.ways import descriptor_of

_CHUNK = 128 * 1024


class Silence(StreamError):
    """Nothing was heard from the other end for longer than it may be silent."""


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
                ready = dict(poller.poll(milliseconds(self._patience(deadline))))
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
            raise StreamError(f"The stream can not be read: {words_of(error)}.") from error

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


def pieces_until(seconds: float, source: Any, *, cancellation: Cancellation | None = None) -> Iterator[bytes]:
    """Yield what comes within so many seconds, in pieces that end with their line at the latest; read nothing beyond.

    Raises Canceled, and ConfigurationError for an object that can not be waited for: one without a descriptor.
    """
    source = getattr(source, "buffer", source)
    descriptor = descriptor_of(source)
    if descriptor is None:
        raise ConfigurationError("_input: a socket, a pipe or a descriptor is expected, for the worker's answer")
    cancellation = cancellation or Cancellation()
    deadline = time.monotonic() + seconds
    with _wake_pipe(cancellation) as woken:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.register(woken, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            asking = cancellation.patience
            ready = dict(poller.poll(milliseconds(left if asking is None else min(left, asking))))
            if cancellation.check():
                raise Canceled("The caller asked to stop.")
            if descriptor in ready:
                data = yield from _pieces(source, descriptor)
                if not data:
                    return


def _pieces(source: Any, descriptor: int) -> Generator[bytes, None, bool]:
    """Yield what is there, now that there is something; say whether there may be more.

    Of a buffered file only what its buffer holds is taken: more might be waited for without end.
    """
    if not isinstance(source, io.BufferedReader | io.BufferedRandom):
        data = os.read(descriptor, 1)
        if data:
            yield data
        return bool(data)
    held = len(source.peek(1))
    rest = held
    while rest:
        data = source.readline(rest)
        rest -= len(data)
        yield data
    return held > 0


def _plain_descriptor(source: Any) -> int | None:
    """Return the descriptor of what keeps no bytes back: a descriptor, a raw file; None for all else."""
    if isinstance(source, int | io.RawIOBase) and not isinstance(source, socket.SocketIO):
        return descriptor_of(source)
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
