"""The file into which the observer inside writes its records."""

from __future__ import annotations

import os
from pathlib import Path


class Spool:
    """Reads records by the places that the marks name, and knows whether all were asked for; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken = 0

    def __enter__(self) -> Spool:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        record = os.pread(self._descriptor, length, offset)
        self._taken += len(record) + len(b"\n")
        return record

    @property
    def left(self) -> int:
        """The bytes of records that no mark in the output has named."""
        return max(os.fstat(self._descriptor).st_size - self._taken, 0)
