"""Writes what a job says to a standard stream, without being held by one that takes nothing."""

from __future__ import annotations

import os
import select
import stat
import time
from typing import TYPE_CHECKING

from ee_runner import console

if TYPE_CHECKING:
    from ee_runner.executor import Cancellation

_LOOK = 0.25
"""Seconds between two looks at whether the job is to stop, while the stream takes nothing."""

_PATIENCE = 1.0
"""Seconds that a stream may take nothing after that; it gets no more then."""


class Screen:
    """A standard stream: a terminal that is held (Ctrl-S), or a pager that does not read on, keeps no job from its end.

    All is written as long as the job is not to stop, however slow it goes. What fails gets no more.
    """

    def __init__(self, descriptor: int, cancellation: Cancellation) -> None:
        self._descriptor = descriptor
        self._cancellation = cancellation
        self._at_once = _reopened(descriptor)
        self._gives_up_at: float | None = None
        self._given_up = False

    def write(self, data: bytes) -> None:
        if self._at_once is None:
            console.write(self._descriptor, data)
            return
        rest = memoryview(data)
        while rest and not self._given_up:
            rest = rest[self._write_some(self._at_once, rest) :]

    def _write_some(self, descriptor: int, data: memoryview) -> int:
        try:
            written = os.write(descriptor, data)
        except BlockingIOError:
            self._await_room(descriptor)
            return 0
        except OSError:  # the reader has gone, the terminal is closed
            self._given_up = True
            return 0
        self._gives_up_at = None
        return written

    def _await_room(self, descriptor: int) -> None:
        room = select.poll()
        room.register(descriptor, select.POLLOUT)
        if room.poll(_LOOK * 1000) or self._cancellation.requested is None:
            return
        now = time.monotonic()
        self._gives_up_at = self._gives_up_at or now + _PATIENCE
        self._given_up = now >= self._gives_up_at


def _reopened(descriptor: int) -> int | None:
    """Open a pipe or a terminal once more, so that it does not block here, and still does for those who share it.

    None where that can not be done, or there is no need.
    """
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
            return None
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:  # no /proc, or another user's
        return None
