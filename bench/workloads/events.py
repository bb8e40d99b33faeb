"""What an event costs on its way through the callback plugin, the decoder and the artifacts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from bench.figures import Figure, Goal, Stage, Workload, job_argv, median, playbook_argv
from bench.measuring import Command, Rounds, cpu, rounds, wall

_PLUGINS = Path(__file__).resolve().parents[1] / "plugins" / "strategy"
EVENTS = 20_000


def events(stage: Stage) -> Iterator[Figure]:
    count = stage.size(EVENTS)
    commands = _commands(stage, count, *stage.runners)
    seen = rounds(commands, stage.rounds(3), warm=False)
    own = _per_event(seen, "ours", count)
    goal = Goal(0.125, "times ansible-runner's CPU per event")
    if "peer" in commands:
        theirs = _per_event(seen, "peer", count)
        shares = tuple(one / two for one, two in zip(own, theirs, strict=True))
        words = f"{median(own) * 1000:.3f} ms beside {median(theirs) * 1000:.3f} ms"
        yield Figure("added CPU per event", goal, shares, 1.0, words)
    else:
        yield Figure("added CPU per event", goal, missing=stage.environments.missing)
    peer = median(seen.ratios("peer", "bare", wall)) if "peer" in commands else None
    words = f"{median(seen.values('ours', wall)):.1f} s beside {median(seen.values('bare', wall)):.1f} s"
    yield Figure("wall clock", Goal(1.35, "times bare Ansible"), seen.ratios("ours", "bare", wall), peer, words)


def many_events(stage: Stage) -> Iterator[Figure]:
    few, many = stage.size(EVENTS), stage.size(EVENTS * 10)
    count = stage.rounds(1)
    some = _per_event(rounds(_commands(stage, few, "ours"), max(count, 3), warm=False), "ours", few)
    seen = rounds(_commands(stage, many, "ours"), count, warm=False)
    shares = tuple(each / median(some) for each in _per_event(seen, "ours", many))
    words = f"{median(_per_event(seen, 'ours', many)) * 1000:.3f} ms beside {median(some) * 1000:.3f} ms"
    yield Figure("CPU per event", Goal(1.10, "times that of 20,000"), shares, seen=words)
    peaks = seen.values("ours", lambda cost: cost.peaks[0])
    yield Figure("largest process of the runner", Goal(60, "MiB"), peaks)


def repeating(count: int) -> dict[str, str]:
    """Return the variables that make Ansible repeat a playbook's first ok result."""
    return {"ANSIBLE_STRATEGY_PLUGINS": str(_PLUGINS), "ANSIBLE_STRATEGY": "repeat", "EVENTS": str(count)}


def _commands(stage: Stage, count: int, *runners: str) -> Mapping[str, Command]:
    directory = stage.private_data_dir()
    more = repeating(count)
    commands = {"bare": stage.command("bare", *playbook_argv(directory), **more)}
    for name in runners:
        command = stage.command(name, *job_argv(directory, "-q"), **more)
        commands[name] = replace(command, watched=name == "ours", prepare=lambda: _without_artifacts(directory))
    return commands


def _without_artifacts(directory: Path) -> None:
    shutil.rmtree(directory / "artifacts", ignore_errors=True)


def _per_event(seen: Rounds, name: str, count: int) -> tuple[float, ...]:
    """Return the seconds of processors that each event costs more than without a runner."""
    return tuple(seconds / count for seconds in seen.differences(name, "bare", cpu))


WORKLOADS = (
    Workload("events", "20,000 events", events),
    Workload("many-events", "200,000 events", many_events),
)
