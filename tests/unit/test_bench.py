"""The benchmark itself: what it measures, what it says of it, and that it leaves nothing behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import measuring, report
from bench.environments import Environment, Environments
from bench.figures import Figure, Goal, Stage, Workload
from bench.measuring import BenchError, Command, Cost, Rounds, measure, rounds
from bench.picture import picture
from bench.workloads import WORKLOADS
from tests.support.processes import alive
from tests.support.venvs import Venv

BURN = "import time\nwhile time.process_time() < 0.4: pass"
MACHINE = {
    "processors": 2,
    "memory_gib": 8,
    "system": "Debian",
    "Python": "3",
    "ansible-core": "2",
    "ansible-runner": "2",
}


def python(work: Path, *scripts: str) -> Command:
    """Return a command that runs the scripts, joined by pipes."""
    return Command(tuple((sys.executable, "-c", script) for script in scripts), os.environ, work)


def row(*samples: float, limit: float = 1.0, at_least: bool = False, workload: str = "trivial") -> report.Row:
    return report.Row.of(workload, "a title", Figure("a row", Goal(limit, "s", at_least), samples, peer=2.0))


def test_processor_time_of_a_process_that_has_left_its_parent_counts(tmp_path: Path) -> None:
    leave = f"import os\nif not os.fork():\n os.setsid()\n exec({BURN!r})"
    assert measure(python(tmp_path, leave)).cpu > 0.35


def test_the_clock_stops_at_the_end_of_the_command_and_not_of_what_it_left(tmp_path: Path) -> None:
    leave = "import os, time\nif not os.fork():\n os.setsid()\n time.sleep(2)"
    start = time.monotonic()
    cost = measure(python(tmp_path, leave))
    assert time.monotonic() - start - cost.wall > 1


def test_what_a_command_leaves_running_is_ended_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_LINGERING", 0.5)
    leave = "import os, time\nif pid := os.fork(): open('pid', 'w').write(str(pid))\nelse: time.sleep(600)"
    with pytest.raises(BenchError, match="still running"):
        measure(python(tmp_path, leave))
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_command_that_fails_is_told_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no such thing\n.*exit codes \[0, 1\]"):
        measure(python(tmp_path, "pass", "raise SystemExit('no such thing')"))


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    endless = replace(python(tmp_path, "import time; time.sleep(600)"), limit=0.5)
    with pytest.raises(BenchError, match=r"0\.5 seconds"):
        measure(endless)


def test_memory_is_that_of_the_largest_process_without_ansible(tmp_path: Path) -> None:
    (ansible := tmp_path / "ansible-playbook").write_text("x = b'x' * 200 * 2**20\nimport time; time.sleep(0.4)")
    script = "x = b'x' * 50 * 2**20\nimport time; time.sleep(0.4)"
    script += f"\nimport subprocess, sys; subprocess.run([sys.executable, {str(ansible)!r}])"
    (peak,) = measure(replace(python(tmp_path, script), watched=True)).peaks
    assert 50 < peak < 100


def test_commands_take_turns_and_are_prepared_each_time(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def noting(name: str) -> Command:
        note = f"open({str(log)!r}, 'a').write({name!r})"
        return replace(python(tmp_path, note), prepare=lambda: log.open("a").write("-"))

    rounds({"a": noting("a"), "b": noting("b")}, 2)
    assert log.read_text() == "-a-b" * 3  # the first time is no round


def test_a_ratio_is_taken_within_a_round() -> None:
    slow, fast = (Cost(4.0, 0), Cost(2.0, 0)), (Cost(2.0, 0), Cost(1.0, 0))
    assert Rounds({"a": slow, "b": fast}).ratios("a", "b", measuring.wall) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("samples", "at_least", "passed"),
    [((1.0, 1.0, 9.0), False, True), ((1.1,), False, False), ((0.9,), True, False), ((1.0,), True, True)],
)
def test_the_median_decides_whether_a_goal_is_reached(samples: tuple[float, ...], at_least: bool, passed: bool) -> None:
    assert row(*samples, at_least=at_least).passed is passed


def test_what_can_not_be_measured_is_a_row_with_the_reason(tmp_path: Path) -> None:
    def broken(_: Stage) -> Iterator[Figure]:
        yield Figure("first", Goal(1, "s"), (0.5,))
        raise BenchError("docker does not run here")

    first, second = Workload("broken", "broken", broken).figures(here(tmp_path))
    assert (first.passed, second.passed) == (True, None)
    assert "docker does not run here" in " ".join(report.table([report.Row.of("broken", "broken", second)]))


def test_a_workload_measured_again_replaces_its_rows_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    report.save(path, MACHINE, [row(1.0), row(3.0, workload="remote"), row(1.0, workload="gone")])
    kept = report.merged(report.load(path), [row(2.0)], ["trivial", "remote"])
    assert [(each.workload, each.value) for each in kept] == [("trivial", 2.0), ("remote", 3.0)]


def test_the_table_goes_between_the_marks_of_a_page(tmp_path: Path) -> None:
    (page := tmp_path / "page.md").write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        report.insert(page, MACHINE, [row(0.5)])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("| a row | 0.50 |") == 1


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    (page := tmp_path / "page.md").write_text("a page\n")
    with pytest.raises(ValueError, match="expected"):
        report.insert(page, MACHINE, [row(0.5)])
    assert page.read_text() == "a page\n"


def test_the_picture_has_a_bar_to_the_left_of_the_goal_for_what_is_better() -> None:
    tree = ElementTree.fromstring(picture([row(0.5), row(4.0)]))
    bars = {kind: [float(bar.get("x", 0)) for bar in tree.iter() if bar.get("class") == kind] for kind in KINDS}
    goal = bars["missed"][1]  # the first is the legend's
    assert bars["reached"][1] < goal
    assert len(bars["peer"]) == 3


KINDS = ("reached", "missed", "peer")


def test_a_workload_measures_this_checkout(tmp_path: Path) -> None:
    stage = here(tmp_path)
    (figure,) = WORKLOADS["memory"].figures(stage)
    assert not figure.missing
    assert figure.value is not None
    assert 10 < figure.value < 100


def here(work: Path) -> Stage:
    """A stage whose environment is that of the tests."""
    own = Environment(Venv(Path(sys.executable).parent, work))
    return Stage(Environments(own, None, "left out"), work, quick=True)
