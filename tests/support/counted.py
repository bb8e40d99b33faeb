"""counted.py WHAT DIRECTORY...: do something with the library, and tell in one line of JSON what it took, in counts.

A count is the same on a busy machine, where a time is not. Opened, renamed and listed files, and processes started, are
what the interpreter's audit events say; reads and writes are the kernel's count of system calls of this process.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ansible_runner

# What starts a process, whichever way it goes.
_STARTS = ("os.fork", "os.forkpty", "os.posix_spawn", "_posixsubprocess.fork_exec", "subprocess.Popen", "os.exec")
_AUDITED = {
    "open": "opened",
    "os.rename": "renamed",
    "os.link": "renamed",
    "os.listdir": "listed",
    "os.scandir": "listed",
}


class Audit:
    """Counts audit events below a directory; where they name a descriptor or no path they count too."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.counts: Counter[str] = Counter()
        sys.addaudithook(self._heard)

    def snapshot(self) -> Counter[str]:
        return Counter(self.counts) + Counter(calls("self"))

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _STARTS:
            self.counts["started"] += 1
        elif name := _AUDITED.get(event):
            self.counts[name] += self._is_inside(arguments[0])

    def _is_inside(self, path: Any) -> bool:
        if isinstance(path, int) or path is None:
            return True
        return not (text := os.fsdecode(path)).startswith(os.sep) or text.startswith(self._directory)


def calls(pid: str | int) -> Mapping[str, int]:
    """Return how often a process has read and written; what its ended children did is part of it."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return {"reads": int(fields["syscr"]), "writes": int(fields["syscw"])}


def each_event(directory: str) -> Mapping[str, float]:
    """Run a job with many events; tell what each took here and, as `ansible_writes`, in Ansible."""
    audit, first, last = Audit(directory), 500, int(os.environ["EVENTS"])
    seen: dict[int, Counter[str]] = {}

    def handle(event: dict[str, Any]) -> bool:
        if event["counter"] in (first, last):
            snapshot = audit.snapshot()
            snapshot["ansible_writes"] = calls(event["pid"])["writes"]
            seen[event["counter"]] = snapshot
        return True

    run(directory, event_handler=handle)
    return {name: (seen[last][name] - seen[first][name]) / (last - first) for name in seen[last]}


def job(directory: str) -> Mapping[str, float]:
    """Run a job; tell what it took in all."""
    audit = Audit(directory)
    run(directory)
    return audit.counts


def read_back(directory: str) -> Mapping[str, float]:
    """Read the events of a job that has run, three ways; tell what each took."""
    runner = run(directory)
    audit = Audit(directory)
    told: dict[str, float] = {"events": len(list(runner.events))}
    ways: dict[str, Callable[[], object]] = {
        "all": lambda: list(runner.events),
        "stats": lambda: runner.stats,
        "host": lambda: list(runner.host_events("localhost")),
    }
    for name, read in ways.items():
        before = Counter(audit.counts)
        read()
        told |= {f"{name}_{what}": audit.counts[what] - before[what] for what in ("opened", "listed")}
    return told


def output(directory: str, size: str) -> Mapping[str, float]:
    """Run a command that writes so many bytes; tell what a megabyte took, and how many files are left of it."""
    audit, megabytes = Audit(directory), int(size) / 1e6
    argv = ["-c", f"import sys; sys.stdout.write(('x' * 79 + chr(10)) * ({size} // 80))"]
    before = audit.snapshot()
    out, _, rc = ansible_runner.run_command(sys.executable, argv, private_data_dir=directory, quiet=True)
    took = audit.snapshot() - before
    if rc or len(out) < int(size):
        sys.exit(f"rc {rc}, {len(out)} bytes")
    files = sum(len(names) for _, _, names in os.walk(directory))
    return {"files": files} | {name: took[name] / megabytes for name in ("reads", "writes", "opened")}


def follow(directory: str, seconds: str) -> Mapping[str, float]:
    """Follow a job that idles; tell how often any thread of this process has woken for so long."""
    asleep = threading.Event()
    thread, runner = ansible_runner.run_async(private_data_dir=directory, playbook="site.yml", quiet=True)

    def iterate() -> None:
        for event in runner.events:
            if event["event"] == "playbook_on_task_start" and event["event_data"]["task"] == "idle":
                asleep.set()

    follower = threading.Thread(target=iterate)
    follower.start()
    if not asleep.wait(60):
        sys.exit("the job did not come to its second task")
    time.sleep(1)  # what the event set going has ended
    before = wakes()
    time.sleep(float(seconds))
    told = wakes() - before
    runner.cancel()
    follower.join()
    thread.join()
    return {"wakes": told}


def wakes() -> int:
    """Return how often the threads of this process went to sleep; each wakes as often."""
    lines = (line for task in Path("/proc/self/task").iterdir() for line in (task / "status").read_text().splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))


def run(directory: str, **more: Any) -> ansible_runner.Runner:
    runner = ansible_runner.run(private_data_dir=directory, playbook="site.yml", quiet=True, **more)
    if runner.status != "successful":
        sys.exit(f"the job is {runner.status}: {runner.stdout.read()}")
    return runner


if __name__ == "__main__":
    kinds: dict[str, Callable[..., Mapping[str, float]]] = {
        "each_event": each_event,
        "job": job,
        "read_back": read_back,
        "output": output,
        "follow": follow,
    }
    print(json.dumps(kinds[sys.argv[1]](*sys.argv[2:])))
