"""The events of a job on disk: reading them back, and following them while the job runs."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

from ee_runner.errors import ArtifactError

_decode = msgspec.json.Decoder(dict[str, Any]).decode
# A job may have put a link or a named pipe in the place of a file: neither is followed nor waited for.
_READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CHUNK = 64 * 1024


def read_events(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the events below an artifact directory, in order of their counter, as they are there now.

    Raises ArtifactError, naming the file, for one that can not be read. Without events there is nothing to yield.
    """
    place = directory / "job_events"
    return (_read(place, name) for name in sorted(_names(place), key=_order))


class EventLog:
    """One job's events on disk, and word of those to come.

    `directory` is the artifact directory; the events are ``job_events/<counter>-<uuid>.json`` in it. One thread writes
    them, in order of the counter, and calls `begin`, `announce` and `end`; any number of others follow, each with an
    iterator or a watch of its own. Who follows waits only between `begin` and `end`. Nothing polls, and without a
    follower nothing is kept; a follower keeps the names of the events that it has still to give. In the thread that
    writes, where the job's callbacks run, nobody waits: an iterator gives what is there, and ends.
    """

    def __init__(self, directory: Path) -> None:
        self._place = directory / "job_events"
        self._running = False
        self._writer: int | None = None
        self._has_none = False
        # Added to and taken from in single steps, without a lock: announcing is cheap, and a follower that the
        # garbage collector ends, whatever it interrupts, waits for nobody.
        self._followers: dict[_Follower, None] = {}

    def begin(self, *, writer: int | None = None) -> None:
        """The job is on its way: followers wait from now on; what lies there already is an earlier job's, not given.

        `writer` is the ident of the thread that writes, once it is known.
        """
        self._has_none = True
        self._writer = writer
        self._running = True

    @property
    def is_running(self) -> bool:
        """Whether the job is between `begin` and `end`."""
        return self._running

    def announce(self, name: str) -> None:
        """An event file of this name is in place, and none of an earlier job; names come in order of the counter."""
        self._has_none = False
        # Who joins after this look lists the directory later still, and finds the file there.
        if self._followers:
            for follower in list(self._followers):
                follower.put(name)

    def end(self) -> None:
        """The job has ended, and every event is in place: followers give what is left, and end."""
        self._running = False
        self._writer = None
        for follower in list(self._followers):
            self._leave(follower)
            follower.put(None)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the events in order of their counter: those that are there, then, while the job runs, each new one.

        Raises ArtifactError, naming the file, for an event that has vanished or can not be read. An iterator may be
        closed or forgotten at any time.
        """
        follower = self._join(_nobody)
        try:
            while (event := follower.take(wait=self._writer != threading.get_ident())) is not None:
                yield event
        finally:
            follower.close()

    def watch(self, wake: Callable[[], object]) -> Watch:
        """Follow without waiting, for an event loop; see Watch. Calls `wake` for the first time."""
        follower = self._join(wake)
        follower.call()
        return Watch(follower)

    def _join(self, wake: Callable[[], object]) -> _Follower:
        follower = _Follower(self, wake)
        self._followers[follower] = None
        if not self._running:  # looked at after joining: an end in between is not missed
            self._leave(follower)
            follower.put(None)
        return follower

    def _list(self) -> list[str]:
        """List the names of the job's events; one that was begun has none before the first is announced."""
        return [] if self._has_none else _names(self._place)

    def _read(self, name: str) -> dict[str, Any]:
        return _read(self._place, name)

    def _leave(self, follower: _Follower) -> None:
        self._followers.pop(follower, None)


class Watch:
    """Follows the events of a job without ever waiting for one.

    When `wake` was called, take until there is nothing; it is called again, from any thread, once there may be more.
    `ended` turns true when `take` finds that nothing is left and nothing will come; `wake` is called then too. Close
    the watch, or forget it, which does the same unless `wake` holds on to it. If `wake` raises, the job goes on: the
    watch is over, and `take` raises what `wake` raised.
    """

    def __init__(self, follower: _Follower) -> None:
        self._follower = follower

    @property
    def ended(self) -> bool:
        return self._follower.ended

    def take(self) -> dict[str, Any] | None:
        """Return the next event, or None when there is none now.

        Raises ArtifactError, naming the file, for an event that has vanished or can not be read.
        """
        return self._follower.take(wait=False)

    def close(self) -> None:
        """Follow no longer; may be called again."""
        self._follower.close()

    def __del__(self) -> None:
        self.close()


def _nobody() -> None:
    """Wake nobody: who waits for the queue itself needs no call."""


class _Follower:
    """What one reader has still to give: first what the directory lists, then what is announced.

    One thread puts, one takes. The queue is the only thing that they share and that may make one wait.
    """

    def __init__(self, log: EventLog, wake: Callable[[], object]) -> None:
        self._log = log
        self._wake = wake
        self._idle = False
        self._announced: SimpleQueue[str | None] = SimpleQueue()
        self._listed: deque[str] | None = None
        self._over = False
        self._last = -1
        self._failure: Exception | None = None
        self.ended = False

    def put(self, name: str | None) -> None:
        """Take the name of a new event, or None when there will be no more."""
        self._announced.put(name)
        if self._idle:
            self.call()

    def take(self, *, wait: bool) -> dict[str, Any] | None:
        """Return the next event; None at the end, or, if it is not to wait, when there is none now."""
        if self._failure is not None:
            raise self._failure
        name = self._next(wait=wait)
        return None if name is None else self._log._read(name)

    def close(self) -> None:
        self.ended, self._wake = True, _nobody
        self._log._leave(self)

    def call(self) -> None:
        """Wake the reader, once; what goes wrong in that is the reader's, not the writer's."""
        self._idle = False
        try:
            self._wake()
        except Exception as error:
            self.close()
            self._failure = error

    def _next(self, *, wait: bool) -> str | None:
        if self.ended:
            return None
        if self._listed is None:
            self._listed = self._list()
        if self._listed:
            return self._given(self._listed.popleft())
        while not self._over:
            try:
                name = self._announced.get() if wait else self._get_or_sleep()
            except Empty:
                return None
            if name is None:
                self._over = True
            elif _counter(name) > self._last:  # the listing had the others
                return self._given(name)
        self.ended = True
        self.call()
        return None

    def _list(self) -> deque[str]:
        """List what is there, with what was announced meanwhile: a listing may miss a file that comes during it."""
        names = set(self._log._list())
        for _ in range(self._announced.qsize()):
            name = self._announced.get()
            if name is None:
                self._over = True
            else:
                names.add(name)
        return deque(sorted(names, key=_order))

    def _get_or_sleep(self) -> str | None:
        """Raises Empty when nothing is there, having asked to be woken."""
        try:
            return self._announced.get_nowait()
        except Empty:
            self._idle = True
        name = self._announced.get_nowait()  # what came before the line above woke nobody
        self._idle = False
        return name

    def _given(self, name: str) -> str:
        self._last = _counter(name)
        return name


def _names(place: Path) -> list[str]:
    """List the event files of a directory, in any order; none when there is no directory."""
    try:
        with os.scandir(place) as entries:
            return [entry.name for entry in entries if _is_event(entry.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ArtifactError(f"The events in {place} can not be listed: {error.strerror}.") from error


def _is_event(name: str) -> bool:
    """Whether it is an event's name, and of a whole one: ``-partial.json`` is one that is being written."""
    number, dash, rest = name.partition("-")
    return number.isdecimal() and bool(dash) and rest.endswith(".json") and not rest.endswith("-partial.json")


def _counter(name: str) -> int:
    return int(name.partition("-")[0])


def _order(name: str) -> tuple[int, str]:
    return _counter(name), name


def _read(place: Path, name: str) -> dict[str, Any]:
    try:
        return _decode(_content(f"{place}/{name}"))
    except FileNotFoundError as error:
        raise ArtifactError(f"The event file {place / name} is gone: something removed it.") from error
    except OSError as error:
        raise ArtifactError(f"The event file {place / name} can not be read: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"The event file {place / name} holds no event: {error}.") from error


def _content(path: str) -> bytes:
    """Read a whole file; a buffered one of Python's costs twice the time, and there are many."""
    descriptor = os.open(path, _READING)
    try:
        data = os.read(descriptor, _CHUNK)
        if len(data) < _CHUNK:
            return data
        chunks = [data]
        while data := os.read(descriptor, _CHUNK):
            chunks.append(data)
        return b"".join(chunks)
    finally:
        os.close(descriptor)
