"""Events in one log: whole lines, one write each, read back and followed without a directory; and files remembered."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import random
import resource
import stat
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ee_runner import api
from ee_runner.artifacts import ArtifactStore
from ee_runner.config import RunnerConfig
from ee_runner.errors import ArtifactError
from ee_runner.events import kept
from ee_runner.events.kept import Form, form_of, read_events
from ee_runner.events.log import EventLog
from ee_runner.results import Results
from tests.support.streams import STARTING, archive, event, own, results

PATIENCE = 60.0
LONG_AGO = 1_000_000_000


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An artifact directory in which nothing was kept so far."""
    (tmp_path / "job_events").mkdir()
    return tmp_path


def keep(place: Path, events: Iterable[dict[str, Any]], form: Form = "log") -> list[str | int]:
    with ArtifactStore(place, keeps_output=False, events=form) as store:
        return [store.write_event(each) for each in events]


def counters(events: Iterable[dict[str, Any]]) -> list[int]:
    return [each["counter"] for each in events]


def results_of(place: Path) -> Results:
    return Results(cast(RunnerConfig, SimpleNamespace(artifact_dir=str(place))))


def of_host(counter: int, host: str) -> dict[str, Any]:
    return event(counter, event="runner_on_ok", event_data={"host": host, "res": {"msg": f"not {host} nor other"}})


# Written


def test_the_log_is_private_and_holds_line_by_line_what_the_files_hold(place: Path) -> None:
    old = os.umask(0)
    try:
        keep(place, [event(1, stdout="é\nü\u2028"), event(2)], "both")
    finally:
        os.umask(old)
    log = place / "job_events.jsonl"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    files = sorted((place / "job_events").iterdir())
    assert log.read_bytes().split(b"\n") == [*(path.read_bytes() for path in files), b""]


def test_the_log_alone_leaves_the_directory_empty_and_tells_where_lines_end(place: Path) -> None:
    ends = keep(place, [event(1), event(2)])
    lines = (place / "job_events.jsonl").read_bytes().splitlines(keepends=True)
    assert ends == [len(lines[0]), len(lines[0]) + len(lines[1])]
    assert list((place / "job_events").iterdir()) == []


def test_without_being_asked_for_there_is_no_log(place: Path) -> None:
    assert keep(place, [event(1)], "files") == [f"1-{event(1)['uuid']}.json"]
    assert not (place / "job_events.jsonl").exists()


def test_an_event_is_one_write(place: Path) -> None:
    with ArtifactStore(place, keeps_output=False, events="log") as store:
        store.write_event(event(1))
        before = written()
        for counter in range(2, 202):
            store.write_event(event(counter, stdout="x" * 10_000))
        assert written() - before == 200


def written() -> int:
    """How many times this thread has written; the others have threads of their own."""
    words = Path(f"/proc/self/task/{threading.get_native_id()}/io").read_text().split()
    return int(words[words.index("syscw:") + 1])


@pytest.mark.parametrize("trap", ["link", "pipe", "directory"])
def test_what_stands_in_the_place_of_the_log_is_refused_by_name(place: Path, trap: str) -> None:
    log = place / "job_events.jsonl"
    if trap == "link":
        (place / "loot").write_text("precious")
        log.symlink_to(place / "loot")
    elif trap == "pipe":
        os.mkfifo(log)
    else:
        log.mkdir()
    with pytest.raises(ArtifactError, match=r"job_events\.jsonl can not be written"):
        keep(place, [event(1)])
    with pytest.raises(ArtifactError, match=r"job_events\.jsonl can not be read"):
        list(read_events(place))
    assert trap != "link" or (place / "loot").read_text() == "precious"


def test_what_does_not_fit_on_the_disk_is_taken_back(place: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ArtifactStore(place, keeps_output=False, events="log") as store:
        store.write_event(event(1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(ArtifactError, match=r"job_events\.jsonl can not be written"):
                store.write_event(event(2, stdout="x" * 1500))
            store.write_event(event(3))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert counters(read_events(place)) == [1, 3]


# Read back


@pytest.mark.parametrize("form", ["files", "log", "both"])
def test_events_host_events_and_stats_are_the_same_in_every_form(place: Path, form: Form) -> None:
    odd = 'é "quoted" \\ host'
    stats = {"ok": {"one": 2}, "changed": {}}
    events = [event(1, event_data=None), of_host(2, "one"), of_host(3, "other"), of_host(4, odd), of_host(5, "one")]
    events += [event(6, event="playbook_on_stats", event_data=stats), event(7, stdout="one, playbook_on_stats")]
    keep(place, events, form)
    job = results_of(place)
    assert list(job.events) == events
    assert counters(job.host_events("one")) == [2, 5]
    assert counters(job.host_events("other")) == [3]
    assert counters(job.host_events(odd)) == [4]
    assert counters(job.host_events("nobody")) == []
    assert (job.stats or {})["ok"] == {"one": 2}


def test_events_that_others_wrote_with_spaces_and_escapes_are_found_by_host(place: Path) -> None:
    for counter, host in enumerate(("one", "hôte", "other"), start=1):
        (place / f"job_events/{counter}-u.json").write_text(json.dumps(of_host(counter, host), indent=1))
    assert counters(results_of(place).host_events("hôte")) == [2]
    assert counters(results_of(place).host_events("one")) == [1]


def test_where_there_is_a_log_no_directory_is_listed(place: Path) -> None:
    keep(place, [of_host(1, "one"), event(2, event="playbook_on_stats", event_data={"ok": {"one": 1}})])
    (place / "job_events").rmdir()
    (place / "job_events").write_text("listing this would fail")
    job = results_of(place)
    assert counters(job.events) == [1, 2]
    assert counters(job.host_events("one")) == [1]
    assert (job.stats or {})["ok"] == {"one": 1}


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 200_000])
def test_lines_are_read_whole_from_both_ends_whatever_their_length(place: Path, size: int) -> None:
    first = event(1, event="playbook_on_stats", event_data={"ok": {"one": 1}})
    keep(place, [first, *(event(counter, stdout="x" * size) for counter in range(2, 6))])
    assert counters(read_events(place)) == [1, 2, 3, 4, 5]
    assert kept.last_event(kept.found(place), "playbook_on_stats") == first
    assert (kept.last_event(kept.found(place), "verbose") or {})["counter"] == 5


def test_an_empty_log_has_no_events(place: Path) -> None:
    keep(place, [])
    assert list(read_events(place)) == []
    assert results_of(place).stats is None
    assert EventLog(place).watch(lambda: None).take() is None


@pytest.mark.parametrize("torn", ["{", '{"counter": 3, "uuid": "u", "event": "playbook_on_stats"}'])
@pytest.mark.parametrize("whole", [0, 2])
def test_a_line_that_a_crash_has_cut_is_no_event_and_is_reported(
    place: Path, caplog: pytest.LogCaptureFixture, torn: str, whole: int
) -> None:
    keep(place, [event(1), event(2, event="playbook_on_stats")][:whole])
    with (place / "job_events.jsonl").open("a") as file:
        file.write(torn)
    job = results_of(place)
    watch = job.log.watch(lambda: None)
    reads: list[Callable[[], Iterable[dict[str, Any] | None]]] = [
        lambda: job.events,
        lambda: [job.log.last("playbook_on_stats")],
        lambda: iter(watch.take, None),
    ]
    expected = [[1, 2][:whole], [2][:whole], [1, 2][:whole]]
    for read, numbers in zip(reads, expected, strict=True):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ee_runner"):
            assert [each["counter"] for each in read() if each is not None] == numbers
        (said,) = caplog.messages
        assert f"job_events.jsonl ends in {len(torn)} bytes of an event that is not whole" in said


def test_a_line_that_is_no_event_is_named_by_its_number(place: Path) -> None:
    keep(place, [event(1)])
    with (place / "job_events.jsonl").open("a") as file:
        file.write("nonsense\n")
    events = read_events(place)
    assert next(events)["counter"] == 1
    with pytest.raises(ArtifactError, match=r"line 2 of .*job_events\.jsonl holds no event"):
        next(events)


# Gone on with


def test_a_store_that_goes_on_cuts_what_is_torn_and_passes_over_what_is_there(place: Path) -> None:
    keep(place, [event(1), event(2)])
    size = (place / "job_events.jsonl").stat().st_size
    with (place / "job_events.jsonl").open("a") as file:
        file.write('{"counter": 3, "uuid"')
    assert keep(place, [event(1), event(2)]) == [size, size]
    assert (place / "job_events.jsonl").stat().st_size == size
    keep(place, [event(2), event(3), event(4)])
    assert counters(read_events(place)) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("was", "asked", "goes_on"),
    [
        ("files", "log", "files"),
        ("files", "both", "files"),
        ("log", "files", "log"),
        ("log", "both", "log"),
        ("both", "files", "both"),
        ("both", "log", "both"),
    ],
)
def test_a_job_goes_on_in_the_form_in_which_it_was_begun(place: Path, was: Form, asked: Form, goes_on: Form) -> None:
    assert form_of(place, asked) == asked
    keep(place, [], was)
    assert form_of(place, was) == was
    keep(place, [event(1)], was)
    assert form_of(place, asked) == goes_on


@pytest.mark.parametrize("form", ["files", "log", "both"])
def test_a_stream_that_is_resumed_has_each_event_once(tmp_path: Path, form: Form) -> None:
    """The event whose record was not noted as processed, for the end came in between, is given again."""
    whole = own(*results(events=6))
    cut = whole.index(b"line 4")
    place = tmp_path / "artifacts"

    def processed(data: bytes, **options: Any) -> Any:
        return api.run(streamer="process", private_data_dir=tmp_path, _input=io.BytesIO(data), **options)

    first = processed(whole[:cut], job_events=form)
    assert (first.status, first.reason) == ("error", "lost")
    number = int((place / ".stream").read_text().split()[1])
    (place / ".stream").write_text(f"stream-1 {number - 1}".ljust(159) + "\n")
    last = processed(whole, resume=True, job_events="files")
    assert last.status == "successful"
    assert counters(last.events) == [1, 2, 3, 4, 5, 6]
    assert (place / "job_events.jsonl").exists() == (form != "files")
    assert len(list((place / "job_events").iterdir())) == (0 if form == "log" else 6)


@pytest.mark.parametrize("frames", [False, True])
def test_a_worker_can_not_bring_a_log_of_its_own(tmp_path: Path, frames: bool) -> None:
    planted = archive({"job_events.jsonl": json.dumps(event(9)) + "\n", "rc": "0"})
    data = own(STARTING, event(1), {"status": "successful"}, planted, {"eof": True}, frames=frames)
    end = api.run(streamer="process", private_data_dir=tmp_path, _input=io.BytesIO(data))
    assert counters(end.events) == [1]
    assert not (tmp_path / "artifacts/job_events.jsonl").exists()


# Followed


class Writer:
    """Writes events to a log as a job does: the line first, then word of it."""

    def __init__(self, place: Path) -> None:
        self.log = EventLog(place)
        self._store = ArtifactStore(place, keeps_output=False, events="log")
        self._counter = 0

    def write(self, *, keep: bool = True) -> None:
        self._counter += 1
        if keep:
            self.log.announce(self._store.write_event(event(self._counter)))

    def end(self) -> None:
        self.log.end()
        self._store.close()


def open_files(path: Path) -> int:
    """How many descriptors this process has of a file."""
    own = list(Path("/proc/self/fd").iterdir())
    return sum(1 for each in own if each.is_symlink() and os.path.realpath(each) == str(path))


def test_a_follower_gets_each_event_when_its_line_is_there_and_ends_with_the_job(place: Path) -> None:
    writer = Writer(place)
    writer.log.begin()
    events = iter(writer.log)
    for counter in (1, 2, 3):
        writer.write(keep=counter != 2)
        assert counter == 2 or next(events)["counter"] == counter
    late = iter(writer.log)
    assert next(late)["counter"] == 1
    writer.write()
    writer.end()
    assert counters(events) == [4]
    assert counters(late) == [3, 4]
    assert counters(writer.log) == [1, 3, 4]
    assert open_files(place / "job_events.jsonl") == 0


def test_nothing_is_lost_or_doubled_whenever_a_follower_joins(place: Path) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            for round_ in range(10):
                directory = place / str(round_)
                (directory / "job_events").mkdir(parents=True)
                moments, writer = random.Random(round_), Writer(directory)
                joined = threading.Event()
                writer.log.begin()

                def follow(wait: bool, log: EventLog = writer.log, joined: threading.Event = joined) -> list[int]:
                    assert not wait or joined.wait(PATIENCE)
                    return counters(log)

                following = [pool.submit(follow, bool(number % 2)) for number in range(8)]
                for number in range(300):
                    if number == 150:
                        joined.set()
                    writer.write(keep=moments.random() < 0.9)
                writer.end()
                expected = counters(read_events(directory))
                assert len(expected) > 200
                assert [each.result(PATIENCE) for each in following] == [expected] * 8
    finally:
        sys.setswitchinterval(interval)


def test_what_a_job_puts_beside_its_events_while_it_runs_is_not_taken_for_them(place: Path) -> None:
    log = EventLog(place)
    log.begin()
    with ArtifactStore(place, keeps_output=False) as store:
        log.announce(store.write_event(event(1)))
    (place / "job_events.jsonl").write_text(json.dumps(event(9)) + "\n")
    late = iter(log)
    assert next(late)["counter"] == 1
    log.end()
    assert counters(late) == []
    assert counters(log) == [1]


@pytest.mark.parametrize("how", ["closed", "forgotten", "ended"])
def test_who_follows_no_longer_holds_no_file(place: Path, how: str) -> None:
    writer = Writer(place)
    writer.log.begin()
    writer.write()
    events, watch = iter(writer.log), writer.log.watch(lambda: None)
    assert next(events)["counter"] == (watch.take() or {})["counter"] == 1
    held = open_files(place / "job_events.jsonl")
    assert held == 3  # the store's too
    if how == "closed":
        events.close()  # type: ignore[attr-defined]
        watch.close()
    elif how == "ended":
        writer.log.end()
        assert (list(events), watch.take()) == ([], None)
    del events, watch
    gc.collect()
    assert open_files(place / "job_events.jsonl") == 1
    writer.end()


def test_a_log_that_loses_its_end_while_it_is_followed_is_named(place: Path) -> None:
    writer = Writer(place)
    writer.log.begin()
    events = iter(writer.log)
    writer.write()
    assert next(events)["counter"] == 1
    writer.write()
    os.truncate(place / "job_events.jsonl", 10)
    with pytest.raises(ArtifactError, match=r"line 2 of .*job_events\.jsonl is gone"):
        next(events)
    writer.end()


# Files that were read before


def test_a_file_that_is_being_written_has_the_name_of_no_event(place: Path) -> None:
    (place / "job_events" / kept.PARTIAL).write_text("{")
    keep(place, [event(1)], "files")
    assert [path.name for path in (place / "job_events").iterdir()] == [f"1-{event(1)['uuid']}.json"]
    (place / "job_events" / kept.PARTIAL).write_text("{")
    assert counters(read_events(place)) == [1]


OPENS = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
from ee_runner.results import Results
seen = []
sys.addaudithook(lambda name, arguments: seen.append(1) if name == "open" and ".json" in str(arguments[0]) else None)
job = Results(SimpleNamespace(artifact_dir=sys.argv[1]))
for read in (lambda: job.events, lambda: job.events, lambda: job.host_events("one"), lambda: [job.stats]):
    seen.clear()
    print(len(list(read())), len(seen))
"""


def test_the_files_of_a_job_that_is_over_are_read_once(place: Path) -> None:
    keep(place, [of_host(counter, "one") for counter in range(1, 11)], "files")
    os.utime(place / "job_events", ns=(LONG_AGO, LONG_AGO))
    done = subprocess.run([sys.executable, "-c", OPENS, place], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["10", "10", "10", "0", "10", "0", "1", "0"]


@pytest.mark.parametrize("how", ["added", "replaced", "removed", "added, with the time set back"])
def test_a_change_of_the_files_is_seen(place: Path, how: str) -> None:
    keep(place, [event(1), event(2, stdout="old")], "files")
    os.utime(place / "job_events", ns=(LONG_AGO, LONG_AGO))
    job = results_of(place)
    assert [each["stdout"] for each in job.events] == ["line 1", "old"]
    if how == "removed":
        (place / f"job_events/2-{event(2)['uuid']}.json").unlink()
    else:
        keep(place, [event(2 if how == "replaced" else 3, stdout="new")], "files")
    if how == "added, with the time set back":
        os.utime(place / "job_events", ns=(LONG_AGO, LONG_AGO))
    expected = {"removed": ["line 1"], "replaced": ["line 1", "new"]}.get(how, ["line 1", "old", "new"])
    assert [each["stdout"] for each in job.events] == expected


def test_the_files_of_one_job_are_remembered_at_a_time_and_go_with_who_read_them(tmp_path: Path) -> None:
    jobs = []
    for name in ("a", "b"):
        (tmp_path / name / "job_events").mkdir(parents=True)
        keep(tmp_path / name, [event(1)], "files")
        os.utime(tmp_path / name / "job_events", ns=(LONG_AGO, LONG_AGO))
        jobs.append(kept.Files(tmp_path / name / "job_events"))
        assert counters(kept.events(jobs[-1])) == [1]
    assert [job._remembered is not None for job in jobs] == [False, True]
    assert counters(kept.events(jobs[0])) == [1]
    assert [job._remembered is not None for job in jobs] == [True, False]
    gone = weakref.ref(jobs.pop(0))
    gc.collect()
    assert gone() is None


def test_too_much_is_not_remembered(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(place, [event(1, stdout="x" * 1000), event(2)], "files")
    os.utime(place / "job_events", ns=(LONG_AGO, LONG_AGO))
    for limit, remembered in ((1000, False), (10_000, True)):
        monkeypatch.setattr(kept, "_MEMORY", limit)
        files = kept.Files(place / "job_events")
        assert counters(kept.events(files)) == [1, 2]
        assert (files._remembered is not None) == remembered
