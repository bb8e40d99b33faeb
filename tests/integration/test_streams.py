"""The command with the streams and signals that scripts, schedulers and impatient people give it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.projects import INVENTORY

COMMAND = [sys.executable, "-m", "ee_runner", "run"]


def close(*descriptors: int) -> Callable[[], None]:
    def close_them() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close_them


def status(demo: Path) -> str:
    return (demo / "artifacts/1/status").read_text()


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2)], ids=str)
def test_closed_streams_change_nothing(demo: Path, closed: tuple[int, ...]) -> None:
    argv = [*COMMAND, str(demo), "-p", "site.yml", "-i", "1"]
    done = subprocess.run(argv, preexec_fn=close(*closed), check=False)
    assert (done.returncode, status(demo)) == (0, "successful")
    assert b"PLAY RECAP" in (demo / "artifacts/1/stdout").read_bytes()


def test_a_reader_that_goes_away_and_a_full_disk_behind_a_redirection_do_not_end_the_job(demo: Path) -> None:
    argv = [*COMMAND, str(demo), "-p", "site.yml", "-i", "1"]
    with Path("/dev/full").open("wb") as full:
        assert subprocess.run(argv, stdout=full, check=False).returncode == 0
    child = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.close()
    assert (child.wait(timeout=60), status(demo)) == (0, "successful")


@pytest.fixture
def waiting(demo: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a job that sleeps; its command has begun when this returns."""
    (demo / "project/site.yml").write_text("- hosts: one\n  gather_facts: false\n  tasks: [{command: sleep 60}]\n")
    (demo / "inventory/hosts").write_text(INVENTORY)
    children = []

    def start(**how: Any) -> subprocess.Popen[bytes]:
        argv = [*COMMAND, str(demo), "-p", "site.yml", "-i", "1"]
        children.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how))
        stdout = children[-1].stdout
        assert stdout is not None
        while b"TASK [command]" not in stdout.readline():
            assert children[-1].poll() is None
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def ignore_hangup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_a_hangup_cancels_but_not_under_nohup(demo: Path, waiting: Callable[..., subprocess.Popen[bytes]]) -> None:
    child = waiting()
    child.send_signal(signal.SIGHUP)
    child.communicate(timeout=30)
    assert (child.returncode, status(demo)) == (254, "canceled")
    child = waiting(preexec_fn=ignore_hangup)
    child.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert child.poll() is None
    child.terminate()
    child.communicate(timeout=30)
    assert status(demo) == "canceled"


def catches(pid: int, signum: int) -> bool:
    """Whether the process has a handler of its own for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)


def test_an_interrupt_leads_out_of_an_input_that_never_comes(demo: Path) -> None:
    (demo / "env").mkdir()
    os.mkfifo(demo / "env/passwords")
    child = subprocess.Popen([*COMMAND, str(demo), "-p", "site.yml"], stderr=subprocess.PIPE)
    while not catches(child.pid, signal.SIGTERM):
        assert child.poll() is None
    time.sleep(0.5)  # it opens the pipe next
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=10)
    assert child.returncode == 254
    assert b"Traceback" not in err
