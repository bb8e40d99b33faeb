"""The command line and environment that Ansible gets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from ee_runner.command import Command, _playbook, build
from ee_runner.job import CommandTarget, JobSpec, ModuleTarget, PlaybookTarget, RoleTarget, Target, View
from ee_runner.workspace import Workspace

DEMO = Path("/home/me/demo")
RUN = Path("/run/user/1/ee_runner_x")
HOST = View()
CONTAINER = View(
    ((RUN, PurePosixPath("/run/ee")), (DEMO / "project", PurePosixPath("/runner/project")),
     (DEMO, PurePosixPath("/runner")))
)  # fmt: skip
SCRIPTS = Path(sys.executable).parent
PLAYBOOK = PlaybookTarget(("test.yml",))


def job(target: Target = PLAYBOOK, **fields: Any) -> JobSpec:
    return JobSpec("1", DEMO, DEMO / "project", DEMO / "artifacts" / "1", target, **fields)


def workspace(spec: JobSpec, **fields: Any) -> Workspace:
    events = spec.artifact_dir / ".events"
    return Workspace(
        spec=spec, run_dir=RUN, project_dir=spec.project_dir, events_dir=events, spool=events / "spool",
        fact_cache_dir=spec.artifact_dir / "fact_cache", callback_dir=RUN / "callback",
        callback_plugins=("~/.ansible/plugins/callback",), roles_path=("~/.ansible/roles",), **fields,
    )  # fmt: skip


def built(spec: JobSpec, view: View = HOST, **fields: Any) -> Command:
    return build(spec, workspace(spec, **fields), view, nonce="n0nce")


def test_the_arguments_of_a_playbook_are_in_the_documented_order() -> None:
    spec = job(limit="web", forks=3, verbosity=2, tags="a", skip_tags="b")
    found = built(
        spec,
        inventory=(str(DEMO / "inventory"), "a,b"),
        extravars_files=(RUN / "extravars.yml", RUN / "extravars_args.json"),
        cmdline=("-u", "ansible"),
    )
    assert found.argv == (
        "ansible-playbook", "-u", "ansible", "-i", "/home/me/demo/inventory", "-i", "a,b", "--limit", "web",
        "-e", f"@{RUN}/extravars.yml", "-e", f"@{RUN}/extravars_args.json", "-vv", "--tags", "a", "--skip-tags", "b",
        "--forks", "3", "test.yml",
    )  # fmt: skip
    assert found.cwd == str(DEMO / "project")


def test_paths_are_those_inside() -> None:
    spec = job(roles_path=(str(DEMO / "project" / "more"),), envvars={})
    found = built(
        spec, CONTAINER, inventory=(str(DEMO / "inventory"), "a,b"), extravars_files=(RUN / "extravars.yml",),
        own_roles=(DEMO / "roles",), playbook=DEMO / "project" / ".generated.yml",
    )  # fmt: skip
    assert found.argv == (
        "ansible-playbook", "-i", "/runner/inventory", "-i", "a,b", "-e", "@/run/ee/extravars.yml",
        "/runner/project/.generated.yml",
    )  # fmt: skip
    assert found.cwd == "/runner/project"
    assert found.env["ANSIBLE_ROLES_PATH"] == "/runner/project/more:/runner/roles:~/.ansible/roles"
    assert found.env["ANSIBLE_CALLBACK_PLUGINS"] == "~/.ansible/plugins/callback:/run/ee/callback"
    assert found.env["ANSIBLE_CACHE_PLUGIN_CONNECTION"] == "/runner/artifacts/1/fact_cache"
    assert found.env["EE_RUNNER_EVENTS_SPOOL"] == "/runner/artifacts/1/.events/spool"


def test_the_arguments_of_a_module() -> None:
    spec = job(ModuleTarget("shell", "web", "whoami"), limit="a", verbosity=1, tags="never")
    found = built(spec, inventory=("x,",), cmdline=("--become",))
    assert found.argv == (
        "ansible", "--become", "-i", "x,", "--limit", "a", "-v", "-m", "shell", "-a", "whoami", "web",
    )  # fmt: skip
    assert found.env["ANSIBLE_LOAD_CALLBACK_PLUGINS"] == "1"
    assert built(job(ModuleTarget("ping", "all"))).argv == ("ansible", "-m", "ping", "all")


def test_a_role_runs_its_generated_playbook() -> None:
    generated = DEMO / "project" / ".generated.yml"
    assert built(job(RoleTarget("r", "all")), playbook=generated).argv == ("ansible-playbook", str(generated))


def test_several_playbooks_run_in_their_order() -> None:
    spec = job(PlaybookTarget(("one.yml", str(DEMO / "project" / "two.yml"))))
    assert built(spec, CONTAINER).argv == ("ansible-playbook", "one.yml", "/runner/project/two.yml")


@pytest.mark.parametrize("executable", ["ansible-playbook", "ansible", "/opt/bin/ansible"])
def test_a_commands_arguments_are_left_alone(executable: str) -> None:
    arguments = ("x.yml", "-i", str(DEMO / "inventory"), "", "--limit")
    spec = job(CommandTarget(executable, arguments, DEMO), limit="no", forks=9, roles_path=("/no",), verbosity=3)
    found = built(spec, CONTAINER, cmdline=("--no",), extravars_files=(RUN / "no.yml",), own_roles=(DEMO / "roles",))
    assert found.argv == (executable, *arguments)
    assert "EE_RUNNER_EVENTS_SPOOL" in found.env
    assert ("ANSIBLE_LOAD_CALLBACK_PLUGINS" in found.env) == executable.endswith("ansible")
    assert "ANSIBLE_ROLES_PATH" not in found.env


def test_a_command_that_runs_no_tasks_sees_an_untouched_environment() -> None:
    spec = job(CommandTarget("ansible-config", ("dump", "--only-changed"), DEMO))
    assert built(spec, envvars={"A": "b"}).env == {"A": "b"}


@pytest.mark.parametrize(
    ("binary", "target", "executable"),
    [
        (None, PLAYBOOK, "ansible-playbook"),
        ("/opt/bin/", PLAYBOOK, "/opt/bin/ansible-playbook"),
        ("/opt/bin/", ModuleTarget("ping", "all"), "/opt/bin/ansible"),
        ("/opt/bin/ansible-playbook", PLAYBOOK, "/opt/bin/ansible-playbook"),
        ("/opt/bin/ansible-playbook", ModuleTarget("ping", "all"), "/opt/bin/ansible"),
        ("/opt/bin/ansible", RoleTarget("r", "all"), "/opt/bin/ansible-playbook"),
        ("my-wrapper", PLAYBOOK, "my-wrapper"),
        ("/home/me/demo/bin/", PLAYBOOK, "/runner/bin/ansible-playbook"),
    ],
)
def test_the_binary_names_a_program_or_its_directory(binary: str | None, target: Target, executable: str) -> None:
    assert built(job(target, binary=binary), CONTAINER).argv[0] == executable


def test_facts_are_cached_in_the_artifacts_unless_the_user_has_a_cache() -> None:
    assert built(job()).env["ANSIBLE_CACHE_PLUGIN"] == "jsonfile"
    assert built(job()).env["ANSIBLE_CACHE_PLUGIN_CONNECTION"] == str(DEMO / "artifacts" / "1" / "fact_cache")
    for source in ("envvars", "inherited"):
        own: dict[str, Any] = {source: {"ANSIBLE_CACHE_PLUGIN": "redis"}}
        env = built(job(), **own).env
        assert env.get("ANSIBLE_CACHE_PLUGIN") in (None, "redis")
        assert "ANSIBLE_CACHE_PLUGIN_CONNECTION" not in env
    assert "ANSIBLE_CACHE_PLUGIN" not in built(job(fact_cache_type="memory")).env


def test_only_what_the_user_has_not_set_gets_a_default() -> None:
    assert built(job()).env["ANSIBLE_RETRY_FILES_ENABLED"] == "False"
    assert built(job(), envvars={"ANSIBLE_RETRY_FILES_ENABLED": "True"}).env["ANSIBLE_RETRY_FILES_ENABLED"] == "True"
    assert "ANSIBLE_RETRY_FILES_ENABLED" not in built(job(), inherited={"ANSIBLE_RETRY_FILES_ENABLED": "1"}).env
    assert not {"ANSIBLE_STDOUT_CALLBACK", "ANSIBLE_HOST_KEY_CHECKING"} & built(job()).env.keys()


def test_the_observer_can_put_the_users_values_back() -> None:
    def restored(**fields: Any) -> Any:
        spec = job(ModuleTarget("ping", "all"))
        return json.loads(built(spec, **fields).env["EE_RUNNER_RESTORE_ENV"])

    assert restored() == {"ANSIBLE_CALLBACK_PLUGINS": None, "ANSIBLE_LOAD_CALLBACK_PLUGINS": None}
    assert restored(inherited={"ANSIBLE_CALLBACK_PLUGINS": "/a"})["ANSIBLE_CALLBACK_PLUGINS"] == "/a"
    both = restored(inherited={"ANSIBLE_CALLBACK_PLUGINS": "/a"}, envvars={"ANSIBLE_CALLBACK_PLUGINS": "/b"})
    assert both["ANSIBLE_CALLBACK_PLUGINS"] == "/b"


def test_what_is_left_out_of_events_is_told_to_the_observer() -> None:
    names = {"EE_RUNNER_OMIT_EVENT_DATA", "EE_RUNNER_ONLY_FAILED_EVENT_DATA"}
    assert not names & built(job()).env.keys()
    assert names <= built(job(omit_event_data=True, only_failed_event_data=True)).env.keys()
    assert built(job()).env["EE_RUNNER_EVENTS_NONCE"] == "n0nce"


def test_building_changes_nothing_it_is_given() -> None:
    envvars = {"A": "b"}
    spec = job(envvars=envvars)
    before = replace(spec)
    built(spec, envvars=envvars)
    assert envvars == {"A": "b"}
    assert spec == before


def test_values_that_begin_with_a_hyphen_stay_values() -> None:
    spec = job(PlaybookTarget(("test.yml", "-x.yml")), limit="-web", tags="-a", skip_tags="-b")
    found = built(spec, inventory=("-web,", "b,"))

    assert found.argv == (
        "ansible-playbook", "--inventory=-web,", "-i", "b,", "--limit=-web", "--tags=-a", "--skip-tags=-b",
        "--", "test.yml", "-x.yml",
    )  # fmt: skip


def test_hosts_and_module_arguments_that_begin_with_a_hyphen_stay_what_they_are() -> None:
    found = built(job(ModuleTarget("-shell", "--version", "-c x")))

    assert found.argv == ("ansible", "--module-name=-shell", "--args=-c x", "--", "--version")


def test_ansible_takes_hosts_that_look_like_an_option_for_hosts() -> None:
    argv = built(job(ModuleTarget("ping", "--version", "-c x"), limit="-web"), inventory=("localhost,",)).argv
    found = subprocess.run([shutil.which(argv[0]) or SCRIPTS / argv[0], *argv[1:]], capture_output=True, text=True)

    assert "core" not in found.stdout
    assert "usage:" not in found.stderr
    assert found.returncode != 0


def test_a_playbook_outside_the_project_is_named_in_full() -> None:
    assert _playbook("../../cw/chat.yml", Path("/srv/pdd/project"), HOST) == "/srv/cw/chat.yml"
    assert _playbook("sub/../test.yml", Path("/srv/pdd/project"), HOST) == "sub/../test.yml"
