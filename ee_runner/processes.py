"""Processes of this machine, as /proc shows them; where there is no /proc, none are found."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ee_runner.orphans import has_ended, stat

_BREATH = 0.01


class Identity(NamedTuple):
    """One process, and no later one of the same pid.

    `born` is when it started, in clock ticks since boot, and after an ``@`` the number of the pid namespace in which
    its pid counts; empty where that can not be known.
    """

    pid: int
    born: str

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Return the identity of a process of this namespace; one that is not there has no `born`."""
        started = start_time(pid)
        return cls(pid, f"{started}@{_namespace()}" if started else "")

    @staticmethod
    def own() -> Identity:
        return _of_this(os.getpid())

    @property
    def gone(self) -> bool:
        """Whether it has surely ended; not so for one that can not be seen from here."""
        started, _, namespace = self.born.partition("@")
        return bool(started) and namespace == _namespace() and start_time(self.pid) != started

    @property
    def runs(self) -> bool:
        """Whether it surely runs."""
        started, _, namespace = self.born.partition("@")
        return bool(started) and namespace == _namespace() and start_time(self.pid) == started


@functools.cache
def _of_this(pid: int) -> Identity:
    """Return the identity of this process, which it keeps; a fork may have the same pid in another namespace."""
    os.register_at_fork(after_in_child=_of_this.cache_clear)
    return Identity.of(pid)


def start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot (proc(5), stat field 22); empty when it has ended."""
    try:
        fields = stat(str(pid))
    except OSError:
        return ""
    return "" if has_ended(fields) else fields[19]


def signal_name(number: int) -> str:
    """Return a signal's name, such as ``SIGKILL``; ``signal <number>`` for one without, as real-time signals are."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def with_argument(word: str) -> list[int]:
    """Return the processes that have this word as an argument, parents before their children."""
    wanted = os.fsencode(word)
    found = _where("cmdline", lambda words: wanted in words)
    return sorted(found, key=lambda pid: (len(list(ancestors(pid))), pid))


def with_variable(name: str, value: str) -> list[int]:
    """Return the processes that were started with this variable in their environment, of those that may be read."""
    wanted = os.fsencode(f"{name}={value}")
    return _where("environ", lambda words: wanted in words)


def _where(file: str, fits: Callable[[list[bytes]], bool]) -> list[int]:
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
            if fits((directory / file).read_bytes().split(b"\0")):
                found.append(int(directory.name))
    return found


def children(pid: int) -> list[int]:
    """Return the direct children of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it ends meanwhile, and so does each of its threads
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def ancestors(pid: int) -> Iterator[int]:
    """Yield the processes that started this one, the nearest first."""
    while pid > 1:
        try:
            pid = int(stat(str(pid))[1])
        except OSError:
            return
        yield pid


def kill_tree(pid: int) -> None:
    """Send SIGKILL to a process and to all of its descendants, whatever session they live in."""
    below = children(pid)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    for child in below:
        kill_tree(child)


def kill_all(find: Callable[[], list[int]], *, patience: float) -> list[int]:
    """Send SIGKILL to the processes that are found, until none is; return those left after so many seconds."""
    deadline = time.monotonic() + patience
    while (found := [pid for pid in find() if pid != os.getpid()]) and time.monotonic() < deadline:
        for pid in found:
            kill_tree(pid)
        time.sleep(_BREATH)
    return found


def _namespace() -> str:
    """Return the number of this process's pid namespace, empty where there is none."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""
