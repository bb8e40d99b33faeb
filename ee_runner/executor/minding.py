"""Minders before they know of a job: one starts while its job is still being prepared."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_PROGRAM = """
import os, sys
sys.path.append(sys.argv[1])
from ee_runner import minder
os._exit(minder.main(*map(int, sys.argv[2:])))
"""
_ROOT = str(Path(__file__).parents[2])
"""The directory in which the package lies."""

_PATIENCE = 20.0
"""Seconds that a minder has to end once it is told to, or has nobody to listen to; it needs some thousandths."""


class Minding:
    """A minder and the socket to it (see `ee_runner.minder`); close it, whatever has become of it."""

    def __init__(self, interpreter: str) -> None:
        self._free = True
        self.control, theirs = socket.socketpair()
        try:
            with theirs, _above_standard_streams(theirs) as given:
                self._process = subprocess.Popen(
                    (interpreter, "-I", "-S", "-c", _PROGRAM, _ROOT, str(given.fileno()), str(os.getpid())),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(given.fileno(),),
                    cwd="/",
                    start_new_session=True,
                )
        except BaseException:
            self.control.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def take(self) -> bool:
        """Take it for a job, and say whether it is there: it serves one, and may have been killed meanwhile."""
        free, self._free = self._free, False
        return free and self.runs

    def wake(self) -> None:
        """Have it go on: a job that is to be left alone may have stopped it."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Let go of it, and wait for its end; may be called again."""
        with contextlib.suppress(OSError):  # it has gone
            self.control.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:  # somebody has stopped it
            self._process.kill()
            self._process.wait()
        self.control.close()


def start() -> Minding | None:
    """Start a minder; None where there can be none: elsewhere than on Linux, without /proc, without a Python.

    Raises OSError when no process can be started.
    """
    interpreter = _interpreter()
    return None if interpreter is None else Minding(interpreter)


@contextlib.contextmanager
def ahead(started: Minding | None = None) -> Iterator[Minding | None]:
    """Have a minder ready for the job of this block: that which the caller has started, or one of its own.

    What stands in the way of one is told when the job is to start: None.
    """
    if started is not None:
        yield started
        return
    with contextlib.ExitStack() as stack:
        ready = None
        with contextlib.suppress(OSError):
            ready = start()
        if ready is not None:
            stack.callback(ready.close)
        yield ready


def _interpreter() -> str | None:
    if sys.platform != "linux" or not Path("/proc/self/fd").exists():
        return None
    if sys.executable and Path(sys.executable).name.startswith("python"):
        return sys.executable
    return shutil.which("python3")  # this one is built into another program


def _above_standard_streams(given: socket.socket) -> socket.socket:
    """Return it with a descriptor that no standard stream is laid over, even when this process has some closed."""
    return socket.socket(fileno=fcntl.fcntl(given, fcntl.F_DUPFD_CLOEXEC, 3))
