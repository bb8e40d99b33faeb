"""Locks of this process on files and directories (flock(2)): a crash lets go of them, and no fork holds them on."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

NO_LOCKS = frozenset({errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""What a network file system says that can not lock."""

_held: set[int] = set()
_registered = False


def take(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock what is open, for as long as it is open, and say whether that went: not while somebody else holds it.

    On a file system without locks it always goes. Raises OSError for anything else.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


@contextmanager
def taken(descriptor: int) -> Iterator[bool]:
    """Take the lock of what is open for the length of the block, and say whether that went, as `take` does."""
    free = take(descriptor)
    try:
        yield free
    finally:
        if free:
            _unlock(descriptor)


def hold(descriptor: int) -> None:
    """Lock what is open until `release`, or the end of this process; a fork of it lets go at once.

    Raises BlockingIOError while somebody else holds it, OSError on a file system without locks too.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    keep(descriptor)


def keep(descriptor: int) -> None:
    """Have the forks of this process let go of a lock that was taken; `release` is to follow."""
    global _registered
    if not _registered:
        os.register_at_fork(after_in_child=_let_go)
        _registered = True
    _held.add(descriptor)


def release(descriptor: int, owner: int) -> None:
    """Let go, and close; in a fork of the process `owner`, which does not have it, nothing is done."""
    if os.getpid() != owner:
        return
    _held.discard(descriptor)
    _unlock(descriptor)
    os.close(descriptor)


def _unlock(descriptor: int) -> None:
    """Let go at once: closing is not enough while a fork, or a child that is being started, has it open too."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _let_go() -> None:
    """Close in a fork what its parent holds: it would hold it on when the parent is killed."""
    while _held:
        with suppress(OSError):
            os.close(_held.pop())
