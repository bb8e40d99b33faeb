"""The callback plugin in a real ansible: its records and marks, decoded and joined.

EE_TEST_ANSIBLE_BIN names the bin directory of another ansible to try than the one of the running interpreter.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import pty
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ee_runner.callback
from ee_runner.events.decoder import Decoder, EventAssembler, Text

BIN = Path(os.environ.get("EE_TEST_ANSIBLE_BIN") or Path(sys.executable).parent)
PLAYBOOKS = Path(__file__).parent.parent / "support" / "playbooks"
PLUGINS = Path(next(iter(ee_runner.callback.__path__)))
SECRET = "hunter2-secret"


@dataclasses.dataclass
class Run:
    """What came out of one ansible command."""

    rc: int
    events: list[dict[str, Any]]
    text: str
    stderr: str
    records: bytes

    def named(self, *names: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] in names]

    def results(self, task: str) -> list[dict[str, Any]]:
        """Results of a task, in the order of the events."""
        data = [event["event_data"] for event in self.events if "event_data" in event]
        return [d["res"] for d in data if d.get("task") == task and "res" in d]

    def order(self) -> list[tuple[str, str | None, str | None]]:
        data = [(event["event"], event.get("event_data", {})) for event in self.events]
        return [(name, d.get("task"), d.get("host")) for name, d in data]


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR") if name in os.environ}
    local = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
    return {**kept, "LC_ALL": "C.UTF-8", "TERM": "xterm", "ANSIBLE_PYTHON_INTERPRETER": local, **more}


def observe(
    *arguments: str,
    scratch: Path,
    program: str = "ansible-playbook",
    terminal: bool = True,
    env: Mapping[str, str] | None = None,
    spool: Path | None = None,
    answers: Mapping[str, str] | None = None,
    on_event: Callable[[dict[str, Any], int], None] | None = None,
) -> Run:
    """Run an ansible command with the plugin, on a terminal or on pipes."""
    spool = spool or scratch / f"spool-{secrets.token_hex(4)}"
    if not spool.exists():
        spool.touch(mode=0o600)
    nonce = secrets.token_hex(16)
    variables = environment(
        ANSIBLE_CALLBACK_PLUGINS=str(PLUGINS),
        EE_RUNNER_EVENTS_SPOOL=str(spool),
        EE_RUNNER_EVENTS_NONCE=nonce,
    )
    variables.update(env or {})
    argv = [str(BIN / program), *arguments, "-i", str(PLAYBOOKS / "inventory.ini"), "-e", f"scratch={scratch}"]
    argv += ["-e", f"ansible_python_interpreter={variables['ANSIBLE_PYTHON_INTERPRETER']}"]
    errors = scratch / f"stderr-{nonce}"
    pid, output = start(argv, variables, None if terminal else errors)
    try:
        events, text = follow(output, spool, nonce, answers or {}, lambda event: on_event and on_event(event, pid))
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        raise
    finally:
        os.close(output)
        rc = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    stderr = "" if terminal else errors.read_text()
    run = Run(rc, events, text.decode("utf-8", "replace"), stderr, spool.read_bytes() if spool.is_file() else b"")
    check(run, joined=terminal)
    return run


def follow(
    output: int, spool: Path, nonce: str, answers: Mapping[str, str], seen: Callable[[dict[str, Any]], Any]
) -> tuple[list[dict[str, Any]], bytes]:
    """Decode the output until it ends, and answer prompts."""
    asked = dict(answers)
    events: list[dict[str, Any]] = []
    text = b""
    with spool.open("rb") as records:

        def read_record(offset: int, length: int) -> bytes:
            records.seek(offset)
            return records.read(length)

        decoder, assembler = Decoder(nonce), EventAssembler(ident="test", read_record=read_record)
        while True:
            data = read(output)
            items = decoder.feed(data) if data else decoder.close()
            text += b"".join(item.data for item in items if isinstance(item, Text))
            for event in [event for item in items for event in assembler.push(item)]:
                events.append(event)
                seen(event)
            for question in [question for question in asked if question.encode() in text]:
                time.sleep(0.2)  # Ansible throws away what was typed before it reads
                os.write(output, asked.pop(question).encode())
            if not data:
                return events + assembler.close(), text


def start(argv: list[str], variables: dict[str, str], errors: Path | None) -> tuple[int, int]:
    """Start a command on a terminal, or on pipes if there is a file for errors; its process id and its output."""
    if errors is None:
        pid, master = pty.fork()  # a controlling terminal, which prompts insist on
        if pid == 0:
            os.chdir(PLAYBOOKS)
            os.execve(argv[0], argv, variables)
        return pid, master
    mine, theirs = os.pipe()
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            argv, env=variables, cwd=PLAYBOOKS, stdin=subprocess.DEVNULL, stdout=theirs, stderr=stderr
        )
    os.close(theirs)
    return process.pid, mine


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other side of the terminal is closed
        return b""


def squeezed(text: str) -> str:
    return text.replace("\r", "").replace("\n", "")


def check(run: Run, joined: bool) -> None:
    """What holds for every run."""
    assert "_ee;" not in run.text + run.stderr
    assert [event["counter"] for event in run.events] == list(range(1, len(run.events) + 1))
    assert len({event["uuid"] for event in run.events}) == len(run.events)
    line = 0
    for event in run.events:
        assert len(event["uuid"]) == 36
        assert event["start_line"] == line
        line = event["end_line"]
        assert event["created"].endswith("+00:00")
        assert len(event.get("parent_uuid", "-" * 36)) == 36
        assert event["event_data"].get("uuid", event["uuid"]) == event["uuid"] if "event_data" in event else True
    assert "ee_runner_error" not in run.records.decode()
    assert line == run.text.count("\n")
    if joined:
        assert squeezed("".join(event["stdout"] for event in run.events)) == squeezed(run.text)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return observe("main.yml", "-f", "1", scratch=tmp_path_factory.mktemp("everything"))


def test_play_gives_the_expected_events(everything: Run) -> None:
    expected = [tuple(line) for line in json.loads((PLAYBOOKS / "main.events.json").read_text())]
    assert everything.rc == 0
    # When handlers are notified differs between versions; the workers of two hosts run at the same time.
    order = [line for line in everything.order() if line[1] != "Flush" and line[0] != "playbook_on_notify"]
    for host in (None, "alpha", "beta"):
        assert [line for line in order if line[2] == host] == [line for line in expected if line[2] == host]
    notified = everything.named("playbook_on_notify")
    assert Counter((e["event_data"]["host"], e["event_data"]["handler"]) for e in notified) == Counter(
        (host, handler) for host in ("alpha", "beta") for handler in ("demo : Role handler", "Handle it")
    )


def test_event_has_the_documented_fields(everything: Run) -> None:
    event = next(e for e in everything.named("runner_on_ok") if e["event_data"]["task"] == "From the role")
    assert list(event) == [
        *("uuid", "counter", "stdout", "start_line", "end_line", "runner_ident"),
        *("event", "pid", "created", "parent_uuid", "event_data"),
    ]
    data = event["event_data"]
    assert list(data) == [
        *("playbook", "playbook_uuid", "play", "play_uuid", "play_pattern"),
        *("task", "task_uuid", "task_action", "resolved_action", "task_args", "task_path", "role"),
        *("host", "remote_addr", "res", "start", "end", "duration", "event_loop", "uuid"),
    ]
    assert data["playbook"] == "main.yml"
    assert data["play_pattern"] == "web"
    assert data["role"] == "demo"
    assert data["task_path"].endswith("roles/demo/tasks/main.yml:1")
    assert data["res"]["stdout"] == "role"
    assert data["duration"] > 0
    assert event["parent_uuid"] == data["task_uuid"]
    assert event["runner_ident"] == "test"


def test_events_form_a_tree(everything: Run) -> None:
    playbook, play = everything.events[0], everything.events[1]
    assert "parent_uuid" not in playbook
    assert play["parent_uuid"] == playbook["uuid"]
    known = {event["uuid"] for event in everything.events}
    assert {e["parent_uuid"] for e in everything.named("playbook_on_task_start")} == {play["uuid"]}
    assert {e["parent_uuid"] for e in everything.events[1:]} <= known


def test_event_has_exactly_its_own_text(everything: Run) -> None:
    for event in everything.named("runner_on_ok", "runner_item_on_ok"):
        assert all(f"[{other}" not in event["stdout"] for other in {"alpha", "beta"} - {event["event_data"]["host"]})
    for event in everything.named("playbook_on_task_start"):
        assert event["event_data"]["name"] in event["stdout"]
    assert everything.events[-1]["stdout"].startswith("\r\nPLAY RECAP")


def test_failures_and_retries_say_what_the_play_does_with_them(everything: Run) -> None:
    ignored = {e["event_data"]["task"]: e["event_data"]["ignore_errors"] for e in everything.named("runner_on_failed")}
    assert {task: bool(flag) for task, flag in ignored.items()} == {
        "Loop with a skip and a failure": True,
        "Fails": False,
        "Retry": True,
    }
    attempts = [e["event_data"]["res"]["attempts"] for e in everything.named("runner_retry")]
    assert attempts in ([1, 2, 1, 2], [2, 3, 2, 3])  # ansible-core 2.21 counts the attempt to come


def test_stats_have_the_recap_and_the_custom_stats(everything: Run) -> None:
    data = everything.events[-1]["event_data"]
    assert data["processed"] == {"alpha": 1, "beta": 1}
    assert data["rescued"] == {"alpha": 1, "beta": 1}
    assert data["dark"] == {}
    assert data["failures"] == {}
    assert data["artifact_data"] == {"whole": 2}
    assert data["custom"] == {"alpha": {"mine": "alpha"}, "beta": {"mine": "beta"}}


@pytest.mark.parametrize("strategy", ["linear", "free", "host_pinned"])
def test_every_strategy_gives_each_host_its_events(strategy: str, tmp_path: Path) -> None:
    run = observe("strategies.yml", "-e", f"strategy={strategy}", scratch=tmp_path)
    hosts = [f"h{number}" for number in range(1, 7)]
    seen = Counter(run.order())
    for host in hosts:
        for task in ("First", "Second", "Third", "Handler"):
            assert seen["runner_on_start", task, host] == 1
            assert seen["runner_on_ok", task, host] == 1
        assert seen["runner_item_on_ok", "Third", host] == 2
    for event in run.named("runner_on_ok", "runner_item_on_ok"):
        mine = event["event_data"]["host"]
        named = set(re.findall(r"\[(h\d)\]", event["stdout"]))
        assert named <= {mine}
        assert named == {mine} or event["event_data"]["task"] == "Third"
    assert run.events[-1]["event"] == "playbook_on_stats"


def test_fields_of_serial_plays_roles_and_diffs(tmp_path: Path) -> None:
    run = observe("fields.yml", scratch=tmp_path)
    plays = run.named("playbook_on_play_start")
    assert [play["event_data"]["name"] for play in plays] == ["Fields of events"] * 2 + ["Imported"]
    assert plays[0]["event_data"]["play_uuid"] == plays[1]["event_data"]["play_uuid"]
    role = next(e["event_data"] for e in run.events if e.get("event_data", {}).get("task") == "Greet")
    assert (role["role"], role["resolved_role"]) == ("greet", "demo.things.greet")
    diffs = [e["event_data"]["diff"] for e in run.named("runner_on_file_diff")]
    # The diff of a loop comes with each item and, in some versions, once more without one.
    assert [diff[0]["after"] for diff in diffs if diff][:3] == ["new\n", "1", "2"] or diffs[0][0]["after"] == "new\n"
    loops = [e["event_data"]["event_loop"] for e in run.named("runner_on_ok")]
    assert loops.count("items") == 2
    assert all(e["event_data"]["task_args"] == "" for e in run.named("playbook_on_task_start"))


def test_arguments_are_shown_when_the_user_shows_them(tmp_path: Path) -> None:
    run = observe("fields.yml", scratch=tmp_path, env={"ANSIBLE_DISPLAY_ARGS_TO_STDOUT": "1"})
    arguments = {e["event_data"]["task"]: e["event_data"]["task_args"] for e in run.named("playbook_on_task_start")}
    assert arguments["Greet"] == "msg=greetings"
    assert arguments["Args that are secret"].startswith("the output has been hidden")
    assert "_ansible_" not in "".join(e["event_data"].get("task_args", "") for e in run.named("runner_on_failed"))


@pytest.mark.parametrize("shown", ["0", "1"])
def test_no_log_hides_everything(shown: str, tmp_path: Path) -> None:
    run = observe("no_log.yml", "--diff", scratch=tmp_path, env={"ANSIBLE_DISPLAY_ARGS_TO_STDOUT": shown})
    assert run.rc == 0
    assert len(run.named("runner_retry")) == 1
    assert len(run.named("runner_item_on_failed")) == 2
    assert SECRET.encode() not in run.records
    assert b"item-secret" not in run.records
    assert b"open-item" in run.records
    censored = [res for task in ("Plain", "Bad template", "In the block", "In the play") for res in run.results(task)]
    assert {tuple(res) for res in censored} == {("censored",)}
    assert len(censored) == 4


def test_secrets_of_inventory_and_environment_are_in_no_event(tmp_path: Path) -> None:
    run = observe("hosts.yml", scratch=tmp_path, env={"CONTROLLER_SECRET": SECRET})
    assert SECRET.encode() not in run.records
    assert b"never-shown" not in run.records


def test_hosts_that_are_missing_unreachable_or_failed(tmp_path: Path) -> None:
    run = observe("hosts.yml", scratch=tmp_path)
    assert run.rc != 0
    names = [event["event"] for event in run.events]
    assert names[:4] == ["playbook_on_start", "warning", "playbook_on_play_start", "playbook_on_no_hosts_matched"]
    (lost,) = run.named("runner_on_unreachable")
    assert lost["event_data"]["host"] == "gone"
    assert lost["event_data"]["res"]["unreachable"] is True
    assert "UNREACHABLE" in lost["stdout"]
    assert run.events[-1]["event_data"]["dark"] == {"gone": 1}
    assert run.events[-1]["event_data"]["failures"] == {"alpha": 1, "beta": 1}


def test_async_tasks(tmp_path: Path) -> None:
    run = observe("async.yml", scratch=tmp_path)
    assert run.rc == 0
    assert run.named("runner_on_async_poll")
    assert [e["event_data"]["task"] for e in run.named("runner_on_async_ok")] == ["Polled"]
    failed = run.named("runner_on_async_failed")
    assert failed[0]["event_data"]["task"] == "Fails"
    assert all(e["event_data"]["jid"] for e in failed)
    assert all("ASYNC" in e["stdout"] for e in failed)


def test_values_of_every_kind(tmp_path: Path) -> None:
    run = observe("values.yml", "--vault-password-file", "vault-password.txt", scratch=tmp_path)
    assert run.rc == 0
    assert run.results("Unsafe")[0]["raw"] == "{{ not_a_template }}"
    assert run.results("Vaulted structure")[0]["ansible_facts"]["holder"]["7"] == "number key"
    assert run.results("Bytes that are not UTF-8")[0]["stdout"].startswith("a\ufffdb")
    assert run.results("Unicode")[0]["msg"].startswith("žluťoučký kůň 🐎")
    assert run.results("Large")[0]["stdout"] == "x" * 3_000_000


def test_result_too_large_is_cut_and_says_so(tmp_path: Path) -> None:
    arguments = ("values.yml", "--vault-password-file", "vault-password.txt")
    run = observe(*arguments, scratch=tmp_path, env={"EE_RUNNER_MAX_RESULT": "100000"})
    (event,) = [e for e in run.named("runner_on_ok") if e["event_data"]["task"] == "Large"]
    data = event["event_data"]
    assert data["ee_runner_cut"].endswith("bytes, cut to about 100000")
    assert data["res"]["stdout"].startswith("xxx")
    assert data["res"]["stdout"].endswith("of 3000000 characters]")
    assert data["res"]["rc"] == 0
    assert data["host"] == "alpha"
    assert max(map(len, run.records.splitlines())) < 110_000


@pytest.mark.parametrize("terminal", [True, False])
def test_messages_outside_callbacks_are_events(terminal: bool, tmp_path: Path) -> None:
    run = observe("talks.yml", "-vvv", scratch=tmp_path, terminal=terminal)
    said = {(event["event"], event.get("verbosity")) for event in run.events if "said by" in event["stdout"]}
    assert {name for name, _ in said} >= {"verbose", "warning", "error"}
    # Workers of ansible-core before 2.15 send the text only.
    assert {verbosity for _, verbosity in said} in ({None, 1, 3}, {None})
    (warning,) = [e for e in run.named("warning") if "system_warning" in e["stdout"]]
    assert warning["event_data"]["task"] == "Talk"
    every = "".join(event["stdout"] for event in run.events)
    assert "said by warning" in every
    assert "said by deprecated" in every
    assert run.events[0]["event"] == "verbose"
    assert "event_data" not in run.events[0]


def test_on_pipes_marks_are_on_stdout_only(tmp_path: Path) -> None:
    run = observe("messages.yml", scratch=tmp_path, terminal=False)
    assert "a module warning" in run.stderr
    assert "a module warning" not in run.text
    assert any("a module warning" in event["stdout"] for event in run.events)
    assert squeezed(run.text) in squeezed("".join(e["stdout"] for e in run.events)) or run.stderr


def without_times(text: str) -> str:
    return re.sub(r"\d+:\d+:\d+\.\d+|\d{4}-\d\d-\d\d", "T", text)


@pytest.mark.parametrize(
    ("callback", "result_format"), [("default", "json"), ("default", "yaml"), ("minimal", "json"), ("oneline", "json")]
)
@pytest.mark.parametrize("terminal", [True, False])
def test_users_output_stays_as_it_is(callback: str, result_format: str, terminal: bool, tmp_path: Path) -> None:
    env = {"ANSIBLE_STDOUT_CALLBACK": callback, "ANSIBLE_CALLBACK_RESULT_FORMAT": result_format}
    arguments = functools.partial(observe, "plain.yml", "-f", "1", scratch=tmp_path, terminal=terminal)
    plain = arguments(env={**env, "ANSIBLE_CALLBACK_PLUGINS": "/nowhere"})
    observed = arguments(env=env)
    assert not plain.named("runner_on_ok")
    assert len(observed.named("runner_on_ok")) == 4
    assert without_times(observed.text) == without_times(plain.text)
    assert without_times(observed.stderr) == without_times(plain.stderr)


def test_other_callbacks_keep_working_and_their_prints_belong_to_the_event(tmp_path: Path) -> None:
    plugins = f"{PLAYBOOKS / 'callback_plugins_extra'}{os.pathsep}{PLUGINS}"
    run = observe("plain.yml", scratch=tmp_path, env={"ANSIBLE_CALLBACK_PLUGINS": plugins})
    for event in run.named("runner_on_ok"):
        for line in ("printed to stdout", "printed to stderr", "written to the descriptor"):
            assert event["stdout"].count(line) == 1


def test_nested_playbook_is_not_observed(tmp_path: Path) -> None:
    restored = {"ANSIBLE_CALLBACK_PLUGINS": "/somewhere/else", "ANSIBLE_LOAD_CALLBACK_PLUGINS": None}
    env = {"EE_RUNNER_RESTORE_ENV": json.dumps(restored), "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1"}
    run = observe("nested.yml", "-e", f"ansible_playbook={BIN / 'ansible-playbook'}", scratch=tmp_path, env=env)
    assert run.rc == 0
    variables = dict(line.partition("=")[::2] for line in run.results("Environment of a task")[0]["stdout_lines"])
    assert not [name for name in variables if name.startswith("EE_RUNNER")]
    assert variables["ANSIBLE_CALLBACK_PLUGINS"] == "/somewhere/else"
    assert "ANSIBLE_LOAD_CALLBACK_PLUGINS" not in variables
    nested = run.results("Playbook in a task")[0]["stdout"]
    assert "PLAY RECAP" in nested
    assert "_ee;" not in nested
    assert len(run.named("playbook_on_start")) == 1


def test_own_directory_leaves_the_users_plugin_path(tmp_path: Path) -> None:
    env = {"ANSIBLE_CALLBACK_PLUGINS": f"/users/own{os.pathsep}{PLUGINS}"}
    run = observe("nested.yml", "-e", f"ansible_playbook={BIN / 'ansible-playbook'}", scratch=tmp_path, env=env)
    assert "ANSIBLE_CALLBACK_PLUGINS=/users/own" in run.results("Environment of a task")[0]["stdout_lines"]


def test_adhoc_command(tmp_path: Path) -> None:
    run = observe(
        *("alpha", "-m", "ansible.builtin.command", "-a", "echo hi"),
        scratch=tmp_path,
        program="ansible",
        env={"ANSIBLE_LOAD_CALLBACK_PLUGINS": "1", "AD_HOC_COMMAND_ID": "1"},
    )
    names = [event["event"] for event in run.events]
    assert names == ["playbook_on_start", "runner_on_start", "runner_on_ok", "playbook_on_stats"]
    assert run.events[2]["event_data"]["res"]["stdout"] == "hi"
    assert run.events[2]["ad_hoc_command_id"] == 1
    assert "hi" in run.events[2]["stdout"]


def test_prompts_show_at_once_and_private_defaults_are_hidden(tmp_path: Path) -> None:
    answers = {"Shown [fallback-value]: ": "typed\n", "hidden": "x\n", "Press enter": "\n"}
    run = observe("prompts.yml", scratch=tmp_path, answers=answers)
    assert run.rc == 0
    assert run.results("Answered")[0]["msg"] == "typed"
    prompts = run.named("playbook_on_vars_prompt")
    assert [prompt["event_data"]["varname"] for prompt in prompts] == ["shown", "hidden"]
    assert prompts[0]["event_data"]["default"] == "fallback-value"
    assert SECRET.encode() not in run.records


def test_event_data_is_left_out_on_request(tmp_path: Path) -> None:
    run = observe("plain.yml", scratch=tmp_path, env={"EE_RUNNER_OMIT_EVENT_DATA": "1"})
    assert {json.dumps(event["event_data"]) for event in run.events} == {"{}"}
    assert run.events[1]["parent_uuid"] == run.events[0]["uuid"]


def test_only_failures_keep_their_data_on_request(tmp_path: Path) -> None:
    run = observe("plain.yml", scratch=tmp_path, env={"EE_RUNNER_ONLY_FAILED_EVENT_DATA": "1"})
    assert {event["event"] for event in run.events if event["event_data"]} == {"runner_on_failed"}


def test_without_its_variables_the_plugin_does_nothing(tmp_path: Path) -> None:
    run = observe("plain.yml", scratch=tmp_path, env={"EE_RUNNER_EVENTS_NONCE": ""})
    assert {event["event"] for event in run.events} == {"verbose"}
    assert run.records == b""


def test_full_disk_is_reported_once_and_the_play_goes_on(tmp_path: Path) -> None:
    run = observe("plain.yml", scratch=tmp_path, spool=Path("/dev/full"))
    assert run.rc == 0
    assert run.text.count("an event could not be recorded") == 1
    assert "No space left on device" in run.text
    assert "PLAY RECAP" in run.text
    assert {event["event"] for event in run.events} == {"verbose"}


def test_spool_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    run = observe("plain.yml", scratch=tmp_path, env={"EE_RUNNER_EVENTS_SPOOL": str(tmp_path / "no" / "spool")})
    assert run.rc == 0
    assert "no events can be recorded" in run.text
    assert "PLAY RECAP" in run.text


def test_several_playbooks_and_a_spool_that_is_in_use(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.write_bytes(b"something else\n")
    run = observe("plain.yml", "imported.yml", scratch=tmp_path, spool=spool)
    starts = run.named("playbook_on_start")
    assert [event["event_data"]["playbook"] for event in starts] == ["plain.yml", "imported.yml"]
    (last,) = [e for e in run.named("playbook_on_play_start") if e["event_data"]["name"] == "Imported"]
    assert last["parent_uuid"] == starts[1]["uuid"]


def test_killed_job_keeps_the_events_that_it_had(tmp_path: Path) -> None:
    def kill(event: dict[str, Any], pid: int) -> None:
        if event.get("event_data", {}).get("task") == "Polled" and event["event"] == "runner_on_start":
            time.sleep(0.2)
            os.killpg(pid, signal.SIGKILL)

    run = observe("async.yml", scratch=tmp_path, on_event=kill)
    assert run.rc == -signal.SIGKILL
    assert ("runner_on_start", "Polled", "alpha") in run.order()
    assert not run.named("playbook_on_stats")


# The encoder, in this process


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    pytest.importorskip("ansible")
    spec = importlib.util.spec_from_file_location("ee_events_under_test", PLUGINS / "ee_events.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def decoded(plugin: ModuleType, value: Any) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(plugin.encoded({"value": value}).decode("utf-8"), parse_constant=refuse)["value"]


def test_encoder_makes_json_of_everything(plugin: ModuleType) -> None:
    assert decoded(plugin, b"a\xff") == "a\ufffd"
    assert decoded(plugin, "a\udcff") == "a\ufffd"
    assert decoded(plugin, {1, 2}) == [1, 2]
    assert decoded(plugin, {(1, 2): "tuple", 3: "int", None: "none", b"b": "bytes"}).keys() >= {"3", "None", "b"}
    assert decoded(plugin, float("nan")) == "nan"
    assert decoded(plugin, object).startswith("<class")
    assert decoded(plugin, (item for item in "ab")) == "<generator>"


def test_encoder_survives_circles_and_depth(plugin: ModuleType) -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    assert decoded(plugin, circle)[0] == 1
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert isinstance(decoded(plugin, deep), list)


def test_encoder_never_decrypts(plugin: ModuleType) -> None:
    vaulted = object.__new__(plugin.Vaulted)
    assert decoded(plugin, [vaulted, {"key": vaulted}]) == ["ENCRYPTED_VAULT_VALUE", {"key": "ENCRYPTED_VAULT_VALUE"}]


@pytest.mark.parametrize(
    "value",
    [
        {"text": "x" * 50_000, "rc": 0, "more": {"other": "y" * 50_000, "small": True}},
        {"list": [{"n": number, "text": "z" * 20} for number in range(5_000)], "rc": 1},
        {f"key{number}": number for number in range(20_000)},
    ],
)
def test_cutting_fits_and_says_how_much_is_gone(plugin: ModuleType, value: dict[str, Any]) -> None:
    cut = plugin.cut(value, 10_000)
    encoded = plugin.encoded(cut)
    assert len(encoded) < 12_000
    assert b"ee-runner cut" in encoded
    assert cut.get("rc", 0) == value.get("rc", 0)
