"""A job as it travels: what is sent of its options, and what a worker takes off the wire."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from ee_runner import settings
from ee_runner.errors import BadFrame, ConfigurationError
from ee_runner.stream import request
from ee_runner.stream.request import Request, accepted

HOME = Path("/home/worker/job")


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    for name in ("project", "inventory", "env"):
        (tmp_path / name).mkdir()
    (tmp_path / "project" / "site.yml").write_text("- hosts: all\n")
    (tmp_path / "inventory" / "hosts").write_text("a\n")
    return tmp_path


def transmitted(demo: Path, **options: Any) -> Request:
    given = {"private_data_dir": demo, "playbook": "site.yml", **options}
    return request.of_options(settings.resolve(given, environ={}, command="transmit"))


def test_only_what_was_given_is_sent_and_the_ident_with_it(demo: Path) -> None:
    (demo / "env" / "settings").write_text("idle_timeout: 10\n")
    sent = transmitted(demo, ident="job", forks=3, envvars={"A": "b"})
    assert sent.kwargs == {"playbook": "site.yml", "ident": "job", "forks": 3, "envvars": {"A": "b"}}
    assert sent.files == {}


def test_an_ident_is_made_where_there_is_none(demo: Path) -> None:
    assert len(transmitted(demo).kwargs["ident"]) == 36


def test_what_is_sent_is_json_with_secrets_in_it_and_none_in_a_repr(demo: Path) -> None:
    auth = {"host": "registry", "username": "me", "password": "sesame"}
    sent = transmitted(demo, passwords={"SSH": "sesame"}, ssh_key="sesame", container_auth_data=auth)
    read = json.loads(json.dumps(sent.body))["kwargs"]
    assert read["passwords"] == {"SSH": "sesame"}
    assert read["container_auth_data"]["password"] == "sesame"
    assert "sesame" not in repr(sent)


def test_options_of_this_end_stay_here(demo: Path) -> None:
    sent = transmitted(demo, artifact_dir="/elsewhere", debug=True, quiet=True, wire="lines", keepalive_seconds=3)
    assert set(sent.kwargs) == {"playbook", "ident"}


def test_an_option_that_ansible_runner_does_not_have_travels_beside_the_others(demo: Path) -> None:
    body = transmitted(demo, container_pull="never").body
    assert "container_pull" not in body["kwargs"]
    assert accepted(body, HOME)["container_pull"] == "never"


def test_paths_below_the_directory_travel_as_such(demo: Path) -> None:
    (demo / "other").mkdir()
    (demo / "other" / "site.yml").write_text("- hosts: all\n")
    sent = transmitted(demo, project_dir=demo / "other", inventory=str(demo / "inventory" / "hosts"))
    assert sent.kwargs["project_dir"] == "other"
    assert sent.kwargs["inventory"] == "inventory/hosts"
    taken = accepted(sent.body, HOME)
    assert taken["project_dir"] == str(HOME / "other")
    assert taken["inventory"] == str(HOME / "inventory/hosts")


def test_an_absolute_playbook_of_the_project_travels_as_its_name(demo: Path) -> None:
    assert transmitted(demo, playbook=str(demo / "project" / "site.yml")).kwargs["playbook"] == "site.yml"


@pytest.mark.parametrize("option", ["inventory", "project_dir"])
def test_what_lies_outside_the_directory_is_refused_for_it_would_not_arrive(
    demo: Path, tmp_path_factory: pytest.TempPathFactory, option: str
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "site.yml").write_text("- hosts: all\n")
    with pytest.raises(ConfigurationError, match=f"{option}: {outside} lies outside the private data directory"):
        transmitted(demo, **{option: str(outside)})


@pytest.mark.parametrize(
    ("inventory", "name", "content"),
    [
        ({"all": {"hosts": {"x": None}}}, "inventory/.ee_runner_hosts.json", b'{"all":{"hosts":{"x":null}}}'),
        ("x,y,", "inventory/.ee_runner_hosts", b"x\ny\n"),
        ("[web]\nx\n", "inventory/.ee_runner_hosts", b"[web]\nx\n"),
    ],
)
def test_hosts_given_as_such_become_a_file_that_goes_along_and_never_lies_here(
    demo: Path, inventory: Any, name: str, content: bytes
) -> None:
    sent = transmitted(demo, inventory=inventory)
    assert sent.kwargs["inventory"] == name
    assert sent.files[name].replace(b" ", b"").replace(b"\n", b"") == content.replace(b"\n", b"")
    assert sorted(path.name for path in (demo / "inventory").iterdir()) == ["hosts"]


def test_a_role_travels_as_the_playbook_that_runs_it(demo: Path) -> None:
    sent = transmitted(demo, playbook=None, role="web", role_vars={"a": [1]}, host_pattern="front")
    assert sent.kwargs["playbook"] == [{"hosts": "front", "roles": [{"role": "web", "vars": {"a": [1]}}]}]
    assert not {"role", "role_vars", "host_pattern"} & set(sent.kwargs)


def test_inputs_that_are_pipes_are_read_once_and_travel_as_options(demo: Path) -> None:
    fifos = {"ssh_key": "-----KEY-----\n", "passwords": '{"SSH": "open"}', "cmdline": "--diff -t 'a b'"}
    for name, text in fifos.items():
        os.mkfifo(demo / "env" / name)
        threading.Thread(target=(demo / "env" / name).write_text, args=(text,)).start()
    sent = transmitted(demo)
    assert sent.kwargs["ssh_key"].startswith("-----KEY-----")
    assert sent.kwargs["passwords"] == {"SSH": "open"}
    assert sent.kwargs["cmdline"] == "--diff -t 'a b'"


def test_without_the_directory_the_options_go_as_they_are(demo: Path) -> None:
    sent = transmitted(demo, only_transmit_kwargs=True, ident="7", playbook="made-by-the-worker.yml")
    assert sent.kwargs == {"playbook": "made-by-the-worker.yml", "ident": "7"}


# What a worker takes


def test_what_ansible_runner_sends_is_taken() -> None:
    sent = {"ident": "x", "playbook": "site.yml", "verbosity": None, "quiet": False, "rotate_artifacts": 0}
    assert accepted({"kwargs": sent}, HOME) == {"ident": "x", "playbook": "site.yml", "rotate_artifacts": 0}


def test_a_list_of_hosts_is_no_path() -> None:
    assert accepted({"kwargs": {"inventory": "a,b,"}}, HOME)["inventory"] == "a,b,"
    assert accepted({"kwargs": {"inventory": "inventory/hosts"}}, HOME)["inventory"] == str(HOME / "inventory/hosts")


def test_places_of_the_sender_are_not_taken() -> None:
    hostile = {"private_data_dir": "/", "artifact_dir": "/etc", "logfile": "/etc/passwd", "cache": "/", "delete": True}
    assert accepted({"kwargs": hostile}, HOME) == {}


@pytest.mark.parametrize("name", ["event_handler", "streamer", "_output", "__class__", "no_such", "playbok"])
def test_a_name_that_is_no_option_is_refused_before_anything_runs(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}: there is no such argument"):
        accepted({"kwargs": {name: 1}}, HOME)


@pytest.mark.parametrize("ident", ["../x", "a/b", "", "."])
def test_an_ident_that_is_a_path_is_refused(ident: str) -> None:
    with pytest.raises(ConfigurationError, match="is no identifier"):
        accepted({"kwargs": {"ident": ident}}, HOME)


@pytest.mark.parametrize("body", [{}, {"kwargs": None}, {"kwargs": [1]}, {"kwargs": {}, "ee_runner": {"kwargs": 1}}])
def test_what_is_no_request_is_a_bad_frame(body: dict[str, Any]) -> None:
    with pytest.raises(BadFrame, match="The request holds no options"):
        accepted(body, HOME)
