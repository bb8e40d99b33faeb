"""How long an event is on its way from Ansible to `event_handler` while nothing else goes on."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from bench.figures import Figure, Goal, Stage, Workload, shown
from bench.measuring import Rounds, rounds

_PULSE = """\
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: "{{{{ item }}}}"
      loop: "{{{{ range({count}) | list }}}}"
      loop_control:
        pause: 0.02
"""


def latency(stage: Stage) -> Iterator[Figure]:
    directory = stage.private_data_dir(_PULSE.format(count=stage.size(500)))
    commands = {name: stage.program(name, "delays", directory) for name in stage.runners}
    seen = rounds(commands, stage.rounds(1), warm=False)
    ours = _percentiles(seen, "ours")
    peer = statistics.median(_percentiles(seen, "peer")) if "peer" in commands else None
    middle = statistics.median(each for cost in seen.costs["ours"] for each in cost.told["delays"])
    words = f"median {shown(middle * 1000)} ms"
    yield Figure("99 of 100 events", Goal(10, "ms"), ours, peer, words)


def _percentiles(seen: Rounds, name: str) -> tuple[float, ...]:
    return tuple(statistics.quantiles(cost.told["delays"], n=100)[98] * 1000 for cost in seen.costs[name])


WORKLOADS = (Workload("latency", "an event's way to `event_handler`", latency),)
