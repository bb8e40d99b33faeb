"""follow.py DIRECTORY SECONDS: follow an idle job; tells what this process uses of the processor for so long."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import ansible_runner


def main(directory: str, seconds: str) -> None:
    asleep = threading.Event()
    job, runner = ansible_runner.run_async(private_data_dir=directory, playbook="site.yml", quiet=True)
    follower = threading.Thread(target=follow, args=(job, runner, asleep))
    follower.start()
    if not asleep.wait(60):
        sys.exit("the job did not come to its second task")
    time.sleep(1)
    start, used = time.monotonic(), time.process_time()
    time.sleep(float(seconds))
    told = {"seconds": time.monotonic() - start, "cpu": time.process_time() - used}
    follower.join()
    job.join()
    print(json.dumps(told))


def follow(job: threading.Thread, runner: Any, asleep: threading.Event) -> None:
    """Follow to the end of the job; what gives only the events that are there is asked again."""
    while job.is_alive():
        for event in events(runner):
            if event["event"] == "playbook_on_task_start" and event["event_data"]["task"].endswith("pause"):
                asleep.set()


def events(runner: Any) -> Iterator[dict[str, Any]]:
    try:
        yield from runner.events
    except (FileNotFoundError, ansible_runner.exceptions.AnsibleRunnerException):
        time.sleep(0.1)  # the job has not made its directory yet


main(*sys.argv[1:])
