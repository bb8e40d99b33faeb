"""Helper processes: short control commands, companions of a job, and the end of both."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ee_runner.errors import EngineError, LaunchError
from ee_runner.processes import kill_tree
from ee_runner.values import dataclass


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


def find_program(name: str, env: Mapping[str, str]) -> str:
    """Return the path of a program on the PATH of `env`; raises LaunchError when there is none."""
    path = shutil.which(name, path=env.get("PATH", os.defpath))
    if path is None and "/" in name:
        raise LaunchError(f"{name} is not there, or not executable.")
    if path is None:
        raise LaunchError(f"{name} is not installed, or not on PATH ({env.get('PATH', os.defpath)}).")
    return path
