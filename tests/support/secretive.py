"""A program that runs one job by the library and tells all that a program may see of it.

It reads ``{"keywords": {...}}`` from its standard input, for its arguments are seen by everybody, and prints what
handlers are given and how objects show themselves, each on a line.
"""

from __future__ import annotations

import json
import sys

from ee_runner import Runner, RunnerConfig


def main() -> None:
    keywords = json.loads(sys.stdin.buffer.readline())["keywords"]
    config = RunnerConfig(**keywords)
    print(repr(config), repr(config._options))
    runner = Runner(
        config,
        status_handler=lambda data, runner_config: print(json.dumps(data), repr(runner_config)),
        event_handler=lambda event: print(json.dumps(event)),
    )
    runner.run()
    for each in (runner, config, config.spec, config.spec.container, config._job, config._resolved, runner.log):
        print(repr(each))
    print(json.dumps({"status": runner.status, "rc": runner.rc, "reason": runner.reason, "detail": runner.detail}))


if __name__ == "__main__":
    main()
