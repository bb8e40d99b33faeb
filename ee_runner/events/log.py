"""The events of a job on disk: reading them back, and following them while the job runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ee_runner.events import kept
from ee_runner.events.kept import read_events

__all__ = ["EventLog", "Item", "Watch", "read_events"]

Item = str | int
"""What is announced of an event: the name of its file, or, of one in the log, where its line ends."""


class EventLog:
    """One job's events on disk, and word of those to come.

    `directory` is the artifact directory; how the events are kept in it says `ee_runner.events.kept`. One thread writes
    them, in order of the counter, and calls `begin`, `announce` and `end`; any number of others follow, each with an
    iterator or a watch of its own. Who follows waits only between `begin` and `end`. Nothing polls, and without a
    follower nothing is kept; a follower keeps the names of the files that it has still to give, or its place in the
    log. In the thread that writes, where the job's callbacks run, nobody waits: an iterator gives what is there, and
    ends.
    """

    def __init__(self, directory: Path) -> None:
        self._files = kept.Files(directory / kept.FILES)
        self._log = kept.Log(directory / kept.LOG)
        self._running = False
        self._writer: int | None = None
        self._has_none = False
        self._latest: Item | None = None
        # Added to and taken from in single steps, without a lock: announcing is cheap, and a follower that the
        # garbage collector ends, whatever it interrupts, waits for nobody.
        self._followers: dict[_Follower, None] = {}

    def begin(self, *, writer: int | None = None) -> None:
        """The job is on its way: followers wait from now on; what lies there already is an earlier job's, not given.

        `writer` is the ident of the thread that writes, once it is known.
        """
        self._has_none = True
        self._latest = None
        self._writer = writer
        self._running = True

    @property
    def is_running(self) -> bool:
        """Whether the job is between `begin` and `end`."""
        return self._running

    def announce(self, item: Item) -> None:
        """An event is in place, and none of an earlier job; they come in order of the counter."""
        self._latest = item
        self._has_none = False
        # Who joins after this look lists what is there later still, and finds the event.
        if self._followers:
            for follower in list(self._followers):
                follower.put(item)

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
        if not self._running:
            yield from self.read()
            return
        follower = self._join(_nobody)
        try:
            while (event := follower.take(wait=self._writer != threading.get_ident())) is not None:
                yield event
        finally:
            follower.close()

    def read(self, *, holding: str = "") -> Iterator[dict[str, Any]]:
        """Yield the events that are there now, without those in which a text is nowhere; see `kept.events`."""
        return iter(()) if self._has_none else kept.events(self._source(), holding=holding)

    def last(self, name: str) -> dict[str, Any] | None:
        """Return the last of the events that are there now and have this name; see `kept.last_event`."""
        return None if self._has_none else kept.last_event(self._source(), name)

    def watch(self, wake: Callable[[], object]) -> Watch:
        """Follow without waiting, for an event loop; see Watch. Calls `wake` for the first time."""
        follower = self._join(wake)
        follower.call()
        return Watch(follower)

    def _join(self, wake: Callable[[], object]) -> _Follower:
        follower = _Follower(self, wake, kept.Lines(self._log))
        self._followers[follower] = None
        if not self._running:  # looked at after joining: an end in between is not missed
            self._leave(follower)
            follower.put(None)
        return follower

    def _list(self) -> list[Item]:
        """List what there is of the job's events; one that was begun has none before the first is announced."""
        if self._has_none:
            return []
        if self._source() is self._files:
            return [*self._files.names()]
        return [self._latest if isinstance(self._latest, int) else self._log.size or 0]

    def _source(self) -> kept.Files | kept.Log:
        """Return where the events are: of a job that runs, or has run, where it puts them, whatever else is there."""
        if self._latest is None:
            return self._files if self._log.size is None else self._log
        return self._files if isinstance(self._latest, str) else self._log

    def _read(self, name: str) -> dict[str, Any]:
        return self._files.read(name)

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
    """What one reader has still to give: first what is listed, then what is announced.

    One thread puts, one takes. The queue is the only thing that they share and that may make one wait.
    """

    def __init__(self, log: EventLog, wake: Callable[[], object], lines: kept.Lines) -> None:
        self._log = log
        self._wake = wake
        self._lines = lines
        self._idle = False
        self._announced: SimpleQueue[Item | None] = SimpleQueue()
        self._listed: deque[Item] | None = None
        self._over = False
        self._last = -1
        self._failure: Exception | None = None
        self.ended = False

    def put(self, item: Item | None) -> None:
        """Take word of a new event, or None when there will be no more."""
        self._announced.put(item)
        if self._idle:
            self.call()

    def take(self, *, wait: bool) -> dict[str, Any] | None:
        """Return the next event; None at the end, or, if it is not to wait, when there is none now."""
        if self._failure is not None:
            raise self._failure
        while not self.ended:
            if (event := self._lines.take()) is not None:
                return event
            item = self._next(wait=wait)
            if item is None:
                break
            if isinstance(item, str):
                return self._log._read(item)
            self._lines.end = item
        return None

    def close(self) -> None:
        self._stop()
        self._lines.close()

    def call(self) -> None:
        """Wake the reader, once; what goes wrong in that is the reader's, not the writer's."""
        self._idle = False
        try:
            self._wake()
        except Exception as error:
            self._stop()  # what it reads is the reader's to close
            self._failure = error

    def _stop(self) -> None:
        self.ended, self._wake = True, _nobody
        self._log._leave(self)

    def _next(self, *, wait: bool) -> Item | None:
        if self._listed is None:
            self._listed = self._list()
        if self._listed:
            return self._given(self._listed.popleft())
        while not self._over:
            try:
                item = self._announced.get() if wait else self._get_or_sleep()
            except Empty:
                return None
            if item is None:
                self._over = True
            elif _order(item) > self._last:  # the listing had the others
                return self._given(item)
        self.ended = True
        self.call()
        return None

    def _list(self) -> deque[Item]:
        """List what is there, with what was announced meanwhile: a listing may miss a file that comes during it."""
        items = set(self._log._list())
        for _ in range(self._announced.qsize()):
            item = self._announced.get()
            if item is None:
                self._over = True
            else:
                items.add(item)
        return deque(sorted(items, key=lambda item: (_order(item), str(item))))

    def _get_or_sleep(self) -> Item | None:
        """Raises Empty when nothing is there, having asked to be woken."""
        try:
            return self._announced.get_nowait()
        except Empty:
            self._idle = True
        item = self._announced.get_nowait()  # what came before the line above woke nobody
        self._idle = False
        return item

    def _given(self, item: Item) -> Item:
        self._last = _order(item)
        return item


def _order(item: Item) -> int:
    """Return what of the events comes later is greater: the counter in a name, or the end of a line in the log."""
    return item if isinstance(item, int) else kept.counter(item)
