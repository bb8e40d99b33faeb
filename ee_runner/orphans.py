"""The processes below this one, whoever started them: they are taken in, waited for, and ended.

The minder of every job loads this: what other modules take milliseconds to load for is done by hand here.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator, Mapping
else:
    import _signal as signal  # signal itself takes 5 ms, for its enumerations

_SUBREAPER = 36
_THREADS = 17
_ARGUMENTS = slice(45, 47)
"""Places in proc(5)'s stat, counted from its third field."""

_LOOK = 0.05
"""Seconds between two looks at all processes."""

_BREATH = 0.002


def adopt() -> None:
    """Become the parent of all orphans below, where that is possible (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    try:
        try:
            import _ctypes

            _ctypes.call_function(_ctypes.dlsym(_ctypes.dlopen("", 0), "prctl"), (_SUBREAPER, 1, 0, 0, 0))
        except (ImportError, AttributeError):  # what ctypes is made of may change, but ctypes takes 2 ms to load
            import ctypes

            ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError):  # not Linux
        pass


def rename(name: bytes, title: bytes) -> None:
    """Have ps(1) show this process by another name (15 bytes) and title, cut to the length of its arguments (Linux)."""
    try:
        comm = os.open("/proc/self/comm", os.O_WRONLY)
        os.write(comm, name)
        os.close(comm)
        start, end = map(int, stat("self")[_ARGUMENTS])
        if 0 < start < end:  # a NUL must end it, or the kernel reads on into the environment
            memory = os.open("/proc/self/mem", os.O_WRONLY)
            try:
                os.pwrite(memory, title[: end - start - 1].ljust(end - start, b"\0"), start)
            finally:
                os.close(memory)
    except OSError:  # no /proc
        pass


def children() -> frozenset[int]:
    """Return the children of this process: there are some when a shell has started them and then become this."""
    if _childless():  # nearly always, and all of /proc takes longer
        return frozenset()
    return frozenset(_own())


def ended() -> Iterator[tuple[int, int]]:
    """Reap the children that have ended; yield the pid and the wait status of each."""
    try:
        while (child := os.waitpid(-1, os.WNOHANG))[0]:
            yield child
    except ChildProcessError:
        return


def await_end(pid: int, *, patience: float) -> None:
    """Wait so many seconds for a process that may have come to this one as an orphan; it must not stand still."""
    deadline = time.monotonic() + patience
    if _is_own(pid):
        send(pid, signal.SIGCONT)
    while not _childless() and _is_own(pid) and time.monotonic() < deadline:
        time.sleep(_BREATH)


def ask(older: frozenset[int], *, patience: float) -> set[int]:
    """Send each descendant SIGTERM once and wake it, until none is left or the patience is over; return those met.

    The patience is in seconds. `older` children are left alone, and all below them.
    """
    met: set[int] = set()
    deadline = time.monotonic() + patience
    while (found := alive(older)) and time.monotonic() < deadline:
        for pid in found - met:
            send(pid, signal.SIGTERM)
            send(pid, signal.SIGCONT)
        met |= found
        _wait(min(time.monotonic() + _LOOK, deadline))
    return met


def kill(older: frozenset[int], *, patience: float) -> set[int]:
    """Send SIGKILL to the descendants until none is left; else as `ask`.

    Between two looks at all of them come many at the children alone: an orphan comes to this process, and so one that
    forks and ends, again and again, does not get away.
    """
    met: set[int] = set()
    deadline = time.monotonic() + patience
    while (found := alive(older)) and time.monotonic() < deadline:
        look_again = min(time.monotonic() + _LOOK, deadline)
        while found and time.monotonic() < look_again:
            for pid in found:
                send(pid, signal.SIGKILL)
            met |= found
            _wait(min(time.monotonic() + _BREATH, look_again))
            found = _own() - older
    return met


def alive(older: frozenset[int]) -> set[int]:
    """Return the descendants that run, but for the `older` children and those below them.

    /proc can not be read at one moment, and one whose parent changes meanwhile may be missed: no answer is empty but
    twice, or when the kernel knows no child.
    """
    return _descendants(older) or (set() if _childless() else _descendants(older))


def stat(process: str) -> list[str]:
    """Return the fields of proc(5)'s stat from the third on; raises OSError when the process is not there."""
    with open(f"/proc/{process}/stat", "rb") as file:  # noqa: PTH123 - as often as there are processes
        return file.read().rpartition(b")")[2].decode().split()


def has_ended(fields: list[str]) -> bool:
    """Say whether these are the fields of a zombie; the first thread may end before the others."""
    return fields[0] in "ZX" and int(fields[_THREADS]) <= 1


def send(pid: int, number: int) -> None:
    """Send a signal to a process, if it is there and may be sent one."""
    try:  # noqa: SIM105 - no contextlib here
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _wait(deadline: float) -> None:
    while not _childless() and time.monotonic() < deadline:
        time.sleep(_BREATH)


def _childless() -> bool:
    """Reap, and say whether the kernel knows no child of this process any more."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _descendants(older: frozenset[int]) -> set[int]:
    below: dict[int, list[int]] = {}
    for pid, parent in _parents().items():
        below.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = {os.getpid()}
    while waiting:
        members = set(below.get(waiting.pop(), ())) - older - found
        found |= members
        waiting |= members
    return found


def _is_own(pid: int) -> bool:
    try:
        return int(stat(str(pid))[1]) == os.getpid()
    except OSError:
        return False


def _own() -> set[int]:
    """Return the children of this process, zombies too; while some of them end, others may be missed."""
    own = os.getpid()
    try:
        with open(f"/proc/{own}/task/{own}/children") as file:  # noqa: PTH123 - no pathlib here
            return set(map(int, file.read().split()))
    except OSError:  # a kernel without it
        return {pid for pid, parent in _parents().items() if parent == own}


def _parents() -> Mapping[int, int]:
    """Return all processes but zombies, each with its parent."""
    parents: dict[int, int] = {}
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - no pathlib here
    except FileNotFoundError:  # no /proc
        return parents
    for name in filter(str.isdigit, names):
        try:
            fields = stat(name)
        except OSError:  # it has ended meanwhile
            continue
        if not has_ended(fields):
            parents[int(name)] = int(fields[1])
    return parents
