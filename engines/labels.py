"""The labels of a job's container: whose it is, for the one who finds it after a crash."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IDENT = "ee_runner.ident"
RUN = "ee_runner.run"
DIRECTORY = "ee_runner.private_data_dir"
PID = "ee_runner.supervisor.pid"
START = "ee_runner.supervisor.start"


@dataclass(frozen=True, slots=True)
class JobContainer:
    """A container with these labels; the supervisor is the process that runs its job.

    `supervisor_start` is when that process started, in clock ticks since boot, and after an ``@`` the number of the
    pid namespace in which its pid counts.
    """

    id: str
    name: str
    running: bool
    ident: str
    private_data_dir: Path
    supervisor_pid: int
    supervisor_start: str

    @property
    def abandoned(self) -> bool:
        """Whether the supervisor has surely gone; not so for one that can not be seen from here.

        Engines are shared across containers, and so across pid namespaces, in which the same number is another
        process.
        """
        started, _, namespace = self.supervisor_start.partition("@")
        if not started or namespace != _pid_namespace():
            return False
        return start_time(self.supervisor_pid) != started


def of_job(ident: str, private_data_dir: Path) -> dict[str, str]:
    """Return the labels for a container of this process."""
    return {
        IDENT: ident,
        DIRECTORY: str(private_data_dir),
        PID: str(os.getpid()),
        START: f"{start_time(os.getpid())}@{_pid_namespace()}",
    }


def options(pairs: Mapping[str, str]) -> Iterator[str]:
    """Yield the labels as options of podman and docker."""
    for name, value in pairs.items():
        yield from ("--label", f"{name}={value}")


def read(entry: dict[str, Any]) -> JobContainer:
    """Read one element of what ``container inspect`` prints, of podman or docker."""
    labels: dict[str, str] = entry["Config"]["Labels"] or {}
    pid = labels.get(PID, "")
    return JobContainer(
        id=entry["Id"],
        name=entry["Name"].lstrip("/"),
        running=bool(entry["State"]["Running"]),
        ident=labels.get(IDENT, ""),
        private_data_dir=Path(labels.get(DIRECTORY, "")),
        supervisor_pid=int(pid) if pid.isdigit() else 0,
        supervisor_start=labels.get(START, ""),
    )


def start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot (proc(5), stat field 22); empty when it is not there."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _pid_namespace() -> str:
    """Return the number of this process's pid namespace, empty where there is none."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""
