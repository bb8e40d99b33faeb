"""Delivery that the job never waits for: a bounded queue, one thread, order kept, retries, a count of what was lost."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from ee_runner.values import dataclass

CLOSING = 5.0
"""Seconds at close for what is still queued, unless runner_emitter_close_timeout says otherwise."""

_LEAVING = 1.0
"""Seconds for the thread to end once its message is aborted; one that resolves a name can not be woken."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept and how long is tried.

    Up to `messages` of together `size` bytes wait; a status, of which there are few, waits in any case. A message is
    tried for `patience` seconds, with waits that double from `first_wait` to `longest_wait`; those behind it wait.
    """

    messages: int = 10_000
    size: int = 64 * 1024 * 1024
    patience: float = 30.0
    first_wait: float = 0.1
    longest_wait: float = 5.0
    closing: float = CLOSING


@dataclass(frozen=True, slots=True)
class Message:
    """One status or event; `topic` says which, `body` is the JSON."""

    topic: bytes
    body: bytes


class Undelivered(Exception):
    """A message did not arrive, for the reason in the text; trying again is of use unless it is `final`."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class Transport(Protocol):
    """The way to one receiver. All is called in the delivery's thread, `abort` alone in another."""

    def send(self, message: Message, within: float) -> None:
        """Deliver one message in about that many seconds, or raise Undelivered."""

    def abort(self) -> None:
        """Make a `send` under way, and each one after it, raise Undelivered soon."""

    def close(self, within: float) -> None:
        """Free everything, after at most that many seconds."""


class Delivery:
    """Sends messages in order through a transport, which it owns and closes; `close` it in any case.

    `put` takes microseconds whatever the receiver does. `fault` is the last reason for which something did not arrive.
    """

    def __init__(self, transport: Transport, *, name: str, limits: Limits) -> None:
        self.fault = ""
        self._transport = transport
        self._name = name
        self._limits = limits
        self._changed = threading.Condition()
        self._queue: deque[Message] = deque()
        self._size = 0
        self._dropped = 0
        self._deadline: float | None = None
        self._thread: threading.Thread | None = None

    def put(self, message: Message, *, always: bool = False) -> None:
        """Queue a message, or count it as dropped: when the queue is full, unless `always`, and after close."""
        with self._changed:
            if self._deadline is not None or not (always or self._has_room(message)):
                self._dropped += 1
                self.fault = self.fault or "The queue is full."
                return
            self._queue.append(message)
            self._size += len(message.body)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"ee-runner {self._name}", daemon=True)
                self._thread.start()
            elif len(self._queue) == 1:
                self._changed.notify_all()

    def close(self) -> int:
        """Deliver what is queued for up to `Limits.closing` seconds, then leave the rest, within one second more.

        Returns how many messages were dropped in all: queue full, given up, left behind.
        """
        with self._changed:
            if self._deadline is None:
                self._deadline = time.monotonic() + self._limits.closing
            self._changed.notify_all()
        if self._thread is None:
            self._transport.close(0)
        else:
            self._end(self._thread)
        with self._changed:
            self._dropped += len(self._queue)
            self._queue.clear()
            return self._dropped

    def _end(self, thread: threading.Thread) -> None:
        thread.join(self._limits.closing)
        if thread.is_alive():
            self._transport.abort()
            thread.join(_LEAVING)

    def _has_room(self, message: Message) -> bool:
        if not self._queue:
            return True
        return len(self._queue) < self._limits.messages and self._size + len(message.body) <= self._limits.size

    def _run(self) -> None:
        try:
            while (message := self._next()) is not None:
                self._settle(message, arrived=self._deliver(message))
        finally:
            self._transport.close(max((self._deadline or 0.0) - time.monotonic(), 0.0))

    def _next(self) -> Message | None:
        """Wait for the first of the queue, which stays in it; None when the delivery has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._deadline is not None)
            is_over = self._deadline is not None and time.monotonic() >= self._deadline
            return self._queue[0] if self._queue and not is_over else None

    def _settle(self, message: Message, *, arrived: bool) -> None:
        with self._changed:
            if self._queue:  # else it was counted when the delivery was closed
                self._queue.popleft()
                self._size -= len(message.body)
                self._dropped += not arrived

    def _deliver(self, message: Message) -> bool:
        give_up = time.monotonic() + self._limits.patience
        wait = self._limits.first_wait
        while True:
            try:
                self._transport.send(message, max(self._end_of(give_up) - time.monotonic(), 0.0))
                return True
            except Undelivered as error:
                self.fault = str(error)
                if error.final or not self._pause(wait, give_up):
                    return False
            wait = min(2 * wait, self._limits.longest_wait)

    def _pause(self, seconds: float, give_up: float) -> bool:
        """Wait before the next attempt, cut short once when the delivery is closed; say whether there is one."""
        with self._changed:
            known = self._deadline
            until = min(time.monotonic() + seconds, self._end_of(give_up))
            self._changed.wait_for(lambda: self._deadline != known, timeout=max(until - time.monotonic(), 0.0))
        return time.monotonic() < self._end_of(give_up)

    def _end_of(self, give_up: float) -> float:
        return give_up if self._deadline is None else min(give_up, self._deadline)


class QueuedEmitter:
    """An emitter that encodes what it is given at once and leaves the rest to its delivery."""

    def __init__(self, name: str, transport: Transport, limits: Limits) -> None:
        self.name = name
        self._delivery = Delivery(transport, name=name, limits=limits)

    @property
    def fault(self) -> str:
        return self._delivery.fault

    def status(self, data: Mapping[str, Any]) -> None:
        self._delivery.put(Message(b"status", _encoded(data)), always=True)

    def event(self, event: Mapping[str, Any]) -> None:
        self._delivery.put(Message(b"event", _encoded(event)))

    def close(self) -> int:
        return self._delivery.close()


def limits(closing: float | None) -> Limits:
    """Return the limits with another time for close, when one is given."""
    return Limits() if closing is None else Limits(closing=closing)


def _encoded(data: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(data, enc_hook=str)
    except UnicodeEncodeError:  # half of a surrogate pair, as in a file name that is no UTF-8
        return json.dumps(data, default=str).encode()
