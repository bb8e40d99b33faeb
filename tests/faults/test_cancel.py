"""A stubborn job is asked to end, in each way in which one can ask: it says so, and nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults import matrix, observe
from tests.faults.matrix import Fault, befallen
from tests.faults.scene import BOUND, GRACE, Scene
from tests.support import stubborn
from tests.support.processes import alive, wait_until
from tests.support.sshd import SshServer

PATIENCE: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Running:
    """A job that runs, and how it is asked to end."""

    supervisor: int
    ask: Callable[[], object]
    end: Callable[[], int]
    """Waits for the supervisor's end and returns its exit code; that of a library program is its job's rc."""


def by_signal(number: signal.Signals) -> Callable[[Scene, list[str], str | None], Running]:
    def start(scene: Scene, options: list[str], image: str | None) -> Running:
        child = scene.run(*PATIENCE, *options, image=image)
        return Running(child.pid, lambda: os.kill(child.pid, number), lambda: child.wait(BOUND))

    return start


def on_a_terminal(scene: Scene, options: list[str], image: str | None) -> Running:
    child, terminal = scene.on_terminal(*PATIENCE, *options, image=image)
    return Running(child.pid, lambda: os.close(terminal), lambda: child.wait(BOUND))


def in_the_background(scene: Scene, options: list[str], image: str | None) -> Running:
    started = scene.call("start", *scene.options(*PATIENCE, *options, image=image))
    assert started.returncode == 0, (started, scene.told())
    daemon = int((scene.directory / "pid").read_text())
    asking: list[subprocess.Popen[bytes]] = []

    def end() -> int:
        out, err = asking[0].communicate(timeout=BOUND)
        assert asking[0].returncode == 0, (out, err)
        wait_until(lambda: not alive(daemon), bound=BOUND, what="end of the background job")
        assert not (scene.directory / "pid").exists()
        return 254

    return Running(daemon, lambda: asking.append(scene.command("stop", scene.directory, "-i", scene.ident)), end)


def in_a_program(cancel: str) -> Callable[[Scene, list[str], str | None], Running]:
    def start(scene: Scene, options: list[str], image: str | None) -> Running:
        keywords: dict[str, object] = {"stop_grace": GRACE}
        if options:
            keywords["container_options"] = [option.removeprefix("--container-option=") for option in options]
        child = scene.program(cancel=cancel, keywords=keywords, image=image)

        def end() -> int:
            assert child.stdout is not None
            answer = json.loads(child.stdout.readline())
            assert (answer["status"], answer["reason"], answer["detail"]) == ("canceled", "canceled", ""), answer
            assert answer["threads"] == 1, "threads of the library are left in the program"
            assert observe.children(child.pid) == {}, "children of the library are left in the program"
            child.communicate(timeout=BOUND)
            return int(answer["rc"])

        return Running(child.pid, scene.raise_flag, end)

    return start


WAYS: dict[str, Callable[[Scene, list[str], str | None], Running]] = {
    "cancel-callback": in_a_program("callback"),
    "cancel-thread": in_a_program("thread"),
    "sigint": by_signal(signal.SIGINT),
    "sigterm": by_signal(signal.SIGTERM),
    "sigterm-2.14": by_signal(signal.SIGTERM),
    "sighup": by_signal(signal.SIGHUP),
    "terminal": on_a_terminal,
    "stop": in_the_background,
}


@befallen(*matrix.ASKED, matrix.OLDER)
def test_a_stubborn_job_that_is_asked_to_end_leaves_nothing(
    fault: Fault, scene: Scene, server: SshServer, took: Callable[[float], None]
) -> None:
    scene.write(stubborn.stubborn(scene.word, server))
    network = ["--container-option=--network=host"] if scene.place.contained else []
    older = scene.place.images.debian if fault is matrix.OLDER and scene.place.images else None
    job = WAYS[fault.name](scene, network, older)
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
