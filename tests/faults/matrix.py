"""What can befall a job, and what must become of it then: the rows that the suite verifies and the manual shows.

A test takes its rows, on each engine that they apply to, from `befallen`; the manual's table is made of the same rows
and of the seconds that the tests measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engines.conftest import ENGINES

ALL = ("local", "bwrap", "podman", "podman-rootless", "docker")
CONTAINERS = ("podman", "podman-rootless", "docker")
MANUAL = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, and the outcome that is declared for it; None is an outcome that the fault leaves as it was.

    `left` is what stays of the job, and `within` how many seconds after the fault nothing else does. `always` are the
    engines on which every run of the tests verifies it; the others have their turn when all is asked for.
    """

    name: str
    what: str
    status: str | None
    rc: int | None
    reason: str | None
    within: float
    left: str = NOTHING
    engines: Sequence[str] = ALL
    always: Sequence[str] = ("local",)

    @property
    def outcome(self) -> tuple[str | None, str | None, str | None]:
        """The contents of the files status, rc and reason; a job that ended by itself has no file of that name."""
        return self.status, None if self.rc is None else str(self.rc), None if self.reason == "exited" else self.reason


def _canceled(name: str, what: str, *, always: Sequence[str], engines: Sequence[str] = ALL) -> Fault:
    return Fault(name, what, "canceled", 254, "canceled", within=10, always=always, engines=engines)


def _lost(name: str, what: str, *, always: Sequence[str] = ("local",), engines: Sequence[str] = ALL) -> Fault:
    return Fault(name, what, "error", 254, "lost", within=10, always=always, engines=engines)


ASKED = (
    _canceled("cancel-callback", "the cancel callback returns true", always=("local", "bwrap")),
    _canceled("cancel-thread", "`Runner.cancel()`, from another thread", always=("local", "docker")),
    _canceled("sigint", "SIGINT to the command", always=("local",)),
    _canceled("sigterm", "SIGTERM to the command", always=("local", "podman-rootless")),
    _canceled("sighup", "SIGHUP to the command", always=("local",)),
    _canceled("terminal", "the controlling terminal is closed", always=("local",)),
    _canceled("stop", "`ansible-runner stop`", always=("local", "podman")),
)
"""A stubborn job is asked to end: its tasks ignore signals, daemonize, are asynchronous, of another user..."""

OLDER = _canceled(
    "sigterm-2.14", "SIGTERM to the command, with ansible-core 2.14", engines=CONTAINERS, always=("podman",)
)

SIGNALLED = Fault(
    "signalled", "how long a cancel takes to reach the job", "canceled", 254, "canceled", within=1, always=ALL
)

SUPERVISOR_KILLED = (
    _lost("killed-before", "SIGKILL to the supervisor before the job's process is there"),
    _lost("killed-early", "SIGKILL to the supervisor as the job begins"),
    _lost("killed-midway", "SIGKILL to the supervisor in the middle of a stubborn job", always=ALL),
    _lost("killed-late", "SIGKILL to the supervisor at the job's last event"),
)
FINISHED = Fault(
    "killed-after", "SIGKILL to the supervisor of a job that has ended", "successful", 0, "exited", within=10
)
MINDER_KILLED = _lost("minder-killed", "SIGKILL to the minder", always=("local", "docker"))
BOTH_KILLED = _lost("both-killed", "SIGKILL to the supervisor and to the minder at once", always=("local", "podman"))

DISK_FULL = Fault("disk-full", "the disk of the artifacts is full", "error", 74, "lost", within=10)
DISK_BROKEN = Fault("disk-broken", "the disk of the artifacts becomes read-only", "error", 74, "lost", within=10)
VANISHED = Fault("vanished", "the artifact directory is removed", "error", 74, "lost", within=10)


def sections() -> Mapping[str, Sequence[Fault]]:
    """Return the rows by the headings of the manual's tables."""
    from tests.faults import test_engine_faults as engine  # which declare rows of their own, and take Fault from here
    from tests.faults import test_limits as limits

    return {
        "Asked to end": (*ASKED, OLDER, SIGNALLED),
        "Killed": (*SUPERVISOR_KILLED, FINISHED, MINDER_KILLED, BOTH_KILLED),
        "Ended from outside": (
            *(limits.JOB_KILLED, limits.KILLED, limits.STOPPED, limits.REMOVED, limits.OUT_OF_MEMORY),
            *(engine.CLIENT_KILLED, engine.MONITOR_KILLED, engine.DAEMON_KILLED),
        ),
        "The disk": (DISK_FULL, DISK_BROKEN, VANISHED),
    }


def declared() -> Iterator[Fault]:
    for faults in sections().values():
        yield from faults


def befallen(*faults: Fault) -> pytest.MarkDecorator:
    """Give a test the arguments ``fault`` and ``place``: each of these faults on each engine that it applies to."""
    cases = [(fault, engine) for fault in faults for engine in fault.engines if engine in ENGINES]
    return pytest.mark.parametrize(
        ("fault", "place"),
        [
            pytest.param(fault, engine, id=f"{fault.name}-{engine}", marks=_marks(fault, engine))
            for fault, engine in cases
        ],
        indirect=["place"],
    )


def _marks(fault: Fault, engine: str) -> list[pytest.MarkDecorator]:
    told = [pytest.mark.fault(fault.name, engine)]
    return told if engine in fault.always else [*told, pytest.mark.thorough]


# The manual's table.

_HEADINGS = ("Fault", "Status", "rc", "Reason", "What stays", "Within", *ALL)
_ROW = re.compile(r"^\| (?P<name>[^|]+?) *\|(?P<cells>.*)\|$", re.MULTILINE)
Measured = Mapping[tuple[str, str], float]
"""Seconds by the name of the fault and of the engine."""

INTRODUCTION = """\
# Faults, and what becomes of a job

Each row is a fault that the tests inflict on real jobs in each engine, and look at from outside: at the process table,
the list of containers, and the disk. This page is made by them (`make faults`).

The status, the return code and the reason are those in the job's artifact directory, and of the `Runner`. "Within" is
the bound, in seconds from the fault, after which nothing of the job is left but its artifacts; the columns of the
engines show what was measured on a machine with two cores, a dash an engine to which the fault does not apply.

The job of the first two tables is as stubborn as can be: a task that ignores SIGTERM, SIGINT and SIGHUP, daemons made
by `setsid` and by a double fork, a tree of processes 25 deep, an asynchronous task, a process of another user
(`become`), the master of an ssh connection (ControlPersist), and a loop that prints without end.
"""

AFTERWORDS: Mapping[str, str] = {
    "Asked to end": """\
When the status says `canceled`, no process and no container of the job is left. The rows but the last show the seconds
until the status said so, with `--stop-grace 2`; the last shows the seconds from the request to the signal's arrival.
""",
    "Killed": """\
A job whose supervisor has died is ended by its minder, a small process between the two, which then sees to the rest.
The seconds are those until no process and no container was left. When both have died at once, the next start of any job
of the same user, or `ansible-runner cleanup`, does all of that; the seconds are counted from there. Without a container
or a sandbox it knows the job's processes by a variable in their environment: one that hides its environment, as the
master of an ssh connection does, then lives until it ends by itself. A job that has ended is never touched.
""",
    "Ended from outside": """\
The seconds are those until the command had ended. Signals that somebody else sends, and what the kernel ends for its
memory, are told from a job that failed by itself; an engine that fails is told from both.
""",
    "The disk": """\
Events and output that were written before stay as they are. A status that can not be written any more is said on
standard error, and by the exit code 74.
""",
}


def manual(measured: Measured) -> str:
    """Return the page of the manual, with these measurements."""
    parts = [INTRODUCTION]
    for heading, faults in sections().items():
        rows = [_row(fault, measured) for fault in faults]
        parts += [f"## {heading}\n", "".join(_lines(_HEADINGS, rows)), AFTERWORDS[heading]]
    return "\n".join(parts)


def _row(fault: Fault, measured: Measured) -> tuple[str, ...]:
    times = (_shown(measured.get((fault.name, engine))) if engine in fault.engines else "-" for engine in ALL)
    return (*words(fault), *times)


def words(fault: Fault) -> tuple[str, ...]:
    """Return what the table declares of a fault."""
    outcome = ("" if part is None else str(part) for part in (fault.status, fault.rc, fault.reason))
    return (fault.what, *outcome, fault.left, f"{fault.within:g} s")


def _shown(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"


def _lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (headings, ["---"] * len(headings), *rows):
        yield f"| {' | '.join(row)} |\n"


def rows_of(page: str) -> list[tuple[str, ...]]:
    """Return the rows of the page's tables, cell by cell, without the headings."""
    cells = (
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in page.splitlines() if line[:1] == "|"
    )
    return [row for row in cells if row[0] not in ("---", _HEADINGS[0])]


def measurements_of(page: str) -> dict[tuple[str, str], float]:
    """Return what a page says was measured."""
    by_words = {fault.what: fault for fault in declared()}
    return {
        (by_words[row[0]].name, engine): float(cell.removesuffix(" s"))
        for row in rows_of(page)
        if row[0] in by_words
        for engine, cell in zip(ALL, row[-len(ALL) :], strict=True)
        if cell not in ("", "-")
    }
