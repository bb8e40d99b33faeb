"""Images of all kinds: old and new Ansible, every kind of user; what containers are called and labelled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.conftest import ENGINES
from tests.engines.place import Place
from tests.engines.projects import EVENTS, INVENTORY, RECAP, private_data_dir
from tests.engines.test_contract import assert_whole, owned_by, read, recap, shape
from tests.support.rootless import RootlessUser

NOTIFY = "playbook_on_notify"

WRITES = """\
- hosts: one
  gather_facts: false
  tasks:
    - file: {path: made/deep, state: directory}
    - copy: {content: x, dest: made/deep/file}
    - set_fact: {a: b, cacheable: true}
    - command: id -u
    - command: whoami
    - shell: touch ~/home-is-writable
"""


def test_ansible_core_2_14_gives_the_same_events(contained: Place) -> None:
    assert contained.images is not None
    directory = contained.write(private_data_dir(), under="pdd")
    result = contained.run(directory, "-p", "site.yml", "--forks", "1", image=contained.images.debian)
    assert result.rc == 0, result
    # This Ansible tells of a notified handler at once, newer ones before the handlers run.
    told = shape(result)
    assert [host for event, _, host in told if event == NOTIFY] == ["one", "two"]
    assert [event for event in told if event[0] != NOTIFY] == [event for event in EVENTS if event[0] != NOTIFY]
    assert recap(result.stdout) == RECAP
    assert_whole(result)


@pytest.mark.parametrize("kind", ["default", "user", "uid"])
def test_whatever_the_images_user_the_results_are_the_callers(contained: Place, kind: str) -> None:
    files = {"project/site.yml": WRITES, "inventory/hosts": INVENTORY}
    directory = contained.write(files, under="pdd")
    result = contained.run(directory, "-p", "site.yml", image=getattr(contained.images, kind))
    assert result.rc == 0, result
    assert_whole(result)
    assert owned_by(contained, directory)
    removed = contained.command(["rm", "-r", str(directory)])
    assert removed.returncode == 0, removed.stderr


@pytest.fixture
def docker_user(rootless: RootlessUser) -> Iterator[RootlessUser]:
    """An ordinary user who may talk to the docker daemon, for as long as the test takes."""
    socket = Path("/var/run/docker.sock")
    before = socket.stat()
    os.chown(socket, before.st_uid, rootless.gid)
    yield rootless
    os.chown(socket, before.st_uid, before.st_gid)


@pytest.mark.parametrize("contained", [name for name in ENGINES if name == "docker"], indirect=True)
@pytest.mark.parametrize("kind", ["default", "user", "uid"])
def test_docker_as_an_ordinary_user(contained: Place, docker_user: RootlessUser, kind: str) -> None:
    place = Place("docker", contained.images, docker_user, contained.root)
    directory = place.write({"project/site.yml": WRITES, "inventory/hosts": INVENTORY}, under="pdd")
    result = place.run(directory, "-p", "site.yml", image=getattr(place.images, kind))
    assert result.rc == 0, result
    assert owned_by(place, directory)
    assert place.command(["rm", "-r", str(directory)]).returncode == 0


def test_a_running_container_has_the_documented_name_and_labels_and_no_secret_in_sight(contained: Place) -> None:
    waits = "- hosts: one\n  gather_facts: false\n  tasks:\n    - command: sleep 100\n"
    directory = contained.write(
        {
            "project/site.yml": waits,
            "inventory/hosts": INVENTORY,
            "env/envvars": "API_TOKEN: s3cr3t-env\n",
            "env/extravars": "password: s3cr3t-extra\n",
        },
        under="pdd",
    )
    child = contained.start("run", directory, "-p", "site.yml", "-i", "job 1:a", *contained.isolated())
    try:
        artifacts = directory / "artifacts/job 1:a"
        deadline = time.monotonic() + 60
        while b"TASK [command]" not in read(artifacts / "stdout"):
            assert time.monotonic() < deadline
            assert child.poll() is None, child.communicate()
            time.sleep(0.05)
        (name,) = contained.containers()
        assert name.startswith("ansible_runner_job_1_a_")
        inspected = contained.command([contained.engine, "inspect", name])
        labels = json.loads(inspected.stdout)[0]["Config"]["Labels"]
        assert labels["ee_runner.ident"] == "job 1:a"
        assert labels["ee_runner.private_data_dir"] == str(directory)
        supervisor = int(labels["ee_runner.supervisor.pid"])
        assert Path(f"/proc/{supervisor}").exists()
        commands = subprocess.run(["ps", "-eo", "args", "-ww"], text=True, capture_output=True, check=True).stdout
        assert "s3cr3t" not in commands
        assert all("s3cr3t" not in text(path) for path in artifacts.rglob("*"))
    finally:
        os.kill(child.pid, signal.SIGTERM)
        child.communicate(timeout=30)
    assert contained.containers() == []


def text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace") if path.is_file() else ""


def test_jobs_side_by_side_on_one_private_data_directory_keep_to_themselves(place: Place) -> None:
    says = "- hosts: one\n  gather_facts: false\n  tasks: [{debug: {msg: 'I am {{ me }}'}}]\n"
    directory = place.write({"project/site.yml": says, "inventory/hosts": INVENTORY}, under="pdd")
    children = [
        place.start(
            *(
                "run",
                str(directory),
                "-p",
                "site.yml",
                "-i",
                f"job{n}",
                *place.isolated(),
                "--cmdline",
                f"-e me=number-{n}",
            )
        )
        for n in range(4)
    ]
    for n, child in enumerate(children):
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, (out, err)
        assert f"I am number-{n}" in out.decode()
        assert (directory / f"artifacts/job{n}/status").read_text() == "successful"
