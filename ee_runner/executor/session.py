"""One job's process, from its start to the last byte of its output."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from ee_runner.errors import LaunchError
from ee_runner.executor.cancellation import Cancellation
from ee_runner.executor.child import open_child
from ee_runner.executor.minding import Minding
from ee_runner.executor.stopping import Stopping
from ee_runner.executor.terminals import RawTerminal, size_of
from ee_runner.job import Invocation, Limits, Outcome, Reason, Terminal, status_of_stop
from ee_runner.processes import signal_name
from ee_runner.prompts import Prompter, Unanswered
from ee_runner.secrets import Secret

_PIECE = 65536
"""Bytes that are handed on at once, at most: a pipe holds as many."""

_MORE = 2048
"""Bytes of one read that suggest more: a terminal gives half a page to a page at a time when output floods it."""

_SELECTABLE = 1024
_DAY = 86400.0
"""Seconds; the kernel does not take a month."""

_DRAIN = 1.0
"""Seconds that output may still come after the job's own process has gone."""

_DRAIN_LIMIT = 10.0
"""Seconds after which even output that flows without a pause is left alone."""

_BEYOND = 65536
"""Bytes that a terminal holds beyond those that can be counted: the limit of the kernel's tty buffers."""

_KEPT_OPEN = "a background process of the job keeps its output open; what it says from now on is lost"


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
        started: Callable[[], None] | None = None,
        whole_lines: bool = False,
        ready: Minding | None = None,
    ) -> Outcome:
        """Run one process to its end and return how it ended.

        `stdin` is a descriptor for the job's input: the caller's terminal (joined to the job's pty) when the
        invocation is interactive, else handed on as it is; None is no input. `stop` ends what the process stands for
        (a container), and is called once, in a thread, when the job is to stop; without it the process gets SIGTERM.
        After ``limits.grace`` comes SIGKILL. When this returns after a stop, nothing is left of what the process
        started, daemons too, or the outcome's detail says what is. `started` is called when the process runs.
        `whole_lines` says that the process leaves no line unfinished but to ask something, see `Prompter`.
        `ready` is a minder that was started ahead; whoever started it closes it.

        Raises LaunchError when the program can not be started, and whatever the sink raises, after the process ended.
        """
        with contextlib.ExitStack() as stack:
            prompter = Prompter({})  # without a terminal nothing is asked
            if invocation.terminal is not Terminal.PIPES:
                prompter = Prompter(
                    passwords,
                    patience=limits.pexpect_timeout,
                    whole_lines=whole_lines,
                    attended=invocation.terminal is Terminal.INTERACTIVE and stdin is not None,
                )
            session = _Session(sink, cancel, limits, prompter, stop=stop)
            session.open(stack, invocation, stdin, ready)
            if started is not None:
                started()
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
        self._stopping: Stopping
        self._stdin: int | None = None
        self._selector = selectors.DefaultSelector() if limits.pexpect_use_poll else selectors.SelectSelector()
        self._exited: float | None = None
        self._code: int | None = None
        self._owed: int | None = None
        self._left: list[int] = []
        self._untyped = bytearray()
        self._quiet = False
        self._discarding = False
        self._unanswered: Unanswered | None = None

    def open(
        self, stack: contextlib.ExitStack, invocation: Invocation, stdin: int | None, ready: Minding | None
    ) -> None:
        """Start the child; all that this takes is given back when `stack` closes, the child first."""
        stack.callback(self._selector.close)
        try:
            read, self._wake_write = os.pipe()
        except OSError as error:
            raise LaunchError(f"No process can be started: {error.strerror}.") from error
        stack.callback(os.close, self._wake_write)
        stack.callback(os.close, read)
        os.set_blocking(self._wake_write, False)
        self._child = open_child(invocation, stdin, ready)
        stack.callback(self._child.close)
        self._stopping = Stopping(self._child, self._cancel, self._limits, stop=self._stop)
        self._waiter = threading.Thread(target=self._wait_for_child, daemon=True)
        self._start_waiter()
        stack.callback(self._see_it_gone)
        self._stopping.begin()
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
        stack.enter_context(self._cancel.waking(self._stopping.wake))
        self._stopping.wake()  # it may have been asked for by now

    def _start_waiter(self) -> None:
        try:
            self._waiter.start()
        except RuntimeError as error:  # too many threads, or the interpreter is on its way out
            self._child.kill()
            self._child.wait()
            self._stopping.close()
            raise LaunchError(f"No thread can be started to wait for the process: {error}.") from error

    def _watch(self, descriptor: int, data: object) -> None:
        if descriptor >= _SELECTABLE and not self._limits.pexpect_use_poll:
            raise LaunchError(f"select() can not watch descriptor {descriptor}; set pexpect_use_poll to true.")
        self._selector.register(descriptor, selectors.EVENT_READ, data)

    def _see_it_gone(self) -> None:
        if self._exited is None:
            self._stopping.want("lost")
            self._child.kill()
        self._waiter.join()
        self._stopping.close()

    def run(self) -> Outcome:
        try:
            self._serve()
        except BaseException:
            self._discarding = True
            self._stopping.want("lost")
            self._serve()
            raise
        return self._outcome()

    def _serve(self) -> None:
        while not self._finished():
            self._look(time.monotonic())
            ready = self._selector.select(self._patience())
            self._quiet = not any(callable(key.data) for key, _ in ready)
            for key, mask in ready:
                self._handle(key, mask)

    def _handle(self, key: selectors.SelectorKey, mask: int) -> None:
        if key.data is None:
            os.read(key.fd, 4096)
            if self._stdin is not None:
                self._child.resize(*size_of(self._stdin))
        elif key.data == "input":
            self._forward_input(key.fd)
        elif mask & selectors.EVENT_WRITE:
            self._type(b"")
        else:
            self._forward_output(key.fd, key.data)

    def _forward_output(self, descriptor: int, deliver: Callable[[bytes], None]) -> None:
        data = _read(descriptor)
        if data is None:
            return
        if not data:
            self._selector.unregister(descriptor)
            return
        self._stopping.output_came()
        if self._owed is not None:
            self._owed -= len(data)
        if not self._discarding:
            self._prompter.feed(data, time.monotonic())
            self._stopping.delivering = True
            deliver(data)
            self._stopping.output_came()
            self._stopping.delivering = False

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
        patience = None if self._discarding else self._cancel.patience  # it is not called any more
        moments = [None if patience is None else now + patience, self._prompter.due]
        return min((min(max(moment - now, 0.0), _DAY) for moment in moments if moment is not None), default=None)

    def _look(self, now: float) -> None:
        """See to what is due in this thread: the caller's own callback, and a prompt on which the output rests."""
        if self._exited is None and not self._discarding:
            self._cancel.check()
        if self._quiet:  # more may have come while the last was delivered
            self._look_at_prompt(now)

    def _look_at_prompt(self, now: float) -> None:
        found = self._prompter.look(now)
        if isinstance(found, Unanswered):
            self._unanswered = found
            self._stopping.want("prompt_unanswered")
        elif found is not None:
            self._type(found)

    def _finished(self) -> bool:
        """Whether the child has gone and its output has ended, or has nothing more to give in the time that it has."""
        if self._exited is None:
            return False
        if not self._output_open:
            return True
        if self._owed is None:
            self._owed = self._in_flight()
        late = time.monotonic() - self._exited
        return (late >= _DRAIN and self._quiet) or (late >= _DRAIN_LIMIT and self._owed < 0)

    def _in_flight(self) -> int:
        """Return how many bytes the job's own process may have left on the way, however slowly they are taken."""
        outputs = [key.fd for key in self._selector.get_map().values() if callable(key.data)]
        waiting = [fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)) for descriptor in outputs]
        return sum(int.from_bytes(count, sys.byteorder) for count in waiting) + _BEYOND

    @property
    def _output_open(self) -> bool:
        return any(callable(key.data) for key in self._selector.get_map().values())

    def _wait_for_child(self) -> None:
        self._code = self._child.wait()
        if self._stopping.child_ended() is not None:
            self._left = self._child.sweep()
        self._exited = time.monotonic()
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full: it will wake up anyway
            os.write(self._wake_write, b"w")

    def _outcome(self) -> Outcome:
        self._stopping.await_stop()
        if self._stopping.error is not None:
            raise self._stopping.error
        if self._stopping.reason is not None:
            return self._stopped(self._stopping.reason)
        if self._code is None:
            return Outcome("error", 254, "lost", "the process that minded the job was killed, and the job after it")
        if self._code < 0:
            return Outcome("failed", 128 - self._code, "killed", f"killed by {signal_name(-self._code)}")
        detail = _KEPT_OPEN if self._output_open else ""
        return Outcome("successful" if self._code == 0 else "failed", self._code, "exited", detail)

    def _stopped(self, reason: Reason) -> Outcome:
        left = [f"process {pid} of the job can not be ended by this user" for pid in self._left]
        prompt = [self._unanswered.detail] if self._unanswered and reason == "prompt_unanswered" else []
        said = (*_limit_reached(reason, self._limits), *prompt, *left)
        return Outcome(status_of_stop(reason), 254, reason, "; ".join(said))


def _read(descriptor: int) -> bytes | None:
    """Return what has come, at most one piece: nothing at the end of the output, None when there is nothing now."""
    pieces: list[bytes] = []
    room = _PIECE
    while room:
        try:
            data = os.read(descriptor, room)
        except BlockingIOError:
            return b"".join(pieces) or None
        except OSError:  # EIO: the last holder of the pty's other end has gone
            data = b""
        pieces.append(data)
        room -= len(data)
        if len(data) < _MORE:
            break
    return b"".join(pieces)


def _limit_reached(reason: Reason, limits: Limits) -> list[str]:
    """Name the limit; it may also have been the caller's own, who asked for the stop with that reason."""
    reached = {
        "job_timeout": limits.job_timeout,
        "idle_timeout": limits.idle_timeout,
        "subprocess_timeout": limits.subprocess_timeout,
    }
    seconds, idle = reached.get(reason), reason == "idle_timeout"
    return [f"stopped after {seconds:g} seconds{' without output' * idle} ({reason})"] if seconds else []
