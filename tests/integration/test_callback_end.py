"""The end of an observed Ansible: the collector's last walks are spared, and nothing that was written is lost by it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ee_runner.callback

BIN = Path(os.environ.get("EE_TEST_ANSIBLE_BIN") or Path(sys.executable).parent).absolute()
PLUGINS = Path(next(iter(ee_runner.callback.__path__)))
MANY = 10_000
"""The collector knows several times as many objects of an Ansible at its end."""

PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: said
"""

PLUGIN = """
import gc, os, socket, subprocess, sys
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = "{name: own, type: notification, short_description: own, description: own}"

class Circle:
    def __init__(self, opened):
        self.itself = self
        self.opened = opened()

    def __del__(self):
        self.opened.close()

def written(path, mode="w"):
    Circle(lambda: open(path, mode)).opened.write("kept")

def unnamed(path):
    written(path)
    os.unlink(path)

def without_reader():
    reader, writer = os.pipe()
    os.close(reader)
    written(writer)

def listening():
    Circle(lambda: socket.create_server(("127.0.0.1", 0)))

def counting(phase, info, count=gc.get_objects, write=os.write, over=sys.is_finalizing):
    if phase == "start" and over():
        write(2, b"walked %%d objects\\n" %% len(count()))

class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "own"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self):
        super().__init__()
        place = os.environ["PLACE"]
        gc.callbacks.append(counting)
        %s

    def v2_runner_on_ok(self, result):
        place = os.environ["PLACE"]
        %s
"""


def play(
    scratch: Path, *, early: str = "pass", late: str = "pass", observed: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a play with a callback of the user's that does something when it is made, and at the end of the task."""
    plugins = scratch / "plugins"
    plugins.mkdir()
    (plugins / "a_first.py").write_text(PLUGIN % (early, late))
    (scratch / "play.yml").write_text(PLAY)
    (scratch / "spool").touch()
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR") if name in os.environ}
    settings = {"EE_RUNNER_EVENTS_SPOOL": str(scratch / "spool"), "EE_RUNNER_EVENTS_NONCE": "00" * 16}
    return subprocess.run(
        [str(BIN / "ansible-playbook"), "-i", "localhost,", "-c", "local", "play.yml"],
        cwd=scratch,
        env={
            **kept,
            **(settings if observed else {}),
            "LC_ALL": "C.UTF-8",
            "PLACE": str(scratch / "place"),
            "ANSIBLE_CALLBACK_PLUGINS": f"{plugins}{os.pathsep}{PLUGINS}",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def walked(run: subprocess.CompletedProcess[str]) -> list[int]:
    """How many objects the collector had before it at each of its walks after the end."""
    return [int(line.split()[1]) for line in run.stderr.splitlines() if line.startswith("walked ")]


def test_an_observed_ansible_leaves_its_garbage(tmp_path: Path) -> None:
    run = play(tmp_path)
    assert walked(run)
    assert max(walked(run)) < MANY
    assert (tmp_path / "spool").read_text().count("\n") >= 5


def test_an_ansible_that_is_not_observed_is_left_as_it_is(tmp_path: Path) -> None:
    run = play(tmp_path, observed=False)
    assert max(walked(run)) > MANY


@pytest.mark.parametrize("when", ["early", "late"])
def test_text_that_waits_in_a_circle_for_the_collector_reaches_its_file(tmp_path: Path, when: str) -> None:
    run = play(tmp_path, early="written(place)") if when == "early" else play(tmp_path, late="written(place)")
    assert (tmp_path / "place").read_text() == "kept"
    assert max(walked(run)) > MANY


def test_text_that_waits_for_the_collector_reaches_the_process_that_reads_it(tmp_path: Path) -> None:
    reader = "self.reader = subprocess.Popen(['tee', place], stdin=subprocess.PIPE, text=True)"
    run = play(tmp_path, late=f"{reader}; written(os.dup(self.reader.stdin.fileno()))")
    assert max(walked(run)) > MANY
    assert (tmp_path / "place").read_text() == "kept"


def test_a_connection_to_somebody_holds_the_garbage_back(tmp_path: Path) -> None:
    run = play(tmp_path, late="CallbackModule.ends = socket.socketpair()")
    assert max(walked(run)) > MANY


@pytest.mark.parametrize(
    "late", ["unnamed(place)", "without_reader()", "listening()", 'self.null = open(os.devnull, "w")']
)
def test_what_leads_nowhere_holds_nothing_back(tmp_path: Path, late: str) -> None:
    run = play(tmp_path, late=late)
    assert "callback plugin" not in run.stderr
    assert max(walked(run)) < MANY
