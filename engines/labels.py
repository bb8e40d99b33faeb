"""The labels of a job's container: whose it is, for the one who finds it after a crash."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ee_runner.processes import Identity

IDENT = "ee_runner.ident"
RUN = "ee_runner.run"
DIRECTORY = "ee_runner.private_data_dir"
PID = "ee_runner.supervisor.pid"
START = "ee_runner.supervisor.start"


@dataclass(frozen=True, slots=True)
class JobContainer:
    """A container with these labels; the supervisor is the process that runs its job."""

    id: str
    name: str
    running: bool
    ident: str
    private_data_dir: Path
    supervisor: Identity

    @property
    def abandoned(self) -> bool:
        """Whether the supervisor has surely gone; not so for one that can not be seen from here.

        Engines are shared across containers, and so across pid namespaces, in which the same number is another
        process.
        """
        return self.supervisor.gone


def of_job(ident: str, private_data_dir: Path) -> dict[str, str]:
    """Return the labels for a container of this process."""
    own = Identity.own()
    return {IDENT: ident, DIRECTORY: str(private_data_dir), PID: str(own.pid), START: own.born}


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
        supervisor=Identity(int(pid) if pid.isdigit() else 0, labels.get(START, "")),
    )
