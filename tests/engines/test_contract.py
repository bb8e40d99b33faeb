"""The contract: the same job under every engine, real Ansible in real containers."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.engines.place import Place, Result
from tests.engines.projects import EVENTS, INVENTORY, PROJECT, RECAP, private_data_dir


def shape(result: Result) -> list[tuple[str, str | None, str | None]]:
    """Event, task and host of everything that Ansible itself reported, in order."""
    return [
        (event["event"], event["event_data"].get("task"), event["event_data"].get("host"))
        for event in result.events
        if event["event"].startswith(("playbook_on", "runner_"))
    ]


def recap(text: str) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r\n", "\n")
    return [" ".join(line.split()) for line in plain.partition("PLAY RECAP")[2].splitlines()[1:] if line.strip()]


def assert_whole(result: Result) -> None:
    """Everything that the artifacts promise: all files, private, consistent with each other."""
    for path in [result.artifacts, *result.artifacts.rglob("*")]:
        if path.is_relative_to(result.artifacts / "fact_cache") and path.name != "fact_cache":
            continue
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
    names = {path.name for path in result.artifacts.iterdir()}
    assert names == {"command", "rc", "status", "stdout", "stderr", "job_events", "fact_cache"}
    events = result.events
    assert [event["counter"] for event in events] == list(range(1, len(events) + 1))
    assert len({event["uuid"] for event in events}) == len(events)
    for event in events:
        assert len(event["uuid"]) == 36
        assert event["end_line"] >= event["start_line"] >= 0
        assert event["runner_ident"] == "job"
    for before, after in itertools.pairwise(events):
        assert after["start_line"] == before["end_line"]
    stdout = (result.artifacts / "stdout").read_bytes().decode()
    assert "\x1b_ee" not in stdout
    position = 0
    for event in events:
        position = stdout.index(event["stdout"], position) + len(event["stdout"])


def owned_by(place: Place, tree: Path) -> bool:
    return {path.stat().st_uid for path in [tree, *tree.rglob("*")]} == {place.uid}


class TestPlaybook:
    def test_a_playbook_runs_and_leaves_whole_artifacts(self, place: Place) -> None:
        project = place.write({**PROJECT, "inv": INVENTORY}, under="project")
        result = place.emulate("playbook", "site.yml", "-i", "inv", "--forks", "1", cwd=project)
        assert result.rc == 0, result
        assert result.status == "successful"
        assert shape(result) == EVENTS
        assert recap(result.stdout) == RECAP
        assert_whole(result)
        assert result.events[-1]["event"] == "playbook_on_stats"
        assert owned_by(place, result.artifacts)

    def test_the_exit_code_is_ansibles(self, place: Place) -> None:
        project = place.write({"bad.yml": "- hosts: localhost\n  gather_facts: false\n  tasks: [{fail: {msg: no}}]\n"})
        result = place.emulate("playbook", "bad.yml", cwd=project)
        assert (result.rc, result.status) == (2, "failed")
        syntax = place.write({"bad.yml": "- hosts: [\n"})
        assert place.emulate("playbook", "bad.yml", cwd=syntax).rc == 4

    def test_files_that_the_arguments_name_are_visible_inside(self, place: Place) -> None:
        place.write(
            {
                "vault/password": "secret\n",
                "vars/extra.yml": "from_file: extra\n",
                "elsewhere/hosts": "localhost ansible_connection=local",
                "elsewhere/group_vars/all.yml": "from_group: group",
                "modules/told.py": '#!/usr/bin/python3\nprint(\'{"changed": false, "told": "module"}\')\n',
                "books/site.yml": (
                    "- hosts: localhost\n  gather_facts: false\n  roles: [near]\n  tasks:\n"
                    "    - told:\n      register: r\n"
                    "    - debug: msg='{{ from_file }} {{ from_group }} {{ r.told }} {{ near }}'\n"
                ),
                "books/roles/near/tasks/main.yml": "- set_fact: near=role\n",
                "work/empty": "",
            }
        )
        result = place.emulate(
            "playbook",
            "../books/site.yml",
            *("-i", "../elsewhere/hosts"),
            *("-e", "@../vars/extra.yml"),
            *("--vault-password-file", "../vault/password"),
            *("-M", "../modules"),
            *("-e", "ansible_python_interpreter={{ansible_playbook_python}}"),
            cwd=place.root / "work",
        )
        assert result.rc == 0, result
        assert "extra group module role" in result.stdout

    def test_a_path_that_does_not_exist_is_refused_by_name(self, place: Place) -> None:
        project = place.write({"site.yml": "- hosts: localhost\n", "inventory": "localhost\n"})
        result = place.emulate("playbook", "site.yml", "-i", "inventry", cwd=project)
        assert result.rc == 78
        assert "inventry" in result.stderr
        assert "inventory" in result.stderr
        assert "Traceback" not in result.stderr
        assert not result.artifacts.exists()

    def test_output_that_is_no_terminal_has_no_colour_and_keeps_streams_apart(self, place: Place) -> None:
        project = place.write({"site.yml": "- hosts: localhost\n  gather_facts: false\n  tasks: [{ping: }]\n"})
        result = place.emulate("playbook", "site.yml", cwd=project)
        assert "\x1b" not in result.stdout
        assert "PLAY [localhost]" in result.stdout
        assert "[WARNING]" in result.stderr
        assert "[WARNING]" not in result.stdout

    def test_the_working_directory_is_writable_and_what_is_written_is_the_callers(self, place: Place) -> None:
        project = place.write(
            {
                "site.yml": (
                    "- hosts: localhost\n  gather_facts: false\n  vars: {ansible_python_interpreter: "
                    "'{{ ansible_playbook_python }}'}\n  tasks:\n"
                    "    - file: {path: made/deep, state: directory}\n"
                    "    - copy: {content: x, dest: made/deep/file}\n"
                )
            },
            under="project",
        )
        result = place.emulate("playbook", "site.yml", cwd=project)
        assert result.rc == 0, result
        assert (project / "made/deep/file").read_text() == "x"
        assert owned_by(place, project / "made")

    def test_the_callers_own_callback_and_configuration_stay_in_charge(self, place: Place) -> None:
        project = place.write(
            {
                "ansible.cfg": "[defaults]\nstdout_callback = minimal\n",
                "site.yml": "- hosts: localhost\n  gather_facts: false\n  tasks: [{debug: {msg: hello}}]\n",
            }
        )
        result = place.emulate("playbook", "site.yml", cwd=project)
        assert result.rc == 0
        assert "TASK [" not in result.stdout
        assert '"msg": "hello"' in result.stdout
        assert result.of("runner_on_ok")[0]["event_data"]["res"]["msg"] == "hello"


class TestAdhoc:
    def test_a_module_runs(self, place: Place) -> None:
        result = place.emulate("adhoc", "localhost", "-m", "ping", cwd=place.root)
        assert result.rc == 0, result
        assert '"ping": "pong"' in result.stdout
        assert result.of("runner_on_ok")[0]["event_data"]["res"]["ping"] == "pong"
        assert_whole(result)

    def test_arguments_go_through_untouched(self, place: Place) -> None:
        result = place.emulate(
            "adhoc", "localhost", "-m", "command", "-a", "echo 'two  spaces' -v --debug", "-o", cwd=place.root
        )
        assert result.rc == 0, result
        assert "two  spaces -v --debug" in result.stdout


class TestRun:
    def test_a_playbook_of_a_private_data_dir(self, place: Place) -> None:
        directory = place.write(private_data_dir(), under="pdd")
        result = place.run(directory, "-p", "site.yml", "--forks", "1")
        assert result.rc == 0, result
        assert shape(result) == EVENTS
        assert recap(result.stdout) == RECAP
        assert_whole(result)
        assert owned_by(place, directory)

    def test_the_inputs_of_env_arrive(self, place: Place) -> None:
        directory = place.write(
            {
                "env/envvars": "---\nFROM_ENVVARS: 'line one\n\n  line two'\nPLAIN: 7\n",
                "env/extravars": '{"from_extravars": "extra", "nested": {"deep": [1, 2]}}',
                "env/cmdline": "--tags wanted --skip-tags unwanted",
                "env/passwords": '---\n"^the question:\\\\s*?$": answered\n',
                "env/settings": "job_timeout: 100\n",
                "inventory/hosts": INVENTORY,
                "project/site.yml": (
                    "- hosts: one\n  gather_facts: false\n  vars_prompt: [{name: asked, prompt: the question}]\n"
                    "  tasks:\n"
                    "    - debug: msg=\"{{ lookup('env', 'FROM_ENVVARS') }}|{{ lookup('env', 'PLAIN') }}\"\n"
                    "      tags: wanted\n"
                    "    - debug: msg='{{ from_extravars }} {{ nested.deep }} {{ asked }}'\n      tags: wanted\n"
                    "    - fail:\n      tags: [wanted, unwanted]\n"
                    "    - fail:\n"
                ),
            },
            under="pdd",
        )
        result = place.run(directory, "-p", "site.yml")
        assert result.rc == 0, result
        messages = [event["event_data"]["res"]["msg"] for event in result.of("runner_on_ok")]
        assert messages == ["line one\nline two|7", "extra [1, 2] answered"]
        assert "answered" not in (result.artifacts / "command").read_text()

    def test_a_module(self, place: Place) -> None:
        directory = place.write({"inventory/hosts": INVENTORY}, under="pdd")
        result = place.run(directory, "-m", "debug", "-a", "msg='hello there'", "--hosts", "one")
        assert result.rc == 0, result
        assert [event["event_data"]["res"]["msg"] for event in result.of("runner_on_ok")] == ["hello there"]

    def test_a_role(self, place: Place) -> None:
        directory = place.write(
            {
                "inventory/hosts": INVENTORY,
                "roles/teller/tasks/main.yml": "- debug: msg='{{ word }} {{ other }}'\n",
                "roles/teller/defaults/main.yml": "word: default\nother: kept\n",
            },
            under="pdd",
        )
        result = place.run(
            directory, "-r", "teller", "--hosts", "one", "--role-vars", "word='two words'", "--role-skip-facts"
        )
        assert result.rc == 0, result
        assert [event["event_data"]["res"]["msg"] for event in result.of("runner_on_ok")] == ["two words kept"]

    def test_options_before_the_subcommand_and_json_output(self, place: Place) -> None:
        directory = place.write(private_data_dir(), under="pdd")
        rc, out, err = place.ansible_runner("-p", "site.yml", "-j", "run", directory, *place.isolated(), "-i", "job")
        assert rc == 0, err
        printed = [json.loads(line) for line in out.splitlines()]
        stored = Result(rc, out, err, directory / "artifacts" / "job").events
        assert printed == stored
        assert [json.loads(line) for line in (directory / "artifacts/job/stdout").read_text().splitlines()] == stored

    def test_quiet_shows_nothing(self, place: Place) -> None:
        directory = place.write(private_data_dir(), under="pdd")
        result = place.run(directory, "-p", "site.yml", "-q")
        assert (result.rc, result.stdout) == (0, "")

    def test_facts_are_cached_in_the_artifacts(self, place: Place) -> None:
        directory = place.write(
            {
                "inventory/hosts": INVENTORY,
                "project/site.yml": (
                    "- hosts: one\n  gather_facts: false\n  tasks: [{set_fact: {a: b, cacheable: true}}]\n"
                ),
            },
            under="pdd",
        )
        result = place.run(directory, "-p", "site.yml")
        assert result.rc == 0, result
        cached = list((result.artifacts / "fact_cache").iterdir())
        assert [path.name.removeprefix("s1_") for path in cached] == ["one"]
        assert owned_by(place, result.artifacts)

    def test_directory_isolation_leaves_the_project_as_it_was(self, place: Place) -> None:
        place.write({"isolation/keep": ""})
        directory = place.write(
            {
                "inventory/hosts": INVENTORY,
                "project/site.yml": (
                    "- hosts: one\n  gather_facts: false\n"
                    "  tasks: [{copy: {content: x, dest: '{{ playbook_dir }}/new'}}]\n"
                ),
            },
            under="pdd",
        )
        result = place.run(
            directory, "-p", "site.yml", "--directory-isolation-base-path", str(place.root / "isolation")
        )
        assert result.rc == 0, result
        assert not (directory / "project/new").exists()
        assert [path.name for path in (place.root / "isolation").iterdir()] == ["keep"]

    def test_a_directory_with_spaces_colons_and_other_letters(self, place: Place) -> None:
        directory = place.write(private_data_dir(), under="a dir: with, 'ü'")
        result = place.run(directory, "-p", "site.yml")
        assert result.rc == 0, result
        assert_whole(result)

    @pytest.mark.parametrize("how", ["relative", "absolute"])
    def test_a_playbook_and_a_role_outside_the_private_data_directory(self, place: Place, how: str) -> None:
        place.write({**PROJECT, "roles/told/tasks/main.yml": "- debug: msg=told\n"}, under="away")
        directory = place.write({"project/keep": "", "inventory/hosts": INVENTORY}, under="pdd")
        playbook = "../../away/site.yml" if how == "relative" else place.root / "away/site.yml"
        result = place.run(directory, "-p", playbook)
        assert result.rc == 0, result
        assert recap(result.stdout) == RECAP
        if how == "absolute":
            result = place.run(directory, "-r", place.root / "away/roles/told", "--hosts", "one", "--role-skip-facts")
            assert result.rc == 0, result

    @pytest.mark.parametrize("kind", ["relative", "absolute"])
    def test_links_that_lead_out_of_the_private_data_directory(self, place: Place, kind: str) -> None:
        place.write(PROJECT, under="elsewhere/project")
        place.write({"hosts": INVENTORY}, under="elsewhere")
        directory = place.write({"inventory/keep.yml": "all: {}\n"}, under="pdd")
        base = Path("../elsewhere") if kind == "relative" else place.root / "elsewhere"
        (directory / "project").symlink_to(base / "project")
        (directory / "inventory/hosts").symlink_to((Path("..") / base if kind == "relative" else base) / "hosts")
        place.own(directory)
        result = place.run(directory, "-p", "site.yml")
        assert result.rc == 0, result
        assert recap(result.stdout) == RECAP

    def test_the_callers_environment_does_not_show_in_events(self, place: Place) -> None:
        gathers = "- hosts: one\n  tasks: [{setup: {gather_subset: env}}]\n"
        files = {"project/site.yml": gathers, "inventory/hosts": INVENTORY, "env/envvars": "A_TOKEN: s3cr3t-env\n"}
        directory = place.write(files, under="pdd")
        result = place.run(directory, "-p", "site.yml")
        assert result.rc == 0, result
        assert all("s3cr3t-env" not in json.dumps(event) for event in result.events)

    def test_artifacts_and_project_elsewhere(self, place: Place) -> None:
        directory = place.write({"inventory/hosts": INVENTORY}, under="pdd")
        project = place.write(PROJECT, under="away/project")
        place.write({"there/x": ""})
        rc, out, err = place.ansible_runner(
            *("run", str(directory), "-p", "site.yml", "-i", "job", *place.isolated()),
            *("--project-dir", str(project), "--artifact-dir", str(place.root / "there")),
        )
        assert rc == 0, (out, err)
        assert_whole(Result(rc, out, err, place.root / "there/job"))


class TestStopping:
    NAP = f"sleep 300.{os.getpid()}"
    SLEEP = f"- hosts: localhost\n  gather_facts: false\n  tasks:\n    - debug: msg=started\n    - command: {NAP}\n"

    @pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_the_job_and_leaves_no_container(self, place: Place, with_signal: int) -> None:
        directory = place.write({"project/site.yml": self.SLEEP, "inventory/hosts": INVENTORY}, under="pdd")
        child = place.start("run", directory, "-p", "site.yml", "-i", "job", *place.isolated())
        stdout = directory / "artifacts/job/stdout"
        deadline = time.monotonic() + 60
        while not ((stdout.exists() and b"sleep 300" in stdout.read_bytes()) or b"TASK [command]" in read(stdout)):
            assert time.monotonic() < deadline, read(stdout)
            assert child.poll() is None, child.communicate()
            time.sleep(0.05)
        os.kill(child.pid, with_signal)
        out, err = child.communicate(timeout=30)
        assert child.returncode == 254, (out, err)
        assert (directory / "artifacts/job/status").read_text() == "canceled"
        assert (directory / "artifacts/job/rc").read_text() == "254"
        assert place.containers() == []
        assert self.NAP not in subprocess.run(["ps", "-eo", "args"], text=True, capture_output=True, check=True).stdout

    def test_the_job_timeout(self, place: Place) -> None:
        files = {"project/site.yml": self.SLEEP, "inventory/hosts": INVENTORY, "env/settings": "job_timeout: 4"}
        directory = place.write(files, under="pdd")
        result = place.run(directory, "-p", "site.yml")
        assert (result.rc, result.status) == (254, "timeout")


def read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
