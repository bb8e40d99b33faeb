"""The file into which the observer inside writes its records."""

from __future__ import annotations

import os
from pathlib import Path

_BLOCK = 64 * 1024
"""Bytes that one look takes along: records that are asked for one after the other lie beside each other."""


class Spool:
    """Reads records by the places that the marks name, and knows whether all were asked for; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken = 0
        self._block = b""
        self._start = 0

    def __enter__(self) -> Spool:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """Return the record at this place, or as much of it as there is."""
        at = offset - self._start
        if at < 0 or at + length > len(self._block):
            self._block, self._start, at = os.pread(self._descriptor, max(length, _BLOCK), offset), offset, 0
        record = self._block[at : at + length]
        if length > _BLOCK:
            self._block = b""
        self._taken += len(record) + len(b"\n")
        return record

    @property
    def left(self) -> int:
        """The bytes of records that no mark in the output has named."""
        return max(os.fstat(self._descriptor).st_size - self._taken, 0)
