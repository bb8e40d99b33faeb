"""What a remote job costs in time and memory: transmit | worker | process, beside tar and ansible-runner.

    python bench/remote.py                  2 GB in 20 files, and 220 MB in 5,000
    python bench/remote.py --size 0.01      a hundredth of that

The job is a playbook without hosts, so that what is measured is the stream; a row with an empty project shows what
starting costs. Times are wall clock, from the first process to the end of the last; memory is the largest process of
each end, that of Ansible apart.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import venvs

PEER = ("ansible-runner==2.4.3", "ansible-core<2.20")
MEGABYTE = 1_000_000
BLOCK = 64 * 1024
SAMPLE = 0.1
IDENT = "bench"

Argv = Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Project:
    """So many files of so many bytes; half of each block is random, the other repeats itself."""

    name: str
    files: int
    size: int

    def write(self, directory: Path) -> Path:
        """Make a private data directory of it."""
        for name, text in {"project/site.yml": "- hosts: nobody\n", "inventory/hosts": "[nobody]\n"}.items():
            (directory / name).parent.mkdir(parents=True)
            (directory / name).write_text(text)
        source = random.Random(self.name)  # noqa: S311 - the same bytes each time
        for number in range(self.files):
            path = directory / "project" / "files" / f"{number // 100:03}" / f"{number:05}"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for start in range(0, self.size, BLOCK):
                    random_half = source.randbytes(BLOCK // 2)
                    file.write(
                        (random_half + b"a line of a log, %08d\n" % start * 2000)[: min(BLOCK, self.size - start)]
                    )
        return directory


@dataclass(frozen=True, slots=True)
class Chain:
    """Commands joined by pipes; `ends` are the indexes of those whose memory is told."""

    name: str
    commands: tuple[Argv, ...]
    environ: Mapping[str, str]
    ends: tuple[int, ...] = ()


@dataclass(slots=True)
class Result:
    seconds: list[float] = field(default_factory=list)
    peaks: dict[int, int] = field(default_factory=dict)
    """By place in the chain, kilobytes."""


class Peaks(threading.Thread):
    """Follows the high-water mark of memory of every process below some, until they end."""

    def __init__(self, pids: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self._pids = pids
        self._done = threading.Event()
        self.largest = dict.fromkeys(pids, 0)

    def run(self) -> None:
        while not self._done.wait(SAMPLE):
            for pid in self._pids:
                for each in family(pid):
                    self.largest[pid] = max(self.largest[pid], high_water(each))

    def stop(self) -> None:
        self._done.set()
        self.join()


def family(pid: int) -> Iterator[int]:
    """Give a process and those below it; Ansible, and what is below that, are left out."""
    try:
        if b"ansible-playbook" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return
        yield pid
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))
    except OSError:
        return


def high_water(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def run(chain: Chain) -> tuple[float, dict[int, int]]:
    """Run the chain to its end; return the seconds, and the kilobytes of each command's largest process."""
    start = time.monotonic()
    children: list[subprocess.Popen[bytes]] = []
    for command in chain.commands:
        last = len(children) == len(chain.commands) - 1
        reading = children[-1].stdout if children else subprocess.DEVNULL
        writing = subprocess.DEVNULL if last else subprocess.PIPE
        argv = [*map(str, command)]
        children.append(subprocess.Popen(argv, stdin=reading, stdout=writing, env=dict(chain.environ)))
        if children[:-1] and (pipe := children[-2].stdout):
            pipe.close()  # the next command has it
    peaks = Peaks([child.pid for child in children])
    peaks.start()
    codes = [child.wait() for child in children]
    seconds = time.monotonic() - start
    peaks.stop()
    if any(codes):
        raise SystemExit(f"{chain.name}: exit codes {codes}")
    return seconds, {place: peaks.largest[children[place].pid] for place in chain.ends}


def wire_size(command: Argv, environ: Mapping[str, str]) -> int:
    """Count the bytes that a command writes."""
    size = 0
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, env=dict(environ)) as child:
        while child.stdout and (data := child.stdout.read(1 << 20)):
            size += len(data)
    return size


def chains(source: Path, target: Path, venv: venvs.Venv, home: Path) -> Iterator[Chain]:
    """Give what is compared; each leaves the project in `target`."""
    environ = venv.environment(home)
    del environ["PYTHONPATH"]  # each runs from where it is installed; Ansible is the same for both
    own, peer = (sys.executable, "-m", "ee_runner"), (venv.bin / "ansible-runner",)
    yield Chain("tar", (("tar", "-C", source, "-c", "."), ("tar", "-C", target, "-x")), environ)
    packed = (("zstd", "-3", "-q", "-c"), ("zstd", "-d", "-q", "-c"))
    yield Chain(
        "tar, zstd -3",
        (("tar", "-C", source, "-c", "."), *packed, ("tar", "-C", target, "-x")),
        environ,
    )
    for name, runner, more in (
        ("ee-runner, frames", own, ("--wire", "frames")),
        ("ee-runner, lines", own, ("--wire", "lines")),
        ("ansible-runner 2.4.3", peer, ()),
    ):
        transmit = (*runner, "transmit", source, "-p", "site.yml", "-i", IDENT, *more)
        worker = (*runner, "worker", "--private-data-dir", target)
        process = (*runner, "process", home / "results", "-i", IDENT)
        yield Chain(name, (transmit, worker, process), environ, ends=(0, 1, 2))


def measure(project: Project, *, runs: int, venv: venvs.Venv, work: Path) -> Iterator[tuple[str, ...]]:
    """Run every chain in turn, so many times; give the rows of the table."""
    source, home, target = project.write(work / "source"), work / "home", work / "target"
    home.mkdir()
    compared = list(chains(source, target, venv, home))
    results = {chain.name: Result() for chain in compared}
    for _ in range(runs):
        for chain in compared:
            with emptied(target, home / "results", source / "artifacts"):
                seconds, peaks = run(chain)
            result = results[chain.name]
            result.seconds.append(seconds)
            result.peaks = {place: max(kilobytes, result.peaks.get(place, 0)) for place, kilobytes in peaks.items()}
    least = statistics.median(results[compared[0].name].seconds)
    for chain in compared:
        result = results[chain.name]
        median = statistics.median(result.seconds)
        size = wire_size(chain.commands[0], chain.environ) if chain.ends else 0
        yield (
            project.name,
            chain.name,
            f"{median:.1f}",
            f"{median / least:.1f}",
            f"{size / MEGABYTE:.0f}" if size else "",
            *(f"{result.peaks[place] / 1024:.0f}" if place in result.peaks else "" for place in range(3)),
        )


@contextmanager
def emptied(*directories: Path) -> Iterator[None]:
    """Have the directories empty at the start, and nothing of them left to be written to the disk at the end."""
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    os.sync()
    yield
    for directory in directories:
        shutil.rmtree(directory)
    os.sync()


def projects(size: float) -> tuple[Project, ...]:
    return (
        Project("empty", 0, 0),
        Project("large files", 20, int(100 * MEGABYTE * size)),
        Project("many files", max(int(5000 * size), 1), 44_000),
    )


def table(rows: Sequence[tuple[str, ...]], say: Callable[[str], object]) -> None:
    head = ("project", "how", "seconds", "to tar", "MB sent", "transmit MiB", "worker MiB", "process MiB")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, tuple("-" * width for width in widths), *rows):
        cells = (
            f"{cell:<{width}}" if column < 2 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        say(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=float, default=1.0, help="1 is 2 GB and 220 MB (default: 1)")
    parser.add_argument("--runs", type=int, default=3, help="of which the median is shown (default: 3)")
    parser.add_argument("--work", type=Path, help="where the files go (default: the temporary directory)")
    asked = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    for project in projects(asked.size):
        with tempfile.TemporaryDirectory(prefix="ee-bench-", dir=asked.work) as work:
            (checkout := Path(work, "checkout")).mkdir()
            venv = venvs.ensure(*PEER, scratch=checkout)
            rows += measure(project, runs=asked.runs, venv=venv, work=Path(work))
    table(rows, lambda line: sys.stdout.write(f"{line}\n"))


if __name__ == "__main__":
    main()
