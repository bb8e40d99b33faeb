"""What a container may take, what becomes of a job that takes more, and of one that is ended from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ee_runner.executor import Cancellation
from ee_runner.job import ContainerSpec
from tests.engines.conftest import ENGINES
from tests.engines.place import Place
from tests.engines.test_engine_direct import Bench, Output, bench_of
from tests.faults import observe
from tests.faults.matrix import CONTAINERS, Fault, befallen
from tests.faults.scene import BOUND, Scene
from tests.support import stubborn
from tests.support.images import ImageSet
from tests.support.machine import command_line
from tests.support.processes import alive, parent

NAP = b"TASK [nap]"
EATER = "kept = [bytearray(1 << 20) for _ in range(4096)]"
MEMORY = "256m"

OUT_OF_MEMORY = Fault(
    "out-of-memory",
    "a task takes more memory than `--memory` allows",
    "failed",
    2,
    "oom",
    within=10,
    engines=("podman", "docker"),
    always=("podman", "docker"),
)
KILLED = Fault(
    "engine-kill",
    "`podman kill`, `docker kill` from outside",
    "failed",
    137,
    "killed",
    within=10,
    engines=CONTAINERS,
    always=("podman-rootless", "docker"),
)
STOPPED = Fault(
    "engine-stop",
    "`podman stop`, `docker stop` from outside",
    "failed",
    143,
    "killed",
    within=10,
    engines=CONTAINERS,
    always=("podman",),
)
REMOVED = Fault(
    "engine-rm",
    "`podman rm -f -t 0`, `docker rm -f` from outside",
    "failed",
    137,
    "killed",
    within=10,
    engines=CONTAINERS,
    always=(),
)
JOB_KILLED = Fault(
    "job-killed", "SIGKILL to Ansible itself", "failed", 137, "killed", within=10, always=("local", "bwrap", "podman")
)

WORDS = {
    "engine-kill": ["kill"],
    "engine-stop": ["stop", "-t", "5"],
    "engine-rm": ["rm", "-f"],
}


def hungry(word: str) -> dict[str, str]:
    """Return the files of a job whose second task wants 4 GiB."""
    play = f"""\
        - hosts: one
          gather_facts: false
          tasks:
            - name: first
              command: echo {word}
            - name: eater
              command:
                argv: ["{{{{ ansible_playbook_python }}}}", "-c", "{EATER}"]
        """
    return {**stubborn.short(word), "project/site.yml": textwrap.dedent(play)}


def finished(scene: Scene, child: subprocess.Popen[bytes], fault: Fault) -> observe.Artifacts:
    """Wait for the command's end and return the artifacts, in which is what is declared, and every event so far."""
    code = child.wait(BOUND)
    artifacts = scene.read()
    assert artifacts.outcome == fault.outcome, (code, scene.told())
    assert code == fault.rc
    done = [event for event in artifacts.events if event["event"] == "runner_on_ok"]
    assert done, "the event of the task that had ended is lost"
    assert b"TASK [first]" in artifacts.stdout
    scene.until_nothing_is_left(fault.within)
    return artifacts


def detail(scene: Scene) -> str:
    return (scene.artifacts / "reason").read_text().partition("\n")[2]


def container(scene: Scene) -> str:
    (name,) = {line.split()[0] for line in observe.containers(scene.place, scene.ident)}
    return name


@befallen(OUT_OF_MEMORY)
def test_a_job_that_takes_more_memory_than_it_may_says_so(
    fault: Fault, scene: Scene, took: Callable[[float], None]
) -> None:
    scene.write(hungry(scene.word))
    start = time.monotonic()
    child = scene.run("--memory", MEMORY)
    finished(scene, child, fault)
    took(time.monotonic() - start)
    assert "256 MiB" in detail(scene)


@befallen(KILLED, STOPPED, REMOVED)
def test_a_container_that_is_ended_from_outside_is_told_from_a_job_that_ended(
    fault: Fault, scene: Scene, took: Callable[[float], None]
) -> None:
    scene.write(stubborn.short(scene.word, seconds=300))
    child = scene.run()
    scene.until_output(NAP)
    start = time.monotonic()
    at_once = ["-t", "0"] if fault is REMOVED and scene.place.engine == "podman" else []
    done = scene.place.command([scene.place.engine, *WORDS[fault.name], *at_once, container(scene)])
    assert done.returncode == 0, done
    finished(scene, child, fault)
    took(time.monotonic() - start)
    assert signal.Signals(int(fault.rc or 0) - 128).name in detail(scene)


@befallen(JOB_KILLED)
def test_a_job_that_is_killed_by_its_process_says_so(fault: Fault, scene: Scene, took: Callable[[float], None]) -> None:
    scene.write(stubborn.short(scene.word, seconds=300))
    child = scene.run()
    scene.until_output(NAP)
    playbooks = {pid for pid in scene.processes() if is_ansible(pid)}
    (job,) = [pid for pid in playbooks if parent(pid) not in playbooks]
    start = time.monotonic()
    os.kill(job, signal.SIGKILL)
    finished(scene, child, fault)
    took(time.monotonic() - start)
    assert not alive(job)
    assert "SIGKILL" in detail(scene)


def is_ansible(pid: int) -> bool:
    """Say whether a process is Ansible's own, no client with Ansible's command among its words."""
    words = command_line(pid)
    return len(words) > 1 and words[0].startswith("python") and Path(words[1]).name == "ansible-playbook"


# The engine by itself


OCI = [engine for engine in ENGINES if engine in ("podman", "docker")]
CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture(params=OCI)
def bench(request: pytest.FixtureRequest, prepared: dict[str, ImageSet]) -> Iterator[Bench]:
    with bench_of(request.param, prepared) as here:
        yield here


def limited(bench: Bench, **limits: Any) -> ContainerSpec:
    return ContainerSpec(image=bench.image, pull="never", **limits)


def test_the_kernel_knows_the_limits(bench: Bench) -> None:
    """The control group of a container is what it sees at its root (version 2), or in each controller (version 1)."""
    container = limited(bench, memory=256 << 20, cpus=0.5, pids_limit=77)
    old = {
        "memory/memory.limit_in_bytes": str(256 << 20),
        "memory/memory.memsw.limit_in_bytes": str(256 << 20),
        "cpu/cpu.cfs_quota_us": "50000",
        "pids/pids.max": "77",
    }
    new = {"memory.max": str(256 << 20), "memory.swap.max": "0", "cpu.max": "50000 100000", "pids.max": "77"}
    files = {
        name: value
        for name, value in (old if (CGROUPS / "memory").is_dir() else new).items()
        if "sw" not in name or (CGROUPS / name).exists()
    }
    assert bench.sh(f"cd {CGROUPS}; cat {' '.join(files)}", container=container) == [*files.values()]


def test_more_processes_than_allowed_can_not_be_started(bench: Bench) -> None:
    outcome, output = bench.run(
        "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done", container=limited(bench, pids_limit=6)
    )
    assert outcome.rc != 0, output.out
    assert b"fork" in output.out


def test_a_limit_of_the_engines_own_is_told_as_well(bench: Bench) -> None:
    outcome, _ = bench.run("python3", "-c", EATER, container=limited(bench, options=("-m", "64m")))
    assert (outcome.status, outcome.rc, outcome.reason) == ("failed", 137, "oom")
    assert "its container may have" in outcome.detail


def test_a_job_that_does_without_what_the_kernel_ended_is_successful(bench: Bench) -> None:
    outcome, _ = bench.run("sh", "-c", f"python3 -c '{EATER}' || true", container=limited(bench, memory=64 << 20))
    assert (outcome.status, outcome.rc, outcome.reason) == ("successful", 0, "exited")


def test_a_bounded_job_that_fails_by_itself_has_exited(bench: Bench) -> None:
    for rc in (125, 137):
        outcome, _ = bench.run("sh", "-c", f"exit {rc}", container=limited(bench, memory=64 << 20))
        assert (outcome.status, outcome.rc, outcome.reason) == ("failed", rc, "exited")


def test_a_bounded_job_that_is_canceled_leaves_no_container(bench: Bench) -> None:
    cancel, output = Cancellation(), Output()

    def cancel_when_up() -> None:
        output.up.wait(BOUND)
        cancel.request()

    threading.Thread(target=cancel_when_up, daemon=True).start()
    plan = bench.plan("sh", "-c", "echo up; sleep 60", container=limited(bench, memory=64 << 20))
    assert bench.engine.run(plan, output, cancel).status == "canceled"


def test_an_exit_code_is_not_taken_for_a_signal(bench: Bench) -> None:
    outcome, _ = bench.run("sh", "-c", "exit 137")
    assert (outcome.status, outcome.rc, outcome.reason) == ("failed", 137, "exited")
    assert "its own" in outcome.detail


@pytest.mark.parametrize("place", [name for name in ENGINES if name == "podman-rootless"], indirect=True)
def test_a_limit_that_podman_would_ignore_is_refused(place: Place) -> None:
    """Rootless podman has no limits with control groups of version 1; with version 2 it depends on the user's."""
    place.write({"inventory": "localhost\n", "args": "cat /sys/fs/cgroup/memory.max"}, under="data")
    known = place.command(["podman", "info", "--format", "{{.Host.CgroupControllers}}"]).stdout
    done = place.run(place.root / "data", "--memory", "64m")
    if "memory" in known:
        assert (done.rc, done.stdout.strip()) == (0, str(64 << 20))
    else:
        assert (done.rc, done.status) == (78, "error")
        assert "--memory: podman can not limit that here" in done.stderr
