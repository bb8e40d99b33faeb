"""The figures as a table, as JSON, and in docs/performance.md."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import Figure, shown
from bench.measuring import deviation

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
_HEAD = ("", "measured", "goal", "reached", "ansible-runner", "in words")


@dataclass(frozen=True, slots=True)
class Row:
    """A figure as it is kept in the JSON file; `share` is 1 at the goal, and less is better."""

    workload: str
    title: str
    what: str
    value: float | None
    deviation: float | None
    rounds: int
    goal: str
    unit: str
    passed: bool | None
    share: float | None
    peer: float | None
    peer_share: float | None
    seen: str
    missing: str

    @classmethod
    def of(cls, workload: str, title: str, figure: Figure) -> Row:
        value, goal = figure.value, figure.goal
        return cls(
            workload=workload,
            title=title,
            what=figure.title,
            value=value,
            deviation=deviation(figure.samples) if figure.samples else None,
            rounds=len(figure.samples),
            goal=str(goal),
            unit=goal.unit,
            passed=figure.passed,
            share=None if value is None else goal.share(value),
            peer=figure.peer,
            peer_share=None if figure.peer is None else goal.share(figure.peer),
            seen=figure.seen,
            missing=figure.missing,
        )

    @property
    def cells(self) -> tuple[str, ...]:
        if self.value is None:
            why = self.missing.replace("\n", " ").replace("|", "/")
            return self.what, f"not measured: {why}", self.goal, "", "", ""
        spread = f" ± {shown(self.deviation)}" if self.deviation is not None and self.rounds > 1 else ""
        peer = "" if self.peer is None else shown(self.peer)
        return self.what, f"{shown(self.value)}{spread}", self.goal, "yes" if self.passed else "**no**", peer, self.seen


def machine(versions: Mapping[str, str]) -> dict[str, Any]:
    """Return what the figures depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return {"processors": os.cpu_count(), "memory_gib": round(memory), "system": system, **versions}


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Give the lines of a Markdown table, the rows of a workload below its title."""
    yield _line(_HEAD)
    yield _line(("---", "--:", "---", "---", "--:", "---"))
    title = ""
    for row in rows:
        if row.title != title:
            title = row.title
            yield _line((f"**{title}**", "", "", "", "", ""))
        yield _line(row.cells)


def merged(old: Sequence[Row], new: Sequence[Row], order: Sequence[str]) -> list[Row]:
    """Put the new rows in the place of the old ones of their workloads."""
    measured = {row.workload for row in new}
    rows = [row for row in old if row.workload not in measured] + list(new)
    return sorted((row for row in rows if row.workload in order), key=lambda row: order.index(row.workload))


def load(path: Path) -> list[Row]:
    """Read the rows that are kept; none when there is no such file."""
    return [Row(**row) for row in json.loads(path.read_text())["rows"]] if path.exists() else []


def save(path: Path, machine: Mapping[str, Any], rows: Sequence[Row]) -> None:
    fields = [{name: getattr(row, name) for name in Row.__slots__} for row in rows]
    path.write_text(json.dumps({"machine": machine, "rows": fields}, indent=1, ensure_ascii=False) + "\n")


def insert(page: Path, machine: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write the table between the two marks of a page."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: the lines {BEGIN} and {END} are expected")
    text = "\n".join(("", in_words(machine), "", *table(rows), ""))
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def in_words(machine: Mapping[str, Any]) -> str:
    names = ("Python", "ansible-core", "ansible-runner")
    versions = ", ".join(f"{name} {machine[name]}" for name in names)
    return f"{machine['processors']} processors, {machine['memory_gib']} GiB, {machine['system']}, {versions}."


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("  ", " ")
