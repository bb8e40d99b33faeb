"""The library: a job from keyword arguments, with the host's own Ansible."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import ee_runner
from tests.engines.projects import EVENTS


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
    with pytest.raises(ee_runner.ConfigurationError, match="container_image"):
        run(demo, container_imge="x")


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
