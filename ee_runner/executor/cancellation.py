"""A job's request to stop, from wherever it comes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from ee_runner.job import Reason


class Cancellation:
    """One job's request to stop, from any thread or signal handler; the first reason stays."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._reason: Reason | None = None
        self._wakers: list[Callable[[], None]] = []

    @property
    def requested(self) -> Reason | None:
        return self._reason

    def request(self, reason: Reason = "canceled") -> None:
        with self._lock:
            self._reason = self._reason or reason
        self.nudge()

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
