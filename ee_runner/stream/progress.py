"""How far a stream of results was processed, kept on disk so that one that was cut can be taken up again."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ee_runner.artifacts import describe
from ee_runner.errors import ArtifactError, BadFrame, ConfigurationError, StreamError
from ee_runner.stream.records import Hello, Kind, Record

_NAME = ".stream"
_STREAM = re.compile(r"[A-Za-z0-9-]{1,64}\Z", re.ASCII)
_WIDTH = 160
_MOST = 200
_WITHIN = (Kind.ARCHIVE, Kind.CONTENT, Kind.KEEPALIVE)
"""Records after which there is nothing to go on from: an archive counts when its end is there."""


class Progress:
    """The place of one stream, in the artifact directory until the stream was processed to its end."""

    def __init__(self, path: Path, descriptor: int, *, stream: str | None, done: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._resumed = stream
        self._stream = ""
        self._done = done
        self._in_archive = False

    @classmethod
    @contextlib.contextmanager
    def open(cls, directory: Path, *, resuming: bool) -> Iterator[Progress]:
        """Begin a stream, or go on with one; ConfigurationError when there is none to go on with."""
        path = directory / _NAME
        stream, done = _read(path) if resuming else (None, 0)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ArtifactError(f"The artifact {path} can not be written: {describe(error)}") from error
        try:
            yield cls(path, descriptor, stream=stream, done=done)
        finally:
            os.close(descriptor)

    def greet(self, hello: Hello) -> None:
        """Learn whose stream it is; StreamError when it is not the one to go on with."""
        if not hello.stream:  # the answer to a requester that waited no longer
            return
        if not _STREAM.match(hello.stream):
            raise BadFrame(f"The worker names its stream {ascii(hello.stream)[:100]}, which is no identifier.")
        if self._resumed and hello.stream != self._resumed:
            raise StreamError(f"This is the stream {hello.stream}; the one that was cut is {self._resumed}.")
        self._stream = hello.stream
        self._note()

    def is_new(self, record: Record, *, known: bool) -> bool:
        """Say whether a record was not processed before; StreamError when that can not be told."""
        if self._resumed is None:
            return True
        if not known:
            raise StreamError("This stream can not be taken up again: its records carry no numbers.")
        new = record.sequence is not None and record.sequence > self._done
        if record.kind is Kind.END and not new:
            raise StreamError(f"The stream ends at record {record.sequence}, where {self._done} were processed.")
        if record.kind is Kind.ARCHIVE:
            self._in_archive = new
        elif record.kind in (Kind.CONTENT, Kind.ARCHIVE_END) and new and not self._in_archive:
            raise StreamError(f"The place to take up the stream, record {self._done}, is in the middle of an archive.")
        return new

    def did(self, record: Record) -> None:
        """Note a record as processed."""
        if record.sequence is None or record.kind in _WITHIN or not self._stream:
            return
        self._done = record.sequence
        self._note()

    def finish(self) -> None:
        """The stream was processed to its end: nothing is left to take up."""
        self._path.unlink(missing_ok=True)

    def _note(self) -> None:
        line = f"{self._stream} {self._done}".ljust(_WIDTH - 1) + "\n"
        try:
            os.pwrite(self._descriptor, line.encode(), 0)
        except OSError as error:
            raise ArtifactError(f"The artifact {self._path} can not be written: {describe(error)}") from error


def read_start(path: Path) -> str:
    """Read the beginning of a small file, whatever somebody has put in its place."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _MOST).decode()
    finally:
        os.close(descriptor)


def _read(path: Path) -> tuple[str, int]:
    try:
        stream, done = read_start(path).split() or ("", "0")
        return stream, int(done)
    except (OSError, ValueError):
        raise ConfigurationError(
            f"--resume: there is no stream to take up again in {path.parent}: none was begun, or it came to its end."
        ) from None
