"""Fifty jobs in one process, beside fifty bare commands."""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Figure, Goal, Stage, Workload, median
from bench.measuring import Cost, rounds

JOBS = 50
AT_ONCE = 4


def concurrency(stage: Stage) -> Iterator[Figure]:
    directories = tuple(stage.private_data_dir() for _ in range(stage.size(JOBS)))
    commands = {
        name: stage.program(name, "many_jobs", "bare" if name == "bare" else "runner", AT_ONCE, *directories)
        for name in ("bare", *stage.runners)
    }
    seen = rounds(commands, stage.rounds(3), warm=False)
    peer = median(_throughput(seen.ratios("peer", "bare", _seconds))) if "peer" in commands else None
    goal = Goal(0.95, "times the throughput of bare Ansible", at_least=True)
    speeds = {name: len(directories) / median(seen.values(name, _seconds)) for name in ("ours", "bare")}
    words = f"{speeds['ours']:.2f} jobs a second beside {speeds['bare']:.2f}"
    yield Figure(f"{AT_ONCE} at once", goal, _throughput(seen.ratios("ours", "bare", _seconds)), peer, words)


def _throughput(ratios: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(1 / each for each in ratios)


def _seconds(cost: Cost) -> float:
    return float(cost.told["seconds"])


WORKLOADS = (Workload("concurrency", "fifty jobs in one process", concurrency),)
