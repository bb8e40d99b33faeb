"""The minder of a job: a small process between the job and its supervisor, which ends with neither unseen.

The executor starts one for each job, ahead of it if it can, and tells it over a socket what to start. All that the job
leaves behind when it daemonizes comes to the minder, which ends it when it is told to. A socket that ends without a
goodbye says that the supervisor has died, be it by SIGKILL: then the minder ends the job, and becomes the job's
rescue, a command that sees to what is no process (a container, the status, directories).

It runs as ``python -I -S`` and loads next to nothing, for every job waits for that.
"""

from __future__ import annotations

import _socket
import marshal
import os
import select
import sys

from ee_runner import orphans

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping
    from typing import Any, NoReturn
else:
    import _signal as signal  # signal itself takes 5 ms, for its enumerations

ASK, SWEEP, KILL, GOODBYE = b"T", b"A", b"K", b"D"
"""What the supervisor says: SIGTERM to the job; end all that is left; kill all; the job has ended, or is let go."""

STARTED, REFUSED, ENDED, LEFT = b"S", b"E", b"X", b"L"
"""What the minder says, each followed by numbers and a newline: a pid; an errno; a wait status; pids that stay."""

_HEADER = 8
_INT = 4
_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Meant for the supervisor, which ends the job in order: a service manager sends them to all processes."""

_RESET = (signal.SIGPIPE, signal.SIGXFSZ)
"""Ignored by Python, but not to be by what it starts."""

_TERMINAL = "/proc/self/fd/1"
"""Opened anew as the standard input, by the leader of a session without a terminal, it becomes the controlling one."""

_GRACE = 2.0
_ASKED = 1.0
_KILL_TIME = 10.0


def packed(
    argv: list[bytes], *, env: Mapping[bytes, bytes], cwd: bytes, terminal: bool, adopt: bool, rescue: list[bytes]
) -> bytes:
    """Return what the minder is told first: what to start, and how.

    `terminal` makes the terminal on the standard streams the job's controlling one; `adopt` makes what the job leaves
    the minder's own. `rescue` is the command for the supervisor's death; it has the minder's environment.
    """
    body = marshal.dumps((argv, dict(env), cwd, terminal, adopt, rescue), 2)
    return len(body).to_bytes(_HEADER, "big") + body


def main(control: int, parent: int) -> int:
    """Start the job that the socket `control` tells of, and mind it to its end or that of the process `parent`."""
    os.set_inheritable(control, False)
    defaults = _deaf()
    supervisor = _ending(parent)
    if os.getppid() != parent:
        return 1
    told, streams = _told(control, supervisor)
    if not told:  # there is no job after all, or the supervisor died before it could tell
        return 1
    argv, env, cwd, terminal, adopt, rescue = marshal.loads(told)  # noqa: S302 - the supervisor's own words
    if adopt:
        orphans.adopt()
    try:
        os.chdir(cwd)
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, stream, number) for number, stream in enumerate(streams)]
        if terminal:
            actions.append((os.POSIX_SPAWN_OPEN, 0, _TERMINAL, os.O_RDWR, 0))
        job = os.posix_spawn(argv[0], argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=defaults)
    except OSError as error:
        return _say(control, REFUSED, error.errno or 0)
    except ValueError:  # a NUL in a word
        return _say(control, REFUSED, 0)
    for stream in streams:  # so that their end is the job's alone
        os.close(stream)
    os.chdir("/")
    _say(control, STARTED, job)
    orphans.rename(b"ee-minder", b"ee-minder of process %d" % job)
    return _Minder(control, supervisor, job, rescue).mind()


class _Minder:
    def __init__(self, control: int, supervisor: list[int], job: int, rescue: list[bytes]) -> None:
        self._control = control
        self._supervisor = supervisor
        self._job: int | None = job
        self._rescue = rescue
        self._children, wake = os.pipe()
        for descriptor in (self._children, wake):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def mind(self) -> int:
        """Do what the supervisor says until it says goodbye, or dies."""
        poll = select.poll()
        for descriptor in (self._control, self._children, *self._supervisor):
            poll.register(descriptor, select.POLLIN)
        while True:
            self._reap()
            ready = [descriptor for descriptor, _ in poll.poll()]
            if self._children in ready:
                _drain(self._children)
            if self._control in ready:
                if (end := self._obey(_received(self._control))) is not None:
                    return end
            elif set(self._supervisor) & set(ready):  # though a fork of it holds the socket
                self._obey(b"")

    def _reap(self) -> None:
        for pid, status in orphans.ended():
            self._note(pid, status)

    def _note(self, pid: int, status: int) -> None:
        if pid == self._job:
            self._job = None
            _say(self._control, ENDED, status)

    def _obey(self, words: bytes) -> int | None:
        """Do what is said; return an exit code when that was the last."""
        if not words:
            self._end_all(_GRACE)
            self._rescue_it()
        for word in words:
            command = bytes((word,))
            if command == GOODBYE:
                return 0
            if command == ASK and self._job is not None:
                orphans.send(self._job, signal.SIGTERM)
                orphans.send(self._job, signal.SIGCONT)
            elif command in (SWEEP, KILL):
                _say(self._control, LEFT, *self._end_all(_ASKED if command == SWEEP else 0))
        return None

    def _end_all(self, patience: float) -> list[int]:
        """End everything below; return what can not be ended."""
        if patience:
            orphans.ask(frozenset(), patience=patience)
        orphans.kill(frozenset(), patience=_KILL_TIME)
        left = orphans.alive(frozenset())
        if self._job is not None and self._job not in left:
            self._note(self._job, signal.SIGKILL)  # how it ended was lost on the way, and counts no more
        return sorted(left)

    def _rescue_it(self) -> NoReturn:
        if self._rescue:
            os.execv(self._rescue[0], self._rescue)  # noqa: S606 - the supervisor's own words
        os._exit(1)


def _ending(parent: int) -> list[int]:
    """Return a descriptor that tells of the supervisor's end, where there are such (Linux 5.3, pidfd_open(2))."""
    try:
        return [os.pidfd_open(parent)]
    except (OSError, AttributeError):
        return []


def _deaf() -> list[int]:
    """Hear of children alone, whatever the supervisor heeds; return the signals that the job is to have by default."""
    heard = [number for number in _IGNORED if signal.getsignal(number) != signal.SIG_IGN]  # nohup stays nohup
    for number in heard:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _noted)  # ignored or held back by the supervisor, it would tell nothing here
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return [*heard, *_RESET]


def _say(control: int, word: bytes, *numbers: int) -> int:
    line = b"%s %s\n" % (word, " ".join(map(str, numbers)).encode())
    try:
        os.write(control, line)
    except OSError:  # the supervisor has died: the end of the socket says so next
        return 1
    return 0


def _told(control: int, supervisor: list[int]) -> tuple[bytes, list[int]]:
    """Wait for the supervisor's first words, and return them with the job's three streams; nothing when it dies."""
    poll = select.poll()
    for descriptor in (control, *supervisor):
        poll.register(descriptor, select.POLLIN)
    if control not in (descriptor for descriptor, _ in poll.poll()):  # though a fork of it holds the socket
        return b"", []
    first, streams = _with_streams(control)
    size = first and _exactly(control, _HEADER - len(first))
    return size and _exactly(control, int.from_bytes(first + size, "big")), streams


def _with_streams(control: int) -> tuple[bytes, list[int]]:
    """Read one byte and the descriptors that come with it (unix(7), SCM_RIGHTS)."""
    connection = _socket.socket(fileno=control)
    try:
        first, passed, _, _ = connection.recvmsg(1, _socket.CMSG_SPACE(3 * _INT), _socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return b"", []
    finally:
        connection.detach()
    data = b"".join(rights for _, _, rights in passed)
    places = range(0, len(data), _INT)
    return first, [int.from_bytes(data[place : place + _INT], sys.byteorder) for place in places]


def _exactly(control: int, size: int) -> bytes:
    """Read so many bytes; nothing when the socket ends before."""
    data = b""
    while len(data) < size:
        more = os.read(control, size - len(data))
        if not more:
            return b""
        data += more
    return data


def _received(control: int) -> bytes:
    try:
        return os.read(control, 64)
    except OSError:  # ECONNRESET: it died with words of ours unread
        return b""


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 512):
            pass
    except BlockingIOError:
        pass


def _noted(_number: int, _frame: object) -> None:
    """Let the wake-up descriptor tell of it."""
