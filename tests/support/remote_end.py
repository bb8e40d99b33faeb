"""One end of a remote job, as a program that uses the library; its streams are the standard ones.

Arguments: the streamer, its keywords as JSON, and the file that gets what it was told, as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import ansible_runner

streamer, keywords, report = sys.argv[1:]
told: list[Any] = []


def status_handler(data: dict[str, Any], runner_config: Any) -> None:
    told.append(["status", data, runner_config.command, runner_config.cwd, sorted(runner_config.env or ())])


def event_handler(event: dict[str, Any]) -> bool:
    told.append(["event", event])
    return True


def artifacts_handler(directory: str) -> None:
    told.append(["artifacts", directory])


def finished_callback(runner: Any) -> None:
    told.append(["finished", runner.status])


handlers: dict[str, Any] = {
    "status_handler": status_handler,
    "event_handler": event_handler,
    "artifacts_handler": artifacts_handler,
    "finished_callback": finished_callback,
}
given: dict[str, Any] = json.loads(keywords)
if streamer == "process":
    given.update(handlers)
runner = ansible_runner.run(streamer=streamer, **given)  # type: ignore[arg-type]
Path(report).write_text(json.dumps({"told": told, "status": runner.status, "rc": runner.rc}))
