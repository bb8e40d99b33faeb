"""Events are read back whole, and followed live without polling, loss or doubles."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import random
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import pytest

from ee_runner.artifacts import ArtifactStore
from ee_runner.errors import ArtifactError
from ee_runner.events import kept, log
from ee_runner.events.kept import read_events
from ee_runner.events.log import EventLog
from tests.support.processes import wait_until

PATIENCE = 60.0
T = TypeVar("T")


class Writer:
    """Writes events as a job does: the file first, then word of it."""

    def __init__(self, directory: Path) -> None:
        (directory / "job_events").mkdir(exist_ok=True)
        self.log = EventLog(directory)
        self.place = directory / "job_events"
        self._counter = itertools.count(1)

    def write(self, *, keep: bool = True) -> str:
        counter = next(self._counter)
        name = f"{counter}-u.json"
        if keep:
            partial = self.place / f"{counter}-u-partial.json"
            partial.write_text(json.dumps({"counter": counter, "uuid": "u"}))
            partial.rename(self.place / name)
            self.log.announce(name)
        return name


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def counters(events: Iterator[dict[str, Any]] | EventLog) -> list[int]:
    return [event["counter"] for event in events]


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    wait_until(condition, bound=PATIENCE, what="what the follower does")


def done(future: Future[T]) -> T:
    return future.result(PATIENCE)


def followers(log: EventLog) -> int:
    return len(log._followers)


# Reading back


def test_events_are_read_back_in_order_and_half_written_ones_are_not_seen(tmp_path: Path) -> None:
    (tmp_path / "job_events").mkdir()
    with ArtifactStore(tmp_path) as store:
        for counter in (10, 2, 1):
            store.write_event({"counter": counter, "uuid": f"u-{counter}", "stdout": "é"})
    (tmp_path / "job_events" / "11-u-partial.json").write_text("{")
    (tmp_path / "job_events" / "notes.json").write_text("{")
    (tmp_path / "job_events" / "12-u.txt").write_text("{")
    assert counters(read_events(tmp_path)) == [1, 2, 10]
    assert counters(EventLog(tmp_path)) == [1, 2, 10]


def test_without_a_directory_there_are_no_events(tmp_path: Path) -> None:
    assert list(read_events(tmp_path)) == []
    assert list(EventLog(tmp_path / "none")) == []


def test_large_events_are_read_whole(writer: Writer) -> None:
    for size in (65_535, 65_536, 65_537, 3_000_000):
        text = json.dumps({"counter": size, "stdout": ""})
        filled = json.dumps({"counter": size, "stdout": "x" * (size - len(text))})
        assert len(filled) == size
        (writer.place / f"{size}-u.json").write_text(filled)
    assert [len(json.dumps(event)) for event in read_events(writer.place.parent)] == [65_535, 65_536, 65_537, 3_000_000]


@pytest.mark.parametrize("content", [b"{", b"", b"[]", b"3", b'{"stdout": "\xff"}'])
def test_a_broken_file_is_named(writer: Writer, content: bytes) -> None:
    writer.write()
    (writer.place / "2-u.json").write_bytes(content)
    for events in (read_events(writer.place.parent), iter(EventLog(writer.place.parent))):
        assert next(events)["counter"] == 1
        with pytest.raises(ArtifactError, match=r"2-u\.json holds no event"):
            next(events)


def test_a_vanished_file_is_named(writer: Writer) -> None:
    writer.write()
    writer.write()
    events = iter(EventLog(writer.place.parent))
    assert next(events)["counter"] == 1
    (writer.place / "2-u.json").unlink()
    with pytest.raises(ArtifactError, match=r"2-u\.json is gone"):
        next(events)


@pytest.mark.parametrize("trap", ["link", "pipe", "directory"])
def test_what_a_job_put_in_the_place_of_a_file_is_neither_followed_nor_waited_for(writer: Writer, trap: str) -> None:
    path = writer.place / "1-u.json"
    if trap == "link":
        (writer.place.parent / "loot").write_text('{"precious": true}')
        path.symlink_to(writer.place.parent / "loot")
    elif trap == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(ArtifactError, match=r"1-u\.json"):
        list(read_events(writer.place.parent))


def test_what_is_no_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "job_events").write_text("")
    with pytest.raises(ArtifactError, match=r"job_events can not be listed: Not a directory"):
        list(EventLog(tmp_path))


def test_twenty_thousand_events_are_read_in_seconds(tmp_path: Path) -> None:
    (tmp_path / "job_events").mkdir()
    event = {"uuid": "u", "stdout": "ok: [host]", "event_data": {"res": {"lines": ["line"] * 20}}}
    for counter in range(1, 20_001):
        (tmp_path / "job_events" / f"{counter}-u.json").write_text(json.dumps({**event, "counter": counter}))
    start = time.thread_time()
    assert counters(EventLog(tmp_path)) == list(range(1, 20_001))
    assert time.thread_time() - start < 3  # about 0.2 on a machine of the year 2020


# Following


def test_a_follower_gets_each_event_when_it_is_there_and_ends_with_the_job(writer: Writer) -> None:
    writer.log.begin()
    events = iter(writer.log)
    for counter in (1, 2, 3):
        writer.write()
        assert next(events)["counter"] == counter
    writer.write()
    writer.log.end()
    assert counters(events) == [4]
    assert counters(writer.log) == [1, 2, 3, 4]


def test_a_follower_waits_for_an_event_that_is_not_there_yet(writer: Writer, pool: ThreadPoolExecutor) -> None:
    writer.log.begin()
    given: list[int] = []

    def follow() -> None:
        for event in writer.log:
            given.append(event["counter"])

    following = pool.submit(follow)
    until(lambda: followers(writer.log) == 1)
    assert given == []
    writer.write()
    until(lambda: given == [1])
    assert not following.done()
    writer.log.end()
    done(following)


def test_before_the_job_begins_a_follower_reads_what_is_there_and_ends(writer: Writer) -> None:
    writer.write()
    assert counters(writer.log) == [1]


def test_who_follows_from_the_middle_gets_what_was_before_too(writer: Writer) -> None:
    writer.log.begin()
    writer.write()
    writer.write()
    events = iter(writer.log)
    assert [next(events)["counter"], next(events)["counter"]] == [1, 2]
    writer.write()
    assert next(events)["counter"] == 3
    writer.log.end()
    assert counters(events) == []


def test_events_that_the_handler_dropped_never_appear(writer: Writer) -> None:
    writer.log.begin()
    events = iter(writer.log)
    for counter in range(1, 7):
        writer.write(keep=bool(counter % 2))
    assert [next(events)["counter"] for _ in range(3)] == [1, 3, 5]
    writer.log.end()
    assert counters(events) == []


def test_an_event_that_is_in_place_before_word_of_it_comes_is_given_once(writer: Writer) -> None:
    writer.log.begin()
    writer.write()
    (writer.place / "2-u.json").write_text('{"counter": 2}')
    events = iter(writer.log)
    assert [next(events)["counter"], next(events)["counter"]] == [1, 2]
    writer.log.announce("2-u.json")
    (writer.place / "3-u.json").write_text('{"counter": 3}')
    writer.log.announce("3-u.json")
    writer.log.end()
    assert counters(events) == [3]


def test_nothing_is_lost_or_doubled_whenever_a_follower_joins(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for round_ in range(10):
            directory = tmp_path / str(round_)
            directory.mkdir()
            writer = Writer(directory)
            writer.log.begin()
            moments = random.Random(round_)

            def follow(pause: float, log: EventLog = writer.log) -> list[int]:
                time.sleep(pause)
                return counters(log)

            following = [pool.submit(follow, moments.uniform(0, 0.06)) for _ in range(8)]
            for _ in range(300):
                writer.write(keep=moments.random() < 0.9)
            writer.log.end()
            expected = counters(read_events(directory))
            assert len(expected) > 200
            for future in following:
                assert done(future) == expected
            assert followers(writer.log) == 0
    finally:
        sys.setswitchinterval(interval)


def test_an_event_that_a_listing_missed_is_given_in_its_turn(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that changes while it is listed may show the later file of two, and not the earlier."""
    list_names = kept.Files.names

    def list_while_the_job_writes(files: kept.Files) -> list[str]:
        missed = [writer.write(), writer.write()][0]
        return [name for name in list_names(files) if name != missed]

    writer.log.begin()
    writer.write()
    monkeypatch.setattr(kept.Files, "names", list_while_the_job_writes)
    events = iter(writer.log)
    assert [next(events)["counter"] for _ in range(3)] == [1, 2, 3]
    writer.log.end()
    assert counters(events) == []


def test_several_followers_are_independent_of_each_other(writer: Writer) -> None:
    writer.log.begin()
    slow, quick = iter(writer.log), iter(writer.log)
    writer.write()
    assert next(slow)["counter"] == 1
    for counter in (2, 3):
        writer.write()
        assert counter == 2 or [next(quick)["counter"] for _ in range(3)] == [1, 2, 3]
    writer.log.end()
    assert counters(slow) == [2, 3]
    assert counters(quick) == []


def test_a_second_job_in_the_directory_is_followed_from_its_own_beginning(writer: Writer) -> None:
    writer.log.begin()
    writer.write()
    first = iter(writer.log)
    assert next(first)["counter"] == 1
    writer.log.end()
    writer.log.begin()
    early = writer.log.watch(lambda: None)  # the first job's event is still there
    assert early.take() is None
    for path in writer.place.iterdir():
        path.unlink()
    again = Writer(writer.place.parent)
    again.log = writer.log
    again.write()
    assert (early.take() or {})["counter"] == 1
    late = iter(writer.log)
    assert next(late)["counter"] == 1
    writer.log.end()
    assert counters(first) == counters(late) == []
    assert early.take() is None
    assert early.ended


def test_a_job_that_began_and_wrote_nothing_has_no_events_whatever_an_earlier_one_left(writer: Writer) -> None:
    writer.write()
    writer.log.begin()
    writer.log.end()
    assert counters(writer.log) == []


# What following costs


def test_waiting_costs_no_processor_time(writer: Writer, pool: ThreadPoolExecutor) -> None:
    writer.log.begin()
    used: dict[int, float] = {}

    def follow() -> None:
        for event in writer.log:
            used[event["counter"]] = time.thread_time()

    following = pool.submit(follow)
    writer.write()
    until(lambda: 1 in used)
    whole = time.process_time()
    time.sleep(2)
    whole = time.process_time() - whole
    writer.write()
    until(lambda: 2 in used)
    writer.log.end()
    done(following)
    assert used[2] - used[1] < 0.02
    assert whole < 0.02


def test_without_followers_announcing_keeps_nothing(writer: Writer) -> None:
    writer.log.begin()
    names = [f"{counter}-u.json" for counter in range(10_000)]
    writer.log.announce("1-u.json")
    tracemalloc.start()
    try:
        for name in names:
            writer.log.announce(name)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2_000


def test_announcing_takes_microseconds(writer: Writer) -> None:
    writer.log.begin()
    start = time.thread_time()
    for _ in range(200_000):
        writer.log.announce("1-u.json")
    assert time.thread_time() - start < 1  # about 0.02 on a machine of the year 2020


@pytest.mark.parametrize("how", ["closed", "forgotten", "forgotten in a circle", "never begun", "failed"])
def test_an_abandoned_iterator_leaves_nothing(writer: Writer, how: str) -> None:
    writer.log.begin()
    writer.write()
    events = iter(writer.log)
    if how != "never begun":
        next(events)
        assert followers(writer.log) == 1
    if how == "closed":
        events.close()  # type: ignore[attr-defined]
    elif how == "failed":
        writer.log.announce("7-missing.json")
        with pytest.raises(ArtifactError):
            next(events)
    elif how == "forgotten in a circle":
        circle: list[Any] = [events]
        circle.append(circle)
        del circle
    if how in ("forgotten", "forgotten in a circle"):
        del events
        gc.collect()
    assert followers(writer.log) == 0
    writer.write()


# A watch, for event loops


def test_a_watch_never_waits_and_is_woken_once_for_all_that_is_new(writer: Writer) -> None:
    calls: list[int] = []
    writer.log.begin()
    writer.write()
    watch = writer.log.watch(lambda: calls.append(1))
    assert len(calls) == 1
    assert (watch.take() or {})["counter"] == 1
    assert watch.take() is None
    assert len(calls) == 1
    writer.write()
    writer.write()
    assert len(calls) == 2
    assert [(watch.take() or {})["counter"] for _ in range(2)] == [2, 3]
    assert watch.take() is None
    assert not watch.ended
    writer.log.end()
    assert len(calls) == 3
    assert watch.take() is None
    assert watch.ended


def test_a_watch_of_a_job_that_is_over_reads_back(writer: Writer) -> None:
    writer.write()
    calls: list[int] = []
    watch = writer.log.watch(lambda: calls.append(1))
    assert len(calls) == 1
    assert not watch.ended
    assert (watch.take() or {})["counter"] == 1
    assert watch.take() is None
    assert watch.ended
    assert len(calls) == 2  # for a loop that waits whenever it gets nothing


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_an_abandoned_watch_leaves_nothing(writer: Writer, how: str) -> None:
    writer.log.begin()
    watch = writer.log.watch(lambda: None)
    assert followers(writer.log) == 1
    if how == "closed":
        watch.close()
        watch.close()
        assert watch.ended
        assert watch.take() is None
    del watch
    assert followers(writer.log) == 0
    writer.write()


def test_a_wake_that_raises_ends_the_watch_and_not_the_job(writer: Writer) -> None:
    calls = itertools.count()

    def wake() -> None:
        if next(calls):
            raise RuntimeError("Event loop is closed")

    writer.log.begin()
    watch = writer.log.watch(wake)
    assert watch.take() is None
    writer.write()
    assert followers(writer.log) == 0
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        watch.take()


def test_no_wake_is_lost_when_an_event_comes_just_as_the_watch_finds_nothing(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[Callable[[], object]] = []

    class Overtaken(SimpleQueue):  # type: ignore[type-arg]
        def get_nowait(self) -> Any:
            try:
                return super().get_nowait()
            except Empty:
                if late:
                    late.pop()()
                raise

    monkeypatch.setattr(log, "SimpleQueue", Overtaken)
    calls: list[int] = []
    writer.log.begin()
    watch = writer.log.watch(lambda: calls.append(1))
    late.append(writer.write)
    event = watch.take()
    assert event or len(calls) == 2
    assert (event or watch.take() or {})["counter"] == 1
    assert watch.take() is None
    writer.write()
    assert len(calls) == 2


def test_an_event_loop_follows_while_another_thread_writes(writer: Writer) -> None:
    async def follow() -> list[int]:
        loop, news, given = asyncio.get_running_loop(), asyncio.Event(), []
        watch = writer.log.watch(lambda: loop.call_soon_threadsafe(news.set))
        while not watch.ended:
            await asyncio.wait_for(news.wait(), PATIENCE)
            news.clear()
            while (event := watch.take()) is not None:
                given.append(event["counter"])
        return given

    def write() -> None:
        for counter in range(500):
            writer.write()
            if counter % 50 == 0:
                time.sleep(0.002)
        writer.log.end()

    writer.log.begin()
    thread = threading.Thread(target=write)
    thread.start()
    assert asyncio.run(follow()) == list(range(1, 501))
    thread.join(PATIENCE)
