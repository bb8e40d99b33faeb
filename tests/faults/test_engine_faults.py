"""What an engine is made of dies in mid-run: its client, podman's monitor of a container, docker's daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.faults import observe
from tests.faults.matrix import CONTAINERS, Fault, befallen
from tests.faults.scene import BOUND, Scene
from tests.support import stubborn
from tests.support.daemon import IMAGE, own_docker
from tests.support.machine import command_line

NAP = b"TASK [nap]"
TALK = b"all is well"
PODMAN_WAITS = 20
"""Seconds that podman's client waits for the exit code of a container whose monitor has gone."""

CLIENT_KILLED = Fault(
    "client-killed",
    "SIGKILL to the engine's client",
    "error",
    69,
    "engine",
    within=10,
    engines=CONTAINERS,
    always=("podman", "docker"),
)
MONITOR_KILLED = Fault(
    "monitor-killed",
    "SIGKILL to podman's monitor of the container (conmon)",
    "error",
    69,
    "engine",
    within=PODMAN_WAITS + 25,
    engines=("podman", "podman-rootless"),
    always=(),
)
DAEMON_KILLED = Fault(
    "daemon-killed",
    "SIGKILL to docker's daemon",
    "error",
    69,
    "engine",
    within=10,
    left="the container, ended; the next start removes it",
    engines=("docker",),
    always=("docker",),
)


def started(scene: Scene, *options: str) -> subprocess.Popen[bytes]:
    """Start a job that naps, and return when it does."""
    scene.write(stubborn.short(scene.word, seconds=300))
    child = scene.run(*options)
    scene.until_output(NAP)
    return child


def ended(scene: Scene, child: subprocess.Popen[bytes], fault: Fault) -> observe.Artifacts:
    """See the command end, and its job with it; return the artifacts."""
    code = child.wait(BOUND)
    artifacts = scene.read()
    assert artifacts.outcome == fault.outcome, scene.told()
    assert code == fault.rc
    observe.until(lambda: not scene.processes(), bound=BOUND, what=scene.processes)
    return artifacts


def whole(artifacts: observe.Artifacts) -> None:
    """See that everything from before the fault is there."""
    assert [event["event"] for event in artifacts.events].count("runner_on_ok") == 1
    assert NAP in artifacts.stdout


def settled(scene: Scene) -> None:
    """See that cleanup finds nothing to complain of, and leaves nothing."""
    done = scene.call("cleanup")
    assert (done.returncode, done.stderr) == (0, ""), done
    scene.until_nothing_is_left(BOUND)


def programs(scene: Scene, name: str) -> list[int]:
    """Return the processes of this program that have to do with the job."""
    return [pid for pid in scene.processes() if (command_line(pid) or ("",))[0] == name]


@befallen(CLIENT_KILLED)
def test_a_job_ends_with_the_engines_client(fault: Fault, scene: Scene, took: Callable[[float], None]) -> None:
    child = started(scene)
    clients = [pid for pid in programs(scene, scene.place.engine) if "run" in command_line(pid)]
    start = time.monotonic()
    for pid in clients:  # rootless podman has made itself another
        os.kill(pid, signal.SIGKILL)
    assert clients
    whole(ended(scene, child, fault))
    assert observe.containers(scene.place, scene.ident) == ()
    took(time.monotonic() - start)
    assert f"client of {scene.place.engine} was killed by SIGKILL" in scene.complaints()
    settled(scene)


@befallen(MONITOR_KILLED)
def test_a_job_whose_monitor_is_killed_is_ended(fault: Fault, scene: Scene, took: Callable[[float], None]) -> None:
    child = started(scene)
    (monitor,) = programs(scene, "conmon")
    start = time.monotonic()
    os.kill(monitor, signal.SIGKILL)
    whole(ended(scene, child, fault))
    assert observe.containers(scene.place, scene.ident) == ()
    took(time.monotonic() - start)
    assert "podman lost the container" in scene.complaints()
    settled(scene)


@befallen(DAEMON_KILLED)
def test_a_job_ends_with_dockers_daemon(fault: Fault, scene: Scene, took: Callable[[float], None]) -> None:
    """The containers of a daemon that is killed run on, each with a monitor that nobody asks any more."""
    scene.write({"args": f"sh -c 'echo {TALK.decode()}; while :; do sleep 1; done' {scene.word}"})
    with own_docker("/bin/sh", "/bin/sleep") as daemon, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", daemon.url)
        child = scene.run(image=IMAGE)
        scene.until_output(TALK)
        start = time.monotonic()
        daemon.kill()
        artifacts = ended(scene, child, fault)
        took(time.monotonic() - start)
        assert "The daemon of docker does not answer" in scene.complaints()
        assert artifacts.stdout.startswith(TALK + b"\r\n")  # and what the client has to say of its end
        assert artifacts.events[0]["stdout"] == TALK.decode()
        assert [*scene.records.iterdir()], "nothing tells a later start of the container"
        daemon.start()
        settled(scene)
