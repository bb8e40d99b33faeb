"""Every event of real runs fits the schema, and becomes a typed event and back without loss.

EE_TEST_ANSIBLE_BIN names the bin directory of another ansible to try than the one of the running interpreter.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

import ee_runner
from ee_runner.events.model import FAILURES, Event, Stats
from ee_runner.events.schema import KINDS, event_schema

BIN = Path(os.environ.get("EE_TEST_ANSIBLE_BIN") or Path(sys.executable).parent)
PLAYBOOKS = Path(__file__).parent.parent / "support" / "playbooks"
VALIDATOR = jsonschema.Draft202012Validator(event_schema())

ASKED = """\
- hosts: alpha
  gather_facts: false
  vars_prompt:
    - {name: shown, prompt: Shown, private: false, default: fallback}
    - {name: hidden, prompt: Hidden}
  tasks:
    - name: Answered
      debug:
        msg: "{{ shown }}"
- name: "{{ lookup('deprecates') }}"
  hosts: web
  gather_facts: false
  max_fail_percentage: 0
  tasks:
    - name: Nobody is left
      fail:
        msg: on purpose
"""

DEPRECATES = """\
from ansible.plugins.lookup import LookupBase
from ansible.utils.display import Display


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        Display().deprecated("said outside a task", version="9.9", collection_name="ansible.builtin")
        return ["a play"]
"""

RUNS: dict[str, dict[str, Any]] = {
    "everything": {"playbook": "main.yml"},
    "fields": {"playbook": "fields.yml", "cmdline": "--diff", "envvars": {"ANSIBLE_DISPLAY_ARGS_TO_STDOUT": "1"}},
    "lost hosts": {"playbook": "hosts.yml"},
    "async": {"playbook": "async.yml"},
    "messages": {"playbook": "messages.yml"},
    "every method of Display": {"playbook": "talks.yml", "cmdline": "-vvvv"},
    "debugging": {"playbook": "talks.yml", "envvars": {"ANSIBLE_DEBUG": "1"}},
    "values": {"playbook": "values.yml", "cmdline": "--vault-password-file vault-password.txt"},
    "censored": {"playbook": "no_log.yml", "cmdline": "--diff"},
    "free strategy": {"playbook": "strategies.yml", "extravars": {"strategy": "free"}},
    "prompts and a deprecation": {
        "playbook": "asked.yml",
        "passwords": {r"Shown \[fallback\]: ": "typed", "Hidden: ": "secret"},
    },
    "syntax error": {"playbook": "broken.yml"},
    "ad-hoc": {"module": "command", "module_args": "echo hi", "host_pattern": "web", "envvars": {"JOB_ID": "5"}},
    "omitted": {"playbook": "hosts.yml", "omit_event_data": True},
    "only failures": {"playbook": "hosts.yml", "only_failed_event_data": True},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """The events of every run, by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("LC_ALL", "C.UTF-8")
        directories = [tmp_path_factory.mktemp("run") for _ in RUNS]
        with ThreadPoolExecutor(3) as pool:
            yield dict(zip(RUNS, pool.map(events, directories, RUNS.values()), strict=True))


def events(directory: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    shutil.copytree(PLAYBOOKS, directory / "project")
    (directory / "project" / "asked.yml").write_text(ASKED)
    (directory / "project" / "broken.yml").write_text("- hosts: alpha\n  tasks: {\n")
    (directory / "project" / "lookup_plugins").mkdir()
    (directory / "project" / "lookup_plugins" / "deprecates.py").write_text(DEPRECATES)
    (directory / "inventory").mkdir()
    shutil.copy(PLAYBOOKS / "inventory.ini", directory / "inventory" / "hosts")
    python = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
    extravars = {"scratch": str(directory), "ansible_python_interpreter": python, **options.get("extravars", {})}
    runner = ee_runner.run(private_data_dir=directory, ident="1", **{**options, "extravars": extravars})
    return list(runner.events)


@pytest.mark.parametrize("name", RUNS)
def test_every_event_of_a_real_run_fits_the_schema(name: str, runs: dict[str, list[dict[str, Any]]]) -> None:
    assert runs[name]
    for event in runs[name]:
        faults = [f"{error.json_path}: {error.message[:300]}" for error in VALIDATOR.iter_errors(event)]
        assert faults == [], (event["event"], str(event)[:1000])


@pytest.mark.parametrize("name", RUNS)
def test_every_event_of_a_real_run_becomes_typed_and_back(name: str, runs: dict[str, list[dict[str, Any]]]) -> None:
    for event in runs[name]:
        typed = Event.from_dict(event)
        assert typed.more == {}
        assert list(typed.to_dict().items()) == list(event.items())


def test_the_runs_show_every_kind_of_event(runs: dict[str, list[dict[str, Any]]]) -> None:
    assert {event["event"] for run in runs.values() for event in run} == KINDS.keys()


def test_typed_events_tell_what_happened(runs: dict[str, list[dict[str, Any]]]) -> None:
    typed = [Event.from_dict(event) for event in runs["everything"]]
    failures = [event for event in typed if event.is_failure and event.event == "runner_on_failed"]
    assert {(event.task, event.host) for event in failures if not event.is_ignored} == {
        ("Fails", "alpha"),
        ("Fails", "beta"),
    }
    assert {event.task for event in failures if event.is_ignored} == {"Loop with a skip and a failure", "Retry"}
    said = next(event for event in typed if event.event == "runner_on_ok" and event.task == "Say it")
    assert (said.play, (said.result or {})["msg"]) == ("Everything", f"hello {said.host}")
    stats = Stats.from_event_data(typed[-1].event_data)
    assert stats.processed == stats.rescued == {"alpha": 1, "beta": 1}
    assert stats.ignored == {"alpha": 2, "beta": 2}
    assert (stats.failures, stats.dark) == ({}, {})


def test_only_failures_keep_their_data_on_request(runs: dict[str, list[dict[str, Any]]]) -> None:
    assert {event["event"] for event in runs["only failures"] if event.get("event_data")} == {
        "runner_on_failed",
        "runner_on_unreachable",
    }
    assert {"runner_on_failed", "runner_on_unreachable"} < FAILURES
    assert not any(event.get("event_data") for event in runs["omitted"])
