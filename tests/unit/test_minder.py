"""The minder: whoever dies, and however, nothing of the job stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from ee_runner import processes
from ee_runner.errors import LaunchError
from ee_runner.executor import Cancellation, Executor, minding, session
from ee_runner.job import Invocation, Limits, Outcome, Terminal
from tests.support.processes import REPO, alive, wait_until

BOUND = 20.0
Supervise = Callable[..., "subprocess.Popen[bytes]"]
TERMINALS = (Terminal.PTY, Terminal.PIPES)

DAEMON = "setsid sh -c 'trap \"\" TERM HUP; echo $$ > {pids}/daemon; exec sleep 300' >/dev/null 2>&1 </dev/null &"
DEEP = 'sh -c \'trap "" TERM HUP; sh -c "echo \\$\\$ > {pids}/deep; sleep 300; true"; true\' &'


class Said:
    def __init__(self) -> None:
        self.out = b""
        self.changed = threading.Condition()

    def stdout(self, data: bytes) -> None:
        with self.changed:
            self.out += data
            self.changed.notify_all()

    stderr = stdout

    def wait_for(self, text: bytes) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: text in self.out, BOUND), self.out


JOBS: list[Job] = []


@pytest.fixture(autouse=True)
def every_job_is_ended() -> Iterator[None]:
    yield
    while JOBS:
        job = JOBS.pop()
        job.cancel.request()
        job.ended()


class Job:
    """A job in a thread, which is stopped and waited for at the end of a test."""

    def __init__(self, script: str, terminal: Terminal, *, env: Mapping[str, str] | None = None) -> None:
        self.said = Said()
        self.cancel = Cancellation()
        self.outcome: Outcome | None = None
        self._invocation = Invocation(("sh", "-c", script), {**os.environ, **(env or {})}, Path("/"), terminal)
        self._limits = Limits(grace=1)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        JOBS.append(self)

    def _run(self) -> None:
        self.outcome = Executor().run(
            self._invocation, self.said, cancel=self.cancel, limits=self._limits, passwords={}
        )

    def ended(self) -> Outcome:
        self._thread.join(BOUND)
        assert self.outcome is not None
        return self.outcome

    @property
    def minder(self) -> int:
        def found() -> list[int]:
            return [pid for pid in processes.children(os.getpid()) if comm(pid) == "ee-minder"]

        wait_until(lambda: bool(found()), bound=BOUND, what="minder with a name of its own")
        (minder,) = found()
        return minder


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def noted(place: Path) -> int:
    """Return the pid that a process of the job has written."""
    wait_until(lambda: place.is_file() and place.read_text().endswith("\n"), bound=BOUND, what=str(place))
    return int(place.read_text())


def assert_ends(*pids: int) -> None:
    wait_until(lambda: not any(map(alive, pids)), bound=BOUND, what=f"end of {pids}")


@pytest.fixture
def script(tmp_path: Path) -> str:
    """A job that makes a daemon and a deep family, all deaf to SIGTERM, and waits."""
    return f"{DAEMON}\n{DEEP}\necho ready; wait; sleep 300".format(pids=tmp_path)


@pytest.mark.parametrize("terminal", TERMINALS)
class TestAStop:
    def test_nothing_is_left_after_it_not_even_daemons(self, terminal: Terminal, script: str, tmp_path: Path) -> None:
        job = Job(script, terminal)
        pids = [noted(tmp_path / "daemon"), noted(tmp_path / "deep")]
        job.cancel.request()
        assert job.ended() == Outcome("canceled", 254, "canceled")
        assert not any(map(alive, pids)), "when the outcome is told, all have gone"

    def test_the_first_signal_comes_at_once(self, terminal: Terminal, tmp_path: Path) -> None:
        job = Job(
            f"trap 'date +%s.%N > {tmp_path}/heard; exit 3' TERM; echo ready; while :; do sleep 0.01; done", terminal
        )
        job.said.wait_for(b"ready")
        before = float(subprocess.check_output(["date", "+%s.%N"]))
        job.cancel.request()
        job.ended()
        assert float((tmp_path / "heard").read_text()) - before < 0.9

    def test_a_job_that_ends_by_itself_may_leave_a_daemon(self, terminal: Terminal, tmp_path: Path) -> None:
        job = Job(DAEMON.format(pids=tmp_path) + f"while [ ! -s {tmp_path}/daemon ]; do sleep 0.01; done", terminal)
        assert job.ended().status == "successful"
        daemon = noted(tmp_path / "daemon")
        assert alive(daemon)
        os.kill(daemon, signal.SIGKILL)
        assert_ends(daemon)

    def test_a_swarm_that_forks_on_and_on_is_ended(self, terminal: Terminal, tmp_path: Path) -> None:
        swarm = "trap '' TERM HUP; echo ready; f() { sleep 0.02; f & }; f; f; f; wait; sleep 300"
        job = Job(swarm, terminal, env={"EE_TEST_SWARM": str(tmp_path)})
        job.said.wait_for(b"ready")
        job.cancel.request()
        assert job.ended().reason == "canceled"
        assert not processes.with_variable("EE_TEST_SWARM", str(tmp_path))

    def test_a_job_that_stops_its_minder_is_ended_all_the_same(self, terminal: Terminal) -> None:
        job = Job("kill -STOP $PPID; echo ready; sleep 300; true", terminal)
        job.said.wait_for(b"ready")
        job.cancel.request()
        assert job.ended() == Outcome("canceled", 254, "canceled")


@pytest.mark.parametrize("terminal", TERMINALS)
def test_an_interrupt_before_anybody_waits_ends_the_job(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        noted(tmp_path / "job")
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "Stopping", interrupted)
    script = f"trap '' HUP; echo $$ > {tmp_path}/job; sleep 300; true"
    with pytest.raises(KeyboardInterrupt):
        Executor().run(
            Invocation(("sh", "-c", script), os.environ, Path("/"), terminal),
            Said(),
            cancel=Cancellation(),
            limits=Limits(),
            passwords={},
        )
    assert not alive(noted(tmp_path / "job"))


@pytest.mark.parametrize("terminal", TERMINALS)
class TestTheMinderIsKilled:
    def test_the_job_is_ended_and_lost(self, terminal: Terminal, tmp_path: Path) -> None:
        job = Job(f"echo $$ > {tmp_path}/job; trap '' HUP TERM; sleep 300; true", terminal)
        pid = noted(tmp_path / "job")
        os.kill(job.minder, signal.SIGKILL)
        outcome = job.ended()
        assert (outcome.status, outcome.rc, outcome.reason) == ("error", 254, "lost")
        assert "minded" in outcome.detail
        assert_ends(pid)

    def test_signals_for_its_supervisor_leave_it_cold(self, terminal: Terminal, tmp_path: Path) -> None:
        job = Job(f"echo ready; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo done", terminal)
        job.said.wait_for(b"ready")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            os.kill(job.minder, number)
        (tmp_path / "go").touch()
        assert job.ended().status == "successful"
        job.said.wait_for(b"done")


SUPERVISOR = """
import os, signal, sys, threading
from pathlib import Path
from ee_runner.errors import LaunchError
from ee_runner.executor import Cancellation, Executor
from ee_runner.job import Invocation, Limits, Terminal

class Sink:
    def stdout(self, data): sys.stdout.write(data.decode()); sys.stdout.flush()
    stderr = stdout

def fork():
    if sys.argv[3] == "fork-later" and os.fork() == 0:  # a copy that has all open, and lives on
        import time
        Path(sys.argv[4], "copy").write_text(f"{os.getpid()}\\n")
        time.sleep(300)

if sys.argv[3] == "ignores-children":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if sys.argv[3] == "holds-back":
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

cancel = Cancellation()
if sys.argv[3] == "cancels":
    threading.Timer(1, cancel.request).start()

for _ in range(int(sys.argv[5])):
    outcome = Executor().run(
        Invocation(("sh", "-c", sys.argv[2]), os.environ, Path("/"), Terminal(sys.argv[1]),
                   rescue=("/bin/sh", "-c", "echo settled > \\"$0\\"", sys.argv[4] + "/rescue")),
        Sink(), cancel=cancel, limits=Limits(grace=1), passwords={}, started=fork)
    print(outcome.status, outcome.rc, outcome.detail, flush=True)
"""


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    """Start programs that run a job; what is left of them is killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        terminal: Terminal, script: str, how: str = "plain", *, times: int = 1, through: tuple[str, ...] = ()
    ) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", SUPERVISOR, terminal.value, script, how, str(tmp_path), str(times)]
        started.append(subprocess.Popen([*through, *words], stdout=subprocess.PIPE))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()
        assert each.stdout is not None
        each.stdout.close()


@pytest.mark.parametrize("terminal", TERMINALS)
class TestTheSupervisorIsKilled:
    def test_the_job_and_its_daemons_end_and_the_rescue_runs(
        self, terminal: Terminal, script: str, tmp_path: Path, supervise: Supervise
    ) -> None:
        supervisor = supervise(terminal, script)
        pids = [noted(tmp_path / "daemon"), noted(tmp_path / "deep")]
        supervisor.kill()
        wait_until((tmp_path / "rescue").exists, bound=10, what="rescue")
        assert not any(map(alive, pids)), "the rescue comes when the job has ended"

    def test_a_copy_that_it_has_forked_does_not_keep_the_job(
        self, terminal: Terminal, script: str, tmp_path: Path, supervise: Supervise
    ) -> None:
        supervisor = supervise(terminal, script, "fork-later")
        pids = [noted(tmp_path / "daemon"), noted(tmp_path / "deep")]
        copy = noted(tmp_path / "copy")
        supervisor.kill()
        wait_until((tmp_path / "rescue").exists, bound=10, what="rescue")
        assert not any(map(alive, pids))
        assert alive(copy), "it is none of the job's"
        os.kill(copy, signal.SIGKILL)
        assert_ends(copy)

    def test_a_finished_job_needs_no_rescue(self, terminal: Terminal, tmp_path: Path, supervise: Supervise) -> None:
        supervisor = supervise(terminal, "echo done")
        assert supervisor.wait(BOUND) == 0
        assert not (tmp_path / "rescue").exists()


@pytest.mark.parametrize("terminal", TERMINALS)
@pytest.mark.parametrize(("how", "script"), [("ignores-children", "exit 3"), ("holds-back", "sleep 0.5; exit 3")])
def test_however_the_supervisor_heeds_signals_the_end_of_a_job_is_seen(
    terminal: Terminal, how: str, script: str, supervise: Supervise
) -> None:
    supervisor = supervise(terminal, script, how, times=20 if how == "ignores-children" else 1)
    said, _ = supervisor.communicate(timeout=BOUND)
    assert set(said.splitlines()) == {b"failed 3 "}


@pytest.mark.parametrize("terminal", TERMINALS)
def test_without_proc_a_job_runs_and_is_ended(terminal: Terminal, tmp_path: Path, supervise: Supervise) -> None:
    hidden = ("unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh")
    script = f"sleep 300 & echo $! > {tmp_path}/job; trap '' TERM HUP; wait; wait"
    said, _ = supervise(terminal, script, "cancels", through=hidden).communicate(timeout=BOUND)
    assert said == b"canceled 254 \n"
    assert_ends(noted(tmp_path / "job"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start what it then may not end")
def test_a_job_that_can_not_be_ended_is_let_go_and_told_of(tmp_path: Path, supervise: Supervise) -> None:
    powerless = ("setpriv", "--bounding-set", "-kill", "--inh-caps", "-kill")
    script = f"echo $$ > {tmp_path}/job; exec setpriv --reuid 65534 --clear-groups sleep 300"
    said, _ = supervise(Terminal.PIPES, script, "cancels", through=powerless).communicate(timeout=2 * BOUND)
    job = noted(tmp_path / "job")
    os.kill(job, signal.SIGKILL)
    assert said == f"canceled 254 process {job} of the job can not be ended by this user\n".encode()


def test_the_job_has_the_standard_streams_open_and_nothing_else() -> None:
    job = Job("ls /proc/self/fd | tr '\\n' ' '", Terminal.PTY)
    job.ended()
    assert job.said.out.split() == [b"0", b"1", b"2", b"3"], "the last is the listing's own"


def test_the_job_hears_the_signals_that_python_ignores() -> None:
    job = Job("grep SigIgn /proc/self/status", Terminal.PIPES)
    job.ended()
    ignored = int(job.said.out.split()[1], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1) | 1 << (signal.SIGTERM - 1))


def test_the_minder_is_not_found_by_the_words_of_the_job() -> None:
    job = Job("echo ready; sleep 300; : a-word-of-the-job", Terminal.PTY)
    job.said.wait_for(b"ready")
    words = Path(f"/proc/{job.minder}/cmdline").read_bytes()
    job.cancel.request()
    job.ended()
    assert words.startswith(b"ee-minder of process ")
    assert b"a-word-of-the-job" not in words


def test_it_loads_next_to_nothing() -> None:
    program = "import sys; sys.path.append(sys.argv[1]); from ee_runner import minder; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-I", "-S", "-c", program, str(REPO)], text=True)
    assert {"signal", "contextlib", "pathlib", "typing", "re", "enum", "subprocess"}.isdisjoint(loaded.split())


def test_a_word_with_a_nul_is_refused_at_once() -> None:
    with pytest.raises(LaunchError, match="null byte"):
        Executor().run(
            Invocation(("echo", "a\0b"), os.environ, Path("/"), Terminal.PTY),
            Said(),
            cancel=Cancellation(),
            limits=Limits(),
            passwords={},
        )


class TestAMinderThatWasStartedAhead:
    @staticmethod
    def outcome(ready: minding.Minding | None) -> tuple[Outcome, bytes]:
        said = Said()
        outcome = Executor().run(
            Invocation(("true",), os.environ, Path("/"), Terminal.PTY),
            said,
            cancel=Cancellation(),
            limits=Limits(),
            passwords={},
            ready=ready,
        )
        return outcome, said.out

    def test_it_starts_the_job(self) -> None:
        with minding.ahead() as ready:
            assert ready is not None
            pid = ready.pid
            outcome, _ = self.outcome(ready)
            assert (outcome.status, outcome.rc) == ("successful", 0)
            assert not alive(pid), "another one did"

    def test_it_serves_one_job_and_the_next_gets_its_own(self) -> None:
        with minding.ahead() as ready:
            assert [self.outcome(ready)[0].rc for _ in range(2)] == [0, 0]

    def test_one_that_was_killed_meanwhile_is_replaced(self) -> None:
        with minding.ahead() as ready:
            assert ready is not None
            os.kill(ready.pid, signal.SIGKILL)
            wait_until(lambda: not ready.runs, bound=BOUND, what="end of the minder")
            assert self.outcome(ready)[0].rc == 0

    def test_one_that_was_stopped_meanwhile_goes_on(self) -> None:
        with minding.ahead() as ready:
            assert ready is not None
            os.kill(ready.pid, signal.SIGSTOP)
            assert self.outcome(ready)[0].rc == 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    def test_what_a_service_manager_sends_to_all_does_not_end_it(self, number: signal.Signals) -> None:
        with minding.ahead() as ready:
            assert ready is not None
            wait_until(lambda: _ignores(ready.pid, number), bound=BOUND, what="minder that hears nothing")
            os.kill(ready.pid, number)
            assert self.outcome(ready)[0].rc == 0
            assert not ready.runs

    def test_without_a_job_it_ends_with_its_block(self) -> None:
        with minding.ahead() as ready:
            assert ready is not None
            assert alive(ready.pid)
        assert not alive(ready.pid)

    def test_it_ends_with_a_supervisor_that_dies_though_a_fork_of_it_holds_the_socket(self) -> None:
        program = (
            "import os, signal, sys, time; sys.path.insert(0, sys.argv[1])\n"
            "from ee_runner.executor import minding\n"
            "ready = minding.start()\n"
            "fork = os.fork() or time.sleep(300)\n"
            "print(ready.pid, fork, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        with subprocess.Popen([sys.executable, "-c", program, str(REPO)], stdout=subprocess.PIPE, text=True) as dying:
            assert dying.stdout is not None
            minder, fork = map(int, dying.stdout.readline().split())
        try:
            wait_until(lambda: not alive(minder), bound=BOUND, what="end of the minder")
        finally:
            os.kill(fork, signal.SIGKILL)


def _ignores(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = next(line for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(ignored.split()[1], 16) & 1 << (number - 1))
