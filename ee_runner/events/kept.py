"""The events that a job left in its artifact directory: a file each, or one log of them all.

The files are ``job_events/<counter>-<uuid>.json``. The log is ``job_events.jsonl``, one event a line, each exactly what
its file would hold; where there is one it is read, and no directory is listed.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from ee_runner.errors import ArtifactError
from ee_runner.logs import log

Form = Literal["files", "log", "both"]
"""How events are kept."""

FILES: Final = "job_events"
LOG: Final = "job_events.jsonl"
PARTIAL: Final = "event-partial.json"
"""The name of an event's file while it is written; that of no event."""

# A job may have put a link or a named pipe in the place of a file: neither is followed nor waited for.
_READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CHUNK = 64 * 1024
_PLAIN = r"[A-Za-z0-9_.:@-]+"
"""Texts that look the same in any JSON."""

_MEMORY = 32 << 20
"""Bytes of event files that may be remembered, of one directory in the whole process."""

_Stamp = tuple[int, int, int, int]
_QUIET = 2_000_000_000
"""Nanoseconds without a change after which the times of a directory tell of the next one."""


def read_events(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the events below an artifact directory, in order of their counter, as they are there now.

    Raises ArtifactError, naming the file, for an event that can not be read. Without events there is nothing to yield.
    """
    return events(found(directory))


def found(directory: Path) -> Files | Log:
    """Return the log of an artifact directory, or its event files where there is no log."""
    log = Log(directory / LOG)
    return Files(directory / FILES) if log.size is None else log


def form_of(directory: Path, asked: Form) -> Form:
    """Return how the events of a job that goes on are kept: as the earlier ones are, or as asked if there are none."""
    size, files = Log(directory / LOG).size, bool(Files(directory / FILES).names())
    if size is None:
        return "files" if files else asked
    return "both" if files or (asked == "both" and not size) else "log"


def events(source: Files | Log, *, holding: str = "") -> Iterator[dict[str, Any]]:
    """Yield the events of a source, as `read_events` does.

    With `holding`, events in which that text is nowhere may be left out, which saves the most of their cost. A last
    line of the log that a crash has cut is no event; the library's log says so.
    """
    part, (decode, unfit) = _part(holding), _decoder()
    for where, data in source.contents():
        if part in data:
            try:
                event = decode(data)
            except unfit as error:
                raise _no_event(source.name_of(where), error) from error
            yield event


def last_event(source: Files | Log, name: str) -> dict[str, Any] | None:
    """Return the last of the events that have this name, looked for from the end on; None when there is none."""
    part = _part(name)
    for where, data in source.contents(backwards=True):
        if part in data and (event := _decoded(data, source.name_of(where))).get("event") == name:
            return event
    return None


def counter(name: str) -> int:
    """Return the counter of the event that a file of this name holds."""
    return int(name[: name.index("-")])


class Files:
    """The event files of a job. What is read of them to the end is remembered until they change, if it is not much.

    That a file is added, replaced or removed is noticed; nobody changes one in its place.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        # One value, for another thread may have it forgotten at any moment.
        self._remembered: tuple[_Stamp, list[tuple[str, bytes]]] | None = None

    def names(self) -> list[str]:
        """List the names of events, in any order; none when there is no directory."""
        try:
            listed = os.listdir(self._place)  # noqa: PTH208 - there are many, and so no function is called for each
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ArtifactError(f"The events in {self._place} can not be listed: {error.strerror}.") from error
        whole = [name for name in listed if name.endswith(".json") and not name.endswith("-partial.json")]
        return [name for name in whole if name.partition("-")[0].isdecimal()]

    def read(self, name: str) -> dict[str, Any]:
        """Read one event; ArtifactError, naming the file, says what is wrong."""
        return _decoded(next(_read(self._place, (f"{self._place}/{name}",), None)), self.name_of(name))

    def contents(self, *, backwards: bool = False) -> Iterator[tuple[str, bytes]]:
        """Yield the name of each event, in order of the counter, and what its file holds."""
        stamp, remembered = self._present(), self._remembered
        if stamp is None or remembered is None or stamp != remembered[0]:
            return self._gathered(stamp, backwards=backwards)
        return reversed(remembered[1]) if backwards else iter(remembered[1])

    def name_of(self, where: str | int) -> str:
        return f"event file {self._place}/{where}"

    def forget(self) -> None:
        """Remember nothing any more."""
        self._remembered = None

    def _gathered(self, stamp: _Stamp | None, *, backwards: bool) -> Iterator[tuple[str, bytes]]:
        names = sorted(self.names(), key=counter, reverse=backwards)
        if not names:
            return
        gathered: list[tuple[str, bytes]] = []
        room = 0 if stamp is None or backwards else _MEMORY
        home = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for each in zip(names, _read(self._place, names, home), strict=True):
                if room > 0:
                    room -= len(each[1])
                    gathered.append(each)
                yield each
        finally:
            os.close(home)
        if room > 0 and stamp is not None:
            self._remember(stamp, gathered)

    def _remember(self, stamp: _Stamp, contents: list[tuple[str, bytes]]) -> None:
        global _remembering
        if _remembering is not None and (other := _remembering()) is not None:
            other.forget()
        _remembering = weakref.ref(self)
        self._remembered = stamp, contents

    def _present(self) -> _Stamp | None:
        """Return what tells the directory as it is now from what it will be; None when it has just been changed."""
        try:
            now = self._place.stat()
        except OSError:
            return None
        settled = abs(time.time_ns() - now.st_mtime_ns) > _QUIET
        return (now.st_dev, now.st_ino, now.st_mtime_ns, now.st_ctime_ns) if settled else None


_remembering: weakref.ref[Files] | None = None


class Log:
    """The log of a job's events, or where it would be."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def size(self) -> int | None:
        """How many bytes it has; None when there is none."""
        try:
            return os.lstat(self._path).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(self._path, error) from error

    def contents(self, *, backwards: bool = False) -> Iterator[tuple[int, bytes]]:
        """Yield the number of each line, or backwards, from -1 on, and the line; none for one that is cut."""
        return self._lines_backwards() if backwards else self._lines()

    def name_of(self, where: str | int) -> str:
        return f"line {where} of {self._path}"

    def open(self) -> BinaryIO:
        """Open it for reading, to be closed by the caller; ArtifactError says why it can not be had."""
        try:
            descriptor = os.open(self._path, _READING)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ArtifactError(f"The events in {self._path} can not be read: it is no regular file.")
        return os.fdopen(descriptor, "rb", _CHUNK)

    def tell_torn(self, line: bytes) -> None:
        """Say that the last line is not whole."""
        log.warning(
            "%s ends in %d bytes of an event that is not whole, and is passed over: its job was killed or is writing.",
            self._path,
            len(line),
        )

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with self.open() as file:
            for each in enumerate(file, start=1):
                if each[1].endswith(b"\n"):
                    yield each
                else:
                    self.tell_torn(each[1])

    def _lines_backwards(self) -> Iterator[tuple[int, bytes]]:
        with self.open() as file:
            left, rest, number = os.fstat(file.fileno()).st_size, b"", 0
            while left > 0:
                count = min(_CHUNK, left)
                left -= count
                rest, *lines = (os.pread(file.fileno(), count, left) + rest).split(b"\n")
                for line in reversed(lines):
                    if number:
                        yield number, line
                    elif line:
                        self.tell_torn(line)
                    number -= 1
            if number:
                yield number, rest
            elif rest:
                self.tell_torn(rest)


class Lines:
    """The events of a log, one by one, up to `end`, where a line ends that is known to be there.

    The file is held open from the first event on; close it.
    """

    def __init__(self, log: Log) -> None:
        self.end = 0
        self._log = log
        self._file: BinaryIO | None = None
        self._position = 0
        self._number = 0

    def take(self) -> dict[str, Any] | None:
        """Return the next event, None for the present when it lies beyond the end; raises ArtifactError."""
        if self._position >= self.end:
            return None
        if self._file is None:
            self._file = self._log.open()
        line = self._file.readline()
        self._position += len(line)
        self._number += 1
        if line.endswith(b"\n"):
            return _decoded(line, self._log.name_of(self._number))
        if self._position < self.end:
            raise ArtifactError(f"The {self._log.name_of(self._number)} is gone: something has cut the log meanwhile.")
        self._log.tell_torn(line)
        return None

    def close(self) -> None:
        """Read no further; may be called again."""
        self.end = 0
        if self._file is not None:
            self._file.close()


@functools.cache
def _decoder() -> tuple[Callable[[bytes], dict[str, Any]], tuple[type[Exception], ...]]:
    """Return what makes an event of JSON, and what it raises; it takes long to load, and starting a job needs none."""
    import msgspec

    return msgspec.json.Decoder(dict[str, Any]).decode, (msgspec.DecodeError, UnicodeDecodeError)


def _decoded(data: bytes, name: str) -> dict[str, Any]:
    decode, unfit = _decoder()
    try:
        return decode(data)
    except unfit as error:
        raise _no_event(name, error) from error


def _no_event(name: str, error: Exception) -> ArtifactError:
    return ArtifactError(f"The {name} holds no event: {error}.")


def _read(place: Path, names: Iterable[str], home: int | None) -> Iterator[bytes]:
    """Yield what files hold; buffered ones of Python's, or a function for each, would cost twice the time."""
    for name in names:
        try:
            descriptor = os.open(name, _READING, dir_fd=home)
            try:
                data = os.read(descriptor, _CHUNK)
                while data and len(data) % _CHUNK == 0 and (more := os.read(descriptor, len(data))):
                    data += more
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unreadable(place / name, error) from error
        yield data


def _part(text: str) -> bytes:
    """Return what the bytes of an event hold that has this text in it: the text, if no JSON writes it otherwise."""
    return text.encode() if re.fullmatch(_PLAIN, text) else b""


def _unreadable(path: Path, error: OSError) -> ArtifactError:
    if isinstance(error, FileNotFoundError):
        return ArtifactError(f"The event file {path} is gone: something removed it.")
    return ArtifactError(f"The event file {path} can not be read: {error.strerror}.")
