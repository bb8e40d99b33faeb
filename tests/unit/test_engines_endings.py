"""How the end of a container's run is told: from its exit code, the engine's log, and the kernel."""

from __future__ import annotations

import subprocess
from pathlib import Path, PurePosixPath

import pytest

from ee_runner.engines import endings
from ee_runner.job import ContainerSpec, Outcome
from ee_runner.plan import ExecutionPlan


def plan(program: str) -> ExecutionPlan:
    return ExecutionPlan(
        ident="1", private_data_dir=Path("/nowhere"), argv=(program,), env={}, cwd=PurePosixPath("/"), mounts=()
    )


def ended(program: str, rc: int, *lines: str) -> Outcome:
    return endings.judged(plan(program), Outcome("failed", rc, "exited"), endings.Told.by(lines))


def test_a_log_is_read_line_by_line() -> None:
    told = endings.Told.by(["create", "attach", "start", "kill 15", "kill 9", "oom", "die", "destroy"])
    assert told == endings.Told(True, True, True, True, frozenset({9, 15}))
    assert endings.Told.by(["init", "start", "attach", "died", "remove", ""]) == endings.Told(True, True)
    assert endings.Told.by([]) == endings.Told()


@pytest.mark.parametrize("rc", [129, 137, 139, 143])
def test_exit_codes_above_128_stand_for_signals(rc: int) -> None:
    assert endings.is_by_signal(rc)


@pytest.mark.parametrize("rc", [None, 0, 2, 99, 125, 127, 128, 250, 255])
def test_others_do_not(rc: int | None) -> None:
    assert not endings.is_by_signal(rc)


@pytest.mark.parametrize("lines", [("start", "kill 9", "die"), ("start", "kill", "died")])
def test_a_kill_in_the_log_is_one_from_outside(lines: tuple[str, ...]) -> None:
    outcome = ended("sh", 137, *lines)
    assert (outcome.status, outcome.rc, outcome.reason) == ("failed", 137, "killed")
    assert "SIGKILL" in outcome.detail
    assert "outside" in outcome.detail


def test_a_signal_that_did_not_end_the_job_is_not_blamed() -> None:
    assert ended("sh", 137, "start", "kill 10", "die").reason == "exited"


def test_without_a_word_of_the_log_only_ansibles_commands_were_surely_killed() -> None:
    assert ended("/opt/bin/ansible-playbook", 143, "start", "died").reason == "killed"
    assert ended("ansible", 250).reason == "exited"
    own = ended("sh", 137, "start", "die")
    assert (own.status, own.rc, own.reason) == ("failed", 137, "exited")
    assert "its own" in own.detail
    assert ended("sh", 130, "start", "die") == Outcome("failed", 130, "exited")


def test_the_kernels_signal_is_not_taken_for_somebodys() -> None:
    assert ended("ansible-playbook", 137, "start", "oom", "die").reason == "oom"


def test_what_the_kernel_ended_names_the_limit() -> None:
    outcome = endings.by_kernel(ContainerSpec(memory=64 << 20), Outcome("failed", 2, "exited"))
    assert (outcome.status, outcome.rc, outcome.reason) == ("failed", 2, "oom")
    assert "--memory" in outcome.detail
    assert "64 MiB" in outcome.detail
    assert "64" not in endings.by_kernel(ContainerSpec(options=("-m=64m",)), outcome).detail


@pytest.mark.parametrize("options", [("-m", "64m"), ("-m64m",), ("-m=64m",), ("--memory=1g",), ("--memory", "1g")])
def test_a_limit_may_be_an_option_of_the_engines_own(options: tuple[str, ...]) -> None:
    assert endings.is_bounded(ContainerSpec(options=options))


@pytest.mark.parametrize("options", [(), ("--memory-reservation=1g",), ("--mount", "x"), ("-v", "/m:/m"), ("-memo",)])
def test_other_options_are_no_limit(options: tuple[str, ...]) -> None:
    assert not endings.is_bounded(ContainerSpec(options=options))


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1 bytes"), (64 << 20, "64 MiB"), (3 << 29, "1.5 GiB"), (2048, "2 KiB")]
)
def test_sizes_in_words(number: int, text: str) -> None:
    assert endings.size(number) == text


@pytest.mark.parametrize("word", ["", "abc", "../" * 20, "A" * 64, "a" * 63])
def test_what_is_no_id_ends_nothing(word: str) -> None:
    """The file with the id lies where a job could have written."""
    with subprocess.Popen(["sleep", "30"]) as child:
        assert endings.end_processes(word) is False
        assert child.poll() is None
        child.kill()
