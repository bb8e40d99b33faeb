"""How a container's run ended, as its exit code, the engine's event log and the kernel tell it.

The exit code alone does not say it: a job may exit with 137 by itself, be killed from outside, or by the kernel.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ee_runner import processes
from ee_runner.job import ContainerSpec, Outcome
from ee_runner.plan import ExecutionPlan

_OUT_OF_MEMORY = "oom"
_SURE = (signal.SIGKILL, signal.SIGTERM)
_LAST_PATIENCE = 5.0
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


class Told(NamedTuple):
    """What the event log tells of one run; `signals` are those that were sent with the engine's own means, if named."""

    started: bool = False
    ended: bool = False
    killed: bool = False
    out_of_memory: bool = False
    signals: frozenset[int] = frozenset()

    @classmethod
    def by(cls, lines: Iterable[str]) -> Told:
        """Read a log: on each line an event, and after it the number of a signal, where there is one."""
        events: set[str] = set()
        signals: set[int] = set()
        for line in lines:
            event, _, number = line.strip().partition(" ")
            events.add(event)
            if number.isdigit():
                signals.add(int(number))
        return cls(
            started="start" in events,
            ended=bool(events & {"die", "died"}),
            killed="kill" in events,
            out_of_memory="oom" in events,
            signals=frozenset(signals),
        )


def is_by_signal(rc: int | None) -> bool:
    """Say whether an exit code is one of those that stand for a signal."""
    return rc is not None and _signal(rc) is not None


def judged(plan: ExecutionPlan, outcome: Outcome, told: Told) -> Outcome:
    """Say of a job with such an exit code whether the kernel ended it, a signal from outside, or nobody.

    Where the log does not tell (podman keeps silent on ``stop`` and ``rm``), one of Ansible's commands was surely
    ended so: none of them has such an exit code of its own. Another program may.
    """
    if told.out_of_memory:
        return by_kernel(plan.container, outcome)
    rc = outcome.rc or 0
    number = _signal(rc)
    if number is None:
        return outcome
    if told.killed and (not told.signals or number in told.signals):
        return Outcome("failed", rc, "killed", f"ended by {number.name}, which came from outside, through the engine")
    if PurePosixPath(plan.argv[0]).name.startswith("ansible"):
        return Outcome("failed", rc, "killed", f"ended by {number.name}, which did not come from this runner")
    if number in _SURE:
        return replace(outcome, detail=f"exit code {rc}: its own, or that of a program that {number.name} has ended")
    return outcome


def by_kernel(container: ContainerSpec, outcome: Outcome) -> Outcome:
    """Say that the kernel ended the job, or a part of it without which it failed, for lack of memory."""
    limit = f"--memory allows ({size(container.memory)})" if container.memory else "its container may have"
    return Outcome(
        "failed", outcome.rc, "oom", f"the kernel ended a process of the job: it took more memory than {limit}"
    )


def is_bounded(container: ContainerSpec) -> bool:
    """Say whether the container's memory is limited, by an option of the engine's own too."""
    return bool(container.memory) or any(
        word.partition("=")[0] in ("-m", "--memory") or re.match(r"-m\s*=?\d", word) for word in container.options
    )


def note(run_dir: Path) -> Path:
    """Return the file that stands for lack of memory: conmon's own note, in the directory that podman was started in.

    podman 4 looks for it elsewhere, and so reports OOMKilled of no container whose monitor writes it there.
    """
    return run_dir / _OUT_OF_MEMORY


def id_file(plan: ExecutionPlan) -> Path:
    """Return the file in which a client leaves the id of the run's container."""
    return plan.run_dir / f"{plan.mark}.cid"


def end_processes(container_id: str) -> bool:
    """Kill what runs in a container whose engine does not answer any more; say whether all of it has ended."""
    if not re.fullmatch(r"[0-9a-f]{64}", container_id):
        return False
    return not processes.kill_all(lambda: _inside(container_id), patience=_LAST_PATIENCE)


def size(number: int) -> str:
    """Return a number of bytes in words."""
    unit, name = next(((unit, name) for unit, name in _UNITS if number >= unit), (1, "bytes"))
    return f"{number / unit:.4g} {name}"


def _signal(rc: int) -> signal.Signals | None:
    try:
        return signal.Signals(rc - 128) if rc > 128 else None
    except ValueError:
        return None


def _inside(container_id: str) -> list[int]:
    """Return the processes in the control group of a container, as far as this process sees them."""
    found = []
    for group in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            if container_id in group.read_text():
                found.append(int(group.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return found
