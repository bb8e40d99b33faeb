"""The end of a stream that is written: any file object, socket or descriptor, given up when nobody takes the bytes."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal, NoReturn

from ee_runner.errors import StreamError
from ee_runner.executor import Cancellation
from ee_runner.stream.ways import LARGE, AtOnce, Way, descriptor_of, patiently, writing, writing_at_once

_ROOM = 16 * 1024
_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL
_LEAVING = 1.0
"""Seconds that the thread has to end; one that is stuck with a reader is left behind."""

_ASKING = 1.0
"""Seconds between two questions to a callback that may cancel, while a write waits."""


_Reply = BaseException | Literal["written"] | None
"""How a record came out; None wakes who waits for it."""


class Canceled(StreamError):
    """The caller asked to stop."""


class Output:
    """Writes whole records to a file object, a socket or a descriptor, none of which it closes, from any thread.

    With `keepalive` seconds, `idle` gives what is sent after that time without a record. `gone` is called, from a
    thread, when the reader has gone away, as soon as that shows. `silence` is how many seconds a reader may take
    nothing, None for any number; it may be changed at any time. Once `cancellation` was requested these are `patience`
    seconds. Use it as a context manager: its thread ends with it, unless it is stuck with such a reader.
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
        self.silence: float | None = None
        self._patience = patience
        self._target = target
        self._way = writing(target)
        self._at_once: AtOnce | None = None
        self._sending = False
        self._descriptor = descriptor_of(target)
        self._keepalive = keepalive or None
        self._idle = idle
        self._gone = gone
        self._cancellation = cancellation or Cancellation()
        self._canceled = False
        self._lock = threading.RLock()  # one record after the other
        self._turn = threading.Lock()  # no keepalive within what is written together
        self._depth = 0
        self._records: deque[memoryview] = deque()
        self._replies: queue.SimpleQueue[_Reply] = queue.SimpleQueue()
        self._moved = time.monotonic()
        self._due = self._moved + (keepalive or 0)
        self._wake = -1
        self._thread: threading.Thread | None = None
        self._stack = contextlib.ExitStack()
        self._of_thread = contextlib.ExitStack()
        self._silent = False
        self._left: StreamError | None = None

    def __enter__(self) -> Output:
        self._at_once = writing_at_once(self._target, self._of_thread)
        if self._at_once is not None:
            self._way = Way(patiently(self._at_once.write, self._at_once.descriptor), piece=LARGE)
        woken, self._wake = os.pipe()
        self._stack.callback(os.close, self._wake)
        self._stack.enter_context(self._cancellation.waking(self._be_woken))
        self._be_woken()
        self._thread = threading.Thread(target=self._serve, args=(woken,), name="ee_runner output", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._left = self._left or StreamError("The stream can not be written: it was left.")
        self._stack.close()
        self._wake = -1
        if self._thread is not None:
            self._thread.join(_LEAVING)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Keep keepalives and other threads out of what is written in the block."""
        with self._lock:
            with self._turn:
                self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def write(self, data: bytes) -> None:
        """Write one record, or a part of an archive.

        Raises StreamError when the reader has gone or is given up, which is Canceled if the caller asked to stop.
        """
        with self.together():
            if self._left is not None:
                raise self._left
            try:
                error = self._written(data)
            except BaseException as error:  # nobody knows how much of it was written
                self._left = error if isinstance(error, StreamError) else StreamError("The stream was left in a record")
                raise
            if error is not None:
                self._silent = True
                _raise(error)

    def _be_woken(self) -> None:
        """Take note of a request to stop, which may be taken back before the last record."""
        self._canceled = self._canceled or self._cancellation.requested is not None
        self._replies.put(None)

    def _written(self, data: bytes) -> BaseException | None:
        """Write what is taken at once, and have the thread write the rest, which may take for ever."""
        rest = memoryview(data)
        if self._at_once is not None and not self._sending:
            with contextlib.suppress(OSError):  # it is full; or it is broken, as the thread will find
                while rest:
                    rest = rest[self._at_once.write(rest) :]
                self._due = time.monotonic() + (self._keepalive or 0)
                return None
            self._at_once.hold(len(data))
        self._records.append(rest)
        os.write(self._wake, b"w")
        return self._outcome()

    def _outcome(self) -> BaseException | None:
        """Wait until the record is written, or can not be; raise for a reader that takes nothing."""
        began, canceled = time.monotonic(), self._canceled
        while True:
            limit = self._patience if canceled else self.silence
            last = max(began, self._moved)
            try:
                reply = self._replies.get(timeout=self._pause(None if limit is None else last + limit))
            except queue.Empty:
                reply = None
                self._cancellation.check()
            if reply is not None:
                return None if reply == "written" else reply
            if self._canceled and not canceled:
                began, canceled = time.monotonic(), True
            elif limit is not None and time.monotonic() >= max(began, self._moved) + limit:
                raise _given_up(limit, canceled=canceled)

    def _pause(self, deadline: float | None) -> float | None:
        """Return how long to wait; who is to be asked about a stop is, but not for what is written at once."""
        asking = self._cancellation.patience
        waits = [] if asking is None else [max(asking, _ASKING)]
        return min(waits + ([] if deadline is None else [max(deadline - time.monotonic(), 0.0)]), default=None)

    def _serve(self, woken: int) -> None:
        """Write what there is, keepalives when they are due, and notice a reader that goes."""
        poller = select.poll()
        poller.register(woken, select.POLLIN)
        if self._descriptor is not None and self._gone is not None:
            poller.register(self._descriptor, 0)
        try:
            while True:
                pause = self._due - time.monotonic() if self._keepalive and not self._silent else None
                ready = dict(poller.poll(milliseconds(pause)))
                if woken in ready and not os.read(woken, _ROOM):
                    return
                if self._descriptor is not None and ready.get(self._descriptor, 0) & _GONE:
                    poller.unregister(self._descriptor)
                    self._tell_gone()
                while self._records:
                    self._replies.put(self._put(self._records.popleft()))
                if self._keepalive and not self._silent and time.monotonic() >= self._due:
                    self._send_keepalive()
        finally:
            os.close(woken)
            self._left = self._left or StreamError("The stream can not be written: its thread has ended.")
            self._replies.put(self._left)
            with self._lock:  # nobody writes any more; closed earlier, its number might be another file's by then
                self._of_thread.close()

    def _put(self, rest: memoryview) -> _Reply:
        """Write all of it, in pieces, so that it shows whether they are taken."""
        try:
            while rest and self._left is None:
                rest = rest[self._way.write(rest[: self._way.piece]) :]
                self._moved = time.monotonic()
            self._way.flush()
        except BaseException as error:
            return error
        self._due = time.monotonic() + (self._keepalive or 0)
        return "written"

    def _send_keepalive(self) -> None:
        with self._turn:
            data = b"" if self._depth else self._idle()
            self._sending = bool(data)
        outcome = self._put(memoryview(data))
        self._sending = False
        if outcome != "written":
            self._tell_gone()

    def _tell_gone(self) -> None:
        self._silent = True
        if self._gone is not None:
            self._gone()


def milliseconds(seconds: float | None) -> float | None:
    """Return what a poll takes as its time."""
    return None if seconds is None else max(seconds * 1000, 0) + 1


def words_of(error: BaseException) -> str:
    """Return what an error says, to be put behind a colon."""
    return str(getattr(error, "strerror", None) or error).lower()


def _given_up(seconds: float, *, canceled: bool) -> StreamError:
    stuck = f"the other end has read nothing for {seconds:g} seconds"
    if canceled:
        return Canceled(f"The caller asked to stop, and {stuck}: the stream is not written to its end.")
    return StreamError(f"Nobody takes what is written to the stream: {stuck}.")


def _raise(error: BaseException) -> NoReturn:
    if isinstance(error, ConnectionError):  # a broken pipe is one
        raise StreamError("Nobody reads the stream any more: the other end has gone.") from error
    if isinstance(error, OSError | ValueError):
        raise StreamError(f"The stream can not be written: {words_of(error)}.") from error
    raise error
