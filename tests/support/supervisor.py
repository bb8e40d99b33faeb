"""A program that runs one job by the library, and asks for its end, or dies by SIGKILL, when it is told to.

    python supervisor.py '{"keywords": {...}, "cancel": "thread", "flag": "/path"}'

`cancel` is ``thread`` (Runner.cancel, from another thread, as soon as the file `flag` is there) or ``callback`` (a
cancel_callback that looks for it). `die` names the moment of its death: ``status:starting``,
``event:playbook_on_stats``, ``finished``. When the job has ended it prints a line of JSON, and lives on until its
standard input ends, so that what the job has left can be told from what ends with a program.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ee_runner import run_async


def main() -> None:
    given = json.loads(sys.argv[1])
    flag, moment = Path(given["flag"]), given.get("die", "")
    handlers: dict[str, Any] = {
        "status_handler": lambda data, **_: die(moment == f"status:{data['status']}"),
        "event_handler": lambda event: die(moment == f"event:{event['event']}"),
        "finished_callback": lambda _: die(moment == "finished"),
    }
    if given.get("cancel") == "callback":
        handlers["cancel_callback"] = flag.exists
    thread, runner = run_async(**given["keywords"], **handlers)
    while given.get("cancel") == "thread" and thread.is_alive():
        if flag.exists():
            runner.cancel()
            break
        time.sleep(0.005)
    thread.join()
    answer = {"status": runner.status, "rc": runner.rc, "reason": runner.reason, "detail": runner.detail}
    print(json.dumps({**answer, "threads": threading.active_count()}), flush=True)
    sys.stdin.read()


def die(now: bool) -> bool:
    if now:
        os.kill(os.getpid(), signal.SIGKILL)
    return True


if __name__ == "__main__":
    main()
