"""What is loaded before and while a trivial playbook runs: each module costs every run its time and its memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

NEVER_LOADED = (
    *(
        "argparse",
        "asyncio",
        "configparser",
        "csv",
        "difflib",
        "email",
        "gettext",
        "hashlib",
        "http",
        "importlib.metadata",
    ),
    *("importlib.resources", "multiprocessing", "ssl", "unittest", "urllib.request", "xml", "zipfile"),
    *("ansible", "docker", "httpx", "pexpect", "podman", "requests", "rich", "yaml", "zmq"),
    *("ee_runner.aio", "ee_runner.queries", "ee_runner.report", "ee_runner.stream"),
    *("ee_runner.cli.background", "ee_runner.cli.guardian", "ee_runner.cli.help", "ee_runner.cli.remote"),
    *(f"ee_runner.engines.{name}" for name in ("agent", "bwrap", "docker", "images", "oci", "podman", "pulls")),
)
"""What a trivial playbook on the local engine has no use for."""

NOT_LOADED_BEFORE_THE_START = ("dataclasses", "inspect", "logging", "msgspec", "typing_extensions", "uuid")
"""What can wait until Ansible is starting, and is loaded beside it then, if at all."""

_COMMAND = """
import sys
from ee_runner.cli.main import main
assert main(sys.argv[1:]) == 0
print(*sys.modules, file=sys.stderr)
"""
_LIBRARY = """
import sys
from ee_runner import run
from ee_runner.attachment import Attachment
found = []
job = run(
    private_data_dir=sys.argv[1], playbook="site.yml", attachment=Attachment(started=lambda: found.extend(sys.modules))
)
assert job.rc == 0
print(*found, file=sys.stderr)
"""


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "site.yml").write_text("- hosts: localhost\n  gather_facts: false\n  tasks: [debug: ]\n")
    return tmp_path


def loaded(code: str, *arguments: object) -> set[str]:
    """What a fresh interpreter has loaded that ran this."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def within(modules: Collection[str], rooms: Collection[str]) -> list[str]:
    return sorted(m for m in modules if any(m == room or m.startswith(f"{room}.") for room in rooms))


def test_a_trivial_run_loads_nothing_that_it_does_not_need(demo: Path) -> None:
    found = loaded(_COMMAND, "run", demo, "-p", "site.yml", "-q")
    assert "ee_runner.executor.session" in found
    assert within(found, NEVER_LOADED) == []


def test_what_can_wait_is_loaded_beside_ansible(demo: Path) -> None:
    found = loaded(_LIBRARY, demo)
    assert "ee_runner.runner" in found
    assert within(found, NOT_LOADED_BEFORE_THE_START) == []


def test_the_version_is_told_without_the_command_line() -> None:
    found = loaded(_COMMAND, "--version")
    assert within(found, ["ee_runner"]) == ["ee_runner", "ee_runner.cli", "ee_runner.cli.main"]


@pytest.mark.parametrize("package", ["ansible_runner", "ee_runner"])
def test_an_import_loads_the_names_alone(package: str) -> None:
    found = loaded(f"import sys, {package}; print(*sys.modules, file=sys.stderr)")
    assert len(within(found, ["ansible_runner", "ee_runner"])) <= 2
    assert within(found, ["re", "typing", "pathlib", "threading"]) == []
