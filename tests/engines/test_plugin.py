"""An engine from another distribution, found by its entry point; and how engines are chosen."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.place import Place
from tests.engines.projects import INVENTORY

DISTRIBUTION = Path(__file__).parents[1] / "support" / "other_engine"
TELLS = "- hosts: one\n  gather_facts: false\n  tasks: [{debug: {msg: \"{{ lookup('env', 'TOLD_ENGINE') }}\"}}]\n"


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """The distribution, installed where only PYTHONPATH leads."""
    with tempfile.TemporaryDirectory(prefix="ee-tests-") as directory:
        argv = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
        subprocess.run([*argv, "--target", directory, str(DISTRIBUTION)], check=True, stdin=subprocess.DEVNULL)
        yield Path(directory)


@pytest.fixture
def here() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="contract-") as root:
        yield Place("local", None, None, Path(root))


def job(place: Place, playbook: str = TELLS) -> Path:
    return place.write({"project/site.yml": playbook, "inventory/hosts": INVENTORY}, under="pdd")


def test_an_engine_of_another_distribution_runs_the_job(here: Place, installed: Path) -> None:
    result = here.run(job(here), "-p", "site.yml", "--engine", "told", env={"PYTHONPATH": str(installed)})
    assert result.rc == 0, result
    assert result.of("runner_on_ok")[0]["event_data"]["res"]["msg"] == "was here"


def test_without_its_distribution_the_engine_is_unknown(here: Place) -> None:
    result = here.run(job(here), "-p", "site.yml", "--engine", "told")
    assert result.rc == 78
    assert "told" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "env", "settings", "expected"),
    [
        (["--engine", "local"], {"EE_RUNNER_ENGINE": "docker"}, "process_isolation_executable: podman", "local"),
        ([], {"EE_RUNNER_ENGINE": "local"}, "process_isolation_executable: podman\nprocess_isolation: true", "local"),
        ([], {}, "process_isolation_executable: local\nprocess_isolation: true", "local"),
    ],
    ids=["flag", "environment", "settings"],
)
def test_the_engine_is_the_flags_before_the_environments_before_the_settings(
    here: Place, arguments: list[str], env: dict[str, str], settings: str, expected: str
) -> None:
    directory = job(here)
    here.write({"env/settings": settings}, under="pdd")
    result = here.run(directory, "-p", "site.yml", "--debug", *arguments, env=env)
    assert result.rc == 0, result
    assert f"{expected}: asked for" in result.stderr


def test_who_asks_for_isolation_is_not_run_without_and_told_why_each_engine_was_passed_over(here: Place) -> None:
    result = here.run(job(here), "-p", "site.yml", "--process-isolation", env={"PATH": empty_path(here)})
    assert result.rc == 69
    assert "podman: podman is not installed" in result.stderr, result.stderr
    assert "docker: docker is not installed" in result.stderr
    assert "local: it does not isolate" in result.stderr


def test_what_is_isolated_by_default_runs_on_the_host_where_nothing_isolates_and_says_so(here: Place) -> None:
    directory = job(here)
    words = ["playbook", "--artifact-dir", str(here.root / "artifacts"), "--debug", "project/site.yml"]
    rc, _, said = here.ansible_runner(*words, cwd=directory, env={"PATH": empty_path(here)})
    assert rc == 0, said
    assert "podman: podman is not installed" in said
    assert "runs on this host" in said


def empty_path(place: Place) -> str:
    """A PATH with Ansible and nothing else."""
    place.write({"bin/keep": ""})
    for name in ("ansible-playbook", "ansible"):
        (place.root / "bin" / name).symlink_to(Path(sys.executable).parent / name)
    return str(place.root / "bin")
