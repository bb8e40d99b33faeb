"""What this node has for jobs, and the identifier by which a controller knows it: ``worker --worker-info``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ee_runner import locks
from ee_runner.errors import ArtifactError, RunnerError

COMPATIBLE_WITH = "2.4.3"
"""The release of ansible-runner whose stream, commands and artifacts these are: controllers read it as the version."""

IDENTIFIER = ".ansible_runner_uuid"
"""The file in the home directory that keeps the identifier."""

_ROOT = Path("/")
_PERIOD = 100_000
_PLAIN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+\.\d+\.\d+")
_PLAUSIBLE = re.compile(r"[!-~]{1,40}")
_T = TypeVar("_T")


def info(environ: Mapping[str, str], *, root: Path = _ROOT) -> dict[str, object]:
    """Return what a controller wants to know of this node; what can not be told is None, and `errors` says why.

    The keys are those of ansible-runner 2.4. AWX takes a node with errors out of service.
    """
    errors: list[str] = []
    return {
        "cpu_count": cpu_count(root),
        "errors": errors,
        "mem_in_bytes": _told(lambda: memory(root), errors),
        "runner_version": COMPATIBLE_WITH,
        "uuid": _told(lambda: identifier(_home(environ) / IDENTIFIER), errors),
    }


def as_yaml(info: Mapping[str, object]) -> str:
    """Return the mapping as one line of YAML in flow style, its keys sorted, with a line break at the end."""
    return "{" + ", ".join(f"{key}: {_flow(info[key])}" for key in sorted(info)) + "}\n"


def cpu_count(root: Path = _ROOT) -> int:
    """Return how many processors a job can keep busy: those that this process may use, within its cgroup's quota."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, cpu_limit(root) or usable)


def memory(root: Path = _ROOT) -> int:
    """Return the bytes of memory that jobs can have: the machine's, or what this process's cgroup is limited to.

    Raises RunnerError when the system does not tell.
    """
    path = root / "proc/meminfo"
    try:
        found = re.search(r"^MemTotal:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError as error:
        raise RunnerError(f"The size of the memory is unknown: {path}: {error.strerror or error}.") from error
    if found is None:
        raise RunnerError(f"The size of the memory is unknown: {path} has no MemTotal.")
    total = int(found[1]) * 1024
    return min(total, memory_limit(root) or total)


def cpu_limit(root: Path = _ROOT) -> int | None:
    """Return the processors that this process's cgroup and those above it grant, rounded up; None without a limit."""
    limits = []
    for level in _levels(root, "cpu"):
        quota, period = _v2_quota(level) or _v1_quota(level) or (0, 0)
        if quota > 0 and period > 0:
            limits.append(max(-(-quota // period), 1))
    return min(limits, default=None)


def memory_limit(root: Path = _ROOT) -> int | None:
    """Return the bytes that this process's cgroup and those above it grant; None without a limit."""
    names = ("memory.max", "memory.limit_in_bytes")
    limits = [numbers[0] for level in _levels(root, "memory") for name in names if (numbers := _numbers(level / name))]
    return min((limit for limit in limits if limit > 0), default=None)


def identifier(path: Path, *, mode: int = 0o600) -> str:
    """Return the identifier that a file holds; it is made, once for all who ask at the same time, where it is absent.

    Raises ArtifactError when it can not be kept there.
    """
    try:
        found = _read_identifier(path, mode) or _make_identifier(path, mode)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(
            f"The identifier of this node can not be kept in {path}: {reason}. Make it readable and writable for this "
            "user, or set HOME to a directory that is."
        ) from error
    if not _PLAUSIBLE.fullmatch(found):
        raise ArtifactError(f"{path} holds no identifier of a node. Remove it, and a new one is made.")
    return found


def _told(ask: Callable[[], _T], errors: list[str]) -> _T | None:
    try:
        return ask()
    except RunnerError as error:
        errors.append(str(error))
        return None


def _home(environ: Mapping[str, str]) -> Path:
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError as error:
        raise ArtifactError("The identifier of this node has no place: this user has no home. Set HOME.") from error


def _flow(value: object) -> str:
    """Return a value as a flow scalar or sequence; text that could be read as something else is quoted."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else '"' + "".join(map(_escaped, value)) + '"'
    return json.dumps(value)


def _escaped(letter: str) -> str:
    """Escape what is not ASCII as YAML does; JSON's pairs of surrogates would stay two characters in it."""
    return f"\\U{ord(letter):08x}" if ord(letter) > 0xFFFF else json.dumps(letter)[1:-1]


# The cgroups of this process (cgroups(7), proc_pid_mountinfo(5))


def _levels(root: Path, controller: str) -> Iterator[Path]:
    """Yield the directories of this process's cgroup and those above it, in each hierarchy with this controller."""
    groups = dict(_own_groups(root))
    for kind, options, top, mounted in _mounts(root):
        name = "" if kind == "cgroup2" else controller
        if name not in groups or (name and name not in options):
            continue
        base = root / mounted.lstrip("/")
        level = base / _below(groups[name], top)
        yield level
        while level != base:
            level = level.parent
            yield level


def _own_groups(root: Path) -> Iterator[tuple[str, str]]:
    """Yield each controller with the path of this process's cgroup; that of version 2 goes by the empty name."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        yield from ((controller, path) for controller in controllers.split(","))


def _mounts(root: Path) -> Iterator[tuple[str, list[str], str, str]]:
    """Yield the cgroup mounts: the type, the options, the cgroup that is mounted, and where."""
    for line in _lines(root / "proc/self/mountinfo"):
        place, _, system = line.partition(" - ")
        kind, *rest = system.split()
        if kind in ("cgroup", "cgroup2"):
            yield kind, rest[-1].split(","), place.split()[3], place.split()[4]


def _below(group: str, top: str) -> str:
    """Return where a cgroup lies below the one that is mounted, which itself it is when it is not visible there."""
    path = os.path.relpath(group, top)
    return "" if path.startswith("..") else path


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _v2_quota(level: Path) -> tuple[int, int] | None:
    numbers = _numbers(level / "cpu.max")
    return (numbers[0], numbers[1] if len(numbers) > 1 else _PERIOD) if numbers else None


def _v1_quota(level: Path) -> tuple[int, int] | None:
    quota, period = _numbers(level / "cpu.cfs_quota_us"), _numbers(level / "cpu.cfs_period_us")
    return (quota[0], period[0] if period else _PERIOD) if quota else None


def _numbers(path: Path) -> list[int]:
    """Return the numbers in a file of a cgroup, none when the file is absent or says ``max``."""
    try:
        return [int(word) for word in path.read_text().split()]
    except (OSError, ValueError):
        return []


# The identifier


def _read_identifier(path: Path, mode: int) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        locks.take(descriptor, shared=True, wait=True)
        _keep_mode(descriptor, mode)
        return file.read(200).decode(errors="replace").strip()


def _make_identifier(path: Path, mode: int) -> str:
    import uuid

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "r+b") as file:
        locks.take(descriptor, wait=True)
        _keep_mode(descriptor, mode)
        found = file.read(200).decode(errors="replace").strip()
        if found:  # another process was first
            return found
        made = str(uuid.uuid4())
        file.seek(0)
        file.truncate()
        file.write(made.encode())
        file.flush()
        os.fsync(descriptor)  # before the lock goes: the file is never seen empty again
        return made


def _keep_mode(descriptor: int, mode: int) -> None:
    """Give the file its mode, when it is this user's to give."""
    with suppress(PermissionError):
        if os.fstat(descriptor).st_mode & 0o7777 != mode:
            os.fchmod(descriptor, mode)
