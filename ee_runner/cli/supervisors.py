"""Finds the processes that run the jobs of a private data directory: by their records, or by the locks that they hold.

Nothing in the directory is believed, since a job inside may be able to write to it. A job of this user's has a
record (`ee_runner.underway`). One without, such as another user's, is found by the process that holds the lock of its
artifact directory: that process belongs to the owner of that directory, has it open, and has locked it itself.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ee_runner.errors import ArtifactError
from ee_runner.processes import Identity
from ee_runner.underway import Underway, underway

_COMMANDS = ("ansible-runner", "ee_runner")


@dataclass(frozen=True, slots=True)
class Supervisor:
    """A process that runs a job; `record` is the job's, where it has one.

    One that is `stoppable` is a command, which cancels its job on SIGTERM. `elsewhere` says where it is when no signal
    reaches it from here.
    """

    ident: str
    artifact_dir: Path
    process: Identity
    stoppable: bool
    record: Underway | None = None
    elsewhere: str = ""

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return f"process {self.process.pid} {self.elsewhere}".rstrip()


def of_directory(directory: Path, *, ident: str | None, artifacts: Path | None) -> list[Supervisor]:
    """Return who runs the jobs of a private data directory, by ident.

    `ident` and `artifacts`, the directory in which each job has its own, choose among them. Raises ArtifactError when
    this user may not look there.
    """
    recorded = [_recorded(record) for record in underway(directory, ident) if _is_below(artifacts, record)]
    known = {job.artifact_dir.resolve() for job in recorded}
    locked = [job for job in _locked(directory, ident, artifacts) if job.artifact_dir.resolve() not in known]
    return sorted([*recorded, *locked], key=lambda job: job.ident)


def _is_below(artifacts: Path | None, record: Underway) -> bool:
    return artifacts is None or record.artifact_dir.parent.resolve() == artifacts.resolve()


def _recorded(record: Underway) -> Supervisor:
    where = _elsewhere(record)
    return Supervisor(record.ident, record.artifact_dir, record.supervisor, record.stoppable, record, where)


def _elsewhere(record: Underway) -> str:
    """Say where a supervisor is that can not be seen from here, although it holds its record."""
    if record.supervisor.runs:
        return ""
    if not record.is_of_this_host:
        return f"on {record.host}"
    return "in another pid namespace" if record.supervisor.born and not record.supervisor.gone else ""


def _locked(directory: Path, ident: str | None, artifacts: Path | None) -> Iterator[Supervisor]:
    root = artifacts or directory / "artifacts"
    jobs = _directories(root, follow=artifacts is not None)
    wanted = {name: found for name, found in jobs.items() if ident in (None, name)}
    for process, name in _holders(wanted):
        yield Supervisor(name, root / name, process, stoppable=_is_command(process.pid))


def _directories(root: Path, *, follow: bool) -> dict[str, os.stat_result]:
    """Return the directories in `root`, by name; no link, for it may lead to the jobs of another directory."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(root, flags)
    except PermissionError as error:
        raise ArtifactError(f"Jobs in {root} can not be seen by this user: permission denied.") from error
    except OSError:
        return {}
    try:
        names = os.listdir(descriptor)  # noqa: PTH208 - of a descriptor
        found = {name: each for name in names if (each := _stat(name, descriptor)) is not None}
        return {name: each for name, each in found.items() if stat.S_ISDIR(each.st_mode)}
    finally:
        os.close(descriptor)


def _stat(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:  # it is removed this moment
        return None


def _holders(directories: Mapping[str, os.stat_result]) -> Iterator[tuple[Identity, str]]:
    """Yield the processes that hold the lock of one of these directories."""
    owners = {found.st_uid for found in directories.values()}
    for pid in _pids() if owners else ():
        with contextlib.suppress(OSError):  # it has ended, or is not to be looked into
            owner = os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116 - as often as there are processes
            process = Identity.of(pid)
            for name in _held_by(pid, owner, directories) if owner in owners else ():
                if process.runs:
                    yield process, name


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    except OSError:
        return []


def _held_by(pid: int, owner: int, directories: Mapping[str, os.stat_result]) -> set[str]:
    held = set()
    for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - names alone
        link = f"/proc/{pid}/fd/{number}"
        with contextlib.suppress(OSError):
            name = os.readlink(link).rpartition("/")[2]  # noqa: PTH115 - first, since it never waits for a file system
            wanted = directories.get(name)
            if (
                wanted is not None
                and wanted.st_uid == owner
                and os.path.samestat(os.stat(link), wanted)  # noqa: PTH116
                and _has_locked(pid, number)
            ):
                held.add(name)
    return held


def _has_locked(pid: int, number: str) -> bool:
    """Say whether a process has itself locked what it has open, see proc(5) on fdinfo; a fork has it open only."""
    for line in Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines():
        words = line.split()
        if words[:1] == ["lock:"] and "FLOCK" in words and str(pid) in words:
            return True
    return False


def _is_command(pid: int) -> bool:
    """Say whether a process is the command of this package, and not a program that uses its library."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(os.fsdecode(word).rpartition("/")[2] in _COMMANDS for word in words[:4])
