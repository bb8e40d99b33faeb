"""One job's process, from its start to the last byte of its output."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from ee_runner.executor.child import RawTerminal, copy_size, open_child
from ee_runner.executor.control import kill_tree
from ee_runner.job import Invocation, Limits, Outcome, Reason, Terminal
from ee_runner.prompts import QUIET, Prompter
from ee_runner.secrets import Secret

_CHUNK = 65536
_DRAIN = 1.0
"""Seconds that output may still come after the job's own process has gone."""

_STOP_MARGIN = 5.0
"""Seconds beyond the grace that stopping a container may take before its client is killed."""


class Sink(Protocol):
    """Takes the job's output as it comes; what it raises ends the job."""

    def stdout(self, data: bytes) -> None: ...

    def stderr(self, data: bytes) -> None: ...


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


class Executor:
    """Runs invocations; it has no state of its own and serves any number of threads."""

    def run(
        self,
        invocation: Invocation,
        sink: Sink,
        *,
        cancel: Cancellation,
        limits: Limits,
        passwords: Mapping[str, Secret],
        stdin: int | None = None,
        stop: Callable[[], None] | None = None,
    ) -> Outcome:
        """Run one process to its end and return how it ended.

        `stdin` is a descriptor for the job's input: the caller's terminal (joined to the job's pty) when the
        invocation is interactive, else handed on as it is; None is no input. `stop` ends what the process stands for
        (a container), and is called once, in a thread, when the job is to stop; without it the process gets SIGTERM.
        After ``limits.grace`` comes SIGKILL, for its descendants too.

        Raises LaunchError when the program can not be started, and whatever the sink raises, after the process ended.
        """
        session = _Session(invocation, sink, cancel, limits, Prompter(passwords), stdin, stop)
        with session:
            return session.run()


class _Session:
    """One run of the executor."""

    def __init__(
        self,
        invocation: Invocation,
        sink: Sink,
        cancel: Cancellation,
        limits: Limits,
        prompter: Prompter,
        stdin: int | None,
        stop: Callable[[], None] | None,
    ) -> None:
        self._sink = sink
        self._cancel = cancel
        self._limits = limits
        self._prompter = prompter
        self._stdin = stdin if invocation.terminal is Terminal.INTERACTIVE else None
        self._stop = stop
        self._stack = contextlib.ExitStack()
        self._selector = selectors.DefaultSelector() if limits.pexpect_use_poll else selectors.SelectSelector()
        self._stack.callback(self._selector.close)
        self._wake_read, self._wake_write = os.pipe()
        self._stack.callback(os.close, self._wake_read)
        os.set_blocking(self._wake_write, False)
        try:
            self._child = open_child(invocation, stdin)
        except BaseException:
            self._stack.close()
            os.close(self._wake_write)
            raise
        self._started = self._last_output = time.monotonic()
        self._exited: float | None = None
        self._ended_by: Reason | None = None
        self._kill_at: float | None = None
        self._untyped = bytearray()
        self._stopper: threading.Thread | None = None
        self._stop_error: BaseException | None = None
        self._waiter = threading.Thread(target=self._wait_for_child, daemon=True)

    def __enter__(self) -> None:
        self._stack.enter_context(self._cancel.waking(self._wake))
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        for descriptor, deliver in (
            (self._child.out, self._sink.stdout),
            (self._child.err, self._sink.stderr),
        ):
            if descriptor is not None:
                os.set_blocking(descriptor, False)
                self._selector.register(descriptor, selectors.EVENT_READ, deliver)
        if self._stdin is not None:
            self._stack.enter_context(RawTerminal(self._stdin))
            self._selector.register(self._stdin, selectors.EVENT_READ, "input")
        self._waiter.start()

    def __exit__(self, *exc: object) -> None:
        if self._exited is None:
            kill_tree(self._child.pid)
        self._waiter.join()
        if self._stopper is not None:
            self._stopper.join()
        self._child.close()
        self._stack.close()
        os.close(self._wake_write)

    def run(self) -> Outcome:
        while not self._finished():
            for key, mask in self._selector.select(self._patience()):
                self._handle(key, mask)
            self._enforce(time.monotonic())
        return self._outcome()

    def _handle(self, key: selectors.SelectorKey, mask: int) -> None:
        if key.data is None:
            os.read(key.fd, 4096)
            if self._stdin is not None:
                copy_size(self._stdin, self._child)
        elif key.data == "input":
            self._forward_input(key.fd)
        elif mask & selectors.EVENT_WRITE:
            self._type(b"")
        else:
            self._forward_output(key.fd, key.data)

    def _forward_output(self, descriptor: int, deliver: Callable[[bytes], None]) -> None:
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: the last holder of the pty's other end has gone
            data = b""
        if not data:
            self._selector.unregister(descriptor)
            return
        self._last_output = time.monotonic()
        self._prompter.feed(data)
        deliver(data)

    def _forward_input(self, descriptor: int) -> None:
        data = os.read(descriptor, 4096)
        if data:
            self._type(data)
        else:
            self._selector.unregister(descriptor)

    def _type(self, data: bytes) -> None:
        """Write to the child's terminal what it takes now; the rest goes when the child has read on."""
        self._untyped += data
        try:
            del self._untyped[: self._child.type(bytes(self._untyped))]
        except BlockingIOError:
            pass
        except OSError:  # the terminal has no other end any more
            self._untyped.clear()
        if self._child.out in self._selector.get_map():
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._untyped else 0)
            self._selector.modify(self._child.out, events, self._sink.stdout)

    def _patience(self) -> float | None:
        """Seconds until something must be looked at although nothing happened."""
        now = time.monotonic()
        moments = [self._kill_at, self._exited + _DRAIN if self._exited is not None else None]
        if self._ended_by is None:
            moments += [self._deadline(self._started, self._limits.job_timeout)]
            moments += [self._deadline(self._last_output, self._limits.idle_timeout)]
        if self._prompter.waiting and now < self._last_output + QUIET:
            moments.append(self._last_output + QUIET)
        return min((max(moment - now, 0.0) for moment in moments if moment is not None), default=None)

    @staticmethod
    def _deadline(since: float, seconds: float | None) -> float | None:
        return since + seconds if seconds else None

    def _enforce(self, now: float) -> None:
        if self._prompter.waiting and now >= self._last_output + QUIET:
            answer = self._prompter.answer()
            if answer is not None:
                self._type(answer)
        if self._exited is not None:
            return
        if self._ended_by is None:
            reason = self._reason_to_stop(now)
            if reason is not None:
                self._begin_stopping(reason, now)
        elif self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            kill_tree(self._child.pid)

    def _reason_to_stop(self, now: float) -> Reason | None:
        if self._cancel.requested:
            return self._cancel.requested
        if self._limits.job_timeout and now >= self._started + self._limits.job_timeout:
            return "job_timeout"
        if self._limits.idle_timeout and now >= self._last_output + self._limits.idle_timeout:
            return "idle_timeout"
        return None

    def _begin_stopping(self, reason: Reason, now: float) -> None:
        self._ended_by = reason
        self._kill_at = now + self._limits.grace
        if self._stop is None:
            self._child.terminate()
        else:
            self._kill_at += _STOP_MARGIN
            self._stopper = threading.Thread(target=self._stop_elsewhere, args=(self._stop,), daemon=True)
            self._stopper.start()

    def _stop_elsewhere(self, stop: Callable[[], None]) -> None:
        try:
            stop()
        except BaseException as error:
            self._stop_error = error

    def _finished(self) -> bool:
        if self._exited is None:
            return False
        output_open = any(callable(key.data) for key in self._selector.get_map().values())
        return not output_open or time.monotonic() >= max(self._exited, self._last_output) + _DRAIN

    def _wait_for_child(self) -> None:
        self._child.wait()
        self._exited = time.monotonic()
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full: it will wake up anyway
            os.write(self._wake_write, b"w")

    def _outcome(self) -> Outcome:
        code = self._child.wait()
        if self._stopper is not None:
            self._stopper.join()
        if self._stop_error is not None:
            raise self._stop_error
        if self._ended_by == "canceled":
            return Outcome("canceled", 254, "canceled")
        if self._ended_by in ("job_timeout", "idle_timeout"):
            return Outcome("timeout", 254, self._ended_by)
        if self._ended_by is not None:
            return Outcome("error", 254, self._ended_by)
        if code < 0:
            return Outcome("failed", 128 - code, "exited", f"killed by {signal.Signals(-code).name}")
        return Outcome("successful" if code == 0 else "failed", code, "exited")
