"""A job's request to stop, from wherever it comes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from ee_runner.job import Reason

ASKED_EVERY = 0.25
"""Seconds between two calls of a callback that may ask for the stop."""


class Cancellation:
    """One job's request to stop, from any thread or signal handler; the first reason stays.

    A callback given to `asking` is called by whoever waits for the job, in that thread, every `ASKED_EVERY` seconds,
    and asks for the stop by returning True.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._reason: Reason | None = None
        self._wakers: list[Callable[[], None]] = []
        self._ask: Callable[[], bool] | None = None
        self._ask_at = 0.0

    @property
    def requested(self) -> Reason | None:
        return self._reason

    def request(self, reason: Reason = "canceled") -> None:
        with self._lock:
            self._reason = self._reason or reason
        self.nudge()

    def forget(self) -> None:
        """Take the request back, now that the job has ended: it is not meant for the next one."""
        with self._lock:
            self._reason = None

    def asking(self, ask: Callable[[], bool] | None) -> Cancellation:
        """Have `check` call this from now on; what it raises comes out there, and it is not called again."""
        self._ask = ask
        return self

    def check(self) -> Reason | None:
        """Return the reason to stop, after a call of the callback when it is time for one."""
        ask = self._ask
        if ask is not None and self._reason is None and time.monotonic() >= self._ask_at:
            self._ask = None
            if ask():
                self.request()
            self._ask, self._ask_at = ask, time.monotonic() + ASKED_EVERY
        return self._reason

    @property
    def patience(self) -> float | None:
        """Seconds until the next `check` is due; None when nothing but a request can change its answer."""
        if self._ask is None or self._reason is not None:
            return None
        return max(self._ask_at - time.monotonic(), 0.0)

    def nudge(self) -> None:
        """Wake the executor without asking for anything, so that it looks at the terminal's size again."""
        with self._lock:
            for wake in self._wakers:
                wake()

    @contextlib.contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        with self._lock:
            self._wakers.append(wake)
        try:
            yield
        finally:
            with self._lock:
                self._wakers.remove(wake)
