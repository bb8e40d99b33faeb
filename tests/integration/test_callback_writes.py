"""How often an observed Ansible writes: once for an event of its own callbacks, and in time for those of others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import ee_runner.callback

BIN = Path(os.environ.get("EE_TEST_ANSIBLE_BIN") or Path(sys.executable).parent).absolute()
PLUGINS = Path(next(iter(ee_runner.callback.__path__)))
NONCE = "0123456789abcdef"
BOUNDARY, MARK = f"\x1b_ee;{NONCE};B\x1b\\", f"\x1b_ee;{NONCE};E;"

PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: from the task
"""

PLUGIN = """
import os
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = "{name: own, type: notification, short_description: own, description: own}"

class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "own"
    CALLBACK_NEEDS_ENABLED = False

    def v2_runner_on_start(self, host, task):
        os.write(2, b"past everything")
"""


def writes(scratch: Path, *more: Path) -> list[str]:
    """Run a play whose output is a socket that keeps one write from the next, and return them."""
    (scratch / "play.yml").write_text(PLAY)
    (scratch / "spool").touch()
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR") if name in os.environ}
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mine, theirs:
        mine.settimeout(120)
        process = subprocess.Popen(
            [str(BIN / "ansible-playbook"), "-i", "localhost,", "-c", "local", "play.yml"],
            cwd=scratch,
            env={
                **kept,
                "LC_ALL": "C.UTF-8",
                "EE_RUNNER_EVENTS_SPOOL": str(scratch / "spool"),
                "EE_RUNNER_EVENTS_NONCE": NONCE,
                "ANSIBLE_CALLBACK_PLUGINS": os.pathsep.join(map(str, (PLUGINS, *more))),
            },
            stdin=subprocess.DEVNULL,
            stdout=theirs.fileno(),
            stderr=theirs.fileno(),
        )
        theirs.close()
        try:
            packets = list(iter(lambda: mine.recv(1 << 20), b""))
        except BaseException:
            process.kill()
            raise
        finally:
            code = process.wait(timeout=120)
    assert code == 0
    return [packet.decode() for packet in packets]


def test_an_event_of_ansibles_own_callbacks_is_one_write(tmp_path: Path) -> None:
    found = writes(tmp_path)
    (said,) = [write for write in found if "from the task" in write]
    assert said.startswith(BOUNDARY)
    assert said.count(MARK) == 1
    assert said.rindex(MARK) > said.index("from the task")
    assert all(write.count(BOUNDARY) == 1 and MARK in write for write in found)


def test_what_another_callback_writes_past_ansibles_display_is_within_its_event(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "own.py").write_text(PLUGIN)
    before, after = "".join(writes(tmp_path, plugins)).split("past everything")
    assert before.endswith(BOUNDARY)
    assert after.startswith(MARK)
