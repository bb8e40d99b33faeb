"""A real sshd, reached from inside: through the caller's agent, a key of the job's own, and a password."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines.place import Place, Result
from tests.support import sshd
from tests.support.bytesearch import Searcher
from tests.support.processes import wait_until

PING = "- hosts: far\n  gather_facts: false\n  tasks:\n    - ping:\n    - command: id -un\n"


@pytest.fixture(scope="module")
def server() -> Iterator[sshd.SshServer]:
    with sshd.serve() as running:
        yield running


def inventory(server: sshd.SshServer, known_hosts: Path | None) -> str:
    hosts_file = f" ansible_ssh_common_args='-o UserKnownHostsFile={known_hosts}'" if known_hosts else ""
    return (
        f"far ansible_host={server.host} ansible_port={server.port} ansible_user={server.user} "
        f"ansible_python_interpreter=/usr/bin/python3{hosts_file}\n"
    )


def network(place: Place) -> list[str]:
    """The server listens on the host's loopback: a container reaches it in the host's network."""
    return ["--container-option=--network=host"] if place.contained else []


@contextmanager
def agent(place: Place, key: Path) -> Iterator[Path]:
    """An ssh-agent of the place's user that holds the key."""
    directory = Path(tempfile.mkdtemp(prefix="agent-", dir=place.root))
    place.own(directory)
    socket = directory / "socket"
    argv = ["ssh-agent", "-D", "-a", str(socket)]
    process = place.user.popen(argv) if place.user else subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            assert process.poll() is None
        env = {"SSH_AUTH_SOCK": str(socket)}
        if place.user:
            added = place.user.run(["ssh-add", "-"], env=env, stdin=key.read_text())
            assert added.returncode == 0, added.stderr
        else:
            subprocess.run(["ssh-add", "-q", "-"], env=env | {"PATH": "/usr/bin"}, stdin=key.open(), check=True)
        yield socket
    finally:
        process.terminate()
        process.wait()


def test_the_callers_agent_opens_the_door(place: Place, server: sshd.SshServer) -> None:
    known = place.root / "project/known_hosts"
    files = {"site.yml": PING, "inv": inventory(server, known), "known_hosts": server.known_hosts}
    project = place.write(files, under="project")
    with agent(place, server.key) as socket:
        result = place.emulate(
            "playbook", *network(place), "site.yml", "-i", "inv", cwd=project, env={"SSH_AUTH_SOCK": str(socket)}
        )
    assert result.rc == 0, result
    assert result.of("runner_on_ok")[1]["event_data"]["res"]["stdout"] == server.user


@pytest.fixture
def home(contained: Place) -> Iterator[Path]:
    """A home for the caller: rootless podman keeps its images in the real one, the others take any."""
    if contained.user is None:
        yield contained.write({"keep": ""}, under="home")
        return
    yield contained.user.home
    shutil.rmtree(contained.user.home / ".ssh")


def test_known_hosts_and_configuration_of_the_callers_home_are_there(
    contained: Place, server: sshd.SshServer, home: Path
) -> None:
    directory = home / ".ssh"
    directory.mkdir(mode=0o700)
    (directory / "known_hosts").write_text(server.known_hosts)
    (directory / "config").write_text(
        f"Host far-away\n  HostName {server.host}\n  Port {server.port}\n  User {server.user}\n"
    )
    if contained.user is not None:
        contained.user.own(directory)
    project = contained.write({"site.yml": PING, "inv": "far ansible_host=far-away\n"}, under="project")
    with agent(contained, server.key) as socket:
        result = contained.emulate(
            *("playbook", *network(contained), "site.yml", "-i", "inv"),
            cwd=project,
            env={"SSH_AUTH_SOCK": str(socket), "HOME": str(home)},
        )
    assert result.rc == 0, result


KEYS = """\
- hosts: far other
  gather_facts: false
  tasks:
    - command: id -un
- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
    - command: ssh-add -l
    - file:
        path: "{{ playbook_dir }}/ready"
        state: touch
    - wait_for:
        path: "{{ playbook_dir }}/go"
        timeout: 60
"""


def test_keys_of_the_job_are_used_with_their_certificates_and_stay_nowhere(
    place: Place, server: sshd.SshServer
) -> None:
    known = Path("/runner/project/known_hosts" if place.contained else place.root / "pdd/project/known_hosts")
    other = inventory(server, known).replace("far ", "other ").replace(server.user, server.other_user)
    keys = [path.read_text() for path in (server.other_key, server.certificate, server.certified_key)]
    files = {
        "project/site.yml": KEYS,
        "project/known_hosts": server.known_hosts,
        "inventory/hosts": inventory(server, known) + other,
        "env/ssh_key": "\n".join(keys),
        "env/passwords": f'"Enter passphrase for .*/ssh_key_data_2:\\\\s*?$": "{server.passphrase}"\n',
    }
    directory = place.write(files, under="pdd")
    bodies = {"key 1": keys[0].splitlines()[2], "key 2": keys[2].splitlines()[2], "phrase": server.passphrase}
    search = Searcher(bodies, since=time.time() - 1)
    job = place.start("run", directory, "-i", "job", *place.isolated(), "-p", "site.yml", *network(place))
    try:
        wait_until(lambda: (directory / "project/ready").exists() or job.poll() is not None, bound=60, what="the task")
        places = {Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run"), Path.home() / ".local"}
        found = search.in_trees(places, apart={directory / "env", server.key.parent})
        found += search.in_command_lines()
        found += [str(each) for each in search.in_environments().items()]
    finally:
        (directory / "project/go").touch()
        out, err = job.communicate(timeout=60)
    assert job.returncode == 0, (out, err)
    assert found == []
    result = Result(0, "", "", directory / "artifacts/job")
    told = [event["event_data"]["res"].get("stdout", "") for event in result.of("runner_on_ok")]
    assert {server.user, server.other_user} < set(told)
    assert sorted(line.split()[-1] for line in told[2].splitlines()) == ["(ED25519)", "(ED25519)", "(ED25519-CERT)"]
    assert search.in_trees([directory], apart={directory / "env"}) == []


def test_a_wrong_passphrase_is_said(place: Place, server: sshd.SshServer) -> None:
    files = {
        "project/site.yml": PING,
        "inventory/hosts": inventory(server, None),
        "env/ssh_key": server.locked_key.read_text(),
        "env/passwords": '"Enter passphrase for .*:\\\\s*?$": "wrong"\n',
    }
    directory = place.write(files, under="pdd")
    result = place.run(directory, "-p", "site.yml", *network(place))
    assert result.rc == 78, result
    assert "env/ssh_key" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_password_is_typed_at_the_connection_prompt(place: Place, server: sshd.SshServer) -> None:
    known = "/runner/project/known_hosts" if place.contained else place.root / "pdd/project/known_hosts"
    files = {
        "project/site.yml": PING,
        "project/known_hosts": server.known_hosts,
        "inventory/hosts": inventory(server, Path(known)),
        "env/cmdline": "--ask-pass",
        "env/passwords": f'"^SSH password:\\\\s*?$": "{server.password}"\n',
    }
    directory = place.write(files, under="pdd")
    result = place.run(directory, "-p", "site.yml", *network(place), env={"SSH_AUTH_SOCK": ""})
    assert result.rc == 0, result
    assert all(server.password not in path.read_text() for path in result.artifacts.rglob("*") if path.is_file())
