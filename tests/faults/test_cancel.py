"""A stubborn job is asked to end, in each way in which one can ask: it says so, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from tests.faults import matrix, observe
from tests.faults.matrix import Fault, befallen
from tests.faults.scene import BOUND, Scene
from tests.faults.ways import WAYS
from tests.support import stubborn
from tests.support.sshd import SshServer


@befallen(*matrix.ASKED, matrix.OLDER)
def test_a_stubborn_job_that_is_asked_to_end_leaves_nothing(
    fault: Fault, scene: Scene, server: SshServer, took: Callable[[float], None]
) -> None:
    scene.write(stubborn.stubborn(scene.word, server))
    network = ["--network=host"] if scene.place.contained else []
    older = scene.place.images.debian if fault is matrix.OLDER and scene.place.images else None
    job = WAYS[fault.name.removesuffix("-2.14")](scene, network, older)
    scene.until_stubborn(*stubborn.HERE, "master")
    minders = scene.minders(job.supervisor)
    asked = time.monotonic()
    job.ask()
    observe.until(lambda: scene.status == "canceled", bound=BOUND, what=scene.told)
    running = scene.processes(apart={job.supervisor, *minders, *(child.pid for child in scene.programs)})
    containers = observe.containers(scene.place, scene.ident)
    took(time.monotonic() - asked)
    assert not running, "processes are left when the status says canceled"
    assert not containers, "containers are left when the status says canceled"
    assert job.end() == fault.rc
    scene.until_nothing_is_left(fault.within)
    artifacts = scene.read()
    assert artifacts.outcome == fault.outcome
    assert stubborn.TALK in artifacts.stdout
    assert {"playbook_on_start", "runner_item_on_ok"} <= {event["event"] for event in artifacts.events}


@befallen(matrix.SIGNALLED)
def test_a_cancel_reaches_the_job_at_once(fault: Fault, scene: Scene, took: Callable[[float], None]) -> None:
    scene.write(stubborn.noting(scene.word))
    child = scene.run()
    scene.until_output(b"ready")
    asked = time.time()
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(BOUND) == fault.rc, scene.told()
    heard = stubborn.signalled(scene.directory) - asked
    took(heard)
    assert 0 <= heard < fault.within
    assert scene.read().outcome == fault.outcome
    scene.until_nothing_is_left(BOUND)
