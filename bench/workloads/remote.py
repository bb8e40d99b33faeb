"""What a remote job costs: transmit | worker | process, beside tar and a bare playbook."""

from __future__ import annotations

import os
import random
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.figures import INVENTORY, ONE_TASK, Figure, Goal, Stage, Workload, median
from bench.measuring import Command, Rounds, rounds, wall

MEGABYTE = 1_000_000
IDENT = "bench"
_BLOCK = 64 * 1024
_BARE = "tar -C {source} -c . | tar -C {target} -x && exec ansible-playbook -i {target}/inventory/hosts {playbook}"


@dataclass(frozen=True, slots=True)
class Project:
    """So many files of so many bytes, by their count; half of each block is random, the other repeats itself."""

    name: str
    files: Mapping[int, int]

    def write(self, directory: Path) -> Path:
        """Make a private data directory of it."""
        for name, text in {"project/site.yml": ONE_TASK, "inventory/hosts": INVENTORY}.items():
            (directory / name).parent.mkdir(parents=True)
            (directory / name).write_text(text)
        source = random.Random(self.name)  # noqa: S311 - the same bytes each time
        for count, size in self.files.items():
            for number in range(count):
                path = directory / "project" / f"files-{size}" / f"{number // 100:03}" / f"{number:05}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_content(source, size))
        return directory


@dataclass(frozen=True, slots=True)
class Ends:
    """The directories of a remote job: what is sent, where it arrives, where its results come back to."""

    source: Path
    target: Path
    results: Path

    def clear(self) -> None:
        """Have it as before the first run, with nothing left to be written to the disk."""
        for directory in (self.target, self.results, self.source / "artifacts"):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
        os.sync()


def remote(stage: Stage) -> Iterator[Figure]:
    ends = make(stage, Project("mixed", {stage.size(3000): 2000, 10: stage.size(10 * MEGABYTE)}))
    commands = {"bare": bare(stage, ends), "lines": by(stage, "ours", ends)}
    commands |= {"ours": by(stage, "ours", ends, "--wire", "frames")}
    commands |= {name: by(stage, name, ends) for name in stage.runners if name != "ours"}
    seen = rounds(commands, stage.rounds(3), warm=False)
    goal = Goal(1 / 3, "times ansible-runner's time")  # by frames, as between two ends of this package
    if "peer" in commands:
        words = f"{_middle(seen, 'ours')} s beside {_middle(seen, 'peer')} s"
        yield Figure("beside ansible-runner", goal, seen.ratios("ours", "peer", wall), 1.0, words)
        words = f"{_middle(seen, 'lines')} s beside {_middle(seen, 'peer')} s"
        goal = Goal(1.0, "times ansible-runner's time")
        yield Figure("the same with lines, for any worker", goal, seen.ratios("lines", "peer", wall), 1.0, words)
    else:
        yield Figure("beside ansible-runner", goal, missing=stage.environments.missing)
    peer = median(seen.ratios("peer", "bare", wall)) if "peer" in commands else None
    words = f"{_middle(seen, 'ours')} s beside {_middle(seen, 'bare')} s"
    goal = Goal(1.5, "times tar and a bare playbook")
    yield Figure("beside tar and a bare playbook", goal, seen.ratios("ours", "bare", wall), peer, words)


def make(stage: Stage, project: Project) -> Ends:
    work = stage.directory("remote")
    return Ends(project.write(work / "source"), work / "target", work / "results")


def bare(stage: Stage, ends: Ends) -> Command:
    """Return what does the same with tar and Ansible's own command."""
    places = {"source": ends.source, "target": ends.target, "playbook": ends.target / "project" / "site.yml"}
    line = _BARE.format_map({name: shlex.quote(str(place)) for name, place in places.items()})
    return replace(stage.command("bare", "python"), chain=(("sh", "-c", line),), prepare=ends.clear)


def by(stage: Stage, name: str, ends: Ends, *options: str) -> Command:
    """Return the three ends of a runner, joined by pipes."""
    command = stage.command(name, "ansible-runner")
    program = command.chain[0][0]
    transmit = (program, "transmit", ends.source, "-p", "site.yml", "-i", IDENT, *options)
    worker = (program, "worker", "--private-data-dir", ends.target)
    process = (program, "process", ends.results, "-i", IDENT)
    return replace(command, chain=(transmit, worker, process), prepare=ends.clear)


def _content(source: random.Random, size: int) -> bytes:
    half = b"a line of a log, as there are many\n" * 1000
    blocks = range(0, size, _BLOCK)
    return b"".join(source.randbytes(_BLOCK // 2) + half[: _BLOCK // 2] for _ in blocks)[:size]


def _middle(seen: Rounds, name: str) -> str:
    return f"{median(seen.values(name, wall)):.1f}"


WORKLOADS = (Workload("remote", "a remote job with 3,000 small files and 100 MB", remote),)
