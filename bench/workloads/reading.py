"""What it costs to read the events of a finished job back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.figures import Figure, Goal, Stage, Workload, job_argv, median
from bench.measuring import Cost, measure, rounds
from bench.workloads.events import EVENTS, repeating

_KINDS = ("events", "stats", "host_events")


def reading(stage: Stage) -> Iterator[Figure]:
    goal = Goal(0.2, "times ansible-runner's time")
    if not stage.environments.peer:
        yield Figure("all three", goal, missing=stage.environments.missing)
        return
    directory = stage.private_data_dir()
    measure(stage.command("ours", *job_argv(directory, "-q", "-i", "bench"), **repeating(stage.size(EVENTS))))
    commands = {name: stage.program(name, "read_back", name, directory, "bench") for name in stage.runners}
    seen = rounds(commands, stage.rounds(3))
    words = ", ".join(f"{kind} {median(seen.values('ours', _of(kind))):.2f} s" for kind in _KINDS)
    theirs = median(seen.values("peer", _total))
    words += f"; {median(seen.values('ours', _total)):.2f} s beside {theirs:.2f} s"
    yield Figure("all three", goal, seen.ratios("ours", "peer", _total), 1.0, words)


def _of(kind: str) -> Callable[[Cost], float]:
    return lambda cost: float(cost.told[kind])


def _total(cost: Cost) -> float:
    return sum(float(cost.told[kind]) for kind in _KINDS)


WORKLOADS = (Workload("reading", "events, stats, host_events of 20,000 events read back", reading),)
