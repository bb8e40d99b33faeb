"""delays.py DIRECTORY: run the job; tells the seconds from the creation of each event to `event_handler`."""

import json
import sys
from datetime import datetime, timezone
from typing import Any

import ansible_runner

_ITEM = "runner_item_on_ok"


def main(directory: str) -> None:
    delays: list[float] = []

    def handle(event: dict[str, Any]) -> bool:
        now = datetime.now(timezone.utc)
        if event["event"] == _ITEM:
            created = datetime.fromisoformat(event["created"])
            delays.append((now - created.replace(tzinfo=created.tzinfo or timezone.utc)).total_seconds())
        return True

    runner = ansible_runner.run(private_data_dir=directory, playbook="site.yml", quiet=True, event_handler=handle)
    if runner.status != "successful" or not delays:
        sys.exit(f"{runner.status}, {len(delays)} events")
    print(json.dumps({"delays": delays}))


main(*sys.argv[1:])
