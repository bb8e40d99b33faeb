"""read_back.py ours|peer DIRECTORY IDENT: read the events of a finished job; tells the seconds that each way took."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from ansible_runner.config.runner import RunnerConfig


def main(whose: str, directory: str, ident: str) -> None:
    config = RunnerConfig(private_data_dir=directory, ident=ident, playbook="site.yml")
    job = finished(config, whose)
    took, counts = {}, {}
    for name, read in {
        "events": lambda: sum(1 for _ in job.events),
        "stats": lambda: len(job.stats or {}),
        "host_events": lambda: sum(1 for _ in job.host_events("localhost")),
    }.items():
        took[name], counts[name] = timed(read)
    if not all(counts.values()):
        sys.exit(f"nothing was read: {counts}")
    print(json.dumps(took))


def finished(config: RunnerConfig, whose: str) -> Any:
    """Return what reads the artifacts of a job that another process has run."""
    if whose == "ours":
        from ee_runner.results import Results

        return Results(config)
    from ansible_runner import Runner

    return Runner(config)


def timed(read: Callable[[], int]) -> tuple[float, int]:
    start = time.monotonic()
    count = read()
    return time.monotonic() - start, count


main(*sys.argv[1:])
