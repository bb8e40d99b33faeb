"""What starting costs: the import, the command line, a job of one task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.figures import Figure, Goal, Stage, Workload, job_argv, median, playbook_argv
from bench.measuring import cpu, rounds, wall

_OF_BARE = "times bare Ansible"
_OF_NOTHING = "times the CPU of `python -c pass`"


def trivial(stage: Stage) -> Iterator[Figure]:
    directory = stage.private_data_dir()
    commands = {"bare": stage.command("bare", *playbook_argv(directory))}
    commands |= {name: stage.command(name, *job_argv(directory)) for name in stage.runners}
    seen = rounds(commands, stage.rounds(15))
    peer = median(seen.ratios("peer", "bare", wall)) if "peer" in commands else None
    more = median(seen.differences("ours", "bare", wall)) * 1000
    words = f"{more:+.0f} ms beside {median(seen.values('bare', wall)):.2f} s"
    yield Figure("wall clock", Goal(1.05, _OF_BARE), seen.ratios("ours", "bare", wall), peer, words)


def importing(stage: Stage) -> Iterator[Figure]:
    titles = {
        "`import ansible_runner`": (Goal(3.0, _OF_NOTHING), ("python", "-c", "import ansible_runner")),
        "`from ansible_runner import run`": (
            Goal(6.0, _OF_NOTHING),
            ("python", "-c", "from ansible_runner import run"),
        ),
        "`ansible-runner --version`": (Goal(4.5, _OF_NOTHING), ("ansible-runner", "--version")),
        "`ansible-runner --help`": (Goal(6.0, _OF_NOTHING), ("ansible-runner", "--help")),
    }
    commands = {"pass": stage.command("bare", "python", "-c", "pass")}
    for title, (_, argv) in titles.items():
        commands |= {f"{name} {title}": stage.command(name, *argv) for name in stage.runners}
    seen = rounds(commands, stage.rounds(15))
    for title, (goal, _) in titles.items():
        peer = median(seen.ratios(f"peer {title}", "pass", cpu)) if f"peer {title}" in commands else None
        words = f"{median(seen.values(f'ours {title}', cpu)) * 1000:.0f} ms"
        yield Figure(title, goal, seen.ratios(f"ours {title}", "pass", cpu), peer, words)


def memory(stage: Stage) -> Iterator[Figure]:
    directory = stage.private_data_dir()
    commands = {name: replace(stage.command(name, *job_argv(directory)), watched=True) for name in stage.runners}
    seen = rounds(commands, stage.rounds(3))
    peaks = {name: seen.values(name, lambda cost: cost.peaks[0]) for name in commands}
    peer = median(peaks["peer"]) if "peer" in peaks else None
    yield Figure("largest process of the command line", Goal(30, "MiB"), peaks["ours"], peer)


WORKLOADS = (
    Workload("trivial", "a playbook of one task, on the host", trivial),
    Workload("import", "the import and the command line", importing),
    Workload("memory", "memory of a playbook of one task", memory),
)
