"""The callbacks: when each is called, what is on disk then, and what becomes of one that raises."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ee_runner
from ee_runner.job import Status
from tests.support.processes import alive, wait_until

SLEEPS = """\
- hosts: localhost
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
    - name: sleeps
      shell: echo $$ > {{ playbook_dir }}/pid; exec sleep 300
"""
WAITS = "echo $$ > pid; echo going; exec sleep 300"


class Recorder:
    """Callbacks that note each call, its thread, and what the job's artifacts are at that moment."""

    def __init__(self, artifacts: Path) -> None:
        self.artifacts = artifacts
        self.calls: list[tuple[str, Any]] = []
        self.disk: list[tuple[str | None, str | None, int]] = []
        self.threads: set[threading.Thread] = set()
        self.statuses: list[dict[str, Any]] = []
        self.configs: list[Any] = []

    def callbacks(self, **others: Any) -> dict[str, Any]:
        own = {
            "event_handler": lambda event: self._note("event", event["counter"]),
            "status_handler": self._status,
            "artifacts_handler": lambda directory: self._note("artifacts", directory),
            "finished_callback": lambda runner: self._note("finished", runner),
        }
        return {**own, **others}

    @property
    def names(self) -> list[str]:
        return [name for name, _ in itertools.groupby(name for name, _ in self.calls)]

    def _status(self, data: dict[str, Any], runner_config: Any) -> None:
        self.statuses.append(data)
        self.configs.append(runner_config)
        self._note(data["status"], data)

    def _note(self, name: str, value: Any) -> bool:
        self.calls.append((name, value))
        self.threads.add(threading.current_thread())
        self.disk.append((self._text("status"), self._text("rc"), len([*self.artifacts.glob("job_events/*.json")])))
        return True

    def _text(self, name: str) -> str | None:
        path = self.artifacts / name
        return path.read_text() if path.exists() else None


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "artifacts/1")


def shell(place: Path, script: str, **options: Any) -> dict[str, Any]:
    """The keywords of a job that runs a few lines of shell in the private data directory."""
    command = {"executable_cmd": "sh", "cmdline_args": ["-c", script], "host_cwd": place}
    return {"private_data_dir": place, "ident": "1", **command, **options}


def raising(*_: Any, **__: Any) -> None:
    raise ValueError("boom")


def raising_at(status: Status) -> Callable[..., None]:
    def handler(data: dict[str, Any], runner_config: Any) -> None:
        assert runner_config.ident == "1"
        if data["status"] == status:
            raise ValueError("boom")

    return handler


def outcome(place: Path) -> tuple[str, str]:
    directory = place / "artifacts/1"
    return (directory / "status").read_text(), (directory / "rc").read_text()


def is_over(place: Path) -> bool:
    """Whether the process that wrote its pid to the file is gone."""
    return not alive(int((place / "pid").read_text()))


# Order, and what is on disk


def test_callbacks_come_in_order_and_find_on_disk_what_they_are_told(demo: Path) -> None:
    recorder = Recorder(demo / "artifacts/1")
    (demo / "project/site.yml").write_text("- hosts: one\n  gather_facts: false\n  tasks: [{debug: }]\n")
    runner = ee_runner.run(private_data_dir=demo, playbook="site.yml", ident=1, **recorder.callbacks())
    assert recorder.names == ["starting", "running", "event", "successful", "artifacts", "finished"]
    events = [value for name, value in recorder.calls if name == "event"]
    assert events == list(range(1, len(events) + 1))
    before = [("starting", None, 0), ("running", None, 0)]
    during = [("running", None, count) for count in range(len(events))]
    after = [("successful", "0", len(events))] * 3
    assert recorder.disk == [*before, *during, *after]
    assert recorder.calls[-2:] == [("artifacts", str(demo / "artifacts/1")), ("finished", runner)]
    assert recorder.threads == {threading.current_thread()}
    assert all(config is runner.config for config in recorder.configs)


def test_run_async_calls_them_all_in_the_thread_of_the_job(tmp_path: Path, recorder: Recorder) -> None:
    asked: set[threading.Thread] = set()
    options = recorder.callbacks(cancel_callback=lambda: asked.add(threading.current_thread()))
    thread, runner = ee_runner.run_async(**shell(tmp_path, "echo a"), **options)
    thread.join()
    assert recorder.names == ["starting", "running", "event", "successful", "artifacts", "finished"]
    assert recorder.threads == asked == {thread}
    assert runner.status == "successful"


def test_starting_tells_the_command_and_the_others_the_status_alone(tmp_path: Path, recorder: Recorder) -> None:
    envvars = {
        "API_TOKEN": "t0ken-value",
        "PLAIN": "the user's affair",
        "TZ": "UTC",
        "URL": "https://me:t0ken-value@host/",
    }
    options = shell(tmp_path, "true", envvars=envvars, passwords={"Word: ": "t0ken-value"})
    ee_runner.run(**options, **recorder.callbacks())
    starting, *others = recorder.statuses
    assert set(starting) == {"status", "runner_ident", "command", "env", "cwd"}
    assert starting["command"] == ["sh", "-c", "true"]
    assert starting["cwd"] == str(tmp_path)
    assert starting["env"]["PLAIN"] == "********"
    assert starting["env"]["TZ"] == "UTC"
    assert starting["env"]["API_TOKEN"] == "********"
    assert "t0ken-value" not in str(starting)
    assert others == [{"status": status, "runner_ident": "1"} for status in ("running", "successful")]


@pytest.mark.parametrize(
    ("script", "options", "status", "rc", "reason"),
    [
        ("exit 0", {}, "successful", 0, "exited"),
        ("exit 3", {}, "failed", 3, "exited"),
        ("kill -9 $$", {}, "failed", 137, "killed"),
        ("echo; sleep 300", {"cancel_callback": lambda: "yes"}, "canceled", 254, "canceled"),
        ("echo; sleep 300", {"timeout": 0.2}, "timeout", 254, "job_timeout"),
        ("echo; sleep 300", {"settings": {"idle_timeout": 0.2}}, "timeout", 254, "idle_timeout"),
        ("echo", {"executable_cmd": "no-such-command"}, "failed", 127, "launch"),
        ("echo; sleep 300", {"event_handler": raising}, "error", 70, "callback"),
    ],
    ids=["success", "failure", "killed", "cancel", "timeout", "idle", "launch", "error"],
)
def test_the_last_status_is_how_the_job_ended(
    tmp_path: Path, recorder: Recorder, script: str, options: dict[str, Any], status: str, rc: int, reason: str
) -> None:
    runner = ee_runner.init_runner(**{**shell(tmp_path, script), **recorder.callbacks(**options)})
    assert (runner.status, runner.rc) == ("unstarted", None)
    if status == "error":
        with pytest.raises(ee_runner.CallbackError):
            runner.run()
    else:
        assert runner.run() == (status, rc)
    assert [data["status"] for data in recorder.statuses] == ["starting", "running", status]
    assert recorder.disk[-3][:2] == (status, str(rc))
    assert recorder.names[-3:] == [status, "artifacts", "finished"]
    assert (runner.status, runner.rc, runner.reason) == (status, rc, reason)
    assert (runner.canceled, runner.timed_out, runner.errored) == (
        status == "canceled",
        status == "timeout",
        status == "error",
    )


def test_a_command_that_is_not_there_is_told_by_one_event(tmp_path: Path) -> None:
    runner = ee_runner.run(**{**shell(tmp_path, ""), "executable_cmd": "no-such-command"})
    (event,) = runner.events
    assert event["event"] == "verbose"
    assert "no-such-command" in event["stdout"]
    assert runner.detail == event["stdout"]


def test_at_the_end_a_callback_has_all_results(tmp_path: Path) -> None:
    seen: list[Any] = []

    def results(_: Any) -> None:
        with runner.stdout as stdout:
            seen.append((runner.rc, [event["stdout"] for event in runner.events], stdout.read()))

    runner = ee_runner.init_runner(
        **shell(tmp_path, "echo a; echo b"), artifacts_handler=results, finished_callback=results
    )
    runner.run()
    assert seen == [(0, ["a", "b"], "a\nb\n")] * 2


# What a handler says of an event


def test_an_event_is_kept_unless_its_handler_says_no_and_kept_as_the_handler_left_it(tmp_path: Path) -> None:
    answers = {"a": None, "b": True, "c": 1, "d": False, "e": 0, "f": ""}

    def handler(event: dict[str, Any]) -> Any:
        answer = answers[event["stdout"]]
        event["stdout"] += " seen"
        return answer

    runner = ee_runner.run(**shell(tmp_path, "printf '%s\\n' a b c d e f"), event_handler=handler)
    assert [(event["counter"], event["stdout"]) for event in runner.events] == [
        (1, "a seen"),
        (2, "b seen"),
        (3, "c seen"),
    ]


def test_a_handler_may_cancel_its_job(tmp_path: Path) -> None:
    runner = ee_runner.init_runner(**shell(tmp_path, WAITS), event_handler=lambda _: runner.cancel())
    assert runner.run() == ("canceled", 254)
    assert is_over(tmp_path)


# Cancel


@pytest.mark.parametrize("mode", ["pexpect", "subprocess"])
def test_the_cancel_callback_of_an_idle_job_is_asked_all_the_time_and_ends_it(tmp_path: Path, mode: str) -> None:
    asked: list[float] = []

    def cancel() -> bool:
        asked.append(time.monotonic())
        return (tmp_path / "pid").exists() and len(asked) >= 4

    runner = ee_runner.run(**shell(tmp_path, WAITS, runner_mode=mode), cancel_callback=cancel)
    assert (runner.status, runner.rc) == ("canceled", 254)
    assert outcome(tmp_path) == ("canceled", "254")
    gaps = [after - before for before, after in itertools.pairwise(asked)]
    assert sorted(gaps)[len(gaps) // 2] < 1, gaps
    assert is_over(tmp_path)
    with runner.stdout as stdout:
        assert stdout.read() == "going\n"


@pytest.mark.parametrize("asked", ["by its callback", "by another thread"])
def test_of_a_cancelled_playbook_no_process_is_left(demo: Path, asked: str) -> None:
    pid = demo / "project/pid"
    (demo / "project/site.yml").write_text(SLEEPS)
    callback = pid.exists if asked == "by its callback" else None
    thread, runner = ee_runner.run_async(
        private_data_dir=demo, playbook="site.yml", ident="1", cancel_callback=callback
    )
    wait_until(pid.exists, bound=60, what="the task")
    if callback is None:
        runner.cancel()
    thread.join()
    assert (runner.status, runner.rc) == ("canceled", 254)
    assert is_over(demo / "project")
    assert [event["event"] for event in runner.events][-1] == "runner_on_start"
    assert runner.stats is None


def test_a_timeout_ends_what_has_left_the_session_of_the_job(tmp_path: Path) -> None:
    script = f"setsid sh -c '{WAITS}' & wait"
    runner = ee_runner.run(**shell(tmp_path, script, timeout=2))
    assert (runner.status, runner.rc, runner.reason) == ("timeout", 254, "job_timeout")
    assert is_over(tmp_path)


def test_a_job_that_is_cancelled_before_it_runs_does_not_start(tmp_path: Path) -> None:
    runner = ee_runner.init_runner(**shell(tmp_path, "echo > started"))
    runner.cancel()
    assert runner.run() == ("canceled", 254)
    assert not (tmp_path / "started").exists()


# A callback that raises


@pytest.mark.parametrize("callback", ["event_handler", "cancel_callback"])
def test_what_a_callback_raises_ends_the_job_and_comes_out_with_its_cause(
    tmp_path: Path, recorder: Recorder, callback: str
) -> None:
    def boom(*_: Any) -> bool:
        if (tmp_path / "pid").exists():
            raise ValueError("boom")
        return False

    with pytest.raises(ee_runner.CallbackError, match="boom") as caught:
        ee_runner.run(**shell(tmp_path, WAITS), **recorder.callbacks(**{callback: boom}))
    assert isinstance(caught.value.__cause__, ValueError)
    assert callback.replace("_", " ") in str(caught.value)
    assert is_over(tmp_path)
    assert outcome(tmp_path) == ("error", "70")
    assert recorder.names[-3:] == ["error", "artifacts", "finished"]


def test_a_raising_event_handler_ends_the_playbooks_task_and_its_event_is_kept(demo: Path) -> None:
    (demo / "project/site.yml").write_text(SLEEPS)
    pid = demo / "project/pid"
    seen: list[dict[str, Any]] = []

    def handler(event: dict[str, Any]) -> None:
        seen.append(event)
        if event["event"] == "runner_on_start":
            wait_until(pid.exists, bound=60, what="the task")
            raise ValueError("boom")

    with pytest.raises(ee_runner.CallbackError):
        ee_runner.run(private_data_dir=demo, playbook="site.yml", ident="1", event_handler=handler)
    assert is_over(demo / "project")
    kept = sorted(path.name for path in (demo / "artifacts/1/job_events").iterdir())
    assert f"{seen[-1]['counter']}-{seen[-1]['uuid']}.json" in kept
    assert outcome(demo) == ("error", "70")


@pytest.mark.parametrize("status", ["starting", "running"])
def test_a_status_handler_that_raises_before_the_start_keeps_the_job_from_it(
    tmp_path: Path, recorder: Recorder, status: Status
) -> None:
    with pytest.raises(ee_runner.CallbackError, match="status handler raised ValueError: boom") as caught:
        ee_runner.run(**shell(tmp_path, "echo > started"), **recorder.callbacks(status_handler=raising_at(status)))
    assert isinstance(caught.value.__cause__, ValueError)
    assert not (tmp_path / "started").exists()
    assert outcome(tmp_path) == ("error", "70")
    assert recorder.names == ["artifacts", "finished"]


def test_a_status_handler_that_raises_at_the_end_leaves_the_outcome_as_it_is(
    tmp_path: Path, recorder: Recorder
) -> None:
    with pytest.raises(ee_runner.CallbackError, match="status handler raised ValueError: boom"):
        ee_runner.run(**shell(tmp_path, "exit 3"), **recorder.callbacks(status_handler=raising_at("failed")))
    assert outcome(tmp_path) == ("failed", "3")
    assert recorder.names == ["artifacts", "finished"]


@pytest.mark.parametrize("callback", ["artifacts_handler", "finished_callback"])
def test_what_is_raised_after_the_end_leaves_the_outcome_as_it_is(
    tmp_path: Path, recorder: Recorder, callback: str
) -> None:
    runner = ee_runner.init_runner(**shell(tmp_path, "echo a"), **recorder.callbacks(**{callback: raising}))
    with pytest.raises(ee_runner.CallbackError, match=f"{callback.replace('_', ' ')} raised ValueError: boom"):
        runner.run()
    assert (runner.status, runner.rc) == ("successful", 0)
    assert outcome(tmp_path) == ("successful", "0")
    assert recorder.names[-1] == ("finished" if callback == "artifacts_handler" else "artifacts")


def test_of_several_that_raise_the_first_comes_out_and_the_others_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ee_runner.CallbackError, match="event handler"):
        ee_runner.run(**shell(tmp_path, WAITS), event_handler=raising, finished_callback=raising)
    assert [record.message for record in caplog.records] == ["The finished callback raised ValueError: boom"]
    assert is_over(tmp_path)


def test_a_handler_that_raised_is_not_called_again(tmp_path: Path) -> None:
    seen: list[str] = []

    def handler(event: dict[str, Any]) -> None:
        seen.append(event["stdout"])
        raise ValueError("boom")

    def status_handler(data: dict[str, Any], runner_config: Any) -> None:
        seen.append(data["status"])
        raise ValueError(runner_config.ident)

    with pytest.raises(ee_runner.CallbackError):  # what has no line end yet is an event all the same
        ee_runner.run(**shell(tmp_path, "printf 'a\\nb'; sleep 300"), event_handler=handler)
    with pytest.raises(ee_runner.CallbackError):
        ee_runner.run(**shell(tmp_path, "true"), status_handler=status_handler)
    assert seen == ["a", "starting"]


def test_a_status_handler_without_the_second_parameter_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ee_runner.CallbackError, match="runner_config"):
        ee_runner.run(**shell(tmp_path, "true"), status_handler=lambda data: None)  # noqa: ARG005


def test_in_a_thread_of_its_own_what_a_callback_raises_ends_the_thread(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    thread, runner = ee_runner.run_async(**shell(tmp_path, WAITS), **recorder.callbacks(event_handler=raising))
    thread.join()
    assert raised[0].exc_type is ee_runner.CallbackError
    assert (runner.status, runner.rc, runner.reason) == ("error", 70, "callback")
    assert recorder.calls[-1] == ("finished", runner)
    assert is_over(tmp_path)


def test_an_interrupt_in_a_callback_ends_the_job_and_comes_out_as_it_is(tmp_path: Path) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ee_runner.run(**shell(tmp_path, WAITS), event_handler=interrupt)
    assert is_over(tmp_path)
    assert outcome(tmp_path) == ("canceled", "254")


@pytest.mark.parametrize("wrong", [{"runner_http_url": "ftp://nowhere"}, {"logfile": "/dev/null/log"}], ids=str)
def test_what_keeps_a_job_from_starting_is_its_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    thread, runner = ee_runner.run_async(**shell(tmp_path, "true", ignore_logging=False, **wrong))
    thread.join()
    assert raised[0].exc_type is ee_runner.ConfigurationError
    assert (runner.status, runner.rc) == ("error", 78)
    assert outcome(tmp_path) == ("error", "78")
