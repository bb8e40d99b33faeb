"""Lets the command do its work under guard, so that not even SIGKILL leaves anything of it behind.

Three processes, each the parent of the next:

    front      the one that the caller started and knows: hands signals on, waits, passes the exit code on
    guardian   the same for the worker, under another name, so that `pkill -f` does not take it for one
    worker     does the work

The last two have sessions of their own: what kills the group of one misses the others. Whichever is killed, those that
are left end the job, its orphans, its containers and its directories. The front and the guardian do so in the same way;
they keep nothing of the worker's open but stderr.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from ee_runner import orphans
from ee_runner.cli import remains
from ee_runner.cli.streams import occupy_standard_streams
from ee_runner.cli.ward import Ward
from ee_runner.errors import LaunchError
from ee_runner.processes import signal_name

__all__ = ["Ward", "guarded"]

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_HEEDED = (*_PASSED_ON, signal.SIGCHLD)
_SAME = 0.25
"""Seconds within which a signal that comes twice is one: timeout(1) sends to the process, and to its group."""

_PATIENCE = 1.0
"""Seconds that stderr may take to accept the last line."""

_NAME = b"ee-guardian"


def guarded(work: Callable[[Ward], int]) -> int:
    """Do the work in a process of its own, and return its exit code here, in the one that was called.

    To be called first of all, before there are threads; what is open already stays with the worker alone. The worker
    never returns from here. One that is killed by a signal gives 128 and the signal's number, after all that it left
    has been ended and removed, and one line on stderr says what that was. Processes that a worker leaves which ends by
    itself are its own affair.
    """
    occupy_standard_streams()
    older = orphans.children()
    mask = _quiet()
    try:
        orphans.adopt()  # before there can be any
        wires = _Wires.laid()
        guardian = os.fork()
    except OSError as error:
        return _not_started(error)
    if guardian:
        return _Guard(guardian, wires).keep(older=older)
    _leave(lambda: _second(work, wires, mask))


def _second(work: Callable[[Ward], int], above: _Wires, mask: set[int]) -> int:
    """Be the guardian, with the worker below."""
    os.setsid()
    try:
        orphans.adopt()
        wires = _Wires.laid()
        worker = os.fork()
    except OSError as error:
        return _not_started(error)
    if worker == 0:
        _leave(lambda: _third(work, (wires, above), mask))
    orphans.rename(_NAME, b"%s of process %d" % (_NAME, worker))
    return _Guard(worker, wires, above=above.life_read).keep()


def _third(work: Callable[[Ward], int], wires: tuple[_Wires, _Wires], mask: set[int]) -> int:
    """Be the worker: as the process was before `guarded`, but in a session of its own.

    The guardian's would not do: a group with a stopped process in it gets SIGHUP when its last parent there dies.
    """
    os.setsid()
    own, above = wires
    for descriptor in (own.told_read, own.life_write, above.told_read, above.life_read, above.life_write):
        with contextlib.suppress(OSError):  # not open any more
            os.close(descriptor)
    os.set_blocking(above.told_write, False)  # the front is the second to know, and may be stopped
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return work(Ward((own.told_write, above.told_write), own.life_read))


class _Wires(NamedTuple):
    """Between a guard and the process below: `told` leads up; `life` leads down, where nothing but its end counts."""

    told_read: int
    told_write: int
    life_read: int
    life_write: int

    @classmethod
    def laid(cls) -> _Wires:
        return cls(*os.pipe(), *os.pipe())


class _Guard:
    """Waits for one child, and sees to what it leaves when it is killed."""

    def __init__(self, child: int, wires: _Wires, *, above: int | None = None) -> None:
        self._child = child
        self._told = wires.told_read
        self._life = wires.life_write
        self._above = above
        self._claims = remains.Claims()
        self._status: int | None = None
        self._abandoned = False
        self._kill_at: float | None = None
        self._passed_on: dict[int, float] = {}
        self._poll = select.poll()

    def keep(self, *, older: frozenset[int] = frozenset()) -> int:
        """Guard the child to its end and return its exit code; `older` children are none of its."""
        self._let_go()
        self._listen()
        while self._status is None:
            self._look()
        self._hear()
        killed = os.WIFSIGNALED(self._status)
        stopped = self._claims.stopped and self._above is not None  # the front's child has seen to it
        if killed or self._abandoned or stopped:
            self._say(remains.clean(self._claims, older=older))
        return 128 + os.WTERMSIG(self._status) if killed else os.WEXITSTATUS(self._status)

    def _let_go(self) -> None:
        """Close all but stderr and the wires: the reader of the worker's output sees its end when the worker ends."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        kept = {0, 1, 2, self._told, self._life, self._above}
        for descriptor in {int(name) for name in os.listdir("/dev/fd")} - kept:  # noqa: PTH208 - names alone
            with contextlib.suppress(OSError):  # the one of the listing itself
                os.close(descriptor)

    def _listen(self) -> None:
        self._signals, wake = os.pipe()
        for descriptor in (self._signals, wake, self._told):
            os.set_blocking(descriptor, False)
        for number in _HEEDED:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, _heard)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)
        for watched in (self._signals, self._told, self._above):
            if watched is not None:
                self._poll.register(watched, select.POLLIN)

    def _look(self) -> None:
        patience = None if self._kill_at is None else max(self._kill_at - time.monotonic(), 0.0) * 1000
        ready = [descriptor for descriptor, _ in self._poll.poll(patience)]
        heard = _read(self._signals) or b""  # before reaping: a SIGCHLD that comes after it wakes the poll again
        self._reap()
        if self._told in ready:
            self._hear()
        if self._above in ready:
            self._abandon()
        for number in heard:
            self._pass_on(number)
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            self._send(signal.SIGKILL)

    def _hear(self) -> None:
        """Note all that has been told; at the pipe's end there is nothing more to hear."""
        while data := _read(self._told):
            self._claims.feed(data)
        if data is not None:
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._told)

    def _abandon(self) -> None:
        """Have the worker end its job in order, now that the front has gone; it must stand for that, not be stopped."""
        assert self._above is not None  # noqa: S101 - it was in the poll
        self._poll.unregister(self._above)
        self._abandoned = True
        os.close(self._life)
        self._send(signal.SIGCONT)
        self._kill_at = time.monotonic() + remains.ORDERLY

    def _reap(self) -> None:
        """Take leave of all children that have ended: orphans come here too, and in a container everything does."""
        for pid, status in orphans.ended():
            if pid == self._child:
                self._status = status

    def _pass_on(self, number: int) -> None:
        now = time.monotonic()
        if number in _PASSED_ON and now - self._passed_on.get(number, now - 2 * _SAME) >= _SAME:
            self._passed_on[number] = now
            self._send(number)

    def _send(self, number: int) -> None:
        if self._status is None:  # until it has been reaped, the pid is its own
            os.kill(self._child, number)

    def _say(self, cleaned: str) -> None:
        assert self._status is not None  # noqa: S101 - it has ended
        if os.WIFSIGNALED(self._status):
            what = f"process {self._child} was killed by {signal_name(os.WTERMSIG(self._status))}"
            _complain(f"{what}; {cleaned or 'it left nothing behind'}")
        elif cleaned and self._abandoned:
            _complain(f"the process above process {self._child} was killed; {cleaned}")
        elif cleaned:
            _complain(f"the job was stopped; {cleaned}")


def _quiet() -> set[int]:
    """Hold back the signals that a guard heeds until each process is what it is to be; return the mask before."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HEEDED)
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:  # inherited: the kernel would keep exit codes to itself
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _flush()
    return {int(number) for number in mask}


def _not_started(error: OSError) -> int:
    _complain(f"No process can be started: {error.strerror}.")
    return LaunchError.exit_code


def _leave(work: Callable[[], int]) -> NoReturn:
    """Do the work and end this process, whatever comes."""
    code = 1
    try:
        code = work()
    except SystemExit as ending:
        code = _exit_code(ending)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            _flush()
        finally:
            os._exit(code & 0xFF)


def _exit_code(ending: SystemExit) -> int:
    if ending.code is None or isinstance(ending.code, int):
        return ending.code or 0
    sys.stderr.write(f"{ending.code}\n")
    return 1


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody reads it, or there is none
            stream.flush()


def _heard(_number: int, _frame: object) -> None:
    """Take a signal's default action away; the descriptor of `signal.set_wakeup_fd` tells of it."""


def _read(descriptor: int) -> bytes | None:
    """Read what there is; None when there is nothing yet, empty at the end."""
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return None


def _complain(text: str) -> None:
    """Write one line to stderr, unless nobody takes it."""
    waiting = select.poll()
    waiting.register(2, select.POLLOUT)
    with contextlib.suppress(OSError):
        if waiting.poll(_PATIENCE * 1000):
            os.write(2, f"ansible-runner: {text}\n".encode(errors="backslashreplace")[: select.PIPE_BUF])
