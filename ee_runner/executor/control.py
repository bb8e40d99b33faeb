"""Helper processes: short control commands, companions of a job, and the end of both."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ee_runner.errors import EngineError, LaunchError

_HALT = 0.5
"""Seconds that a child may take to stand still; one in an uninterruptible sleep takes longer."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A control command that has ended."""

    rc: int
    stdout: str
    stderr: str


def capture(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    input: bytes | None = None,
    timeout: float = 60,
) -> Completed:
    """Run a short control command to its end, without a terminal, and return what it said.

    Raises LaunchError when the program can not be started, EngineError when it takes longer than `timeout` seconds.
    """
    try:
        done = subprocess.run(
            list(argv),
            env=dict(env) if env is not None else None,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            timeout=timeout,
            start_new_session=True,
            check=False,
        )
    except OSError as error:
        raise LaunchError(f"{argv[0]} can not be started: {error.strerror or error}.") from error
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"`{' '.join(argv[:3])} ...` gave no answer within {timeout:g} s.") from error
    return Completed(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


@contextlib.contextmanager
def companion(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, grace: float = 2.0
) -> Iterator[int]:
    """Keep a background process for the length of the block and give its pid; it is ended and reaped after it.

    Raises LaunchError when the program can not be started.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise LaunchError(f"{argv[0]} can not be started: {error.strerror or error}.") from error
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            kill_tree(process.pid)
            process.wait()


def kill_tree(pid: int) -> None:
    """Send SIGKILL to a process and to all of its descendants, whatever session they live in (Linux)."""
    for victim in [pid, *_descendants(pid)]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(victim, signal.SIGKILL)


def halt(pid: int) -> None:
    """Stop a child of this process and see it stopped: a fork that it is in the middle of is over then."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + _HALT
    with contextlib.suppress(ChildProcessError):  # it has ended instead
        while os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() >= deadline:
                return
            time.sleep(0.001)


def family(pid: int) -> dict[int, str]:
    """Return the descendants of a process, each with the time of its start, which tells it from a later namesake."""
    return {member: _start_of(member) for member in _descendants(pid)}


def kill_survivors(members: Mapping[int, str]) -> None:
    """Send SIGKILL to those of a family that still live, and to all below them."""
    for pid, started in members.items():
        if started and _start_of(pid) == started:
            kill_tree(pid)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for listing in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, listing.read_text().split()):
                found += [*_descendants(child), child]
    return found


def _start_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def find_program(name: str, env: Mapping[str, str]) -> str:
    """Return the path of a program on the PATH of `env`; raises LaunchError when there is none."""
    path = shutil.which(name, path=env.get("PATH", os.defpath))
    if path is None and "/" in name:
        raise LaunchError(f"{name} is not there, or not executable.")
    if path is None:
        raise LaunchError(f"{name} is not installed, or not on PATH ({env.get('PATH', os.defpath)}).")
    return path
