"""A job's supervisor dies by SIGKILL: the job goes with it, and what it leaves is settled."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable

from tests.faults import matrix, observe
from tests.faults.matrix import Fault, befallen
from tests.faults.scene import BOUND, GRACE, Scene
from tests.support import stubborn
from tests.support.sshd import SshServer

DEATHS = {
    "killed-before": "status:starting",
    "killed-early": "event:playbook_on_start",
    "killed-late": "event:playbook_on_stats",
    "killed-after": "finished",
}
"""When a program that runs the job by the library dies, by its own hand."""


def nothing(scene: Scene) -> None:
    """Leave it to the minder."""
    observe.until(lambda: scene.status in observe.TERMINAL, bound=BOUND, what=scene.told)


SETTLING = {
    "killed-before": Scene.next_start,
    "killed-early": Scene.cleanup,
    "killed-midway": nothing,
    "killed-late": nothing,
    "both-killed": Scene.next_start,
}


@befallen(*(fault for fault in matrix.SUPERVISOR_KILLED if fault.name in DEATHS))
def test_a_job_goes_with_its_supervisor_at_each_stage(
    fault: Fault, scene: Scene, took: Callable[[float], None]
) -> None:
    scene.write(stubborn.short(scene.word))
    supervisor = scene.program(die=DEATHS[fault.name])
    assert supervisor.wait(BOUND) == -signal.SIGKILL, scene.complaints()
    took(scene.until_the_job_is_gone(fault.within))
    SETTLING[fault.name](scene)
    assert scene.read().outcome == fault.outcome
    scene.until_nothing_is_left(BOUND)


@befallen(*(fault for fault in matrix.SUPERVISOR_KILLED if fault.name not in DEATHS))
def test_a_stubborn_job_goes_with_its_supervisor(
    fault: Fault, scene: Scene, server: SshServer, took: Callable[[float], None]
) -> None:
    scene.write(stubborn.stubborn(scene.word, server))
    network = ["--container-option=--network=host"] if scene.place.contained else []
    supervisor = scene.run(*network)
    scene.until_stubborn(*stubborn.HERE, "master")
    kill([supervisor.pid])
    took(scene.until_the_job_is_gone(fault.within))
    SETTLING[fault.name](scene)
    artifacts = scene.read()
    assert artifacts.outcome == fault.outcome
    assert stubborn.TALK in artifacts.stdout
    scene.until_nothing_is_left(BOUND)


@befallen(matrix.FINISHED)
def test_a_job_that_has_ended_is_not_touched(fault: Fault, scene: Scene, took: Callable[[float], None]) -> None:
    scene.write(stubborn.short(scene.word))
    supervisor = scene.program(die=DEATHS[fault.name])
    assert supervisor.wait(BOUND) == -signal.SIGKILL, scene.complaints()
    took(scene.until_the_job_is_gone(fault.within))
    before = state(scene)
    scene.cleanup()
    assert state(scene) == before
    assert scene.read().outcome == fault.outcome
    scene.until_nothing_is_left(BOUND)


def state(scene: Scene) -> dict[str, tuple[int, bytes]]:
    """Return when each artifact was last changed, and what is in it; `.events` is the runner's own, and temporary."""
    files = (path for path in scene.artifacts.rglob("*") if path.is_file() and ".events" not in path.parts)
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@befallen(matrix.MINDER_KILLED)
def test_a_job_whose_minder_is_killed_ends_in_order(fault: Fault, scene: Scene, took: Callable[[float], None]) -> None:
    scene.write(stubborn.stubborn(scene.word))
    supervisor = scene.run("--stop-grace", str(GRACE))
    scene.until_stubborn(*stubborn.HERE)
    killed = time.monotonic()
    kill(scene.minders(supervisor.pid))
    assert supervisor.wait(BOUND) == fault.rc, scene.told()
    took(time.monotonic() - killed)
    assert scene.left() == observe.Left()
    assert scene.read().outcome == fault.outcome


@befallen(matrix.BOTH_KILLED)
def test_a_job_that_nobody_is_left_to_end_is_ended_by_who_comes_next(
    fault: Fault, scene: Scene, took: Callable[[float], None]
) -> None:
    scene.write(stubborn.stubborn(scene.word))
    supervisor = scene.run()
    scene.until_stubborn(*stubborn.HERE)
    kill([supervisor.pid, *scene.minders(supervisor.pid)])
    start = time.monotonic()
    SETTLING[fault.name](scene)
    assert scene.read().outcome == fault.outcome
    scene.until_nothing_is_left(fault.within)
    took(time.monotonic() - start)


def kill(pids: Iterable[int]) -> None:
    """Kill processes at once: none of them lives to see another's end."""
    pids = tuple(pids)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)
