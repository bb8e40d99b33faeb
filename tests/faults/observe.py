"""Looks at a job from outside: the process table, the containers, the files and the records that it has left.

Nothing here asks the product. A job is recognised by a word that nobody could guess, in the arguments or the
environment of its processes, in the name of its container and in its directories.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.engines.place import Place
from tests.support.machine import PAUSE_PROCESSES, command_line
from tests.support.processes import alive, all_pids, parent

TERMINAL = frozenset({"successful", "failed", "canceled", "timeout", "error"})
SHARED_MEMORY = Path("/dev/shm")
_LOOK = 0.01


@dataclass(frozen=True, slots=True)
class Left:
    """What there is of a job: processes as ``PID COMMAND``, names of containers, and paths."""

    processes: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    locks: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.processes or self.containers or self.files or self.records or self.locks)


@dataclass(frozen=True, slots=True)
class Artifacts:
    """What a job has left on purpose; None or empty where it is not there."""

    status: str | None
    rc: str | None
    reason: str | None
    stdout: bytes
    events: tuple[dict[str, object], ...]

    @property
    def outcome(self) -> tuple[str | None, str | None, str | None]:
        return self.status, self.rc, self.reason


def processes(word: str, *, apart: Collection[int] = ()) -> dict[int, str]:
    """Return the processes that have the word in their arguments or environment, by pid; zombies have neither.

    `apart` are pids that are none of the job's; this process, and what podman keeps for a user, never are.
    """
    known = {os.getpid(), *apart}
    found = {pid: command for pid in all_pids() if pid not in known and (command := _of_word(pid, word))}
    return {pid: command for pid, command in found.items() if command_line(pid) not in PAUSE_PROCESSES}


def _of_word(pid: int, word: str) -> str:
    """Return the command line of a process with the word, or an empty string."""
    with suppress(OSError):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        if word.encode() in arguments or word.encode() in Path(f"/proc/{pid}/environ").read_bytes():
            return arguments.replace(b"\0", b" ").decode(errors="replace").strip() or "?" if alive(pid) else ""
    return ""


def children(pid: int) -> dict[int, str]:
    """Return the children of a process, zombies too, each with its command line."""
    return {other: " ".join(command_line(other)) or "zombie" for other in all_pids() if parent(other) == pid}


def containers(place: Place, ident: str) -> tuple[str, ...]:
    """Return the containers, running or not, that bear the ident as a label or in their name."""
    if not place.contained:
        return ()
    found: set[str] = set()
    for filter_ in (f"label=ee_runner.ident={ident}", f"name={ident}"):
        asked = place.command([place.engine, "ps", "-a", "--filter", filter_, "--format", "{{.Names}} {{.Status}}"])
        assert asked.returncode == 0, asked.stderr
        found |= set(asked.stdout.splitlines())
    return tuple(sorted(found))


def read_artifacts(directory: Path) -> Artifacts:
    """Read a job's artifacts; fails for an event that does not parse, or whose predecessor is missing."""
    events = tuple(sorted(_events(directory), key=lambda event: int(str(event["counter"]))))
    counters = [event["counter"] for event in events]
    assert counters == list(range(1, len(events) + 1)), f"events are missing: {counters}"
    status, rc, reason = read_outcome(directory)
    return Artifacts(status, rc, reason, stdout=_bytes(directory / "stdout") or b"", events=events)


def read_outcome(directory: Path) -> tuple[str | None, str | None, str | None]:
    """Return the status, the rc and the reason's word, each None when there is no such file."""
    reason = _text(directory / "reason")
    return _text(directory / "status"), _text(directory / "rc"), reason and reason.partition("\n")[0]


def _events(directory: Path) -> Iterator[dict[str, object]]:
    for path in (directory / "job_events").glob("*"):
        assert "partial" not in path.name, f"half an event: {path}"
        yield json.loads(path.read_bytes())


def _bytes(path: Path) -> bytes | None:
    with suppress(OSError):
        return path.read_bytes()
    return None


def _text(path: Path) -> str | None:
    data = _bytes(path)
    return None if data is None else data.decode()


def until(condition: Callable[[], object], *, bound: float, what: Callable[[], object]) -> float:
    """Wait until the condition holds and return how long that took; `what` says what there is when it does not."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() > start + bound:
            raise AssertionError(f"not within {bound:g} seconds: {what()}")
        time.sleep(_LOOK)
    return time.monotonic() - start
