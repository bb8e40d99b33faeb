"""Jobs in the background: started, asked for and stopped, and what a closed terminal does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from ee_runner.cli import control
from ee_runner.cli.main import main
from ee_runner.job import Limits
from ee_runner.processes import Identity
from tests.support.processes import alive, descendants, wait_until

BOUND = 30.0
COMMAND = (sys.executable, "-m", "ee_runner")
WAITS = """\
- hosts: localhost
  gather_facts: false
  vars:
    ansible_connection: local
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
    - name: waits
      command: "cat {{ playbook_dir }}/../gate"
"""
FAILS = "- hosts: localhost\n  gather_facts: false\n  tasks:\n    - fail:\n"
STARTED = re.compile(r"started (\S+), process (\d+)\n")


@dataclass(frozen=True)
class Demo:
    """A private data directory with a playbook that waits until its gate is opened."""

    directory: Path

    def call(self, command: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, command, str(self.directory), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=4 * BOUND,
            env={**os.environ, **environ},
            check=False,
        )

    def start(self, *arguments: str) -> tuple[str, int]:
        """Start the playbook in the background; return the job's ident and pid."""
        done = self.call("start", "-p", "waits.yml", *arguments)
        found = STARTED.fullmatch(done.stdout)
        assert found, done.stdout + done.stderr
        assert (done.returncode, done.stderr) == (0, "")
        return found[1], int(found[2])

    @contextlib.contextmanager
    def foreground(self, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the playbook in the foreground, as the job ``front``, until the block ends."""
        argv = argv or (*COMMAND, "run", str(self.directory), "-p", "waits.yml", "-i", "front")
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as job:
            self.wait_for("front", b"running")
            try:
                yield job
            finally:
                job.send_signal(signal.SIGTERM)
                job.communicate(timeout=BOUND)

    def open_gate(self) -> None:
        """Let one job that waits go on."""
        os.close(opened(self.directory / "gate"))

    def artifact(self, ident: str, name: str) -> bytes:
        path = self.directory / "artifacts" / ident / name
        return path.read_bytes() if path.exists() else b""

    def wait_for(self, ident: str, status: bytes) -> None:
        wait_until(lambda: self.artifact(ident, "status") == status, bound=BOUND, what=f"{ident} being {status!r}")

    @property
    def pid(self) -> Path:
        return self.directory / "pid"

    @property
    def log(self) -> Path:
        return self.directory / "daemon.log"


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Demo]:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    directory = tmp_path / "demo"
    (directory / "project").mkdir(parents=True)
    (directory / "project" / "waits.yml").write_text(WAITS)
    (directory / "project" / "fails.yml").write_text(FAILS)
    os.mkfifo(directory / "gate")
    made = Demo(directory)
    yield made
    while (done := made.call("stop")).returncode == 2:  # a test that failed may have left several
        for ident in re.findall(r"(\S+) \(process", done.stderr):
            made.call("stop", "-i", ident)
    assert done.returncode == 1, done.stdout + done.stderr


def opened(pipe: Path) -> int:
    """Open a named pipe to write to, when somebody reads it."""
    found = []

    def is_read() -> bool:
        with contextlib.suppress(OSError):
            found.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(found)

    wait_until(is_read, bound=BOUND, what=f"a reader of {pipe}")
    return found[0]


def gone(pid: int) -> None:
    wait_until(lambda: not alive(pid), bound=BOUND, what=f"end of process {pid}")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_start_returns_when_the_job_runs_and_the_job_goes_on_by_itself(demo: Demo) -> None:
    ident, pid = demo.start("-i", "one")
    assert ident == "one"
    assert demo.artifact("one", "status") == b"running"
    assert (demo.pid.read_text(), mode(demo.pid)) == (f"{pid}\n", 0o600)
    asked = demo.call("is-alive")
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, f"one (process {pid}) runs\n", "")
    assert os.getsid(pid) == pid
    streams = [str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in range(3)]
    assert streams == ["/dev/null", "/dev/null", str(demo.log)]

    demo.open_gate()
    gone(pid)
    assert (demo.artifact("one", "status"), demo.artifact("one", "rc")) == (b"successful", b"0")
    assert b"TASK [waits]" in demo.artifact("one", "stdout")
    assert not demo.pid.exists()
    asked = demo.call("is-alive", "-i", "one")
    assert (asked.returncode, asked.stdout) == (1, f"no job 'one' runs in {demo.directory}\n")
    first, last = demo.log.read_text().splitlines()
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d [\d:,]+ INFO one: started, process {pid}", first)
    assert last.endswith("INFO one: successful, rc 0")
    assert mode(demo.log) == 0o600


def test_stop_cancels_the_job_and_returns_when_nothing_of_it_is_left(demo: Demo) -> None:
    ident, pid = demo.start()
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", ident)
    wait_until(lambda: b"TASK [waits]" in demo.artifact(ident, "stdout"), bound=BOUND, what="the task")
    family = descendants(pid)
    assert family
    done = demo.call("stop")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"stopped {ident}, process {pid}\n", "")
    assert not [member for member in (pid, *family) if alive(member)]
    assert (demo.artifact(ident, "status"), demo.artifact(ident, "rc")) == (b"canceled", b"254")
    assert not demo.pid.exists()
    again = demo.call("stop")
    assert (again.returncode, again.stdout) == (1, "")
    assert f"no job runs in {demo.directory}" in again.stderr
    assert demo.call("stop", "--quiet").stderr == ""


def test_several_jobs_of_one_directory_are_told_apart(demo: Demo) -> None:
    _, first = demo.start("-i", "a")
    _, second = demo.start("-i", "b")
    assert demo.pid.read_text() == f"{second}\n"
    assert demo.call("is-alive").stdout == f"a (process {first}), b (process {second}) run\n"
    taken = demo.call("start", "-p", "waits.yml", "-i", "a")
    assert (taken.returncode, taken.stdout) == (78, "")
    assert "A job with the ident 'a' is running" in taken.stderr
    assert str(demo.log) in taken.stderr
    which = demo.call("stop")
    assert (which.returncode, which.stdout) == (2, "")
    assert f"a (process {first}), b (process {second}); name one with -i" in which.stderr
    assert demo.call("stop", "-i", "a").returncode == 0
    assert demo.call("is-alive", "-i", "a").returncode == 1
    assert demo.call("is-alive", "-i", "b", "--quiet").stdout == ""
    assert demo.artifact("b", "status") == b"running"
    assert demo.call("stop", "--artifact-dir", "/tmp").returncode == 1
    assert demo.call("stop").stdout == f"stopped b, process {second}\n"


def test_a_job_that_fails_at_once_has_started(demo: Demo) -> None:
    done = demo.call("start", "-p", "fails.yml", "-i", "brief", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    demo.wait_for("brief", b"failed")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("-p", "missing.yml"), 78, "missing.yml"),
        (("-p", "waits.yml", "-i", "a/b"), 78, "'a/b' is no identifier"),
        (("-p", "waits.yml", "--binary", "/missing"), 127, "/missing"),
        (("-p", "waits.yml", "--process-isolation-executable", "/missing", "--process-isolation"), 69, "/missing"),
    ],
)
def test_what_keeps_a_job_from_starting_is_said(demo: Demo, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = demo.call("start", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert not demo.pid.exists()
    assert demo.call("is-alive").returncode == 1


@contextlib.contextmanager
def waiting_for(demo: Demo, file: str) -> Iterator[subprocess.Popen[str]]:
    """The start of a job whose process waits for somebody to write to a named pipe."""
    (demo.directory / file).parent.mkdir(exist_ok=True)
    os.mkfifo(demo.directory / file)
    argv = [*COMMAND, "start", str(demo.directory), "-p", "waits.yml", "-i", "one"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        wait_until(lambda: bool(descendants(waiting.pid)), bound=BOUND, what="the job's process")
        yield waiting


@pytest.fixture
def held(demo: Demo) -> Iterator[subprocess.Popen[str]]:
    with waiting_for(demo, "env/envvars") as waiting:
        yield waiting


def test_a_start_that_is_interrupted_cancels_the_job(demo: Demo, held: subprocess.Popen[str]) -> None:
    held.send_signal(signal.SIGTERM)
    said, words = held.communicate(timeout=BOUND)
    assert (held.returncode, said, demo.artifact("one", "status")) == (254, "", b"canceled")
    assert words.startswith("ansible-runner: the job is being canceled\n")
    assert "the job was canceled before it had started" in words


def test_a_start_that_is_interrupted_twice_leaves_at_once_whatever_hangs(demo: Demo) -> None:
    with waiting_for(demo, "project/ansible.cfg") as held:  # where no cancel is heard
        (job,) = descendants(held.pid)
        while held.poll() is None:
            held.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                held.wait(0.3)
        assert held.returncode == 130
        assert not alive(job)


def test_a_process_that_dies_before_the_job_runs_is_told_of(demo: Demo, held: subprocess.Popen[str]) -> None:
    os.kill(descendants(held.pid)[0], signal.SIGKILL)
    _, words = held.communicate(timeout=BOUND)
    assert held.returncode == 71
    assert f"killed by signal 9 before the job ran. See {demo.log}" in words


def test_a_pid_file_is_neither_believed_nor_written_through(demo: Demo, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as innocent:
        demo.pid.write_text(f"{innocent.pid}\n")
        assert demo.call("is-alive").returncode == 1
        assert demo.call("stop").returncode == 1
        precious = tmp_path / "precious"
        precious.write_text("kept")
        demo.pid.unlink()
        demo.pid.symlink_to(precious)
        _, pid = demo.start()
        assert not demo.pid.is_symlink()
        demo.pid.write_text(f"{innocent.pid}\n")
        assert demo.call("stop").stdout.endswith(f", process {pid}\n")
        assert innocent.poll() is None
        innocent.kill()
    assert precious.read_text() == "kept"


def test_a_pid_file_of_a_later_job_stays(demo: Demo) -> None:
    demo.start("-i", "first")
    _, later = demo.start("-i", "later")
    demo.call("stop", "-i", "first")
    assert demo.pid.read_text() == f"{later}\n"
    demo.call("stop", "-i", "later")
    assert not demo.pid.exists()


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_the_log_is_a_file_of_its_own_or_the_job_is_not_started(demo: Demo, tmp_path: Path, kind: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    demo.log.symlink_to(precious) if kind == "link" else os.mkfifo(demo.log)
    done = demo.call("start", "-p", "waits.yml")
    assert done.returncode == 74
    assert str(demo.log) in done.stderr
    assert precious.read_text() == "kept"
    assert not (demo.directory / "artifacts").exists()


def test_a_job_in_the_foreground_is_asked_for_and_stopped_in_the_same_way(demo: Demo) -> None:
    with demo.foreground() as job:
        assert demo.call("is-alive").stdout == f"front (process {job.pid}) runs\n"
        assert demo.call("stop").stdout == f"stopped front, process {job.pid}\n"
        assert job.wait(BOUND) == 254
    assert demo.artifact("front", "status") == b"canceled"


def test_a_job_whose_command_is_suspended_is_stopped(demo: Demo) -> None:
    ident, pid = demo.start()
    os.kill(pid, signal.SIGSTOP)
    assert demo.call("stop").returncode == 0
    assert demo.artifact(ident, "status") == b"canceled"


def test_a_command_that_does_not_stop_is_killed_and_its_job_settled(
    demo: Demo, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(control, "_MARGIN", 0.5 - Limits().grace)
    argv = ("run", str(demo.directory), "-p", "waits.yml", "-i", "front")
    with demo.foreground("env", "--ignore-signal=TERM", *COMMAND, *argv) as job:
        wait_until(lambda: b"TASK [waits]" in demo.artifact("front", "stdout"), bound=BOUND, what="the task")
        family = descendants(job.pid)
        assert main(["stop", str(demo.directory)]) == 0
        assert job.wait(BOUND) == -signal.SIGKILL
    assert capfd.readouterr().out == f"front did not stop in time: process {job.pid} was killed\n"
    assert demo.artifact("front", "status") == b"error"
    assert demo.artifact("front", "reason").startswith(b"lost\n")
    wait_until(lambda: not any(map(alive, family)), bound=BOUND, what="the end of the job's processes")


@contextlib.contextmanager
def flooding(demo: Demo) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Run a job that says more than a pipe holds, until the pipe that it says it to is full."""
    (demo.directory / "project" / "waits.yml").write_text(
        WAITS.replace('command: "cat {{ playbook_dir }}/../gate"', "debug: msg={{ 'x' * 300000 }}")
    )
    with demo.foreground() as job:
        assert job.stdout is not None
        pipe = os.open(f"/proc/self/fd/{job.stdout.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
        wait_until(lambda: not select.select([], [pipe], [], 0)[1], bound=BOUND, what="a full pipe")
        os.close(pipe)
        yield job, job.stdout


def test_a_command_that_nobody_reads_from_is_stopped(demo: Demo) -> None:
    """A terminal that is held (Ctrl-S), or a pager, takes no output."""
    with flooding(demo):
        began = time.monotonic()
        assert demo.call("stop").returncode == 0
        assert time.monotonic() - began < Limits().grace
    assert demo.artifact("front", "status") == b"canceled"


def test_a_reader_that_is_slow_gets_all(demo: Demo) -> None:
    with flooding(demo) as (job, pipe):
        text = pipe.read()
        assert job.wait(BOUND) == 0
    assert text.count(b"x") >= 300000
    assert text.replace(b"\n", b"\r\n") == demo.artifact("front", "stdout")


def test_a_program_that_uses_the_library_is_left_alone(demo: Demo) -> None:
    arguments = {"private_data_dir": str(demo.directory), "playbook": "waits.yml", "ident": "front"}
    code = f"import ee_runner; ee_runner.run(**{arguments})"
    with demo.foreground(sys.executable, "-c", code) as program:
        assert demo.call("is-alive").returncode == 0
        done = demo.call("stop")
        assert (done.returncode, done.stdout) == (1, "")
        assert f"front is run by process {program.pid}, a program that uses the library" in done.stderr
        demo.open_gate()
        assert program.wait(BOUND) == 0
    assert demo.artifact("front", "status") == b"successful"


def test_a_job_without_a_record_is_found_by_the_lock_of_its_artifacts(demo: Demo, tmp_path: Path) -> None:
    """As a job of another user is, to root."""
    elsewhere = {"XDG_STATE_HOME": str(tmp_path / "other")}
    _, pid = demo.start("-i", "one")
    holder = os.open(demo.directory / "artifacts" / "one", os.O_RDONLY)
    other = demo.directory / "artifacts" / "other"
    other.mkdir()
    (demo.directory / "artifacts" / "link").symlink_to(other)
    locked = os.open(other, os.O_RDONLY)
    fcntl.flock(locked, fcntl.LOCK_EX)
    try:
        found = demo.call("is-alive", **elsewhere).stdout
        assert found == f"one (process {pid}), other (process {os.getpid()}) run\n"
        refused = demo.call("stop", "-i", "other", **elsewhere)
        assert (refused.returncode, "a program that uses the library" in refused.stderr) == (1, True)
        assert demo.call("stop", **elsewhere).stdout == f"stopped one, process {pid}\n"
    finally:
        os.close(holder)
        os.close(locked)
    assert demo.artifact("one", "status") == b"canceled"


class Terminal:
    """A terminal with a command on it, whose controlling terminal it is; it is closed when the block ends."""

    def __init__(self, *argv: str, cwd: Path) -> None:
        self._ours, inner = os.openpty()
        self.command = subprocess.Popen(["setsid", "--ctty", *argv], stdin=inner, stdout=inner, stderr=inner, cwd=cwd)
        os.close(inner)

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.command

    def __exit__(self, *exc: object) -> None:
        os.close(self._ours)


@pytest.mark.parametrize("command", ["run", "playbook"])
def test_a_closed_terminal_cancels_the_job_on_it(demo: Demo, command: str) -> None:
    playbook = ("-p", "waits.yml") if command == "run" else (str(demo.directory / "project" / "waits.yml"),)
    target = (str(demo.directory),) if command == "run" else ("--artifact-dir", str(demo.directory / "artifacts"))
    options = ("--process-isolation-executable", "local", "--ident", "front")
    with Terminal(*COMMAND, command, *target, *options, *playbook, cwd=demo.directory) as job:
        wait_until(lambda: b"TASK [waits]" in demo.artifact("front", "stdout"), bound=BOUND, what="the task")
        family = descendants(job.pid)
    assert job.wait(BOUND) == 254
    assert (demo.artifact("front", "status"), demo.artifact("front", "rc")) == (b"canceled", b"254")
    assert b"TASK [waits]" in demo.artifact("front", "stdout")
    assert not [member for member in family if alive(member)]


def test_a_job_under_nohup_outlives_its_terminal(demo: Demo) -> None:
    with Terminal(
        "nohup", *COMMAND, "run", str(demo.directory), "-p", "waits.yml", "-i", "front", cwd=demo.directory
    ) as job:
        demo.wait_for("front", b"running")
    demo.open_gate()
    assert job.wait(BOUND) == 0
    assert demo.artifact("front", "status") == b"successful"


def test_a_job_in_the_background_outlives_the_terminal_that_it_was_started_on(demo: Demo) -> None:
    with Terminal(
        *COMMAND, "start", str(demo.directory), "-p", "waits.yml", "-i", "one", cwd=demo.directory
    ) as starter:
        assert starter.wait(BOUND) == 0
    assert demo.call("is-alive").returncode == 0
    demo.open_gate()
    demo.wait_for("one", b"successful")


def test_the_progress_of_a_pull_stands_a_closed_terminal(demo: Demo) -> None:
    code = """
import pathlib, signal
hung_up = []
signal.signal(signal.SIGHUP, lambda *_: hung_up.append(1))
from ee_runner.cli.display import PullProgress
progress = PullProgress()
progress.start("an image")
pathlib.Path("shown").touch()
while not hung_up:
    signal.sigtimedwait([], 0.05)
progress.update("a layer", 1, 2)
progress.finish()
"""
    with Terminal(sys.executable, "-c", code, cwd=demo.directory) as program:
        wait_until((demo.directory / "shown").exists, bound=BOUND, what="the progress")
    assert program.wait(BOUND) == 0


def test_a_later_process_of_the_same_pid_is_neither_signalled_nor_waited_for() -> None:
    with subprocess.Popen(["sleep", "60"]) as later:
        earlier = Identity.of(later.pid)._replace(born=Identity.own().born)
        began = time.monotonic()
        with control._Process(earlier) as process:
            assert process.asked(signal.SIGTERM, 30)
        assert time.monotonic() - began < 20
        assert later.poll() is None
        later.kill()
