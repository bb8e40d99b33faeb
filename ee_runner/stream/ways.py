"""How bytes get into a file object, a socket or a descriptor: with patience, or as many as there is room for."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import select
import socket
import stat
from collections.abc import Callable
from typing import Any

from ee_runner.errors import ConfigurationError
from ee_runner.values import dataclass

_PIECE = 16 * 1024
"""Bytes of one write where that may wait for all of them to be taken: so it shows whether they are."""

LARGE = 1024 * 1024
"""Bytes of one write where that waits for nobody."""

_PIPE_SIZE = 1024 * 1024
"""Bytes that a pipe is made to hold when records are larger than it is: its two ends wait less for one another."""


def is_live(target: Any) -> bool:
    """Say whether a reader may wait at the other end: it is a pipe or a socket."""
    descriptor = descriptor_of(target)
    if descriptor is None:
        return not isinstance(target, io.BytesIO)
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def descriptor_of(target: Any) -> int | None:
    """Return the descriptor of a file object, a socket, or of what is one; None when there is none."""
    if isinstance(target, int):
        return target
    try:
        return int(target.fileno())
    except (AttributeError, OSError, ValueError, TypeError):
        return None


def _nothing() -> None:
    """Let nothing out: nothing is held back."""


@dataclass(frozen=True, slots=True)
class Way:
    """What writes some bytes and says how many, how many it is given, and what lets them out."""

    write: Callable[[memoryview], int]
    flush: Callable[[], object] = _nothing
    piece: int = _PIECE


def writing(target: Any) -> Way:
    if isinstance(target, int):
        return Way(patiently(lambda view: os.write(target, view), target), piece=_piece_for(target))
    if isinstance(target, socket.socket):
        return Way(patiently(target.send, target.fileno()))
    target = getattr(target, "buffer", target)
    write = getattr(target, "write", None)
    if not callable(write):
        raise ConfigurationError(f"_output: a file that can be written is expected, found a {type(target).__name__}")
    descriptor = descriptor_of(target)
    if isinstance(target, io.RawIOBase) and descriptor is not None:
        return Way(patiently(write, descriptor), piece=_piece_for(descriptor))
    if isinstance(target, io.BufferedWriter) and descriptor is not None and is_live(target):
        return Way(patiently(_past(target, descriptor), descriptor))
    return Way(_whole(write), flush=getattr(target, "flush", _nothing))


def _piece_for(descriptor: int) -> int:
    """Return how much is written to a descriptor at a time; nobody has to take what goes into a file."""
    try:
        return LARGE if stat.S_ISREG(os.fstat(descriptor).st_mode) else _PIECE
    except OSError:  # writing tells
        return _PIECE


class AtOnce:
    """Writes as much as there is room for, and raises BlockingIOError when there is none."""

    def __init__(self, write: Callable[[memoryview], int], *, descriptor: int, held: int = LARGE) -> None:
        self.write = write
        self.descriptor = descriptor
        self._held = held

    def hold(self, size: int) -> None:
        """Make the pipe larger if a record of this size does not fit; the system may refuse."""
        if size > self._held:
            self._held = LARGE
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)


def writing_at_once(target: Any, stack: contextlib.ExitStack) -> AtOnce | None:
    """Return what writes without waiting, until the stack closes; None where that can not be done.

    A pipe is opened once more, so that it does not block here, and still does for those who share it.
    """
    descriptor = descriptor_of(target)
    if descriptor is None or type(target) not in (int, socket.socket, io.FileIO):  # others do more than the bytes show
        return None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(mode):
            pipe = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(os.close, pipe)
            held = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
            return AtOnce(lambda view: os.write(pipe, view), descriptor=pipe, held=held)
        if stat.S_ISSOCK(mode):
            own = stack.enter_context(socket.socket(fileno=os.dup(descriptor)))
            return AtOnce(lambda view: own.send(view, socket.MSG_DONTWAIT), descriptor=own.fileno())
    except OSError:  # no /proc, another user's pipe, or nobody reads any more: the plain way tells
        return None
    return None


def patiently(write: Callable[[memoryview], int | None], descriptor: int) -> Callable[[memoryview], int]:
    """Wait for a descriptor that does not block, as other programs that have it open may have made it."""

    def write_some(view: memoryview) -> int:
        with contextlib.suppress(BlockingIOError):
            taken = write(view)
            if taken is not None:
                return taken
        poller = select.poll()
        poller.register(descriptor, select.POLLOUT)
        poller.poll()
        return 0

    return write_some


def _past(target: io.BufferedWriter, descriptor: int) -> Callable[[memoryview], int]:
    """Write behind a file's buffer: its lock, held for a reader that is stuck, would keep the program from ending."""

    def write(view: memoryview) -> int:
        target.flush()
        return os.write(descriptor, view)

    return write


def _whole(write: Callable[[bytes], object]) -> Callable[[memoryview], int]:
    def write_all(view: memoryview) -> int:
        write(bytes(view))
        return len(view)

    return write_all
