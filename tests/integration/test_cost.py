"""What the runner costs, in counts: they are the same on a busy machine (the times are measured by `make bench`)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support import images, machine
from tests.support.processes import REPO, checked

ENGINES = tuple(name for name in os.environ.get("ENGINES", "podman docker").split() if name in ("podman", "docker"))
INVENTORY = "localhost ansible_connection=local\n"
ONE_TASK = "- hosts: all\n  gather_facts: false\n  tasks:\n    - debug:\n        msg: hello\n"
IDLE = ONE_TASK + "    - name: idle\n      pause:\n        seconds: 60\n"
SHIM = '#!/bin/sh\necho "$1 $2" >>{log}\nexec {program} "$@"\n'


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private data directory with a playbook of one task; the Ansible beside this interpreter is found."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name, text in {"project/site.yml": ONE_TASK, "inventory/hosts": INVENTORY}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    return tmp_path


def repeated(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Have Ansible give so many events more for the one task."""
    monkeypatch.setenv("ANSIBLE_STRATEGY_PLUGINS", str(REPO / "bench" / "plugins" / "strategy"))
    monkeypatch.setenv("ANSIBLE_STRATEGY", "repeat")
    monkeypatch.setenv("EVENTS", str(count))


def counted(*arguments: str | Path) -> dict[str, float]:
    told: dict[str, float] = json.loads(
        checked([sys.executable, REPO / "tests" / "support" / "counted.py", *arguments])
    )
    return told


def exceeded(told: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """Return the counts that are above their limits; each of the limits must be about something that was counted."""
    return {name: told[name] for name, limit in limits.items() if told[name] > limit}


def modules_loaded(*arguments: str | Path) -> int:
    """Count the modules that an interpreter loads, those that it loads anyway apart."""
    return _loaded(*arguments) - _loaded("-c", "pass")


def _loaded(*arguments: str | Path) -> int:
    argv = [sys.executable, "-X", "importtime", *map(str, arguments)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    return sum(line.startswith("import time:") for line in done.stderr.splitlines())


def test_the_import_loads_few_modules() -> None:
    assert modules_loaded("-c", "import ansible_runner") <= 60


@pytest.mark.parametrize(("option", "limit"), [("--version", 60), ("--help", 200)])
def test_a_command_that_runs_nothing_loads_few_modules(option: str, limit: int) -> None:
    assert modules_loaded("-m", "ee_runner", option) <= limit


def test_a_job_on_the_host_loads_few_modules(directory: Path) -> None:
    assert modules_loaded("-m", "ee_runner", "run", directory, "-p", "site.yml", "-q") <= 220


def test_a_job_of_one_task_opens_few_files_and_starts_few_processes(directory: Path) -> None:
    limits = {"opened": 40, "renamed": 20, "listed": 20, "started": 3}
    assert not exceeded(counted("job", directory), limits)


def test_an_event_costs_one_file_and_few_system_calls(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repeated(monkeypatch, 2000)
    limits = {"opened": 1, "renamed": 1, "listed": 0, "started": 0, "reads": 2, "writes": 3, "ansible_writes": 5}
    assert not exceeded(counted("each_event", directory), limits)


def test_reading_back_opens_each_event_once_and_lists_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repeated(monkeypatch, 500)
    told = counted("read_back", directory)
    events = told["events"]
    assert events > 500
    limits = {"all_opened": events + 2, "all_listed": 1, "stats_opened": 5, "stats_listed": 1}
    limits |= {"host_opened": events + 2, "host_listed": 1}
    assert not exceeded(told, limits)


def test_output_of_a_command_costs_few_system_calls_and_no_files(directory: Path) -> None:
    limits = {"files": 30, "reads": 700, "writes": 700, "opened": 30}
    assert not exceeded(counted("output", directory, "4000000"), limits)


def test_nothing_wakes_who_follows_an_idle_job(directory: Path) -> None:
    (directory / "project" / "site.yml").write_text(IDLE)
    assert not exceeded(counted("follow", directory, "4"), {"wakes": 8})


@pytest.fixture(scope="module")
def engine_images() -> Iterator[dict[str, str]]:
    with contextlib.ExitStack() as stack:
        machine.ensure_containers_conf()
        if "docker" in ENGINES:
            stack.enter_context(machine.docker_daemon())
        yield {engine: images.ensure(engine).default for engine in ENGINES}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_job_in_a_container_calls_the_engine_few_times(
    engine: str, engine_images: dict[str, str], directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shims := tmp_path / "shims").mkdir()
    log, shim = tmp_path / "calls", shims / engine
    shim.write_text(SHIM.format(log=log, program=shutil.which(engine)))
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shims}{os.pathsep}{os.environ['PATH']}")
    options = ("--process-isolation", "--process-isolation-executable", engine)
    argv = (sys.executable, "-m", "ee_runner", "run", directory, "-p", "site.yml", "-q", *options)
    checked([*argv, "--container-image", engine_images[engine]])
    calls = log.read_text().splitlines()
    assert sum("run" in call.split() for call in calls) == 1, calls
    assert len(calls) <= 4, calls
