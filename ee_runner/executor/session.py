"""One job's process, from its start to the last byte of its output."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from ee_runner.errors import LaunchError
from ee_runner.executor.cancellation import Cancellation
from ee_runner.executor.child import RawTerminal, copy_size, open_child
from ee_runner.executor.control import family, halt, kill_survivors, kill_tree
from ee_runner.job import Invocation, Limits, Outcome, Reason, Terminal
from ee_runner.prompts import QUIET, Prompter
from ee_runner.secrets import Secret

_CHUNK = 65536
_SELECTABLE = 1024
_DRAIN = 1.0
"""Seconds that output may still come after the job's own process has gone."""

_DRAIN_LIMIT = 10.0
"""Seconds after which even output that flows without a pause is left alone."""

_CENSUS = 0.05
"""Seconds between two looks at the descendants of a job that is being stopped: they outlive it otherwise."""

_KEPT_OPEN = "a background process of the job keeps its output open; what it says from now on is lost"

_STOP_MARGIN = 5.0
"""Seconds beyond the grace that stopping a container may take before its client is killed."""


class Sink(Protocol):
    """Takes the job's output as it comes; what it raises ends the job."""

    def stdout(self, data: bytes) -> None: ...

    def stderr(self, data: bytes) -> None: ...


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
        with contextlib.ExitStack() as stack:
            session = _Session(sink, cancel, limits, Prompter(passwords), stop=stop)
            session.open(stack, invocation, stdin)
            return session.run()


class _Session:
    """One run of the executor."""

    def __init__(
        self,
        sink: Sink,
        cancel: Cancellation,
        limits: Limits,
        prompter: Prompter,
        *,
        stop: Callable[[], None] | None,
    ) -> None:
        self._sink = sink
        self._cancel = cancel
        self._limits = limits
        self._prompter = prompter
        self._stop = stop
        self._stdin: int | None = None
        self._selector = selectors.DefaultSelector() if limits.pexpect_use_poll else selectors.SelectSelector()
        self._exited: float | None = None
        self._ended_by: Reason | None = None
        self._kill_at: float | None = None
        self._family: dict[int, str] = {}
        self._untyped = bytearray()
        self._quiet = False
        self._discarding = False
        self._stopper: threading.Thread | None = None
        self._stop_error: BaseException | None = None

    def open(self, stack: contextlib.ExitStack, invocation: Invocation, stdin: int | None) -> None:
        """Start the child; all that this takes is given back when `stack` closes, the child first."""
        stack.callback(self._selector.close)
        try:
            read, self._wake_write = os.pipe()
        except OSError as error:
            raise LaunchError(f"No process can be started: {error.strerror}.") from error
        stack.callback(os.close, self._wake_write)
        stack.callback(os.close, read)
        os.set_blocking(self._wake_write, False)
        self._child = open_child(invocation, stdin)
        stack.callback(self._child.close)
        self._started = self._last_output = time.monotonic()
        self._waiter = threading.Thread(target=self._wait_for_child, daemon=True)
        self._start_waiter()
        stack.callback(self._see_it_gone)
        self._watch(read, None)
        for descriptor, deliver in ((self._child.out, self._sink.stdout), (self._child.err, self._sink.stderr)):
            if descriptor is not None:
                os.set_blocking(descriptor, False)
                self._watch(descriptor, deliver)
        if stdin is not None and invocation.terminal is Terminal.INTERACTIVE:
            self._stdin = stdin
            stack.enter_context(RawTerminal(stdin))
            self._watch(stdin, "input")
        stack.enter_context(self._cancel.waking(self._wake))

    def _start_waiter(self) -> None:
        try:
            self._waiter.start()
        except RuntimeError as error:  # too many threads, or the interpreter is on its way out
            kill_tree(self._child.pid)
            self._child.wait()
            raise LaunchError(f"No thread can be started to wait for the process: {error}.") from error

    def _watch(self, descriptor: int, data: object) -> None:
        if descriptor >= _SELECTABLE and not self._limits.pexpect_use_poll:
            raise LaunchError(f"select() can not watch descriptor {descriptor}; set pexpect_use_poll to true.")
        self._selector.register(descriptor, selectors.EVENT_READ, data)

    def _see_it_gone(self) -> None:
        if self._exited is None:
            kill_tree(self._child.pid)
        self._waiter.join()
        if self._stopper is not None:
            self._stopper.join()
        self._end_survivors()

    def _end_survivors(self) -> None:
        kill_survivors(self._family)
        self._family.clear()

    def run(self) -> Outcome:
        try:
            self._serve()
        except BaseException:
            self._discarding = True
            if self._exited is None and self._ended_by is None:
                self._begin_stopping("lost", time.monotonic())
            self._serve()
            raise
        return self._outcome()

    def _serve(self) -> None:
        while not self._finished():
            self._enforce(time.monotonic())
            ready = self._selector.select(self._patience())
            self._quiet = not any(callable(key.data) for key, _ in ready)
            for key, mask in ready:
                self._handle(key, mask)

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
        if not self._discarding:
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
        if self._exited is not None:
            return max(self._exited + _DRAIN - now, 0.0)
        moments = [self._kill_at]
        if self._ended_by is not None:
            moments.append(now + _CENSUS)
        else:
            moments += [self._deadline(self._started, self._limits.job_timeout)]
            moments += [self._deadline(self._last_output, self._limits.idle_timeout)]
            patience = self._cancel.patience
            moments += [None if patience is None else now + patience]
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
            self._end_survivors()
            return
        if self._ended_by is None:
            reason = self._reason_to_stop(now)
            if reason is not None:
                self._begin_stopping(reason, now)
        if self._ended_by is None:
            return
        self._family |= family(self._child.pid)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            kill_tree(self._child.pid)

    def _reason_to_stop(self, now: float) -> Reason | None:
        asked = self._cancel.check()
        if asked:
            return asked
        if self._limits.job_timeout and now >= self._started + self._limits.job_timeout:
            return "job_timeout"
        if self._limits.idle_timeout and now >= self._last_output + self._limits.idle_timeout:
            return "idle_timeout"
        return None

    def _begin_stopping(self, reason: Reason, now: float) -> None:
        self._ended_by = reason
        self._kill_at = now + self._limits.grace
        if self._stop is None:
            self._ask_to_end()
        else:
            self._kill_at += _STOP_MARGIN
            self._stopper = threading.Thread(target=self._stop_elsewhere, args=(self._stop,), daemon=True)
            self._stopper.start()

    def _ask_to_end(self) -> None:
        """Send SIGTERM; the child stands still while its descendants are counted, so that none is born uncounted."""
        with contextlib.suppress(ProcessLookupError):
            halt(self._child.pid)
            self._family |= family(self._child.pid)
            self._child.terminate()
            os.kill(self._child.pid, signal.SIGCONT)

    def _stop_elsewhere(self, stop: Callable[[], None]) -> None:
        try:
            stop()
        except BaseException as error:
            self._stop_error = error

    def _finished(self) -> bool:
        """Whether the child has gone and its output has ended, or has nothing more to give in the time that it has."""
        if self._exited is None:
            return False
        if not self._output_open:
            return True
        late = time.monotonic() - self._exited
        return (late >= _DRAIN and self._quiet) or late >= _DRAIN_LIMIT

    @property
    def _output_open(self) -> bool:
        return any(callable(key.data) for key in self._selector.get_map().values())

    def _wait_for_child(self) -> None:
        self._child.wait()
        self._exited = time.monotonic()
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full: it will wake up anyway
            os.write(self._wake_write, b"w")

    def _limit_reached(self) -> str:
        """Name the limit; it may also have been the caller's own, who asked for the stop with that reason."""
        idle = self._ended_by == "idle_timeout"
        seconds = self._limits.idle_timeout if idle else self._limits.job_timeout
        return f"stopped after {seconds:g} seconds{' without output' * idle} ({self._ended_by})" if seconds else ""

    def _outcome(self) -> Outcome:
        code = self._child.wait()
        if self._stopper is not None:
            self._stopper.join()
        if self._stop_error is not None:
            raise self._stop_error
        if self._ended_by == "canceled":
            return Outcome("canceled", 254, "canceled")
        if self._ended_by in ("job_timeout", "idle_timeout"):
            return Outcome("timeout", 254, self._ended_by, self._limit_reached())
        if self._ended_by is not None:
            return Outcome("error", 254, self._ended_by)
        detail = _KEPT_OPEN if self._output_open else ""
        if code < 0:
            return Outcome("failed", 128 - code, "exited", f"killed by {_signal_name(-code)}")
        return Outcome("successful" if code == 0 else "failed", code, "exited", detail)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"
