"""python -m bench [WORKLOAD...]: measure, and print the table with the goals."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from bench import remote_table, report
from bench.environments import Environments, prepare, versions
from bench.figures import Stage
from bench.measuring import BenchError
from bench.picture import picture
from bench.workloads import WORKLOADS
from tests.support.processes import REPO, MachineError

DOCS = REPO / "docs"


def main() -> int:
    """Measure what is asked for; return 1 when a goal is missed or a row not measured, 2 when nothing could be."""
    parser = _parser()
    asked = parser.parse_args()
    if asked.quick and asked.write:
        parser.error("--quick is a trial: its figures are not for docs/")
    if unknown := set(asked.workloads) - set(WORKLOADS):
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that everything is removed
    try:
        return _run(asked)
    except (MachineError, BenchError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def _run(asked: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="ee-bench-", dir=asked.work) as name:
        work = Path(name)
        (scratch := work / "environments").mkdir()
        environments = prepare(scratch, with_peer=not asked.without_peer)
        stage = Stage(environments, work, asked.rounds, asked.quick)
        if asked.remote_table:
            for line in remote_table.lines(stage, asked.remote_table):
                _say(line)
            return 0
        return _measure(stage, asked.workloads or list(WORKLOADS), write=asked.write)


def _measure(stage: Stage, names: list[str], *, write: bool) -> int:
    rows: list[report.Row] = []
    for name in WORKLOADS:
        if name in names:
            workload = WORKLOADS[name]
            print(f"bench: {workload.title}", file=sys.stderr, flush=True)
            rows += [report.Row.of(name, workload.title, figure) for figure in workload.figures(stage)]
            if write:  # after each, so that what was measured is kept whatever comes
                _keep(rows, stage.environments)
    for line in report.table(rows):
        _say(line)
    if stage.quick:
        _say("The sizes were a tenth: take the figures as a trial, not as a verdict.")
    return 0 if all(row.passed for row in rows) else 1


def _keep(rows: list[report.Row], environments: Environments) -> None:
    """Write the JSON file, the picture and the table into docs/."""
    kept = report.merged(report.load(DOCS / "performance.json"), rows, list(WORKLOADS))
    machine = report.machine(versions(environments))
    report.save(DOCS / "performance.json", machine, kept)
    report.insert(DOCS / "performance.md", machine, kept)
    (DOCS / "performance.svg").write_text(picture(kept))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="The runner beside bare Ansible and its peer.")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"{', '.join(WORKLOADS)} (default: all)")
    parser.add_argument("--rounds", type=int, help="how often each is run (default: 1 to 15, by its length)")
    parser.add_argument("--quick", action="store_true", help="one round of a tenth of each size")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance.{json,md,svg}")
    parser.add_argument("--without-peer", action="store_true", help="leave ansible-runner out")
    parser.add_argument(
        "--remote-table", type=float, metavar="SIZE", help="only the table of bench/README.md; 1 is 2 GB"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=_memory(),
        help="where the files go (default: /dev/shm, or else the temporary directory)",
    )
    return parser


def _memory() -> Path | None:
    """Return a file system in memory: on a disk, files cost more the more of them were just removed (ext4)."""
    place = Path("/dev/shm")  # noqa: S108
    return place if os.access(place, os.W_OK) else None


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
