"""What a workload is given, and what it gives back."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.environments import Environment, Environments
from bench.measuring import Argv, BenchError, Command

INVENTORY = "localhost ansible_connection=local\n"
ONE_TASK = """\
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: hello
"""


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure must be at most `limit`, or at least that with `at_least`; `unit` is what both are counted in."""

    limit: float
    unit: str
    at_least: bool = False

    def __str__(self) -> str:
        return "" if not self.limit else f"{'≥' if self.at_least else '≤'} {shown(self.limit)} {self.unit}"

    def share(self, value: float) -> float:
        """Return how a value relates to the goal: 1 is the goal itself, less is better."""
        return self.limit / max(value, 1e-9) if self.at_least else value / self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: the median of the samples, beside the goal; `peer` is the same of ansible-runner where it has one.

    A row without samples was not measured, for the reason in `missing`. `seen` puts the figure in words.
    """

    title: str
    goal: Goal
    samples: tuple[float, ...] = ()
    peer: float | None = None
    seen: str = ""
    missing: str = ""

    @property
    def value(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None

    @property
    def passed(self) -> bool | None:
        """Whether the goal is reached; None when the row was not measured."""
        return None if self.value is None else self.goal.share(self.value) <= 1


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a workload runs: the environments, a directory of its own, and how much of it is wanted."""

    environments: Environments
    work: Path
    asked_rounds: int | None = None
    quick: bool = False

    def rounds(self, usual: int) -> int:
        return self.asked_rounds or (1 if self.quick else usual)

    def size(self, full: int) -> int:
        """Return how many of something there are: a tenth of it when it must be quick."""
        return full // 10 if self.quick else full

    def directory(self, name: str) -> Path:
        """Make a new directory."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.work))

    @property
    def runners(self) -> Mapping[str, Environment]:
        """The environments by the names of the rows, without the one that is missing."""
        peer = self.environments.peer
        return {"ours": self.environments.ours} | ({"peer": peer} if peer else {})

    def command(self, name: str, *argv: str | Path, **more: str) -> Command:
        """Return a command that runs with an environment, in a directory of its own; its program is looked up there."""
        environment = self.environments.ours if name == "bare" else self.runners[name]
        home = self.directory(f"home-{name}")
        program, *arguments = argv
        chain: tuple[Argv, ...] = ((environment.program(str(program)), *arguments),)
        return Command(chain, environment.variables(home, **more), home)

    def program(self, name: str, script: str, *arguments: str | Path | int, **more: str) -> Command:
        """Return a command that runs one of bench/programs; it tells its figures itself."""
        path = Path(__file__).parent / "programs" / f"{script}.py"
        return replace(self.command(name, "python", path, *map(str, arguments), **more), tells=True)

    def private_data_dir(self, playbook: str = ONE_TASK) -> Path:
        """Make a private data directory with project/site.yml and one local host."""
        directory = self.directory("job")
        for name, text in {"project/site.yml": playbook, "inventory/hosts": INVENTORY}.items():
            (directory / name).parent.mkdir()
            (directory / name).write_text(text)
        return directory


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows of the table that are measured together; `title` is what goes on in them."""

    name: str
    title: str
    run: Callable[[Stage], Iterator[Figure]]

    def figures(self, stage: Stage) -> list[Figure]:
        """Measure the rows; what can not be measured is a row that says so."""
        rows: list[Figure] = []
        try:
            rows.extend(self.run(stage))
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            rows.append(Figure(self.name, Goal(0, ""), missing=str(error).splitlines()[-1]))
        return rows


def playbook_argv(directory: Path) -> tuple[str | Path, ...]:
    """Return the command that runs what `private_data_dir` made, without a runner."""
    return "ansible-playbook", "-i", directory / "inventory" / "hosts", directory / "project" / "site.yml"


def job_argv(directory: Path, *more: str) -> tuple[str | Path, ...]:
    """Return the same by either runner's command line."""
    return "ansible-runner", "run", directory, "-p", "site.yml", *more


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def shown(value: float) -> str:
    """Return a number with the digits that mean something."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
