"""The library: a job from keyword arguments, with the host's own Ansible."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

import ee_runner
from ee_runner.keywords import JobKeywords
from ee_runner.options import CALLBACKS
from tests.engines.projects import EVENTS
from tests.support.processes import REPO


def run(demo: Path, **options: Any) -> ee_runner.Runner:
    return ee_runner.run(private_data_dir=demo, playbook="site.yml", ident="1", **options)


def test_a_run_gives_its_results(demo: Path) -> None:
    runner = run(demo)
    assert (runner.status, runner.rc, runner.reason) == ("successful", 0, "exited")
    events = list(runner.events)
    told = [(e["event"], e["event_data"].get("task"), e["event_data"].get("host")) for e in events]
    assert [event for event in told if event[0].startswith(("playbook_on", "runner_"))] == EVENTS
    assert {event["event_data"]["host"] for event in runner.host_events("two")} == {"two"}
    assert runner.stats is not None
    assert runner.stats["ok"] == {"one": 6, "two": 5}
    with runner.stdout as stdout:
        assert "PLAY RECAP" in stdout.read()


def test_the_handler_sees_every_event_in_order_and_drops_files_by_returning_false(demo: Path) -> None:
    seen: list[dict[str, Any]] = []

    def handler(event: dict[str, Any]) -> bool:
        seen.append(event)
        return bool(event["event"] != "runner_on_start")

    runner = run(demo, event_handler=handler)
    assert [event["counter"] for event in seen] == list(range(1, len(seen) + 1))
    assert [event for event in seen if event["event"] != "runner_on_start"] == list(runner.events)


def test_a_handler_that_raises_ends_the_job_and_is_told(demo: Path) -> None:
    calls = []

    def handler(event: dict[str, Any]) -> None:
        calls.append(event["counter"])
        if len(calls) == 3:
            raise ValueError("no more")

    with pytest.raises(ee_runner.CallbackError, match="ValueError: no more") as caught:
        run(demo, event_handler=handler)
    assert isinstance(caught.value.__cause__, ValueError)
    assert calls == [1, 2, 3]
    assert (demo / "artifacts/1/status").read_text() == "error"
    assert (demo / "artifacts/1/rc").read_text() == "70"


def test_an_unknown_argument_names_the_nearest(demo: Path) -> None:
    for wrong, nearest in (("container_imge", "container_image"), ("event_handlr", "event_handler")):
        with pytest.raises(ee_runner.ConfigurationError, match=f"did you mean '{nearest}'"):
            run(demo, **{wrong: "x"})


def test_extra_vars_and_environment_of_the_caller_reach_ansible_and_no_file_outlives_the_run(demo: Path) -> None:
    (demo / "project/site.yml").write_text(
        "- hosts: one\n  gather_facts: false\n  tasks:\n"
        "    - debug: msg=\"{{ deep.list | sum }} {{ lookup('env', 'OF_THE_CALLER') }}\"\n"
    )
    extravars = {"deep": {"list": [1, 2, 3]}}
    before = sorted(path for path in demo.rglob("*") if path.is_file())
    runner = run(demo, extravars=extravars, envvars={"OF_THE_CALLER": "zwölf"})
    messages = [e["event_data"]["res"]["msg"] for e in runner.events if e["event"] == "runner_on_ok"]
    assert messages == ["6 zwölf"]
    shutil.rmtree(demo / "artifacts")
    assert sorted(path for path in demo.rglob("*") if path.is_file()) == before
    assert extravars == {"deep": {"list": [1, 2, 3]}}


def test_old_artifacts_are_rotated_out(demo: Path) -> None:
    (demo / "project/site.yml").write_text("- hosts: one\n  gather_facts: false\n")
    for ident in ("a", "b", "c"):
        ee_runner.run(private_data_dir=demo, playbook="site.yml", ident=ident, rotate_artifacts=2)
    assert sorted(path.name for path in (demo / "artifacts").iterdir()) == ["b", "c"]


MARKS = ("mark-inventory", "mark-extravar", "mark-envvar", "mark-password", "mark-play", "mark-cmdline", "mark-role")
EVERYTHING = """\
- hosts: all
  gather_facts: false
  vars_prompt: [{name: word, prompt: Word, private: true}]
  tasks:
    - name: told
      assert:
        that:
          - word == 'mark-password'
          - own == 'mark-extravar'
          - of_host == 'mark-inventory'
          - of_cmdline == 'mark-cmdline'
          - lookup('env', 'OWN') == 'mark-envvar'
          - ansible_limit == 'one'
          - ansible_forks == 7
          - ansible_verbosity == 1
          - ansible_diff_mode
        quiet: true
      tags: told
    - fail: {msg: left out by tags}
    - fail: {msg: left out by skip_tags}
      tags: [told, left_out]
"""
# What an isolated job, another target or a remote job would need is tested with these.
ELSEWHERE = """
    module module_args host_pattern hosts role role_vars role_skip_facts roles_path executable_cmd cmdline_args ssh_key
    process_isolation_executable container_image runner_mode runner_http_url runner_zmq_url host_cwd
    omit_event_data only_failed_event_data suppress_output_file json_mode streamer _input _output
    directory_isolation_base_path container_auth_data container_workdir runner_http_headers runner_http_path
    delete wire cache resume durable stream_timeout allow_outside_links only_transmit_kwargs
    memory cpus pids_limit
"""


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home, the temporary and the runtime directory of the jobs, all below one that is empty at first."""
    for name, variable in (("home", "HOME"), ("tmp", "TMPDIR"), ("runtime", "XDG_RUNTIME_DIR")):
        (tmp_path / "alone" / name).mkdir(parents=True)
        monkeypatch.setenv(variable, str(tmp_path / "alone" / name))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "alone/tmp"))
    return tmp_path / "alone"


def write(place: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)


def says(message: str, hosts: str = "all") -> dict[str, Any]:
    return {"hosts": hosts, "gather_facts": False, "tasks": [{"debug": {"msg": message}}]}


def messages(runner: ee_runner.Runner) -> list[tuple[str, str]]:
    """What debug tasks said, by host."""
    ended = [event["event_data"] for event in runner.events if event["event"] == "runner_on_ok"]
    return sorted((data["host"], str(data["res"]["msg"])) for data in ended if "msg" in data["res"])


def holding(marks: tuple[str, ...], *places: Path) -> list[tuple[str, str]]:
    """The marks that are anywhere in the files of these directories, and in their names."""
    paths = [path for place in places for path in place.rglob("*")]
    contents = {path: os.fsencode(path) + (path.read_bytes() if path.is_file() else b"") for path in paths}
    return [(mark, str(path)) for mark in marks for path, data in contents.items() if mark.encode() in data]


# What can be asked for


def test_every_keyword_reaches_ansible_and_nothing_that_is_passed_stays_on_disk(
    demo: Path, tmp_path: Path, alone: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    for name in ("elsewhere", "results"):
        (tmp_path / name).mkdir()
    options: dict[str, Any] = {
        "private_data_dir": demo,
        "ident": 5,
        "playbook": [*yaml.safe_load(EVERYTHING), says("mark-play", hosts="nobody")],
        "inventory": {
            "all": {"hosts": {"one": {"of_host": "mark-inventory", "ansible_connection": "local"}, "two": None}}
        },
        "limit": "one",
        "tags": "told",
        "skip_tags": "left_out",
        "forks": 7,
        "verbosity": 1,
        "cmdline": "--diff -e of_cmdline=mark-cmdline",
        "binary": str(Path(sys.executable).parent),
        "envvars": {"OWN": "mark-envvar"},
        "extravars": {"own": "mark-extravar"},
        "passwords": {r"Word:\s*$": "mark-password"},
        "settings": {"idle_timeout": 100, "runner_of_a_plugin": {"a": 1}},
        "project_dir": tmp_path / "elsewhere",
        "artifact_dir": tmp_path / "results",
        "rotate_artifacts": 2,
        "rotate_artifacts_age": "30d",
        "rotate_artifacts_size": "1G",
        "stop_grace": 5,
        "timeout": 120.5,
        "job_timeout": 60,
        "idle_timeout": 90,
        "subprocess_timeout": 90,
        "pexpect_timeout": 1,
        "pexpect_use_poll": False,
        "process_isolation": False,
        "process_isolation_path": "/tmp",
        "process_isolation_hide_paths": ["/var"],
        "process_isolation_show_paths": "/opt",
        "process_isolation_ro_paths": [Path("/srv")],
        "container_pull": "never",
        "container_volume_mounts": [f"{tmp_path}:{tmp_path}:ro"],
        "container_options": ["--network=none"],
        "fact_cache": "facts",
        "fact_cache_type": "jsonfile",
        "quiet": False,
        "check_job_event_data": True,
        "suppress_env_files": True,
        "suppress_ansible_output": False,
        "debug": True,
        "logfile": tmp_path / "never.log",
        "ignore_logging": True,
        "keepalive_seconds": 0,
        "job_events": "files",
        "resource_profiling": False,
        "resource_profiling_base_cgroup": "x",
        "resource_profiling_cpu_poll_interval": 1,
        "resource_profiling_memory_poll_interval": 1,
        "resource_profiling_pid_poll_interval": 1,
        "resource_profiling_results_dir": tmp_path / "profile",
        "runner_zmq_bind": False,
        "runner_emitter_close_timeout": 1,
        **dict.fromkeys(CALLBACKS),
    }
    assert set(options) | set(ELSEWHERE.split()) == set(JobKeywords.__annotations__)
    before, files = copy.deepcopy(options), sorted({*tmp_path.rglob("*")} - {results, alone / "home"})
    runner = ee_runner.run(**options)
    with runner.stdout as stdout:
        assert (runner.status, runner.rc) == ("successful", 0), stdout.read()
    assert runner.stats is not None
    assert runner.stats["ok"] == {"one": 1}
    assert runner.config.artifact_dir == str(tmp_path / "results/5")
    assert (tmp_path / "results/5/facts").is_dir()
    assert options == before
    assert capfd.readouterr() == ("", "")
    found = holding(MARKS, tmp_path)
    assert [mark for mark, path in found if not Path(path).is_relative_to(results)] == []
    assert set(found) <= {(mark, str(results / "5/command")) for mark in ("mark-envvar", "mark-cmdline")}
    kept = [path for path in tmp_path.rglob("*") if not path.is_relative_to(results)]
    assert sorted(path for path in kept if not path.is_relative_to(alone / "home")) == files


INI = "[own]\na of_host=1 ansible_connection=local\nb of_host=2 ansible_connection=local\n"


@pytest.mark.parametrize(
    ("playbook", "inventory", "told"),
    [
        ("site.yml", None, [("one", "site")]),
        (Path("site.yml"), INI, [("a", "site"), ("b", "site")]),
        (
            ["site.yml", Path("sub/other.yml")],
            "a,b,",
            [("a", "other a"), ("a", "site"), ("b", "other b"), ("b", "site")],
        ),
        (says("{{ of_host }}"), [Path("inventory/hosts"), "more", "c,"], [("c", "?"), ("d", "4"), ("one", "?")]),
        ([says("1 {{ of_host }}"), says("2")], {"all": {"hosts": {"e": {"of_host": 5}}}}, [("e", "1 5"), ("e", "2")]),
        ("site.yml", [], []),
    ],
    ids=["path", "path and INI text", "paths and host list", "play and sources", "plays and mapping", "no inventory"],
)
def test_playbook_and_inventory_may_be_given_in_every_form(
    demo: Path, monkeypatch: pytest.MonkeyPatch, playbook: Any, inventory: Any, told: list[tuple[str, str]]
) -> None:
    monkeypatch.chdir(demo)
    write(
        demo,
        {
            "inventory/hosts": "one of_host=?\n",
            "inventory/more": "d of_host=4\n[all:vars]\nof_host=?\n",
            "project/site.yml": yaml.safe_dump([says("site")]),
            "project/sub/other.yml": yaml.safe_dump([says("other {{ inventory_hostname }}")]),
        },
    )
    (demo / "inventory/more").rename(demo / "more")
    runner = ee_runner.run(private_data_dir=".", playbook=playbook, inventory=inventory)
    assert runner.rc == 0
    assert messages(runner) == told


def test_a_module_runs_on_its_hosts(demo: Path) -> None:
    runner = ee_runner.run(
        private_data_dir=demo,
        module="debug",
        module_args="msg='{{ inventory_hostname }} {{ own }}'",
        host_pattern="t*",
        extravars={"own": "x"},
    )
    assert messages(runner) == [("two", "two x")]


def test_a_role_runs_on_its_hosts_with_its_variables(demo: Path, tmp_path: Path) -> None:
    write(tmp_path / "roles", {"told/tasks/main.yml": '- debug: {msg: "{{ a }} {{ b }}"}\n'})
    runner = ee_runner.run(
        private_data_dir=demo,
        role="told",
        roles_path=[tmp_path / "roles", "none"],
        role_vars={"a": 1, "b": "x y"},
        role_skip_facts=True,
        hosts="one",
    )
    assert messages(runner) == [("one", "1 x y")]
    assert "Gathering Facts" not in {event["event_data"].get("task") for event in runner.events}


def test_a_project_may_be_the_callers_own_directory(demo: Path, tmp_path: Path) -> None:
    write(tmp_path / "own", {"site.yml": yaml.safe_dump([says("{{ playbook_dir }}", hosts="one")])})
    runner = ee_runner.run(private_data_dir=demo, playbook="site.yml", host_cwd=tmp_path / "own")
    assert messages(runner) == [("one", str(tmp_path / "own"))]
    assert runner.config.cwd == str(tmp_path / "own")


def test_the_file_args_is_the_command_line_whatever_else_is_asked_for(demo: Path) -> None:
    write(
        demo,
        {
            "args": "ansible-playbook -i a, 'a b.yml'\n  -e own='*'\n",
            "project/a b.yml": yaml.safe_dump([says("{{ own }}")]),
        },
    )
    runner = ee_runner.run(private_data_dir=demo, playbook="site.yml", limit="nobody")
    assert runner.config.command == ["ansible-playbook", "-i", "a,", "a b.yml", "-e", "own=*"]
    assert messages(runner) == [("a", "*")]


def test_no_file_of_the_output_is_kept_on_request(demo: Path) -> None:
    runner = ee_runner.run(private_data_dir=demo, executable_cmd="echo", cmdline_args=["a"], suppress_output_file=True)
    assert [event["stdout"] for event in runner.events] == ["a"]
    for name in ("stdout", "stderr"):
        with pytest.raises(ee_runner.RunnerError, match=name):
            getattr(runner, name)


@pytest.mark.parametrize("option", ["omit_event_data", "only_failed_event_data"])
def test_event_data_is_empty_on_request(demo: Path, option: str) -> None:
    tasks = [{"debug": {"msg": "x"}}, {"fail": {"msg": "broken"}, "ignore_errors": True}]
    play = {"hosts": "one", "gather_facts": False, "tasks": tasks}
    chosen: Any = {option: True}
    runner = ee_runner.run(private_data_dir=demo, playbook=play, json_mode=True, **chosen)
    assert (runner.status, runner.rc) == ("successful", 0)
    events = [event for event in runner.events if event["event"] != "verbose"]
    filled = [event["event"] for event in events if event["event_data"] != {}]
    assert filled == ([] if option == "omit_event_data" else ["runner_on_failed"])
    assert {"playbook_on_stats", "runner_on_ok", "runner_on_failed"} <= {event["event"] for event in events}
    with runner.stdout as stdout:
        assert [json.loads(line) for line in stdout] == list(runner.events)


def test_logging_is_left_alone_unless_asked_for_and_then_as_it_was_at_the_end(demo: Path) -> None:
    log = logging.getLogger("ee_runner")
    before = (log.level, list(log.handlers))
    during: list[Any] = []

    def handler(_: dict[str, Any]) -> None:
        log.debug("seen by the handler")
        during.append(len(log.handlers))

    def job(ignored: bool) -> None:
        ee_runner.run(
            private_data_dir=demo,
            executable_cmd="echo",
            cmdline_args=["a"],
            logfile=demo / "log",
            ignore_logging=ignored,
            event_handler=handler,
        )
        assert (log.level, list(log.handlers)) == before

    job(True)
    assert not (demo / "log").exists()
    job(False)
    assert "DEBUG seen by the handler" in (demo / "log").read_text()
    assert during == [len(before[1]), len(before[1]) + 1]


# What comes out


def test_events_say_what_happened_and_nothing_of_the_callers_environment(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_CONTROLLER", "mark-environment")
    write(
        demo,
        {
            "project/site.yml": """\
- hosts: one
  gather_facts: true
  tasks:
    - set_stats: {data: {rendered: 5}}
    - {name: changes, command: echo a, notify: mends}
  handlers:
    - {name: mends, debug: {msg: mended}}
"""
        },
    )
    runner = run(demo)
    assert runner.rc == 0
    events = list(runner.events)
    data = {event["event"]: event["event_data"] for event in events}
    assert data["playbook_on_stats"]["artifact_data"] == {"rendered": 5}
    assert {key: data["playbook_on_notify"][key] for key in ("handler", "host", "task")} == {
        "handler": "mends",
        "host": "one",
        "task": "changes",
    }
    uuids = [event["uuid"] for event in events]
    assert len(set(uuids)) == len(uuids)
    assert {len(uuid) for uuid in uuids} == {36}
    assert {event["parent_uuid"] for event in events if "parent_uuid" in event} < set(uuids)
    created = [datetime.fromisoformat(event["created"]) for event in events]
    assert {moment.utcoffset() for moment in created} == {timedelta(0)}
    assert abs(datetime.now(timezone.utc) - created[-1]) < timedelta(minutes=5)
    assert holding(("mark-environment",), demo / "artifacts/1/job_events") == []


OWN_CALLBACK = """\
from ansible.plugins.callback import CallbackBase
class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME, CALLBACK_NEEDS_ENABLED = 2.0, "aggregate", "own", True
    def v2_playbook_on_stats(self, stats):
        self._display.display("OWN CALLBACK")
"""
OWN = {"ANSIBLE_STDOUT_CALLBACK": "minimal", "ANSIBLE_CALLBACK_PLUGINS": "cb", "ANSIBLE_CALLBACKS_ENABLED": "own"}


@pytest.mark.parametrize("where", ["environment", "envvars", "ansible.cfg", "empty"])
def test_the_users_callbacks_are_honoured_and_the_events_complete(
    demo: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    write(demo, {"project/cb/own.py": OWN_CALLBACK, "project/site.yml": yaml.safe_dump([says("hello", hosts="one")])})
    own = {**OWN, "ANSIBLE_CALLBACK_PLUGINS": str(demo / "project/cb")}
    if where == "environment":
        for name, value in own.items():
            monkeypatch.setenv(name, value)
    elif where == "empty":
        monkeypatch.setenv("ANSIBLE_CALLBACK_PLUGINS", "")  # of the other two Ansible itself takes no empty one
    elif where == "ansible.cfg":
        settings = ("stdout_callback=minimal", "callback_plugins=./cb", "callbacks_enabled=own")
        write(demo, {"project/ansible.cfg": "\n".join(("[defaults]", *settings))})
    runner = run(demo, envvars=own if where == "envvars" else None)
    with runner.stdout as stdout:
        text = stdout.read()
    if where != "empty":
        assert "one | SUCCESS =>" in text
        assert "OWN CALLBACK" in text
        assert "PLAY RECAP" not in text
    else:
        assert "PLAY RECAP" in text
    assert [event["event"] for event in runner.events if event["event"] != "verbose"] == [
        "playbook_on_start",
        "playbook_on_play_start",
        "playbook_on_task_start",
        "runner_on_start",
        "runner_on_ok",
        "playbook_on_stats",
    ]


def test_facts_that_are_set_before_a_run_are_there_and_those_of_the_run_after_it(demo: Path) -> None:
    tasks = [{"debug": {"msg": "{{ ansible_facts.known }}"}}, {"set_fact": {"learnt": [1], "cacheable": True}}]
    runner = ee_runner.init_runner(
        private_data_dir=demo, playbook={"hosts": "one", "gather_facts": False, "tasks": tasks}
    )
    assert runner.get_fact_cache("one") == {}
    runner.set_fact_cache("one", {"known": "before"})
    assert runner.get_fact_cache("one") == {"known": "before"}
    runner.run()
    assert messages(runner) == [("one", "before")]
    assert runner.get_fact_cache("one") == {"known": "before", "learnt": [1]}
    assert runner.get_fact_cache("two") == {}
    with pytest.raises(ee_runner.ConfigurationError, match="leads out"):
        runner.get_fact_cache("../rc")


def test_facts_can_be_set_in_files_alone(demo: Path) -> None:
    runner = ee_runner.init_runner(private_data_dir=demo, playbook="site.yml", fact_cache_type="memory")
    with pytest.raises(ee_runner.ConfigurationError, match="fact_cache_type is 'memory'"):
        runner.set_fact_cache("one", {})


# A good guest in the caller's process

GUEST = """\
import asyncio, gc, logging, os, signal, sys, threading, warnings
import ee_runner

def state():
    mask = os.umask(0o77)
    os.umask(mask)
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    loggers = [logging.getLogger(name) for name in (None, "ee_runner", "asyncio")]
    logs = [(log.level, list(log.handlers), log.propagate) for log in loggers]
    return (handlers, logs, logging.raiseExceptions, dict(os.environ), os.getcwd(), mask, sys.excepthook,
            threading.excepthook, list(warnings.filters), sorted(os.listdir("/proc/self/fd")), threading.active_count())

place = sys.argv[1]
play = {"hosts": "one", "gather_facts": False, "tasks": [{"debug": {}}, {"fail": {}}]}
before = state()

runner = ee_runner.run(private_data_dir=place, playbook=play, ident="1", quiet=False)
assert runner.rc == 2, runner.rc
assert runner.stats["failures"] == {"one": 1}
with runner.stdout as stdout:
    assert "PLAY RECAP" in stdout.read()
runner.stdout
runner.events
next(runner.events)
for mode in ("pexpect", "subprocess"):
    assert ee_runner.run_command("sh", ["-c", "echo a; echo b >&2"], runner_mode=mode)[2] == 0
assert ee_runner.run_command("no-such-command")[2] == 127
thread, runner = ee_runner.run_async(private_data_dir=place, executable_cmd="sleep", cmdline_args=["300"])
runner.cancel()
thread.join()
ee_runner.init_runner(private_data_dir=place, playbook=play)
try:
    ee_runner.run(private_data_dir=place, executable_cmd="echo", cmdline_args=["a"], event_handler=lambda event: 1 / 0)
except ee_runner.CallbackError:
    pass

async def main():
    async with ee_runner.arun(executable_cmd="echo", cmdline_args=["a"]) as job:
        async for event in job:
            assert event["stdout"] == "a"
    task = asyncio.ensure_future(ee_runner.arun(executable_cmd="sleep", cmdline_args=["300"]))
    await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.wait({task})

asyncio.run(main(), debug=False)
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(60)
del runner, thread, stdout
gc.collect()
after = state()
assert before == after, [pair for pair in zip(before, after) if pair[0] != pair[1]]
"""


def test_the_library_changes_nothing_of_its_process_and_says_nothing(demo: Path, alone: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", GUEST, str(demo)],
        cwd=demo,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path for name in ("tmp", "runtime") for path in (alone / name).iterdir()] == []
