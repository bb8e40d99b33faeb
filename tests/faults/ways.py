"""The ways in which a job is started and asked to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tests.faults import observe
from tests.faults.scene import BOUND, GRACE, Scene
from tests.support.processes import alive, wait_until

PATIENCE = ("--stop-grace", str(GRACE))


@dataclass(frozen=True, slots=True)
class Running:
    """A job that runs: the pid of its supervisor, what asks it to end, and what waits for that and returns its rc."""

    supervisor: int
    ask: Callable[[], object]
    end: Callable[[], int]


Start: TypeAlias = Callable[[Scene, Sequence[str], "str | None"], Running]
"""Starts a scene's job with options of its container, in an image or in the usual one."""


def by_signal(number: signal.Signals) -> Start:
    def start(scene: Scene, options: Sequence[str], image: str | None) -> Running:
        child = scene.run(*PATIENCE, *_given(options), image=image)
        return Running(child.pid, lambda: child.send_signal(number), lambda: child.wait(BOUND))

    return start


def on_a_terminal(scene: Scene, options: Sequence[str], image: str | None) -> Running:
    """Start a command whose controlling terminal is closed."""
    child, terminal = scene.on_terminal(*PATIENCE, *_given(options), image=image)
    return Running(child.pid, lambda: os.close(terminal), lambda: child.wait(BOUND))


def in_the_background(scene: Scene, options: Sequence[str], image: str | None) -> Running:
    """Use ``ansible-runner start`` and ``stop``."""
    started = scene.call("start", *scene.options(*PATIENCE, *_given(options), image=image))
    assert started.returncode == 0, (started, scene.told())
    daemon = int((scene.directory / "pid").read_text())
    scene.seen.add(daemon)
    asking: list[subprocess.Popen[bytes]] = []

    def end() -> int:
        said = [stream.decode() for stream in asking[0].communicate(timeout=BOUND)]
        wait_until(lambda: not alive(daemon), bound=BOUND, what="end of the background job")
        assert not (scene.directory / "pid").exists()
        rc = int(scene.outcome[1] or -1)
        assert (asking[0].returncode == 0) == (rc == 254), (asking[0].returncode, rc, said)
        return rc

    return Running(daemon, lambda: asking.append(scene.command("stop", scene.directory, "-i", scene.ident)), end)


def in_a_program(cancel: str) -> Start:
    """Use the library; its job's threads and processes must have gone when the program goes on."""

    def start(scene: Scene, options: Sequence[str], image: str | None) -> Running:
        keywords: dict[str, object] = {"stop_grace": GRACE, **({"container_options": [*options]} if options else {})}
        child = scene.program(cancel=cancel, keywords=keywords, image=image)

        def end() -> int:
            assert child.stdout is not None
            answer = json.loads(child.stdout.readline())
            assert answer["threads"] == 1, "threads of the library are left in the program"
            assert observe.children(child.pid) == {}, "children of the library are left in the program"
            child.communicate(timeout=BOUND)
            return int(answer["rc"])

        return Running(child.pid, scene.raise_flag, end)

    return start


def _given(options: Sequence[str]) -> list[str]:
    return [f"--container-option={option}" for option in options]


WAYS: dict[str, Start] = {
    "cancel-callback": in_a_program("callback"),
    "cancel-thread": in_a_program("thread"),
    "sigint": by_signal(signal.SIGINT),
    "sigterm": by_signal(signal.SIGTERM),
    "sighup": by_signal(signal.SIGHUP),
    "terminal": on_a_terminal,
    "stop": in_the_background,
}
