"""Locks of this process on files and directories (flock(2)): a crash lets go of them, and no fork holds them on."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress

NO_LOCKS = frozenset({errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP})
"""What a network file system says that can not lock."""

_held: set[int] = set()
_registered = False


def hold(descriptor: int) -> None:
    """Lock what is open until `release`, or the end of this process.

    Raises BlockingIOError while somebody else holds it, OSError on a file system without locks (`NO_LOCKS`).
    """
    global _registered
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not _registered:
        os.register_at_fork(after_in_child=_let_go)
        _registered = True
    _held.add(descriptor)


def release(descriptor: int, owner: int) -> None:
    """Let go, and close; in a fork of the process `owner`, which does not have it, nothing is done."""
    if os.getpid() != owner:
        return
    _held.discard(descriptor)
    with suppress(OSError):  # a child that is being started may have it open still
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _let_go() -> None:
    """Close in a fork what its parent holds: it would hold it on when the parent is killed."""
    while _held:
        with suppress(OSError):
            os.close(_held.pop())
