"""The job's process without a minder: where there is no /proc, as on macOS, or no Python to mind it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import Any

from ee_runner import processes
from ee_runner.errors import LaunchError
from ee_runner.executor.terminals import wanted_size
from ee_runner.job import Invocation, Terminal


class PipedChild:
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


class PexpectChild:
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
                dimensions=wanted_size(invocation, stdin),
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


def _kill_session(leader: int) -> None:
    """Send SIGKILL to all below a process, as far as /proc shows them, and to its group where nothing does."""
    processes.kill_tree(leader)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
