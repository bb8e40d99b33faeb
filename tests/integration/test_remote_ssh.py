"""Remote jobs over a real ssh: what a login prints, a connection that breaks, a host without the command."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import rootless, sshd
from tests.support.processes import all_pids, signal_if_alive, wait_until

RUNNER = [sys.executable, "-m", "ee_runner"]
IDENT = "far"
BOUND = 60
WORDS = "Welcome! The last login was yesterday."
LOST = 76
WAITING = """\
- hosts: here
  gather_facts: false
  tasks:
    - debug: {msg: before}
    - copy: {content: "", dest: "{{ home }}/begun"}
    - command: cat {{ home }}/gate
    - debug: {msg: after}
"""


@dataclass(frozen=True, slots=True)
class Far:
    """A host that is reached by ssh, with a home directory that goes with the test."""

    server: sshd.SshServer
    home: Path
    known_hosts: Path

    def ssh(self, *command: str) -> list[str]:
        """The words that run a command there, in a login shell."""
        options = ("-F", "none", "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "BatchMode=yes")
        login = f"HOME={self.home} exec bash -l -c {shlex.quote('exec ' + shlex.join(command))}"
        server = self.server
        return ["ssh", *options, "-i", str(server.key), "-p", str(server.port), f"{server.user}@{server.host}", login]

    def worker(self, *options: str) -> list[str]:
        return self.ssh("ansible-runner", "worker", *options)

    def profile(self, text: str) -> None:
        with (self.home / ".bash_profile").open("a") as profile:
            profile.write(f"{text}\n")

    def open_gate(self) -> None:
        (self.home / "gate").write_text("through\n")  # a fifo: returns when the job reads it

    def processes(self) -> list[int]:
        return [pid for pid in all_pids() if f"HOME={self.home}".encode() in environment(pid)]

    def directories(self) -> list[str]:
        """The private data directories of workers."""
        return [path.name for path in (self.home / "tmp").glob(".ansible-runner-*")]


def environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


@pytest.fixture(scope="module")
def server() -> Iterator[sshd.SshServer]:
    with sshd.serve() as running:
        yield running


@pytest.fixture
def far(server: sshd.SshServer, tmp_path: Path) -> Iterator[Far]:
    """The host, where the runner is on the PATH of a login."""
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(server.known_hosts)
    # Not below tmp_path, which the user of the host may not enter.
    with tempfile.TemporaryDirectory(prefix="ee-tests-far-") as home:
        there = Far(server, Path(home), known_hosts)
        (there.home / "tmp").mkdir()
        os.mkfifo(there.home / "gate")
        there.profile(f"export PATH={rootless.project_python().parent}:$PATH TMPDIR={home}/tmp")
        subprocess.run(["chown", "-R", server.user, home], check=True)
        yield there
        for pid in there.processes():
            signal_if_alive(pid, signal.SIGKILL)


@pytest.fixture
def job(demo: Path, far: Far) -> Path:
    """A private data directory whose job waits at the gate."""
    (demo / "project/site.yml").write_text(WAITING)
    (demo / "inventory/hosts").write_text(f"here ansible_connection=local home={far.home}\n")
    return demo


def transmitted(job: Path) -> bytes:
    argv = [*RUNNER, "transmit", str(job), "-p", "site.yml", "-i", IDENT]
    return subprocess.run(argv, capture_output=True, check=True, timeout=BOUND).stdout


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A worker at the other end of an ssh connection, and what processes its results here."""

    ssh: subprocess.Popen[bytes]
    process: subprocess.Popen[bytes]

    def end(self) -> tuple[int, str, str]:
        """Wait for the processing; gives its exit code, standard output and standard error."""
        out, err = self.process.communicate(timeout=BOUND)
        self.ssh.wait(timeout=BOUND)
        return self.process.returncode, out.decode(), err.decode()


def begin(job: Path, worker: list[str], *options: str, request: bytes | None = None) -> Pipeline:
    """Start ``transmit | ssh worker | process``, as a shell does."""
    ssh = subprocess.Popen(worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    argv = [*RUNNER, "process", str(job), "-i", IDENT, *options]
    process = subprocess.Popen(argv, stdin=ssh.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert ssh.stdin is not None
    assert ssh.stdout is not None
    ssh.stdout.close()  # the processing end has it
    try:
        ssh.stdin.write(transmitted(job) if request is None else request)
        ssh.stdin.close()
    except BrokenPipeError:  # there is no worker
        pass
    return Pipeline(ssh, process)


def begun(job: Path, far: Far, *options: str) -> Pipeline:
    """Start a job whose task waits at the gate when this returns."""
    pipeline = begin(job, far.worker(*options))
    wait_until((far.home / "begun").exists, bound=BOUND, what="the job's first task")
    return pipeline


def status(job: Path) -> str:
    return (job / f"artifacts/{IDENT}/status").read_text()


def events(job: Path) -> list[dict[str, Any]]:
    files = (job / f"artifacts/{IDENT}/job_events").glob("*.json")
    return sorted((json.loads(path.read_text()) for path in files), key=lambda event: int(event["counter"]))


def test_what_a_login_prints_is_passed_over_and_told(demo: Path, far: Far) -> None:
    far.profile(f"echo {shlex.quote(WORDS)}")
    argv = [*RUNNER, "transmit", str(demo), "-p", "site.yml", "-i", IDENT]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as transmit:
        worker = subprocess.Popen(far.worker(), stdin=transmit.stdout, stdout=subprocess.PIPE)
        process = subprocess.run(
            [*RUNNER, "process", str(demo), "-i", IDENT], stdin=worker.stdout, capture_output=True, check=False
        )
        assert worker.wait(timeout=BOUND) == 0
    assert process.returncode == 0, process.stderr
    assert b"PLAY RECAP" in process.stdout
    assert f"passed over {len(WORDS) + 1} bytes that belong to no record, beginning with '{WORDS}'" in str(
        process.stderr
    )
    assert status(demo) == "successful"
    assert [event["counter"] for event in events(demo)] == list(range(1, len(events(demo)) + 1))
    assert far.directories() == []


def test_a_broken_connection_cancels_the_job_there_and_is_told_here(job: Path, far: Far) -> None:
    pipeline = begun(job, far)
    assert len(far.directories()) == 1
    pipeline.ssh.kill()
    code, out, err = pipeline.end()
    assert code == LOST
    assert "before its end record. The other end gave up (see its own messages) or was killed" in err
    assert '"msg": "before"' in out
    assert status(job) == "error"
    wait_until(lambda: not far.processes(), bound=BOUND, what="the end of the worker and its job")
    assert far.directories() == []


def test_a_host_without_the_command_is_named_as_such(demo: Path, far: Far) -> None:
    missing = far.ssh("bash", "-c", "no-such-runner worker 2>&1")
    code, _, err = begin(demo, missing).end()
    assert code == LOST
    assert "no-such-runner: command not found" in err
    assert "look there for a missing command" in err


def test_a_login_that_is_refused_leaves_nothing_to_read_and_says_where_to_look(demo: Path, far: Far) -> None:
    refused = [word.replace(far.server.user, "nobody") for word in far.worker()]
    code, _, err = begin(demo, refused, request=b"").end()
    assert code == LOST
    assert "not one byte came" in err
    assert "a failed login" in err


def test_a_durable_job_goes_on_and_is_taken_up_where_the_connection_broke(job: Path, far: Far) -> None:
    pipeline = begun(job, far, "--durable")
    pipeline.ssh.kill()
    code, out, _ = pipeline.end()
    assert code == LOST
    assert ('"msg": "before"' in out, '"msg": "after"' in out) == (True, False)
    assert far.processes()
    far.open_gate()
    code, out, err = begin(job, far.worker("--attach", IDENT), "--resume", request=b"").end()
    assert (code, err) == (0, "")
    assert ('"msg": "before"' in out, '"msg": "after"' in out) == (False, True)
    assert status(job) == "successful"
    assert (job / f"artifacts/{IDENT}/rc").read_text() == "0"
    kept = events(job)
    assert [event["counter"] for event in kept] == list(range(1, len(kept) + 1))
    assert kept[-1]["event"] == "playbook_on_stats"
    wait_until(lambda: not far.processes(), bound=BOUND, what="the end of the worker")
    assert far.directories() == []
