"""Whatever is killed, and whenever: nothing of a worker is left, as seen from outside."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from ee_runner.cli import remains
from tests.support import processes
from tests.support.processes import REPO, alive, all_pids, wait_until

PROGRAM = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.support.guarded"]
"""Python 3.12 warns of a fork beside a thread, on a stderr that tests look at, or that takes nothing."""

MARK = "GUARDED_TEST"
BOUND = 30.0


def marked(mark: str) -> list[int]:
    """Return the processes, of whatever parent, that inherited this mark."""
    found = []
    for pid in all_pids():
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") and alive(pid):
                found.append(pid)
    return found


@dataclass
class Guarded:
    """A program under guard."""

    process: subprocess.Popen[bytes]
    mark: str = field(default="")

    @property
    def front(self) -> int:
        return self.process.pid

    @property
    def guardian(self) -> int:
        return self.below()[0]

    @property
    def worker(self) -> int:
        return self.below()[1]

    def below(self) -> tuple[int, int]:
        """Return the guardian and the worker as soon as they can be told apart."""
        wait_until(lambda: bool(self.titles()), bound=BOUND, what="a guardian")
        return self.titles()[0]

    def titles(self) -> list[tuple[int, int]]:
        found = [(pid, command(pid).partition("ee-guardian of process ")) for pid in marked(self.mark)]
        return [(pid, int(worker)) for pid, (before, title, worker) in found if title and not before]

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def gone(self) -> None:
        """See that all processes have ended."""
        wait_until(lambda: not marked(self.mark), bound=BOUND, what=f"end of {marked(self.mark)}")

    def ended(self) -> tuple[int, str]:
        """See that all has ended, and return the exit code and stderr."""
        code = self.process.wait(BOUND)
        self.gone()
        return code, "" if self.process.stderr is None else self.process.stderr.read().decode()


def command(pid: int) -> str:
    """Return the words with which a process was started, or by which it wants to be known."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()
    except OSError:
        return ""


@pytest.fixture
def start() -> Iterator[Callable[..., Guarded]]:
    """Start programs under guard; what a failed test leaves of them is killed."""
    started: list[Guarded] = []

    def begin(
        name: str,
        *arguments: object,
        before: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        ready: bool = True,
        stderr: int = subprocess.PIPE,
        pass_fds: Sequence[int] = (),
    ) -> Guarded:
        mark = uuid.uuid4().hex
        process = subprocess.Popen(
            [*before, *PROGRAM, name, *map(str, arguments)],
            cwd=REPO,
            env={**os.environ, MARK: mark, "GUARDED_GRACE": "0.3", **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        started.append(guarded := Guarded(process, mark))
        if ready:
            assert guarded.line() == "ready", process.stderr and process.stderr.read()
        return guarded

    yield begin
    for each in started:
        for pid in marked(each.mark):
            processes.signal_if_alive(pid, signal.SIGKILL)
        for stream in (each.process.stdin, each.process.stdout, each.process.stderr):
            if stream is not None:
                stream.close()
        each.process.wait()


Start = Callable[..., Guarded]


class TestLeftAlone:
    def test_the_work_reads_stdin_writes_stdout_and_its_code_is_the_commands(self, start: Start) -> None:
        program = start("copy")
        out, err = program.process.communicate(b"hello\n42")
        assert (program.process.returncode, out, err) == (42, b"hello\n42\n", b"")
        program.gone()

    @pytest.mark.parametrize(
        ("what", "code", "words"),
        [("error", 1, "ValueError: wrong\n"), ("exit", 1, "told\n"), ("code", 7, "")],
    )
    def test_an_exception_ends_the_worker_as_it_would_end_a_program(
        self, start: Start, what: str, code: int, words: str
    ) -> None:
        ended, err = start("raising", what, ready=False).ended()
        assert ended == code
        assert err.endswith(words)
        assert "ansible-runner:" not in err

    def test_a_background_process_of_a_worker_that_ends_in_order_stays(self, start: Start) -> None:
        program = start("leaving", ready=False)
        left = int(program.line())
        assert program.process.wait(BOUND) == 0
        assert alive(left)

    def test_the_reader_sees_the_end_of_the_output_although_the_guards_stand_still(self, start: Start) -> None:
        program = start("copy")
        guards = (program.front, program.guardian)
        for pid in guards:
            os.kill(pid, signal.SIGSTOP)
        assert program.process.stdin is not None
        assert program.process.stdout is not None
        program.process.stdin.close()
        assert program.process.stdout.read() == b""
        for pid in guards:
            os.kill(pid, signal.SIGCONT)
        assert program.ended()[0] == 0

    def test_the_guards_hold_nothing_open_but_stderr_and_pipes_of_their_own(self, start: Start, tmp_path: Path) -> None:
        with (tmp_path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            program = start("copy", pass_fds=(lock.fileno(),))
        ours = {Path(f"/proc/{program.worker}/fd/{number}").readlink() for number in (0, 1)} | {tmp_path / "lock"}
        for pid in (program.front, program.guardian):
            wait_until(partial(apart, pid, ours), bound=BOUND, what=f"a guard that holds {held(pid)}")
            assert len(held(pid)) <= 8

    def test_a_guard_is_told_from_the_worker_by_its_name(self, start: Start) -> None:
        program = start("copy")
        assert Path(f"/proc/{program.guardian}/comm").read_text() == "ee-guardian\n"
        assert "tests.support.guarded copy" in command(program.worker)

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
    def test_closed_standard_streams_do_not_matter(self, start: Start, closed: str) -> None:
        program = start("copy", before=("sh", "-c", f'exec "$@" {closed}', "sh"), ready=False)
        out, _ = program.process.communicate(b"3")
        assert program.process.returncode == (0 if "<&-" in closed else 3)
        assert (b"ready" in out) == (">&-" not in closed.split())
        program.gone()

    def test_inherited_signal_settings_do_not_matter(self, start: Start) -> None:
        code = (
            "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGTERM]); "
            "os.execvp(sys.argv[1], sys.argv[1:])"
        )
        program = start("copy", before=(sys.executable, "-c", code))
        assert program.process.communicate(b"5")[0] == b"5\n"
        assert program.process.returncode == 5


def apart(pid: int, paths: set[Path]) -> bool:
    """Say whether a process holds none of these open."""
    return not held(pid) & paths


def held(pid: int) -> set[Path]:
    """Return what a process holds open."""
    return {entry.readlink() for entry in Path(f"/proc/{pid}/fd").iterdir()}


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_what_is_sent_to_the_command_reaches_the_worker_once(self, start: Start, number: signal.Signals) -> None:
        program = start("told")
        os.killpg(program.front, number)  # as a terminal and timeout(1) do
        os.kill(program.front, number)
        assert program.line() == number.name
        os.kill(program.front, signal.SIGQUIT)
        assert program.ended() == (0, "")
        assert program.line() == ""

    def test_the_same_signal_later_is_another(self, start: Start) -> None:
        program = start("told")
        for _ in range(2):
            os.kill(program.front, signal.SIGTERM)
            assert program.line() == "SIGTERM"
            time.sleep(0.3)

    def test_what_nohup_ignores_stays_ignored(self, start: Start) -> None:
        program = start("plain", before=("nohup",))
        for pid in (program.front, program.guardian, program.worker):
            os.kill(pid, signal.SIGHUP)
        os.kill(program.front, signal.SIGTERM)
        code, err = program.ended()
        assert code == 128 + signal.SIGTERM
        assert "killed by SIGTERM; it left nothing behind" in err

    def test_a_signal_that_the_worker_does_not_catch_ends_all(self, start: Start) -> None:
        program = start("plain")
        os.kill(program.front, signal.SIGINT)
        code, err = program.ended()
        assert code == 130
        assert err.count("\n") == 1


class TestKilled:
    def test_a_killed_worker_leaves_nothing_and_one_line_says_so(self, start: Start, tmp_path: Path) -> None:
        program = start("job", tmp_path)
        worker = program.worker
        os.kill(worker, signal.SIGKILL)
        code, err = program.ended()
        assert code == 128 + signal.SIGKILL
        assert list(tmp_path.iterdir()) == []
        assert err.startswith(f"ansible-runner: process {worker} was killed by SIGKILL; ended ")
        assert f"removed {tmp_path / 'owned'};" in err
        assert err.count("\n") == 1

    def test_a_stopped_worker_that_is_killed_leaves_nothing(self, start: Start, tmp_path: Path) -> None:
        program = start("job", tmp_path)
        worker = program.worker
        os.kill(worker, signal.SIGSTOP)
        os.kill(worker, signal.SIGKILL)
        assert program.ended()[0] == 137
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("worker", ["running", "stopped"])
    def test_when_the_command_is_killed_the_worker_ends_its_job_in_order(
        self, start: Start, tmp_path: Path, worker: str
    ) -> None:
        program = start("job", tmp_path)
        if worker == "stopped":
            os.kill(program.worker, signal.SIGSTOP)
        os.kill(program.front, signal.SIGKILL)
        assert program.ended()[0] == -signal.SIGKILL
        assert [entry.name for entry in tmp_path.iterdir()] == ["ended-in-order"]

    def test_a_worker_without_a_word_for_it_gets_sigterm_when_the_command_is_killed(self, start: Start) -> None:
        program = start("plain")
        os.kill(program.front, signal.SIGKILL)
        assert "killed by SIGTERM" in program.ended()[1]

    def test_when_the_guardian_is_killed_the_command_cleans_up(self, start: Start, tmp_path: Path) -> None:
        program = start("job", tmp_path)
        guardian = program.guardian
        os.kill(guardian, signal.SIGKILL)
        code, err = program.ended()
        assert code == 137
        assert [entry.name for entry in tmp_path.iterdir()] == ["ended-in-order"]
        assert f"process {guardian} was killed by SIGKILL" in err

    def test_the_guardian_survives_what_kills_the_commands_group(self, start: Start, tmp_path: Path) -> None:
        program = start("job", tmp_path)
        os.killpg(program.front, signal.SIGKILL)
        program.ended()
        assert [entry.name for entry in tmp_path.iterdir()] == ["ended-in-order"]

    def test_the_guardian_survives_what_kills_by_the_command_line(self, start: Start, tmp_path: Path) -> None:
        program = start("job", tmp_path)
        for pid in marked(program.mark):
            if "tests.support.guarded" in command(pid):
                os.kill(pid, signal.SIGKILL)
        program.ended()
        assert {entry.name for entry in tmp_path.iterdir()} <= {"ended-in-order"}

    def test_a_child_from_before_the_command_is_left_alone(self, start: Start, tmp_path: Path) -> None:
        program = start("job", tmp_path, before=("sh", "-c", 'sleep 601 & exec "$@"', "sh"))
        older = next(pid for pid in marked(program.mark) if command(pid) == "sleep 601")
        os.kill(program.guardian, signal.SIGKILL)
        assert program.process.wait(BOUND) == 137
        assert marked(program.mark) == [older]

    def test_a_thousand_orphans_are_ended(self, start: Start) -> None:
        program = start("many", 1000)
        os.kill(program.worker, signal.SIGKILL)
        code, err = program.ended()
        assert code == 137
        assert "ended 1000 processes" in err

    def test_processes_that_always_start_others_are_ended(self, start: Start) -> None:
        program = start("restless")
        os.kill(program.worker, signal.SIGKILL)
        assert program.ended()[0] == 137

    def test_all_that_was_told_counts_even_when_a_pipe_can_not_hold_it(self, start: Start, tmp_path: Path) -> None:
        program = start("telling", tmp_path)
        assert len(list(tmp_path.iterdir())) == 8
        os.kill(program.worker, signal.SIGKILL)
        program.ended()
        assert list(tmp_path.iterdir()) == []

    def test_a_stderr_that_nobody_reads_or_can_write_keeps_nothing_from_being_cleaned(
        self, start: Start, tmp_path: Path
    ) -> None:
        read, write = os.pipe()
        with contextlib.suppress(BlockingIOError):
            os.set_blocking(write, False)
            while True:
                os.write(write, b"x" * 4096)
        os.set_blocking(write, True)
        program = start("job", tmp_path, stderr=write)
        os.kill(program.worker, signal.SIGKILL)
        assert program.ended()[0] == 137
        assert list(tmp_path.iterdir()) == []
        os.close(read)
        os.close(write)

    def test_as_the_first_process_of_a_container_it_reaps_whatever_ends(self, start: Start) -> None:
        inside = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child")
        program = start("zombies", before=inside, ready=False)
        assert json.loads(program.line()) == {"front": 1, "zombies": []}
        assert program.ended() == (0, "")


VICTIMS = ("front", "guardian", "worker", "group", "front and worker")


def kill(program: Guarded, victim: str) -> None:
    """Kill, of what is there yet; before there is a worker, the command alone."""
    pids = {"front": program.front}
    for pids["guardian"], pids["worker"] in program.titles():
        break
    if victim == "group":
        os.killpg(program.front, signal.SIGKILL)
    for name in victim.split(" and "):
        processes.signal_if_alive(pids.get(name, program.front), signal.SIGKILL)


def test_nothing_is_left_by_kills_at_random_moments(start: Start, tmp_path: Path) -> None:
    chance = random.Random(20)

    def play(number: int) -> str:
        directory = tmp_path / str(number)
        directory.mkdir()
        program = start("job", directory, ready=False)
        time.sleep(delays[number])
        victim = VICTIMS[number % len(VICTIMS)]
        kill(program, victim)
        program.ended()
        left = {entry.name for entry in directory.iterdir()} - {"ended-in-order"}
        return f"{victim} after {delays[number]:.3f} s: {left}" if left else ""

    delays = [chance.uniform(0.0, 0.6) for _ in range(20)]
    with ThreadPoolExecutor(4) as rounds:
        assert not list(filter(None, rounds.map(play, range(20))))


class TestRemoving:
    def test_a_record_that_is_not_whole_was_not_told(self) -> None:
        told = remains.record(("owns", "/a/b", "")) + remains.record(("owns", "/c\nd", "1:2"))
        whole = len(remains.record(("owns", "/a/b", "")))
        for cut in range(len(told)):
            claims = remains.Claims()
            for part in (told[:cut][:7], told[:cut][7:]):
                claims.feed(part)
            assert dict(claims.paths()) == ({"/a/b": ""} if cut >= whole else {})

    def test_what_a_link_leads_to_stays(self, tmp_path: Path) -> None:
        (outside := tmp_path / "outside").mkdir()
        (outside / "file").touch()
        (tree := tmp_path / "tree").mkdir()
        (tree / "link").symlink_to(outside)
        assert remains.remove(str(tree))
        assert (outside / "file").exists()

    def test_a_link_in_the_place_of_a_tree_stays(self, tmp_path: Path) -> None:
        (outside := tmp_path / "outside").mkdir()
        (link := tmp_path / "link").symlink_to(outside)
        assert not remains.remove(str(link))
        assert link.is_symlink()
        assert outside.exists()

    def test_a_link_on_the_way_to_a_tree_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "real" / "tree").mkdir(parents=True)
        (tmp_path / "link").symlink_to("real")
        with pytest.raises(OSError, match="Not a directory"):
            remains.remove(str(tmp_path / "link" / "tree"))
        assert (tmp_path / "real" / "tree").exists()

    def test_what_is_another_users_stays_unless_it_was_told_when_it_was_there(self, tmp_path: Path) -> None:
        foreign = tmp_path / "foreign"
        foreign.touch()
        if os.geteuid():
            assert not remains.remove("/etc/hostname")
            return
        os.chown(foreign, 65534, 65534)
        assert not remains.remove(str(foreign))
        assert remains.remove(str(foreign), remains.identity(foreign.stat()))
        assert not foreign.exists()

    def test_a_tree_of_any_depth_is_removed(self, tmp_path: Path) -> None:
        here = os.open(tmp_path, os.O_RDONLY)
        for _ in range(1000):
            os.mkdir("tree", dir_fd=here)
            below = os.open("tree", os.O_RDONLY, dir_fd=here)
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=below))
            os.close(here)
            here = below
        os.close(here)
        assert remains.remove(str(tmp_path / "tree"))
        assert list(tmp_path.iterdir()) == []

    def test_modes_keep_nothing_from_being_removed(self, tmp_path: Path) -> None:
        top = tmp_path / "top"
        deep = top.joinpath("tree", "locked-0", *(["locked"] * 70))
        deep.mkdir(parents=True)
        (deep / "file").touch()
        for each in (tmp_path, *tmp_path.parents):
            if each.stat().st_uid == os.geteuid() and each.name.startswith(("pytest", "test")):
                each.chmod(0o755)
        subprocess.run([*PROGRAM, "unprivileged_remove", top / "tree"], cwd=REPO, check=True)
        assert not (top / "tree").exists()

    def test_what_is_mounted_in_a_tree_keeps_it_all(self, tmp_path: Path) -> None:
        (source := tmp_path / "source").mkdir()
        (source / "file").touch()
        (tree := tmp_path / "tree").mkdir()
        inside = ("unshare", "--user", "--map-root-user", "--mount")
        done = subprocess.run(
            [*inside, *PROGRAM, "mounted_remove", tree, source], cwd=REPO, check=True, capture_output=True, text=True
        )
        assert done.stdout.strip() == f"{tree} can not be removed: a file system is mounted at {tree / 'with blank'}"
        assert (source / "file").exists()
