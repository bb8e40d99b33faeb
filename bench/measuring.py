"""Commands run to their end, in turn: wall clock, processor time and peak memory of all their processes."""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.processes import alive, end

_PR_SET_CHILD_SUBREAPER = 36
_LINGERING = 20.0  # seconds that a companion of a command may take to end after it
_SAMPLE = 0.02
_TAIL = 2000

Argv = tuple[str | Path, ...]


class BenchError(RuntimeError):
    """Something could not be measured; the message says what, and why."""


@dataclass(frozen=True, slots=True)
class Command:
    """Commands joined by pipes (most often one), and what they run with.

    `prepare` is called before each run, and is no part of what is measured. With `watched` the peak memory of each is
    followed, which costs a little of a processor. `output` is what the last one writes to, and all complain to; with
    `tells` its last line is JSON.
    """

    chain: tuple[Argv, ...]
    environ: Mapping[str, str]
    cwd: Path
    prepare: Callable[[], object] = lambda: None
    watched: bool = False
    tells: bool = False
    limit: float = 900.0

    @property
    def words(self) -> str:
        """What it is called in a message, without the directories, which are other ones each time."""
        return " | ".join(" ".join(Path(word).name for word in argv[:4]) for argv in self.chain)[:200]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took: seconds of the clock and of processors, and MiB of the largest process of each command.

    Processor time is that of every process that the commands started, also of those that left them. Of memory, Ansible
    is left out. `told` is what the command said itself.
    """

    wall: float
    cpu: float
    peaks: tuple[float, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rounds:
    """The costs of each command by name, a round at the same place of each."""

    costs: Mapping[str, tuple[Cost, ...]]

    def values(self, name: str, what: Callable[[Cost], float]) -> tuple[float, ...]:
        return tuple(map(what, self.costs[name]))

    def paired(
        self, name: str, other: str, what: Callable[[Cost], float], how: Callable[[float, float], float]
    ) -> tuple[float, ...]:
        """Combine a figure of two commands, round by round: a machine that was slow was so for both."""
        return tuple(how(what(one), what(two)) for one, two in zip(self.costs[name], self.costs[other], strict=True))

    def ratios(self, name: str, other: str, what: Callable[[Cost], float]) -> tuple[float, ...]:
        return self.paired(name, other, what, lambda one, two: one / two)

    def differences(self, name: str, other: str, what: Callable[[Cost], float]) -> tuple[float, ...]:
        return self.paired(name, other, what, lambda one, two: one - two)


def wall(cost: Cost) -> float:
    return cost.wall


def cpu(cost: Cost) -> float:
    return cost.cpu


def deviation(values: Sequence[float]) -> float:
    """Return the median of the distances to the median."""
    middle = statistics.median(values)
    return statistics.median(abs(value - middle) for value in values)


def rounds(commands: Mapping[str, Command], count: int, *, warm: bool = True) -> Rounds:
    """Run the commands in turn, so many times (A B A B); with `warm` once before that, which does not count.

    Raises BenchError when one fails, takes longer than its limit, or leaves a process running.
    """
    if warm:
        for command in commands.values():
            measure(command)
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(count):
        for name, command in commands.items():
            costs[name].append(measure(command))
    return Rounds({name: tuple(each) for name, each in costs.items()})


def measure(command: Command) -> Cost:
    """Run the command once, and return what it took; raises as `rounds` does."""
    command.prepare()
    output = command.cwd / "output"
    with output.open("wb") as file, _everything_ends() as leftovers:
        start = time.monotonic()
        children = _start(command, file.fileno())
        with _bounded(children, command), _watching(children if command.watched else ()) as peaks:
            ends = [_wait(child) for child in children]
        seconds = time.monotonic() - start
        used = sum(each for _, each in ends) + _used_by(leftovers, command)
    if any(code for code, _ in ends):
        raise BenchError(f"{_tail(output)}\n{command.words}: exit codes {[code for code, _ in ends]}")
    told = json.loads(output.read_bytes().splitlines()[-1]) if command.tells else {}
    return Cost(seconds, used, tuple(peaks[child.pid] / 1024 for child in children if child.pid in peaks), told)


def family(pid: int) -> Iterator[int]:
    """Give a process and those below it; Ansible, and what is below that, are left out."""
    with suppress(OSError):
        interpreter_and_script = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:2]
        if any(word.endswith(b"/ansible-playbook") for word in interpreter_and_script):
            return
        yield pid
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))


def high_water(pid: int) -> int:
    """Return the most memory that a process has had, in kB; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _start(command: Command, output: int) -> list[subprocess.Popen[bytes]]:
    children: list[subprocess.Popen[bytes]] = []
    for argv in command.chain:
        last = len(children) == len(command.chain) - 1
        child = subprocess.Popen(
            [*map(str, argv)],
            stdin=children[-1].stdout if children else subprocess.DEVNULL,
            stdout=output if last else subprocess.PIPE,
            stderr=output,
            env=dict(command.environ),
            cwd=command.cwd,
        )
        if children and (pipe := children[-1].stdout):
            pipe.close()  # the child has it
        children.append(child)
    return children


def _wait(child: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Return the exit code, and the seconds of processors that the child and those it waited for have used."""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage.ru_utime + usage.ru_stime


def _used_by(leftovers: Callable[[], set[int]], command: Command) -> float:
    """Wait for the processes that the commands have left behind, which are ours now; return what they used."""
    used, deadline = 0.0, time.monotonic() + _LINGERING
    while left := leftovers():
        for pid in left:
            ended, _, usage = os.wait4(pid, os.WNOHANG)
            used += usage.ru_utime + usage.ru_stime if ended else 0.0
        if time.monotonic() > deadline:
            words = [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in leftovers()]
            raise BenchError(f"{command.words}: still running {_LINGERING:g} seconds after it: {words}")
        time.sleep(_SAMPLE)
    return used


@contextmanager
def _everything_ends() -> Iterator[Callable[[], set[int]]]:
    """Have what leaves its parent become a child of this process, and end it when the block is left by an error.

    Gives a function that tells the children that are there, those of before the block apart.
    """
    before = _children()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield lambda: _children() - before
    except BaseException:
        while left := _children() - before:  # what they leave behind comes to us
            for pid in left:
                end(pid)
                os.waitpid(pid, 0)
        raise
    finally:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found.update(map(int, (task / "children").read_text().split()))
    return found


@contextmanager
def _bounded(children: Sequence[subprocess.Popen[bytes]], command: Command) -> Iterator[None]:
    """Kill the children when the time is over, and say so."""
    over = threading.Event()

    def kill() -> None:
        over.set()
        for child in children:
            if alive(child.pid):
                child.kill()

    timer = threading.Timer(command.limit, kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
    if over.is_set():
        raise BenchError(f"{command.words}: not at its end after {command.limit:g} seconds")


@contextmanager
def _watching(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[dict[int, int]]:
    """Follow the high-water mark of memory of the largest process of each child, in kB, by its process ID."""
    peaks = {child.pid: 0 for child in children}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLE):
            for pid in peaks:
                peaks[pid] = max(peaks[pid], *map(high_water, family(pid)), 0)

    thread = threading.Thread(target=watch)
    if children:
        thread.start()
    try:
        yield peaks
    finally:
        done.set()
        if children:
            thread.join()


def _tail(output: Path) -> str:
    return output.read_text(errors="replace")[-_TAIL:].strip()
