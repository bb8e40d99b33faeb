"""The queries on every engine: what their arguments name is there inside, and what Ansible writes arrives outside."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.engines.conftest import ENGINES, make_place
from tests.engines.place import CONTAINERS, Place
from tests.support.images import ImageSet

ASK = """\
import json, sys
from ee_runner import queries
request = json.load(sys.stdin)
answer = getattr(queries, request["function"])(*request["positional"], **request["named"])
json.dump(answer, sys.stdout)
"""

OWN = f"query-{uuid4()}"
"""The idents of this module begin with it: other sessions' containers on the same engine are none of its business."""

HOSTS = "one a=1\ntwo\n"
MODULE = "DOCUMENTATION = '''\nmodule: {0}\nshort_description: my own\noptions: {{}}\nauthor: me\n'''\n"
ARGUMENT_SPECS = "argument_specs:\n  main:\n    short_description: what it is for\n    options: {}\n"


@contextlib.contextmanager
def placed(request: pytest.FixtureRequest, prepared: dict[str, ImageSet]) -> Iterator[Place]:
    """Give a fresh directory with one engine; none of this module's containers may be left."""
    user = request.getfixturevalue("rootless") if request.param == "podman-rootless" else None
    here = make_place(request.param, prepared, user)
    yield here
    left = own_containers(here)
    if left:
        here.command([here.engine, "rm", "-f", *left])
    here.clear()
    assert not left, f"containers left behind: {left}"


def own_containers(place: Place) -> list[str]:
    if not place.contained:
        return []
    listing = [place.engine, "ps", "-a", "--filter", f"name=ansible_runner_{OWN}", "--format", "{{.Names}}"]
    return place.command(listing).stdout.split()


@pytest.fixture(params=ENGINES)
def place(request: pytest.FixtureRequest, prepared: dict[str, ImageSet]) -> Iterator[Place]:
    with placed(request, prepared) as here:
        yield here


@pytest.fixture(params=[engine for engine in ENGINES if engine in CONTAINERS])
def contained(request: pytest.FixtureRequest, prepared: dict[str, ImageSet]) -> Iterator[Place]:
    with placed(request, prepared) as here:
        yield here


def ask(
    place: Place, function: str, *positional: Any, image: str | None = None, cwd: Path, **named: Any
) -> tuple[Any, str]:
    """Call a query as the place's user, from a working directory, in the place's engine."""
    if place.name != "local":
        named |= {"process_isolation": True, "process_isolation_executable": place.engine}
    if place.contained:
        assert place.images is not None
        named |= {"container_image": image or place.images.default, "container_pull": "never"}
    request = json.dumps(
        {"function": function, "positional": positional, "named": {"ident": f"{OWN}-{uuid4()}", **named}}
    )
    if place.user is not None:
        done = place.user.run([place.user.python, "-c", ASK], cwd=cwd, stdin=request)
    else:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            cwd=cwd,
            env={**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"},
            input=request,
            text=True,
            capture_output=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    response, error = json.loads(done.stdout)
    return response, error


@pytest.fixture
def cwd(place: Place) -> Path:
    return place.write({"hosts": HOSTS}, under="work")


def test_plugin_docs_and_lists_are_those_inside(place: Place, cwd: Path) -> None:
    docs, error = ask(place, "get_plugin_docs", ["debug", "no_such"], cwd=cwd)
    assert set(docs) == {"debug"}
    assert "no_such was not found" in error
    listed, _ = ask(place, "get_plugin_list", plugin_type="shell", cwd=cwd)
    assert listed["ansible.builtin.sh"] == "POSIX shell (/bin/sh)"
    files, _ = ask(place, "get_plugin_list", True, plugin_type="shell", cwd=cwd)
    assert set(files) == set(listed)
    assert files["ansible.builtin.sh"].endswith("plugins/shell/sh.py")


def test_modules_and_roles_of_directories_elsewhere_are_found(place: Place, cwd: Path) -> None:
    other = place.write(
        {
            "library/beside.py": MODULE.format("beside"),
            "roles/local/meta/argument_specs.yml": ARGUMENT_SPECS,
        },
        under="other",
    )
    modules = place.write({"farther.py": MODULE.format("farther")}, under="modules")
    docs, error = ask(
        place, "get_plugin_docs", ["beside", "farther"], playbook_dir="../other", module_path=str(modules), cwd=cwd
    )
    assert set(docs) == {"beside", "farther"}, error
    roles, _ = ask(place, "get_role_list", playbook_dir=str(other), cwd=cwd)
    assert roles["local"]["entry_points"] == {"main": "what it is for"}
    role, _ = ask(place, "get_role_argspec", "local", playbook_dir=str(other), cwd=cwd)
    assert set(role) == {"local"}


def test_inventories_of_the_working_directory_and_elsewhere_are_read(place: Place, cwd: Path) -> None:
    other = place.write({"more": "three\n", "group_vars/all.yml": "b: 2\n"}, under="other")
    playbooks = place.write({"host_vars/two.yml": "c: 3\n"}, under="playbooks")
    document, error = ask(
        place,
        "get_inventory",
        "list",
        ["hosts", str(other / "more"), "four,"],
        "json",
        playbook_dir=str(playbooks),
        cwd=cwd,
    )
    assert document["_meta"]["hostvars"] == {
        "one": {"a": 1, "b": 2},
        "two": {"b": 2, "c": 3},
        "three": {"b": 2},
        "four": {"b": 2},
    }
    assert error == ""
    text, _ = ask(place, "get_inventory", "graph", ["hosts"], cwd=cwd)
    assert "|--one" in text
    elsewhere, _ = ask(place, "get_inventory", "list", ["more"], "json", host_cwd=str(other), cwd=cwd)
    assert set(elsewhere["_meta"]["hostvars"]) == {"three"}


@pytest.mark.parametrize("by", ["vault_ids", "vault_password_file"])
def test_a_vault_password_elsewhere_is_read(place: Place, cwd: Path, by: str) -> None:
    secrets = place.write({"password": "open sesame\n"}, under="secrets")
    vault = Path(sys.executable).with_name("ansible-vault")
    (cwd / "host_vars").mkdir()
    (cwd / "host_vars/one.yml").write_text("hidden: treasure\n")
    subprocess.run(
        [vault, "encrypt", "--vault-id", f"dev@{secrets / 'password'}", cwd / "host_vars/one.yml"],
        check=True,
        capture_output=True,
    )
    place.own(cwd)
    named = {"vault_ids": "dev@../secrets/password", "vault_password_file": str(secrets / "password")}
    variables, error = ask(place, "get_inventory", "host", ["hosts"], "json", host="one", **{by: named[by]}, cwd=cwd)
    assert (variables, error) == ({"a": 1, "hidden": "treasure"}, "")


@pytest.mark.parametrize("target", ["out.json", "../results/out.json", "{root}/results/old.json"])
def test_the_output_file_arrives_outside(place: Place, cwd: Path, target: str) -> None:
    results = place.write({"old.json": "old"}, under="results")
    name = target.format(root=place.root)
    assert ask(place, "get_inventory", "list", ["hosts"], "json", output_file=name, cwd=cwd) == ("", "")
    written = cwd / name
    assert set(json.loads(written.read_text())["_meta"]["hostvars"]) == {"one"}
    assert written.stat().st_uid == place.uid
    assert {path.name for path in results.iterdir()} <= {"old.json", "out.json"}


def test_a_configuration_file_elsewhere_is_read(place: Place, cwd: Path) -> None:
    other = place.write({"my.cfg": "[defaults]\nforks = 17\n"}, under="other")
    for config in (str(other / "my.cfg"), "../other/my.cfg"):
        changed, _ = ask(place, "get_ansible_config", "dump", config, True, cwd=cwd)
        assert "DEFAULT_FORKS(" in changed
    shown, _ = ask(place, "get_ansible_config", "view", str(other / "my.cfg"), cwd=cwd)
    assert shown.strip() == "[defaults]\nforks = 17"


@pytest.mark.parametrize("runner_mode", ["subprocess", "pexpect"])
def test_warnings_on_a_terminal_do_not_spoil_the_answer_of_an_older_ansible(contained: Place, runner_mode: str) -> None:
    cwd = contained.write({"hosts": HOSTS}, under="work")
    assert contained.images is not None
    document, _ = ask(
        contained,
        "get_inventory",
        "list",
        ["hosts", "nowhere"],
        "json",
        image=contained.images.debian,
        runner_mode=runner_mode,
        cwd=cwd,
    )
    assert document["_meta"]["hostvars"] == {"one": {"a": 1}}
    files, _ = ask(
        contained,
        "get_plugin_list",
        True,
        None,
        "shell",
        image=contained.images.debian,
        runner_mode=runner_mode,
        cwd=cwd,
    )
    assert files["ansible.builtin.sh"].endswith("sh.py")
