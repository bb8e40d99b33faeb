"""What a job of one task costs in a container, beside the engine's own command."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench.figures import Figure, Goal, Stage, Workload, job_argv, median
from bench.measuring import BenchError, Command, rounds, wall
from tests.support import images, machine
from tests.support.processes import MachineError

ENGINES = ("podman", "docker")


def containers(stage: Stage) -> Iterator[Figure]:
    for engine in ENGINES:
        goal = Goal(1.10, f"times bare {engine} run")
        try:
            with ExitStack() as stack:
                yield _figure(stage, engine, _image(engine, stack), goal)
        except (MachineError, BenchError) as error:
            yield Figure(f"{engine}, wall clock", goal, missing=f"{engine} does not run here: {error}")


def _image(engine: str, stack: ExitStack) -> str:
    """Return the image, in the engine's store; raise MachineError where the engine does not run."""
    if not shutil.which(engine):
        raise MachineError("it is not installed")
    machine.ensure_containers_conf()
    if engine == "docker":
        stack.enter_context(machine.docker_daemon())
    return images.ensure(engine).default


def _figure(stage: Stage, engine: str, image: str, goal: Goal) -> Figure:
    directory = stage.private_data_dir()
    options = ("--process-isolation", "--process-isolation-executable", engine, "--container-image", image)
    commands = {"bare": _with_own_home(_bare(stage, engine, image, directory))}
    for name in stage.runners:
        commands[name] = _with_own_home(stage.command(name, *job_argv(directory, *options)))
    seen = rounds(commands, stage.rounds(9))
    peer = median(seen.ratios("peer", "bare", wall)) if "peer" in commands else None
    more = median(seen.differences("ours", "bare", wall)) * 1000
    words = f"{more:+.0f} ms beside {median(seen.values('bare', wall)):.2f} s"
    return Figure(f"{engine}, wall clock", goal, seen.ratios("ours", "bare", wall), peer, words)


def _bare(stage: Stage, engine: str, image: str, directory: Path) -> Command:
    mounts = ("--volume", f"{directory}:/runner", "--workdir", "/runner/project")
    job = ("ansible-playbook", "-i", "/runner/inventory/hosts", "site.yml")
    command = stage.command("bare", "python")
    return replace(command, chain=((engine, "run", "--rm", *mounts, image, *job),))


def _with_own_home(command: Command) -> Command:
    """Have an engine's client find its store and its configuration, which are the user's."""
    own = {name: os.environ[name] for name in ("HOME", "XDG_RUNTIME_DIR") if name in os.environ}
    return replace(command, environ={**command.environ, **own})


WORKLOADS = (Workload("containers", "a playbook of one task, in a container", containers),)
