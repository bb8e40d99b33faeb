"""What following the events of a job costs while the job does nothing."""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Figure, Goal, Stage, Workload, median
from bench.measuring import Cost, rounds

_IDLE = """\
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: going to sleep
    - ansible.builtin.pause:
        seconds: {seconds}
"""


def following(stage: Stage) -> Iterator[Figure]:
    seconds = 3 if stage.quick else 10
    directory = stage.private_data_dir(_IDLE.format(seconds=seconds + 4))
    commands = {name: stage.program(name, "follow", directory, seconds) for name in stage.runners}
    seen = rounds(commands, stage.rounds(1), warm=False)
    peer = median(seen.values("peer", _share)) if "peer" in commands else None
    yield Figure("CPU of the process that follows", Goal(1, "% of a processor"), seen.values("ours", _share), peer)


def _share(cost: Cost) -> float:
    return float(cost.told["cpu"]) / float(cost.told["seconds"]) * 100


WORKLOADS = (Workload("following", "following `events` for ten seconds while the job idles", following),)
