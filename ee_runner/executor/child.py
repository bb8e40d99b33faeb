"""The child process on a pty or on pipes, and the caller's terminal beside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import termios
import tty
from collections.abc import Mapping
from typing import Any, Protocol

from ee_runner.errors import LaunchError
from ee_runner.executor.control import find_program
from ee_runner.job import Invocation, Terminal

_SIZE = (24, 80)


class Child(Protocol):
    """A running process: `out` and `err` are to be read, `type` writes to its terminal."""

    pid: int
    out: int
    err: int | None

    def type(self, data: bytes) -> int: ...

    def resize(self, rows: int, columns: int) -> None: ...

    def wait(self) -> int: ...

    def terminate(self) -> None: ...

    def close(self) -> None: ...


def open_child(invocation: Invocation, stdin: int | None) -> Child:
    """Start the invocation's process; raises LaunchError when that is not possible."""
    program = find_program(invocation.argv[0], invocation.env)
    argv = (program, *invocation.argv[1:])
    try:
        if invocation.terminal is Terminal.PIPES:
            return _PipedChild(argv, invocation, stdin)
        size = _size_of(stdin) if stdin is not None else _stated_size(invocation.env)
        echo = invocation.terminal is Terminal.INTERACTIVE
        return _pty_child(argv, invocation, size=size, echo=echo)
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


class _PipedChild:
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

    def wait(self) -> int:
        return self._process.wait()

    def terminate(self) -> None:
        self._process.terminate()

    def close(self) -> None:
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


class _TerminalChild:
    """On a pty whose other end the child was started on by setsid(1): a fork without Python code in between."""

    def __init__(self, argv: tuple[str, ...], invocation: Invocation, *, size: tuple[int, int], echo: bool) -> None:
        self.out, inner = os.openpty()
        self.err: int | None = None
        try:
            _prepare(inner, size=size, echo=echo)
            self._process = subprocess.Popen(
                argv, env=dict(invocation.env), cwd=invocation.cwd, stdin=inner, stdout=inner, stderr=inner
            )
        except BaseException:
            os.close(self.out)
            raise
        finally:
            os.close(inner)
        self.pid = self._process.pid

    def type(self, data: bytes) -> int:
        return os.write(self.out, data)

    def resize(self, rows: int, columns: int) -> None:
        _set_size(self.out, (rows, columns))

    def wait(self) -> int:
        return self._process.wait()

    def terminate(self) -> None:
        self._process.terminate()

    def close(self) -> None:
        os.close(self.out)


class _PexpectChild:
    """On a pty by pexpect, where there is no setsid(1) (macOS)."""

    def __init__(self, argv: tuple[str, ...], invocation: Invocation, *, size: tuple[int, int], echo: bool) -> None:
        import pexpect

        self._spawned: Any
        try:
            self._spawned = pexpect.spawn(
                argv[0],
                list(argv[1:]),
                env=dict(invocation.env),
                cwd=str(invocation.cwd),
                dimensions=size,
                echo=echo,
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

    def wait(self) -> int:
        process = self._spawned.ptyproc
        if not process.terminated:
            process.wait()
        return int(process.exitstatus) if process.exitstatus is not None else -int(process.signalstatus)

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def close(self) -> None:
        self._spawned.ptyproc.fileobj.close()


def _pty_child(
    argv: tuple[str, ...], invocation: Invocation, *, size: tuple[int, int], echo: bool
) -> _TerminalChild | _PexpectChild:
    setsid = _setsid()
    if setsid is None:
        return _PexpectChild(argv, invocation, size=size, echo=echo)
    return _TerminalChild((setsid, "--ctty", *argv), invocation, size=size, echo=echo)


def _setsid() -> str | None:
    return shutil.which("setsid")


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
