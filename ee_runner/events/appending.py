"""The log of a job's events as it is written: whole lines only, whatever happens."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat

_BLOCK = 64 * 1024


class LogWriter:
    """Appends events to a log that is open for reading and appending, and stays the caller's to close.

    What a crash left of an event at its end is cut off; the events that it has already are passed over. Raises OSError,
    for what is no regular file too.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = mend(descriptor)
        self._had = _last_counter(descriptor, self._size)

    def append(self, data: bytes, counter: int) -> int:
        """Add an event in one write, and return where its line ends; of one that finds no room nothing stays."""
        if self._had and counter <= self._had:  # a stream that was cut gives again what was not yet noted as processed
            return self._size
        line = data + b"\n"
        try:
            written = os.write(self._descriptor, line)
            while written < len(line):
                written += os.write(self._descriptor, memoryview(line)[written:])
        except OSError:
            with contextlib.suppress(OSError):  # if half of it stays, readers name the line
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(line)
        return self._size


def mend(descriptor: int) -> int:
    """Cut from a log what a crash left of an event at its end, and return its size; raises OSError."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    size = _end_of_line(descriptor, found.st_size)
    if size < found.st_size:
        os.ftruncate(descriptor, size)
    return size


def _end_of_line(descriptor: int, before: int) -> int:
    """Return where the last line ends that does so before a place; 0 when none does."""
    while before > 0:
        start = max(before - _BLOCK, 0)
        found = os.pread(descriptor, before - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        before = start
    return 0


def _last_counter(descriptor: int, size: int) -> int:
    """Return the counter of the last event in a log of whole lines, 0 when there is none that can be read."""
    start = _end_of_line(descriptor, size - 1)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return int(json.loads(os.pread(descriptor, size - start, start))["counter"])
    return 0
