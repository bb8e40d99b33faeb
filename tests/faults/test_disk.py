"""The disk of the artifacts fails in the middle of a job: the job ends, says so, and what was written stays whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from tests.faults import matrix
from tests.faults.matrix import Fault, befallen
from tests.faults.scene import BOUND, GRACE, Scene
from tests.support import disks, stubborn
from tests.support.disks import Disk

FAILURES: dict[str, Callable[[Disk], AbstractContextManager[None]]] = {
    "disk-full": Disk.full,
    "disk-broken": Disk.broken,
}


@befallen(matrix.DISK_FULL, matrix.DISK_BROKEN)
def test_a_job_whose_disk_fails_ends_and_keeps_what_it_has(
    fault: Fault, scene: Scene, took: Callable[[float], None]
) -> None:
    with on_a_disk(scene) as disk:
        program = start(scene)
        before = scene.read()
        with FAILURES[fault.name](disk):
            failed = time.monotonic()
            assert answer(program) == {"status": fault.status, "rc": fault.rc, "reason": fault.reason}
            took(time.monotonic() - failed)
            scene.until_the_job_is_gone(0, apart=[program.pid])
            after = scene.read()  # what the kernel had not written when a disk broke down does not outlive that
            assert after.events[: len(before.events)] == before.events
            assert after.stdout.startswith(before.stdout)
        program.communicate(timeout=BOUND)
        scene.cleanup(scene.directory)
        status, rc, reason = scene.outcome
        assert (status, reason) == (fault.status, fault.reason), "not settled, now that the disk is back"
        assert rc in (str(fault.rc), "254")
        scene.until_nothing_is_left(BOUND)


@befallen(matrix.VANISHED)
def test_a_job_whose_artifacts_are_removed_ends(fault: Fault, scene: Scene, took: Callable[[float], None]) -> None:
    scene.write(stubborn.stubborn(scene.word))
    program = start(scene)
    removed = time.monotonic()
    while scene.artifacts.exists():
        shutil.rmtree(scene.artifacts, ignore_errors=True)  # the job goes on writing meanwhile
    assert answer(program) == {"status": fault.status, "rc": fault.rc, "reason": fault.reason}
    took(time.monotonic() - removed)
    program.communicate(timeout=BOUND)
    scene.until_nothing_is_left(BOUND)


@contextmanager
def on_a_disk(scene: Scene) -> Iterator[Disk]:
    """Have the artifacts of a stubborn job on a disk of their own."""
    scene.write(stubborn.stubborn(scene.word))
    directory = scene.directory / "artifacts"
    directory.mkdir()
    with disks.mounted(directory, image=scene.root / "image", uid=scene.place.uid) as disk:
        yield disk


def start(scene: Scene) -> subprocess.Popen[bytes]:
    program = scene.program(keywords={"stop_grace": GRACE})
    scene.until_stubborn(*stubborn.HERE)
    return program


def answer(program: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return what the program says of its job's end."""
    assert program.stdout is not None
    told = json.loads(program.stdout.readline())
    return {name: told[name] for name in ("status", "rc", "reason")}
