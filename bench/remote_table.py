"""The table of remote jobs in bench/README.md: tar, frames, lines and ansible-runner."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from bench.figures import Stage, median, shown
from bench.measuring import Command, rounds, wall
from bench.workloads.remote import MEGABYTE, Ends, Project, by, make

_HEAD = ("project", "how", "seconds", "to tar", "MB sent", "transmit MiB", "worker MiB", "process MiB")
_CHUNK = 1 << 20


def lines(stage: Stage, size: float) -> Iterator[str]:
    """Measure, and give the lines of the table as it grows; `size` 1 is 2 GB in 20 files, and 220 MB in 5,000."""
    yield _line(_HEAD)
    yield _line(["---"] * 2 + ["--:"] * (len(_HEAD) - 2))
    for project in (
        Project("empty", {}),
        Project("large files", {20: int(100 * MEGABYTE * size)}),
        Project("many files", {max(int(5000 * size), 1): 44_000}),
    ):
        yield from map(_line, _rows(stage, project))


def _rows(stage: Stage, project: Project) -> Iterator[Sequence[str]]:
    ends = make(stage, project)
    commands = _commands(stage, ends)
    seen = rounds(commands, stage.rounds(3), warm=False)
    least = median(seen.values("tar", wall))
    for name, command in commands.items():
        seconds = median(seen.values(name, wall))
        peaks = [max(each) for each in zip(*(cost.peaks for cost in seen.costs[name]), strict=True)]
        runner = bool(peaks)
        sent = f"{_bytes_written(command) / MEGABYTE:.0f}" if runner else ""
        memory = [f"{peak:.0f}" for peak in peaks] if runner else [""] * 3
        yield project.name, name, shown(seconds), f"{seconds / least:.1f}", sent, *memory


def _commands(stage: Stage, ends: Ends) -> Mapping[str, Command]:
    plain = replace(stage.command("bare", "python"), prepare=ends.clear)
    packed, unpacked = ("tar", "-C", ends.source, "-c", "."), ("tar", "-C", ends.target, "-x")
    smaller, larger = ("zstd", "-3", "-q", "-c"), ("zstd", "-d", "-q", "-c")
    commands = {
        "tar": replace(plain, chain=(packed, unpacked)),
        "tar, zstd -3": replace(plain, chain=(packed, smaller, larger, unpacked)),
        "ee-runner, frames": by(stage, "ours", ends, "--wire", "frames"),
        "ee-runner, lines": by(stage, "ours", ends, "--wire", "lines"),
    }
    if "peer" in stage.runners:
        commands["ansible-runner 2.4.3"] = by(stage, "peer", ends)
    return {name: replace(each, watched=len(each.chain) == 3) for name, each in commands.items()}


def _bytes_written(command: Command) -> int:
    """Count what the first of the commands writes."""
    argv = [*map(str, command.chain[0])]
    size = 0
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=dict(command.environ), cwd=command.cwd) as child:
        while child.stdout and (data := child.stdout.read(_CHUNK)):
            size += len(data)
    return size


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
