"""The way to a job's end: when it is to stop, and the steps from asking to killing.

All of it is done in a thread of its own: whoever takes the job's output may be slow, or stand still.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable

from ee_runner.errors import LaunchError
from ee_runner.executor.cancellation import Cancellation
from ee_runner.executor.child import Child
from ee_runner.job import Limits, Reason

_MARGIN = 5.0
"""Seconds beyond the grace that stopping a container may take before its client is killed."""

_DAY = 86400.0
"""Seconds; poll(2) does not take a month."""

_BREATH = 1.0
"""Seconds between two looks at a job that would be idle, were its output not being delivered."""


class Stopping:
    """Watches over one child from `begin` to `child_ended`, and stops it once there is a reason to.

    `reason` is that reason, None while there is none; `error` is what went wrong when the job was stopped elsewhere.
    """

    def __init__(self, child: Child, cancel: Cancellation, limits: Limits, *, stop: Callable[[], None] | None) -> None:
        self.reason: Reason | None = None
        self.error: BaseException | None = None
        self.delivering = False
        """Whether output is being handed on: the job is not idle meanwhile."""
        self._child = child
        self._cancel = cancel
        self._limits = limits
        self._stop = stop
        self._wanted: Reason | None = None
        self._started = self._last_output = time.monotonic()
        self._kill_at: float | None = None
        self._over = False
        self._lock = threading.Lock()
        self._alarm, self._bell = os.pipe()
        for descriptor in (self._alarm, self._bell):
            os.set_blocking(descriptor, False)
        self._thread = threading.Thread(target=self._watch, name="stopping", daemon=True)
        self._stopper: threading.Thread | None = None

    def begin(self) -> None:
        """Start the watch; raises LaunchError when there can be no thread for it."""
        try:
            self._thread.start()
        except RuntimeError as error:  # too many threads, or the interpreter is on its way out
            raise LaunchError(f"No thread can be started to watch over the process: {error}.") from error

    def want(self, reason: Reason) -> None:
        """Have the job stopped for this reason, if it is not for another one already."""
        self._wanted = self._wanted or reason
        self.wake()

    def wake(self) -> None:
        """Have the reasons looked at; may be called from a signal handler."""
        with contextlib.suppress(OSError):  # the pipe is full: it will wake up anyway
            os.write(self._bell, b"w")

    def output_came(self) -> None:
        self._last_output = time.monotonic()

    def child_ended(self) -> Reason | None:
        """Note that there is nothing to stop any more, and return why the job was stopped, None if it was not."""
        with self._lock:
            self._over = True
        self.wake()
        return self.reason

    def close(self) -> None:
        """Wait for what is under way; the child must have ended."""
        self.await_stop()
        os.close(self._alarm)
        os.close(self._bell)

    def await_stop(self) -> None:
        """Wait until the job was stopped elsewhere, if it is to be; the child must have ended."""
        if self._thread.ident is not None:  # it may just be about to begin
            self._thread.join()
        if self._stopper is not None:
            self._stopper.join()

    def _watch(self) -> None:
        waiting = select.poll()
        waiting.register(self._alarm, select.POLLIN)
        while not self._over:
            now = time.monotonic()
            reason = self._reason(now) if self.reason is None else None
            if reason is not None:
                self._begin_to_stop(reason, now)
            if self._kill_at is not None and now >= self._kill_at:
                self._kill_at = None
                self._child.kill()
            waiting.poll(self._patience())
            with contextlib.suppress(BlockingIOError):
                os.read(self._alarm, 4096)

    def _reason(self, now: float) -> Reason | None:
        reason = self._cancel.requested or self._wanted
        if reason is None:
            passed = [reason for reason, end in self._ends() if now >= end]
            reason = next((reason for reason in passed if not (reason == "idle_timeout" and self.delivering)), None)
        return reason

    def _ends(self) -> list[tuple[Reason, float]]:
        """Return the limits, each with the moment at which it is reached."""
        limits: list[tuple[Reason, float, float | None]] = [
            ("job_timeout", self._started, self._limits.job_timeout),
            ("subprocess_timeout", self._started, self._limits.subprocess_timeout),
            ("idle_timeout", self._last_output, self._limits.idle_timeout),
        ]
        return [(reason, since + seconds) for reason, since, seconds in limits if seconds]

    def _patience(self) -> float | None:
        """Return the milliseconds until something must be looked at although nothing happened."""
        now = time.monotonic()
        moments: list[float] = []
        if self.reason is None:
            moments += [end if end > now else now + _BREATH for _, end in self._ends()]  # output is being delivered
        if self._kill_at is not None:
            moments.append(self._kill_at)
        return min((min(max(moment - now, 0.0), _DAY) * 1000 for moment in moments), default=None)

    def _begin_to_stop(self, reason: Reason, now: float) -> None:
        with self._lock:
            if self._over:
                return
            self.reason = reason
        if reason != "lost":
            self._cancel.request(reason)  # whoever waits for something else in this job is to know
        self._kill_at = now + self._limits.grace
        if self._stop is None:
            self._child.terminate()
        else:
            self._kill_at += _MARGIN
            self._start_to_stop(self._stop)

    def _start_to_stop(self, stop: Callable[[], None]) -> None:
        stopper = threading.Thread(target=self._stop_elsewhere, args=(stop,), daemon=True)
        try:
            stopper.start()
        except RuntimeError:  # too many threads: then this one does it, which has nothing more urgent to do
            self._stop_elsewhere(stop)
        else:
            self._stopper = stopper

    def _stop_elsewhere(self, stop: Callable[[], None]) -> None:
        try:
            stop()
        except BaseException as error:
            self.error = error
