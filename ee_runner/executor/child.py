"""The job's process, on a pty or on pipes, below its minder."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Sequence
from typing import Protocol

from ee_runner import minder, processes
from ee_runner.errors import LaunchError
from ee_runner.executor import minding
from ee_runner.executor.control import find_program
from ee_runner.executor.minding import Minding
from ee_runner.executor.terminals import prepare, set_size, wanted_size
from ee_runner.executor.unminded import PexpectChild, PipedChild
from ee_runner.job import Invocation, Terminal

_SWEEP = 20.0
"""Seconds that a minder has to end what is left; it gives up sooner."""

_SILENCE = 1.0
"""Seconds that a minder may take to start the job; it needs some thousandths."""


class Child(Protocol):
    """The job's process: `out` and `err` are to be read, `type` writes to its terminal."""

    pid: int
    out: int
    err: int | None

    def type(self, data: bytes) -> int: ...

    def resize(self, rows: int, columns: int) -> None: ...

    def wait(self) -> int | None:
        """Wait for its end and return its exit code, negative for a signal.

        None when nobody knows how it ended, or when it can not be ended by this user.
        """

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it, and all below it."""

    def sweep(self) -> list[int]:
        """End all that it left, once it has ended; return the pids of what can not be ended."""

    def close(self) -> None:
        """Let go of it, and of what it left."""


def open_child(invocation: Invocation, stdin: int | None, ready: Minding | None = None) -> Child:
    """Start the invocation's process, below the minder that is ready if there is one.

    Raises LaunchError when that is not possible.
    """
    program = find_program(invocation.argv[0], invocation.env)
    argv = (program, *invocation.argv[1:])
    try:
        mine = ready if ready is not None and ready.take() else minding.start()
        if mine is not None:
            return _MindedChild(mine, argv, invocation, stdin)
        if invocation.terminal is Terminal.PIPES:
            return PipedChild(argv, invocation, stdin)
        return PexpectChild(argv, invocation, stdin)
    except (OSError, ValueError) as error:
        place = f" in {invocation.cwd}" if not invocation.cwd.is_dir() else ""
        raise LaunchError(
            f"{program} can not be started{place}: {getattr(error, 'strerror', None) or error}."
        ) from error


class _MindedChild:
    """Below a minder, which outlives both ends and sees to what is left (Linux)."""

    def __init__(self, ready: Minding, argv: tuple[str, ...], invocation: Invocation, stdin: int | None) -> None:
        self.err: int | None = None
        self._streams: list[int] = []
        self._waits = True
        self._unending: list[int] = []
        self._minder = ready
        self._control = ready.control
        self._heard = self._control.makefile("rb")
        try:
            with contextlib.ExitStack() as inner:
                self.pid = self._begun(argv, invocation, self._connected(invocation, stdin, inner))
            self._job = processes.Identity.of(self.pid)
        except BaseException:
            self.close()
            raise

    def _connected(self, invocation: Invocation, stdin: int | None, inner: contextlib.ExitStack) -> list[int]:
        """Make the job's streams: ours stay in this object, the job's three are returned, and closed with `inner`."""
        if invocation.terminal is Terminal.PIPES:
            self.out, out = self._pair(os.pipe(), inner)
            errors, err = self._pair(os.pipe(), inner)
            self.err = errors
            return [self._nothing(inner) if stdin is None else stdin, out, err]
        self.out, terminal = self._pair(os.openpty(), inner)
        prepare(terminal, size=wanted_size(invocation, stdin), echo=invocation.terminal is Terminal.INTERACTIVE)
        return [terminal, terminal, terminal]

    @staticmethod
    def _nothing(inner: contextlib.ExitStack) -> int:
        descriptor = os.open(os.devnull, os.O_RDONLY)
        inner.callback(os.close, descriptor)
        return descriptor

    def _pair(self, pair: tuple[int, int], inner: contextlib.ExitStack) -> tuple[int, int]:
        ours, theirs = pair
        self._streams.append(ours)
        inner.callback(os.close, theirs)
        return pair

    def _begun(self, argv: tuple[str, ...], invocation: Invocation, streams: list[int]) -> int:
        """Have the minder start the job on these streams; return the job's pid. Raises OSError as exec(2) does."""
        told = minder.packed(
            _encoded(argv),
            env={os.fsencode(name): os.fsencode(value) for name, value in invocation.env.items()},
            cwd=os.fsencode(invocation.cwd),
            terminal=invocation.terminal is not Terminal.PIPES,
            adopt=invocation.adopt,
            rescue=_encoded(invocation.rescue),
        )
        with contextlib.suppress(BrokenPipeError):  # what it does not say, it says by its silence
            socket.send_fds(self._control, [told[:1]], streams)
            self._control.sendall(told[1:])
        self._await_first_word()
        word, numbers = self._next()
        if word == minder.STARTED:
            return numbers[0]
        if word == minder.REFUSED:
            raise OSError(numbers[0], os.strerror(numbers[0]) if numbers[0] else "a word has a null byte in it")
        raise ChildProcessError("the process that was to mind it ended before it could")

    def _await_first_word(self) -> None:
        """Wait, and wake a minder that says nothing: the job may have stopped it before it could."""
        waiting = select.poll()
        waiting.register(self._control, select.POLLIN)
        while not waiting.poll(_SILENCE * 1000):
            self._minder.wake()

    def type(self, data: bytes) -> int:
        return os.write(self.out, data)

    def resize(self, rows: int, columns: int) -> None:
        if self.err is None:
            set_size(self.out, (rows, columns))

    def wait(self) -> int | None:
        word, numbers = self._next()
        while word not in (minder.ENDED, b"") and not (word == minder.LEFT and self.pid in numbers):
            word, numbers = self._next()
        self._waits = False
        if word == minder.ENDED:
            return os.waitstatus_to_exitcode(numbers[0])
        self._unending = numbers
        if not word:
            self._end_unminded()
        return None

    def terminate(self) -> None:
        self._say(minder.ASK)

    def kill(self) -> None:
        self._say(minder.KILL)

    def sweep(self) -> list[int]:
        if self._unending:
            return self._unending
        self._say(minder.SWEEP)
        self._control.settimeout(_SWEEP)
        word, numbers = self._next()
        while word not in (minder.LEFT, b""):
            word, numbers = self._next()
        return numbers

    def close(self) -> None:
        if self._waits:  # something went wrong before anybody knew how it ends
            self._say(minder.KILL)
        self._say(minder.GOODBYE)
        for descriptor in self._streams:
            os.close(descriptor)
        self._minder.close()
        self._heard.close()

    def _end_unminded(self) -> None:
        """End the job of a minder that has been killed, as far as it can be found."""
        if self._job.runs:
            processes.kill_tree(self.pid)

    def _say(self, word: bytes) -> None:
        """Tell the minder, and wake it: the job may have stopped it, to be left alone."""
        with contextlib.suppress(OSError):  # it has been killed, which `wait` tells
            self._control.sendall(word)
        self._minder.wake()

    def _next(self) -> tuple[bytes, list[int]]:
        """Return the next thing that the minder says; no word when there is nothing more to come."""
        try:
            line = self._heard.readline()
        except OSError:  # ECONNRESET, or it takes too long
            return b"", []
        word, *numbers = line.split() or [b""]
        return word, [int(number) for number in numbers]


def _encoded(words: Sequence[str]) -> list[bytes]:
    return [os.fsencode(word) for word in words]
