"""The journal of a remote job: read again and followed, whoever is killed, stuck or gone, without polling."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ee_runner.errors import ArtifactError, ConfigurationError
from ee_runner.stream import journal
from ee_runner.stream.journal import Journal

WORKER = """
import sys
from pathlib import Path
from ee_runner.stream.journal import Journal
with Journal.create(Path(sys.argv[1]), sys.argv[2]) as journal:
    print("there", flush=True)
    for line in sys.stdin.buffer:
        journal.append(line)
        print("written", flush=True)
"""
"""Writes what it reads into a journal, line by line."""

FOLLOWER = """
import hashlib, sys
from pathlib import Path
from ee_runner.stream.journal import attached
total = hashlib.sha256()
with attached(Path(sys.argv[1]), sys.argv[2]) as following:
    print("there", flush=True)
    for data in following:
        total.update(data)
        print("some", flush=True)
print(total.hexdigest())
"""
"""Follows a journal, says so at each piece, and at the end what it was."""


class Program:
    """A process that is told lines and answers with lines."""

    def __init__(self, text: str, *arguments: object) -> None:
        argv = (sys.executable, "-c", text, *map(str, arguments))
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.hear() == "there"

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def tell(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()
        assert self.hear() == "written"

    def end(self) -> str:
        """Wait for the end, and return the last line."""
        output = self.process.communicate(timeout=60)[0]
        assert self.process.returncode == 0
        return output.decode().strip().rpartition("\n")[2]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before, threads = descriptors(), set(threading.enumerate())
    yield
    assert descriptors() <= before
    assert set(threading.enumerate()) <= threads


def descriptors() -> set[tuple[str, str]]:
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one of this listing
            found.add((path.name, str(path.readlink())))
    return found


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def written(state: Path, ident: str, *records: bytes) -> bytes:
    with Journal.create(state, ident) as writing:
        for record in records:
            writing.append(record)
    return b"".join(records)


def test_a_journal_is_the_very_bytes_in_a_private_file(state: Path) -> None:
    data = written(state, "job", b"hello\n", b"", b"\0\xff" * 1000)
    file = state / "job" / "results"
    assert file.read_bytes() == data
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in (state, state / "job")} == {0o700}
    assert [path.name for path in (state / "job").iterdir()] == ["results"]


def test_a_journal_that_has_ended_is_read_from_its_file(state: Path) -> None:
    data = written(state, "job", *(os.urandom(10_000) for _ in range(100)))
    assert b"".join(journal.attached(state, "job")) == data


def test_an_empty_journal_ends_at_once(state: Path) -> None:
    written(state, "job")
    assert list(journal.attached(state, "job")) == []


def test_who_attaches_gets_what_was_there_and_what_comes(state: Path) -> None:
    worker = Program(WORKER, state, "job")
    worker.tell(b"before")
    follower = Program(FOLLOWER, state, "job")
    assert follower.hear() == "some"
    for each in (b"one", b"two"):
        worker.tell(each)
        assert follower.hear() == "some"
    worker.end()
    assert follower.end() == digest(b"before\none\ntwo\n")


def test_every_follower_gets_every_byte_in_order_and_a_stuck_one_holds_up_nobody(state: Path) -> None:
    records = [(b"%d " % number) * 300 for number in range(8000)]
    with Journal.create(state, "job") as writing:
        stopped = Program(FOLLOWER, state, "job")
        os.kill(stopped.process.pid, signal.SIGSTOP)
        stuck = journal.attached(state, "job")
        followers = [Program(FOLLOWER, state, "job") for _ in range(3)]
        for record in records:
            writing.append(record)
    assert [follower.end() for follower in followers] == [digest(b"".join(records))] * 3
    assert b"".join(stuck) == b"".join(records)
    os.kill(stopped.process.pid, signal.SIGCONT)
    assert stopped.end() == digest(b"".join(records))


def test_followers_that_die_or_knock_and_leave_do_not_disturb_the_job(state: Path) -> None:
    with Journal.create(state, "job") as writing:
        for _ in range(3):
            Program(FOLLOWER, state, "job").kill()
            with socket.socket(socket.AF_UNIX) as knocking:
                (bell,) = (state / "job").glob("socket.*")
                knocking.connect(str(bell))
            writing.append(b"x")
            writing.append(b"y")
        following = journal.attached(state, "job")
    assert b"".join(following) == b"xyxyxy"


def test_a_killed_worker_ends_what_its_followers_get(state: Path) -> None:
    worker = Program(WORKER, state, "job")
    followers = [Program(FOLLOWER, state, "job") for _ in range(2)]
    worker.tell(b"written before")
    with journal.attached(state, "job") as following:  # still at the door
        worker.kill()
        assert b"".join(following) == b"written before\n"
    assert [follower.end() for follower in followers] == [digest(b"written before\n")] * 2
    assert b"".join(journal.attached(state, "job")) == b"written before\n"


def test_a_follower_that_comes_before_the_first_byte_gets_all(state: Path) -> None:
    with Journal.create(state, "job") as writing:
        following = journal.attached(state, "job")
        writing.append(b"first")
        assert next(following) == b"first"
    assert list(following) == []


def test_who_waits_sleeps(state: Path) -> None:
    def switches() -> str:
        status = Path(f"/proc/{follower.process.pid}/status").read_text()
        return "".join(re.findall(r"State:.*|voluntary_ctxt_switches:.*", status))

    with Journal.create(state, "job") as writing:
        writing.append(b"x")
        follower = Program(FOLLOWER, state, "job")
        assert follower.hear() == "some"
        deadline = time.monotonic() + 30
        while "S (sleeping)" not in (before := switches()) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        assert switches() == before
    assert follower.end() == digest(b"x")


def test_threads_may_append_at_once_and_every_record_stays_whole(state: Path) -> None:
    with Journal.create(state, "job") as writing:

        def work(letter: bytes) -> None:
            for _ in range(200):
                writing.append(letter * 5000 + b"\n")

        threads = [threading.Thread(target=work, args=(letter,)) for letter in (b"a", b"b", b"c")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = (state / "job" / "results").read_bytes().splitlines()
    assert sorted(lines) == sorted([letter * 5000 for letter in (b"a", b"b", b"c")] * 200)


def test_a_job_that_runs_keeps_its_journal(state: Path) -> None:
    worker = Program(WORKER, state, "job")
    worker.tell(b"mine")
    with pytest.raises(ConfigurationError, match="'job' is running"):
        Journal.create(state, "job")
    worker.end()
    assert (state / "job" / "results").read_bytes() == b"mine\n"


@pytest.mark.parametrize("ending", ["end", "kill"])
def test_a_job_that_is_over_makes_room_and_its_readers_keep_what_they_read(state: Path, ending: str) -> None:
    worker = Program(WORKER, state, "job")
    worker.tell(b"old")
    getattr(worker, ending)()
    following = journal.attached(state, "job")
    assert written(state, "job", b"new") == b"new"
    assert b"".join(following) == b"old\n"
    assert b"".join(journal.attached(state, "job")) == b"new"


def test_a_fork_that_leaves_the_block_does_not_end_the_journal(state: Path) -> None:
    with Journal.create(state, "job") as writing:
        following = journal.attached(state, "job")
        writing.append(b"before ")
        if not (child := os.fork()):
            try:
                writing.end()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0) == (child, 0)
        writing.append(b"after")
        with pytest.raises(ConfigurationError, match="is running"):
            Journal.create(state, "job")
    assert b"".join(following) == b"before after"


def test_nothing_is_written_after_the_end_which_may_come_twice(state: Path) -> None:
    with Journal.create(state, "job") as writing:
        writing.append(b"x")
        writing.end()
        with pytest.raises(ArtifactError, match="has ended"):
            writing.append(b"y")
    assert (state / "job" / "results").read_bytes() == b"x"


def test_a_full_disk_leaves_whole_records_and_no_gap(state: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal.create(state, "job") as writing:
        following = journal.attached(state, "job")
        writing.append(b"a" * 600)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(ArtifactError, match=r"The journal .*job/results can not be written"):
                writing.append(b"b" * 600)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        with pytest.raises(ArtifactError, match="can not be written"):
            writing.append(b"c")
    assert b"".join(following) == b"a" * 600


def test_an_unknown_ident_is_answered_with_those_that_there_are(state: Path) -> None:
    for number, ident in enumerate(("deploy-web", "deploy-db")):
        written(state, ident)
        os.utime(state / ident / "results", (number, number))
    with pytest.raises(ConfigurationError, match=r"'deploy-wbe'.*did you mean 'deploy-web'.*deploy-db, deploy-web\."):
        journal.attached(state, "deploy-wbe")


def test_of_many_idents_the_newest_are_named(state: Path) -> None:
    for number in range(12):
        written(state, f"job{number}")
        os.utime(state / f"job{number}" / "results", (number, number))
    with pytest.raises(ConfigurationError, match=r"job11, job10, .* job2 and 2 more\."):
        journal.attached(state, "else")


def test_where_there_is_no_journal_this_is_said(state: Path) -> None:
    with pytest.raises(ConfigurationError, match="none at all"):
        journal.attached(state, "job")
    assert not state.exists()


@pytest.mark.parametrize("ident", ["", "..", "a/b", "../job", "x" * 300, "a\0b"])
def test_an_ident_that_leads_elsewhere_is_refused(state: Path, ident: str) -> None:
    with pytest.raises(ConfigurationError, match="can not name a journal"):
        Journal.create(state, ident)
    with pytest.raises(ConfigurationError, match="can not name a journal"):
        journal.attached(state, ident)
    assert not state.exists()


def test_a_link_in_the_place_of_a_journal_is_not_followed(state: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    state.mkdir()
    (state / "job").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="can not be written"):
        Journal.create(state, "job")
    with pytest.raises(ArtifactError, match="can not be read"):
        journal.attached(state, "job")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_place_with_a_long_name_is_followed_too(state: Path) -> None:
    deep = state.joinpath(*["directory" * 10] * 3)
    with Journal.create(deep, "ident" * 20) as writing:
        following = journal.attached(deep, "ident" * 20)
        writing.append(b"one")
        assert next(following) == b"one"
        writing.append(b"two")
    assert b"".join(following) == b"two"


def test_what_a_crash_left_half_made_is_made_anew(state: Path) -> None:
    (state / "job").mkdir(parents=True, mode=0o755)
    (state / "job" / "results.new").write_text("half")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(state / "job" / "socket.1"))
    assert written(state, "job", b"whole") == (state / "job" / "results").read_bytes()
    assert stat.S_IMODE((state / "job").stat().st_mode) == 0o700
    assert [path.name for path in (state / "job").iterdir()] == ["results"]


def test_a_directory_of_another_user_is_no_place_for_a_journal(state: Path) -> None:
    (state / "job").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(state / "job", 12345, 12345)
        with pytest.raises(ConfigurationError, match="belongs to another user"):
            Journal.create(state, "job")
    else:
        with pytest.raises((ConfigurationError, ArtifactError)):
            Journal.create(Path("/"), "usr")


def test_rotation_keeps_the_newest_that_have_ended_and_all_that_run(state: Path) -> None:
    worker = Program(WORKER, state, "running")
    for number in range(5):
        written(state, f"job{number}", b"x")
        os.utime(state / f"job{number}" / "results", (number + 1, number + 1))
    os.utime(state / "running" / "results", (0, 0))
    (state / "notes").mkdir()
    journal.rotate(state, 0)
    journal.rotate(state, 2)
    assert sorted(path.name for path in state.iterdir()) == ["job3", "job4", "notes", "running"]
    worker.kill()
    journal.rotate(state, 1)
    assert sorted(path.name for path in state.iterdir()) == ["job4", "notes"]


def test_where_there_are_no_journals_nothing_is_rotated(state: Path) -> None:
    journal.rotate(state, 1)
    assert not state.exists()


STARTS = """
import sys
from pathlib import Path
from ee_runner.stream import journal
print("there", flush=True)
for number in range(100):
    with journal.Journal.create(Path(sys.argv[1]), f"{sys.argv[2]}-{number % 3}") as writing:
        writing.append(b"x")
        journal.rotate(Path(sys.argv[1]), 2)
"""


def test_jobs_that_begin_end_and_rotate_at_once_do_not_disturb_each_other(state: Path) -> None:
    workers = [Program(STARTS, state, name) for name in "abc"]
    for worker in workers:
        worker.end()
    journal.rotate(state, 2)
    left = list(state.iterdir())
    assert len(left) == 2
    assert all((path / "results").read_bytes() == b"x" for path in left)


def test_who_reads_an_earlier_job_does_not_wait_for_the_one_that_took_its_place(state: Path) -> None:
    written(state, "job", b"old")
    following = journal.attached(state, "job")
    with Journal.create(state, "job"):
        assert b"".join(following) == b"old"


REPLACES = """
import sys
from pathlib import Path
from ee_runner.stream.journal import Journal
print("there", flush=True)
for number in range(300):
    with Journal.create(Path(sys.argv[1]), "job") as writing:
        for part in range(20):
            writing.append(b"%d\\n" % number)
"""


def test_who_attaches_while_one_job_follows_another_gets_one_of_them_and_all_of_it(state: Path) -> None:
    written(state, "job", *[b"first\n"] * 20)
    worker = Program(REPLACES, state)
    attachments = 0
    while worker.process.poll() is None:
        lines = b"".join(journal.attached(state, "job")).splitlines()
        assert len(lines) == 20
        assert len(set(lines)) == 1
        attachments += 1
    worker.end()
    assert attachments > 10
