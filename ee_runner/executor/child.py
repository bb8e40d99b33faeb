"""The job's process on a pty or on pipes, and the caller's terminal beside it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import tty
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ee_runner import minder, processes
from ee_runner.errors import LaunchError
from ee_runner.executor.control import find_program
from ee_runner.job import Invocation, Terminal

_SIZE = (24, 80)
_MINDER = """
import os, sys
sys.path.append(sys.argv[1])
from ee_runner import minder
os._exit(minder.main(int(sys.argv[2])))
"""
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


def open_child(invocation: Invocation, stdin: int | None) -> Child:
    """Start the invocation's process; raises LaunchError when that is not possible."""
    program = find_program(invocation.argv[0], invocation.env)
    argv = (program, *invocation.argv[1:])
    interpreter = _interpreter()
    try:
        if interpreter is not None:
            return _MindedChild(interpreter, argv, invocation, stdin)
        if invocation.terminal is Terminal.PIPES:
            return _PipedChild(argv, invocation, stdin)
        return _PexpectChild(argv, invocation, stdin)
    except (OSError, ValueError) as error:
        place = f" in {invocation.cwd}" if not invocation.cwd.is_dir() else ""
        raise LaunchError(
            f"{program} can not be started{place}: {getattr(error, 'strerror', None) or error}."
        ) from error


def copy_size(terminal: int, child: Child) -> None:
    """Give the child's terminal the size of the caller's."""
    child.resize(*_size_of(terminal))


class RawTerminal:
    """The caller's terminal in raw mode for the length of the block, so that each key reaches the job."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        self._saved = termios.tcgetattr(self._descriptor)
        tty.setraw(self._descriptor)

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(termios.error):  # the terminal has been closed meanwhile
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)


class _MindedChild:
    """Below a minder, which outlives both ends and sees to what is left (Linux)."""

    def __init__(self, interpreter: str, argv: tuple[str, ...], invocation: Invocation, stdin: int | None) -> None:
        self.err: int | None = None
        self._streams: list[int] = []
        self._waits = True
        self._unending: list[int] = []
        self._minder: subprocess.Popen[bytes] | None = None
        self._control, theirs = socket.socketpair()
        self._heard = self._control.makefile("rb")
        try:
            with contextlib.ExitStack() as inner:
                inner.callback(theirs.close)
                self._minder = subprocess.Popen(
                    (interpreter, "-I", "-S", "-c", _MINDER, _root(), str(theirs.fileno())),
                    **self._connected(invocation, stdin, inner),
                    pass_fds=(theirs.fileno(),),
                    cwd="/",
                    start_new_session=True,
                )
            self.pid = self._begun(argv, invocation)
            self._job = processes.Identity.of(self.pid)
        except BaseException:
            self.close()
            raise

    def _connected(self, invocation: Invocation, stdin: int | None, inner: contextlib.ExitStack) -> dict[str, Any]:
        """Make the job's streams: ours stay in this object, the job's are closed with `inner`."""
        if invocation.terminal is Terminal.PIPES:
            self.out, out = self._pair(os.pipe(), inner)
            errors, err = self._pair(os.pipe(), inner)
            self.err = errors
            return {"stdin": subprocess.DEVNULL if stdin is None else stdin, "stdout": out, "stderr": err}
        self.out, terminal = self._pair(os.openpty(), inner)
        _prepare(terminal, size=_wanted_size(invocation, stdin), echo=invocation.terminal is Terminal.INTERACTIVE)
        return {"stdin": terminal, "stdout": terminal, "stderr": terminal}

    def _pair(self, pair: tuple[int, int], inner: contextlib.ExitStack) -> tuple[int, int]:
        ours, theirs = pair
        self._streams.append(ours)
        inner.callback(os.close, theirs)
        return pair

    def _begun(self, argv: tuple[str, ...], invocation: Invocation) -> int:
        """Have the minder start the job, and return the job's pid; raises OSError as exec(2) does."""
        told = minder.packed(
            _encoded(argv),
            env={os.fsencode(name): os.fsencode(value) for name, value in invocation.env.items()},
            cwd=os.fsencode(invocation.cwd),
            terminal=invocation.terminal is not Terminal.PIPES,
            adopt=invocation.adopt,
            rescue=_encoded(invocation.rescue),
        )
        with contextlib.suppress(BrokenPipeError):  # what it does not say, it says by its silence
            self._control.sendall(told)
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
        while not waiting.poll(_SILENCE * 1000) and self._minder is not None:
            self._minder.send_signal(signal.SIGCONT)

    def type(self, data: bytes) -> int:
        return os.write(self.out, data)

    def resize(self, rows: int, columns: int) -> None:
        if self.err is None:
            _set_size(self.out, (rows, columns))

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
        with contextlib.suppress(OSError):  # it has gone
            self._control.shutdown(socket.SHUT_WR)
        for descriptor in self._streams:
            os.close(descriptor)
        if self._minder is not None:
            self._see_off(self._minder)
        self._heard.close()
        self._control.close()

    @staticmethod
    def _see_off(process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(_SWEEP)
        except subprocess.TimeoutExpired:  # somebody has stopped it
            process.kill()
            process.wait()

    def _end_unminded(self) -> None:
        """End the job of a minder that has been killed, as far as it can be found."""
        if self._job.runs:
            processes.kill_tree(self.pid)

    def _say(self, word: bytes) -> None:
        """Tell the minder, and wake it: the job may have stopped it, to be left alone."""
        with contextlib.suppress(OSError):  # it has been killed, which `wait` tells
            self._control.sendall(word)
        if self._minder is not None:
            self._minder.send_signal(signal.SIGCONT)

    def _next(self) -> tuple[bytes, list[int]]:
        """Return the next thing that the minder says; no word when there is nothing more to come."""
        try:
            line = self._heard.readline()
        except OSError:  # ECONNRESET, or it takes too long
            return b"", []
        word, *numbers = line.split() or [b""]
        return word, [int(number) for number in numbers]


class _PipedChild:
    """On pipes and without a minder."""

    def __init__(self, argv: tuple[str, ...], invocation: Invocation, stdin: int | None) -> None:
        self._process = subprocess.Popen(
            argv,
            env=dict(invocation.env),
            cwd=invocation.cwd,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None  # noqa: S101 - both were asked for above
        assert self._process.stderr is not None  # noqa: S101
        self.pid = self._process.pid
        self.out = self._process.stdout.fileno()
        self.err: int | None = self._process.stderr.fileno()

    def type(self, data: bytes) -> int:
        return len(data)  # without a terminal there is nobody at the prompt

    def resize(self, rows: int, columns: int) -> None: ...

    def wait(self) -> int | None:
        return self._process.wait()

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        _kill_session(self.pid)

    def sweep(self) -> list[int]:
        return []

    def close(self) -> None:
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


class _PexpectChild:
    """On a pty by pexpect and without a minder (macOS)."""

    def __init__(self, argv: tuple[str, ...], invocation: Invocation, stdin: int | None) -> None:
        import pexpect

        self._spawned: Any
        try:
            self._spawned = pexpect.spawn(
                argv[0],
                list(argv[1:]),
                env=dict(invocation.env),
                cwd=str(invocation.cwd),
                dimensions=_wanted_size(invocation, stdin),
                echo=invocation.terminal is Terminal.INTERACTIVE,
                timeout=None,
            )
        except pexpect.ExceptionPexpect as error:
            raise LaunchError(f"{argv[0]} can not be started: {error}.") from error
        self.pid: int = self._spawned.pid
        self.out: int = self._spawned.child_fd
        self.err: int | None = None

    def type(self, data: bytes) -> int:
        return os.write(self.out, data)

    def resize(self, rows: int, columns: int) -> None:
        self._spawned.setwinsize(rows, columns)

    def wait(self) -> int | None:
        process = self._spawned.ptyproc
        if not process.terminated:
            process.wait()
        return int(process.exitstatus) if process.exitstatus is not None else -int(process.signalstatus)

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        _kill_session(self.pid)

    def sweep(self) -> list[int]:
        return []

    def close(self) -> None:
        self._spawned.ptyproc.fileobj.close()


def _interpreter() -> str | None:
    """Return the Python for minders; None where there can be none: elsewhere than on Linux, and without /proc."""
    if sys.platform != "linux" or not Path("/proc/self/fd").exists():
        return None
    if sys.executable and Path(sys.executable).name.startswith("python"):
        return sys.executable
    return shutil.which("python3")  # this one is built into another program


def _root() -> str:
    """Return the directory in which the package lies."""
    return str(Path(minder.__file__).parents[1])


def _kill_session(leader: int) -> None:
    """Send SIGKILL to all below a process, as far as /proc shows them, and to its group where nothing does."""
    processes.kill_tree(leader)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _encoded(words: Sequence[str]) -> list[bytes]:
    return [os.fsencode(word) for word in words]


def _prepare(terminal: int, *, size: tuple[int, int], echo: bool) -> None:
    _set_size(terminal, size)
    if not echo:
        attributes = termios.tcgetattr(terminal)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSANOW, attributes)


def _set_size(terminal: int, size: tuple[int, int]) -> None:
    import fcntl
    import struct

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))


def _wanted_size(invocation: Invocation, stdin: int | None) -> tuple[int, int]:
    return _size_of(stdin) if stdin is not None else _stated_size(invocation.env)


def _size_of(terminal: int) -> tuple[int, int]:
    try:
        columns, rows = os.get_terminal_size(terminal)
    except OSError:
        return _SIZE
    return (rows, columns) if rows and columns else _SIZE


def _stated_size(env: Mapping[str, str]) -> tuple[int, int]:
    """Return the size that LINES and COLUMNS state, or 24 by 80."""
    stated = []
    for name, usual in zip(("LINES", "COLUMNS"), _SIZE, strict=True):
        text = env.get(name, "")
        stated.append(int(text) if text.isdigit() and 0 < int(text) < 65536 else usual)
    return stated[0], stated[1]
