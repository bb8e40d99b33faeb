"""The executor runs real children and loses none of their bytes."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ee_runner.errors import EngineError, LaunchError
from ee_runner.executor import Cancellation, Executor, capture, companion, minding
from ee_runner.job import Invocation, Limits, Outcome, Terminal
from ee_runner.secrets import Secret


class Collected:
    def __init__(self) -> None:
        self.out = bytearray()
        self.err = bytearray()

    def stdout(self, data: bytes) -> None:
        self.out += data

    def stderr(self, data: bytes) -> None:
        self.err += data


def execute(
    *argv: str,
    terminal: Terminal = Terminal.PTY,
    limits: Limits | None = None,
    passwords: Mapping[str, Secret] | None = None,
    stdin: int | None = None,
    cancel: Cancellation | None = None,
    stop: Callable[[], None] | None = None,
    sink: Collected | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path = Path("/"),
) -> tuple[Outcome, Collected]:
    sink = sink or Collected()
    outcome = Executor().run(
        Invocation(argv, {**os.environ, **(env or {})}, cwd, terminal),
        sink,
        cancel=cancel or Cancellation(),
        limits=limits or Limits(grace=1),
        passwords=passwords or {},
        stdin=stdin,
        stop=stop,
    )
    return outcome, sink


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def assert_ends(pid: int) -> None:
    deadline = time.monotonic() + 2
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone(pid)


@pytest.fixture(params=["minder", "pexpect"])
def pty_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to a pty: below a minder, and by pexpect where there can be none."""
    if request.param == "pexpect":
        monkeypatch.setattr(minding, "_interpreter", lambda: None)
    return str(request.param)


@pytest.mark.usefixtures("pty_by")
class TestOnAPty:
    def test_the_child_has_a_controlling_terminal_of_the_stated_size(self) -> None:
        outcome, sink = execute("sh", "-c", "stty size < /dev/tty", env={"LINES": "33", "COLUMNS": "101"})
        assert (outcome.status, outcome.rc) == ("successful", 0)
        assert bytes(sink.out) == b"33 101\r\n"

    def test_the_exit_code_is_the_childs(self) -> None:
        outcome, _ = execute("sh", "-c", "exit 7")
        assert (outcome.status, outcome.rc, outcome.reason) == ("failed", 7, "exited")

    def test_a_child_killed_by_a_signal_is_said(self) -> None:
        outcome, _ = execute("sh", "-c", "kill -KILL $$")
        assert (outcome.status, outcome.rc, outcome.detail) == ("failed", 137, "killed by SIGKILL")

    def test_a_password_prompt_is_answered_and_not_echoed(self) -> None:
        program = "import getpass; print(len(getpass.getpass('SSH password: ')))"
        outcome, sink = execute(
            "python3",
            "-c",
            program,
            passwords={r"^SSH password:\s*?$": Secret("hunter2")},
            limits=Limits(job_timeout=20),
        )
        assert outcome.rc == 0
        assert b"7\r\n" in sink.out
        assert b"hunter2" not in sink.out

    def test_cancel_ends_the_child_at_once(self) -> None:
        cancel = Cancellation()
        threading.Timer(0.2, cancel.request).start()
        began = time.monotonic()
        outcome, _ = execute("sleep", "60", cancel=cancel)
        assert (outcome.status, outcome.rc, outcome.reason) == ("canceled", 254, "canceled")
        assert time.monotonic() - began < 3


def test_nothing_is_lost_of_a_hundred_thousand_lines() -> None:
    _, sink = execute("seq", "1", "100000")
    assert bytes(sink.out).split() == [str(n).encode() for n in range(1, 100001)]


def test_the_last_line_without_newline_arrives() -> None:
    _, sink = execute("printf", "no newline")
    assert bytes(sink.out) == b"no newline"


def test_pipes_keep_output_and_error_apart() -> None:
    _, sink = execute("sh", "-c", "echo out; echo err >&2", terminal=Terminal.PIPES)
    assert (bytes(sink.out), bytes(sink.err)) == (b"out\n", b"err\n")


def test_pipes_hand_the_callers_input_on() -> None:
    read, write = os.pipe()
    os.write(write, b"hello")
    os.close(write)
    _, sink = execute("cat", terminal=Terminal.PIPES, stdin=read)
    os.close(read)
    assert bytes(sink.out) == b"hello"


def test_without_input_the_child_reads_the_end_at_once() -> None:
    outcome, _ = execute("cat", terminal=Terminal.PIPES)
    assert outcome.rc == 0


def test_an_interactive_job_is_joined_to_the_callers_terminal() -> None:
    ours, callers = os.openpty()
    timer = threading.Timer(0.3, os.write, (ours, b"typed\r"))
    timer.start()
    _, sink = execute("sh", "-c", 'read x; echo "got $x"', terminal=Terminal.INTERACTIVE, stdin=callers)
    timer.join()
    os.close(ours)
    os.close(callers)
    assert b"got typed" in sink.out


def test_the_job_limit_is_a_timeout() -> None:
    outcome, _ = execute("sleep", "60", limits=Limits(job_timeout=0.3, grace=1))
    assert (outcome.status, outcome.rc, outcome.reason) == ("timeout", 254, "job_timeout")
    assert outcome.detail == "stopped after 0.3 seconds (job_timeout)"


def test_a_caller_may_stop_a_job_for_a_limit_of_its_own() -> None:
    cancel = Cancellation()
    cancel.request("job_timeout")
    outcome, _ = execute("sleep", "60", cancel=cancel)
    assert (outcome.status, outcome.reason, outcome.detail) == ("timeout", "job_timeout", "")


def test_the_idle_limit_counts_from_the_last_output() -> None:
    began = time.monotonic()
    outcome, sink = execute(
        "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.3; done; sleep 60", limits=Limits(idle_timeout=0.6, grace=1)
    )
    assert (outcome.status, outcome.reason) == ("timeout", "idle_timeout")
    assert sink.out.count(b"\n") == 3
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("script", "grace"),
    [
        pytest.param("trap '' TERM; setsid sleep 60 & echo $!; sleep 60", 0.3, id="of a child that is deaf to SIGTERM"),
        pytest.param("trap 'exit 0' TERM; setsid sleep 60 & echo $!; wait", 5, id="of a child that ends at once"),
    ],
)
def test_no_descendant_outlives_a_cancel(script: str, grace: float) -> None:
    cancel = Cancellation()
    sink = Collected()
    threading.Timer(0.3, cancel.request).start()
    outcome, _ = execute("sh", "-c", script, cancel=cancel, limits=Limits(grace=grace), sink=sink)
    assert outcome.status == "canceled"
    assert_ends(int(sink.out.split()[0]))


def test_stopping_elsewhere_is_asked_once_and_its_failure_is_raised() -> None:
    cancel = Cancellation()
    calls: list[float] = []

    def stop() -> None:
        calls.append(time.monotonic())
        raise EngineError("the daemon is gone")

    threading.Timer(0.1, cancel.request).start()
    with pytest.raises(EngineError, match="the daemon is gone"):
        execute("sleep", "1", cancel=cancel, stop=stop)
    assert len(calls) == 1


def test_an_error_of_the_sink_ends_the_child_in_order_and_is_raised(tmp_path: Path) -> None:
    class Full(Collected):
        def stdout(self, data: bytes) -> None:
            raise OSError(28, "No space left on device", bytes(data).strip())

    told = tmp_path / "told"
    began = time.monotonic()
    script = f"trap 'echo over > {told}; exit' TERM; echo $$; while :; do sleep 0.05; done"
    with pytest.raises(OSError, match="No space left") as caught:
        execute("sh", "-c", script, sink=Full())
    assert gone(int(caught.value.filename))
    assert told.read_text() == "over\n"
    assert time.monotonic() - began < 5


def test_an_error_of_the_sink_ends_even_a_deaf_child() -> None:
    class Full(Collected):
        def stdout(self, data: bytes) -> None:
            raise OSError(28, "No space left on device", bytes(data).strip())

    began = time.monotonic()
    with pytest.raises(OSError, match="No space left") as caught:
        execute("sh", "-c", "trap '' TERM; echo $$; sleep 60; sleep 60", sink=Full(), limits=Limits(grace=0.3))
    assert gone(int(caught.value.filename))
    assert time.monotonic() - began < 5


def test_an_executor_that_waits_for_a_deaf_child_rests() -> None:
    class Refusing(Collected):
        def stdout(self, data: bytes) -> None:
            raise ValueError(data)

    cancel = Cancellation().asking(lambda: False)
    before = time.thread_time()
    with pytest.raises(ValueError, match="ready"):
        execute("sh", "-c", "trap '' TERM HUP; echo ready; sleep 300; sleep 300", sink=Refusing(), cancel=cancel)
    assert time.thread_time() - before < 0.3


def test_a_job_is_stopped_elsewhere_even_when_no_thread_can_be_started() -> None:
    cancel = Cancellation()
    elsewhere = threading.Event()

    def exhaust() -> None:
        threading.stack_size(1 << 46)  # more than there is
        cancel.request()

    try:
        outcome = Executor().run(
            Invocation(("sleep", "300"), os.environ, Path("/"), Terminal.PIPES),
            Collected(),
            cancel=cancel,
            limits=Limits(grace=-4),  # and the five seconds that a container has
            passwords={},
            stop=elsewhere.set,
            started=exhaust,
        )
    finally:
        threading.stack_size(0)
    assert elsewhere.is_set()
    assert outcome == Outcome("canceled", 254, "canceled")


def test_a_cancel_that_came_first_ends_the_child_at_once() -> None:
    cancel = Cancellation()
    cancel.request()
    began = time.monotonic()
    outcome, _ = execute("sleep", "60", cancel=cancel)
    assert outcome.status == "canceled"
    assert time.monotonic() - began < 3


def test_a_signal_without_a_name_is_said_by_number() -> None:
    outcome, _ = execute("python3", "-c", "import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 6)")
    assert (outcome.rc, outcome.detail) == (128 + signal.SIGRTMIN + 6, f"killed by signal {signal.SIGRTMIN + 6}")


def test_a_program_that_talks_on_does_not_hold_the_job_and_is_told(tmp_path: Path) -> None:
    began = time.monotonic()
    chatter = "trap '' HUP; (while :; do echo more; sleep 0.2; done) & echo $!; exit 0"
    outcome, sink = execute("sh", "-c", chatter, limits=Limits(job_timeout=30), cwd=tmp_path)
    os.kill(int(sink.out.split()[0]), signal.SIGKILL)
    assert (outcome.status, outcome.rc) == ("successful", 0)
    assert "keeps its output open" in outcome.detail
    assert time.monotonic() - began < 5


def test_select_says_what_it_can_not_watch() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limit[1]), limit[1]))
    with contextlib.ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(Path("/dev/null").open())
        with pytest.raises(LaunchError, match="pexpect_use_poll"):
            execute("true", limits=Limits(pexpect_use_poll=False))
        assert execute("true")[0].rc == 0
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_a_program_that_holds_the_terminal_open_does_not_hold_the_job() -> None:
    began = time.monotonic()
    outcome, sink = execute("sh", "-c", "trap '' HUP; sleep 5 & echo $!; exit 0")
    os.kill(int(sink.out), signal.SIGKILL)
    assert outcome.rc == 0
    assert time.monotonic() - began < 3


def test_a_missing_program_and_a_missing_directory_are_launch_errors() -> None:
    with pytest.raises(LaunchError, match="no-such-program is not installed"):
        execute("no-such-program")
    with pytest.raises(LaunchError, match="/no/such/place"):
        execute("true", cwd=Path("/no/such/place"))


def test_more_typing_than_a_terminal_takes_at_once_arrives() -> None:
    answer = "x" * 3000
    program = "import sys, time; print('ask: ', end='', flush=True); print(len(sys.stdin.readline()))"
    _, sink = execute("python3", "-c", program, passwords={"ask: ": Secret(answer)}, limits=Limits(job_timeout=20))
    assert b"3001" in sink.out


def test_no_descriptor_is_left_open() -> None:
    execute("true")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for terminal in (Terminal.PTY, Terminal.PIPES):
        execute("true", terminal=terminal)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_control_command_is_captured() -> None:
    done = capture(["sh", "-c", "cat; echo no >&2; exit 3"], input=b"yes")
    assert (done.rc, done.stdout, done.stderr) == (3, "yes", "no\n")


def test_a_control_command_that_hangs_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="no answer within"):
        capture(["sleep", "5"], timeout=0.1)


def test_a_companion_ends_with_the_block() -> None:
    with companion(["sh", "-c", "trap '' TERM; sleep 60"], env=os.environ, grace=0.1) as pid:
        assert not gone(pid)
    assert gone(pid)
