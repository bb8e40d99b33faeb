"""Sets up the machine for the tests: podman's settings, the docker daemon, podman's service, and what is left over."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .processes import (
    RUN,
    SESSION_VARIABLE,
    MachineError,
    all_pids,
    checked,
    end,
    launch,
    require_root,
    serving,
    shared,
)
from .rootless import RootlessUser, rootless_user

__all__ = [
    "Leftovers",
    "MachineError",
    "RootlessUser",
    "Session",
    "docker_daemon",
    "ensure_containers_conf",
    "leftovers",
    "podman_service",
    "rootless_user",
    "start_session",
]

CONTAINERS_CONF = Path("/etc/containers/containers.conf.d/ee-runner-tests.conf")
DOCKER_PID = RUN / "dockerd.pid"
# The daemon may outlive the session that started it, but a child must be waited for by its parent.
OWN_DAEMONS: dict[int, subprocess.Popen[bytes]] = {}
CAP_SYS_RESOURCE = 24
# What podman asks for, and what rootless podman may have too: it lowers its own hard limit of processes.
PODMAN_LIMIT = 1048576
MODEST_LIMIT = 20000
CONTAINER_PREFIX = "ansible_runner_"
FILE_PREFIXES = ("ansible_runner", "ansible-runner", "ee_runner", "ee-runner")
FILE_PLACES = (Path(tempfile.gettempdir()), Path("/tmp"), Path("/run"), Path("/dev/shm"))
# Rootless podman keeps one process of this kind for a user's namespace; it belongs to no container.
PAUSE_PROCESSES = (("podman",), ("catatonit", "-P"))


def ensure_containers_conf() -> None:
    """Write the settings without which podman can't run on this machine, if there are any, and say so."""
    mqueue = Path("/dev/mqueue")
    if not os.geteuid():
        mqueue.mkdir(exist_ok=True)
    wanted = containers_conf()
    present = CONTAINERS_CONF.read_text() if CONTAINERS_CONF.exists() else ""
    if wanted == present:
        return
    if not wanted:
        CONTAINERS_CONF.unlink()
        return
    if os.geteuid():
        raise MachineError(f"podman needs these settings here; as root, write to {CONTAINERS_CONF}:\n{wanted}")
    CONTAINERS_CONF.parent.mkdir(parents=True, exist_ok=True)
    CONTAINERS_CONF.write_text(wanted)
    sys.stderr.write(f"podman needs settings here; written to {CONTAINERS_CONF}:\n{wanted}")


def containers_conf() -> str:
    """Return what podman must be told: the limits that it may set, and a runtime that knows these cgroups."""
    limits = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    hard = {name: resource.getrlimit(kind)[1] for name, kind in limits.items()}
    lines = []
    if not may_raise_limits() and any(0 <= limit < PODMAN_LIMIT for limit in hard.values()):
        modest = (min(limit, MODEST_LIMIT) if limit >= 0 else MODEST_LIMIT for limit in hard.values())
        quoted = ", ".join(f'"{name}={limit}:{limit}"' for name, limit in zip(hard, modest, strict=True))
        lines += ["[containers]", f"default_ulimits = [{quoted}]"]
    if Path("/sys/fs/cgroup/unified").is_dir() and shutil.which("runc"):
        lines += ["[engine]", 'runtime = "runc"']
    return "".join(f"{line}\n" for line in lines)


def may_raise_limits() -> bool:
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(effective.split()[1], 16) >> CAP_SYS_RESOURCE & 1)


@contextmanager
def docker_daemon() -> Iterator[None]:
    """Use the docker daemon that runs; start one where none does, which the last test session out stops."""
    if docker_answers() and not DOCKER_PID.exists():
        yield
        return
    require_root("a docker daemon")
    with shared("dockerd", start=start_dockerd, stop=stop_dockerd):
        yield


def docker_answers() -> bool:
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    return subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def start_dockerd() -> None:
    if docker_answers():
        return
    if not shutil.which("dockerd"):
        raise MachineError("dockerd is not installed; run: apt-get install docker.io")
    daemon = launch(["dockerd"], log=RUN / "dockerd.log", ready=docker_answers, bound=60)
    DOCKER_PID.write_text(str(daemon.pid))
    OWN_DAEMONS[daemon.pid] = daemon


def stop_dockerd() -> None:
    if not DOCKER_PID.exists():
        return
    pid = int(DOCKER_PID.read_text())
    if command_line(pid)[:1] == ("dockerd",):
        end(pid)
    if pid in OWN_DAEMONS:
        OWN_DAEMONS.pop(pid).wait()
    DOCKER_PID.unlink()
    (RUN / "dockerd.log").unlink()


@contextmanager
def podman_service(user: RootlessUser | None = None) -> Iterator[str]:
    """Run `podman system service`, of root or of the user; gives the URL of its socket."""
    directory = Path(tempfile.mkdtemp(prefix="ee-tests-"))
    socket = directory / "podman.sock"
    argv = ["podman", "system", "service", "--time", "0", f"unix://{socket}"]
    if user is not None:
        user.own(directory)
        argv = [*user.prefix(), *argv]
    try:
        with serving(argv, log=directory / "log", ready=socket.exists):
            yield f"unix://{socket}"
    finally:
        shutil.rmtree(directory)


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the tests: the mark that its processes inherit, and the files that were there before it."""

    mark: str
    files: frozenset[str]


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What jobs have left behind: names of containers, `PID command` of processes, paths of files."""

    containers: tuple[str, ...]
    processes: tuple[str, ...]
    files: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.containers or self.processes or self.files)


def start_session() -> Session:
    """Mark the processes that are started from now on, through their environment, as this session's."""
    mark = uuid.uuid4().hex
    os.environ[SESSION_VARIABLE] = mark
    return Session(mark=mark, files=frozenset(job_files()))


def leftovers(session: Session, *, engines: Sequence[str] = (), user: RootlessUser | None = None) -> Leftovers:
    """Return what is left of the session's jobs.

    Containers are looked for in the stores of `engines` (podman, docker, podman-rootless; the last needs `user`).
    """
    return Leftovers(
        containers=tuple(name for engine in engines for name in containers(engine, user)),
        processes=tuple(f"{pid} {' '.join(command_line(pid))}" for pid in all_pids() if is_stray(pid, session)),
        files=tuple(sorted(job_files() - session.files)),
    )


def containers(engine: str, user: RootlessUser | None) -> tuple[str, ...]:
    """Return the names of the job containers in the engine's store, running or not."""
    program = "docker" if engine == "docker" else "podman"
    listing = [program, "ps", "--all", "--filter", f"name={CONTAINER_PREFIX}", "--format", "{{.Names}}"]
    if engine != "podman-rootless":
        return tuple(checked(listing).split())
    if user is None:
        raise MachineError("the containers of podman-rootless are its user's: pass user=")
    return tuple(user.run(listing, check=True).stdout.split())


def is_stray(pid: int, session: Session) -> bool:
    """Tell whether the process, whoever is its parent by now, was started in this session."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    marked = f"{SESSION_VARIABLE}={session.mark}".encode() in environ.split(b"\0")
    return marked and command_line(pid) not in PAUSE_PROCESSES


def command_line(pid: int) -> tuple[str, ...]:
    """Return the process's arguments, the first without its directory; none when the process is gone."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return ()
    return (Path(arguments[0]).name, *arguments[1:]) if arguments else ()


def job_files() -> set[str]:
    """Return the files and directories of jobs in the places for temporary ones."""
    return {
        str(entry)
        for place in FILE_PLACES
        for entry in place.glob("*")
        if entry.name.lstrip(".").startswith(FILE_PREFIXES) and entry != RUN
    }
