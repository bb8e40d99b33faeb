"""Child processes, waiting and sharing for the helpers of the tests."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
RUN = Path("/run/ee-runner-tests")
NOBODY = 65534
SESSION_VARIABLE = "EE_RUNNER_TESTS_SESSION"


class MachineError(RuntimeError):
    """The machine lacks something that the tests need; the message names it and the remedy."""


def wait_until(condition: Callable[[], bool], *, bound: float, what: str) -> None:
    """Return as soon as the condition holds; raise MachineError when it doesn't within `bound` seconds."""
    deadline = time.monotonic() + bound
    while not condition():
        if time.monotonic() > deadline:
            raise MachineError(f"{what}: not seen within {bound:g} seconds")
        time.sleep(0.02)


def checked(argv: Sequence[str | Path], *, stdin: str | None = None) -> str:
    """Run a command to its end and return its standard output; raise MachineError with its words when it fails."""
    done = subprocess.run([*map(str, argv)], input=stdin or "", text=True, capture_output=True, check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip()
        raise MachineError(f"{' '.join(map(str, argv))}: exit code {done.returncode}: {words}")
    return done.stdout


def require_root(what: str) -> None:
    if os.geteuid():
        raise MachineError(f"{what} needs root; run the tests as root, or leave that engine out (ENGINES=...)")


def free_port() -> int:
    """Return a loopback TCP port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def without_session(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a server that other test sessions may use too: it is no leftover of this one."""
    own = (SESSION_VARIABLE, "XDG_RUNTIME_DIR")
    return {name: value for name, value in environ.items() if name not in own}


def alive(pid: int) -> bool:
    """Tell whether the process runs: a zombie doesn't."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def all_pids() -> tuple[int, ...]:
    return tuple(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def parent(pid: int) -> int:
    """Return the parent's pid, or 0 when the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def descendants(pid: int) -> tuple[int, ...]:
    """Return the process's children, their children, and so on, as they are now."""
    children: dict[int, list[int]] = {}
    for other in all_pids():
        children.setdefault(parent(other), []).append(other)
    found: list[int] = []
    queue = [pid]
    while queue:
        queue.extend(below := children.get(queue.pop(), []))
        found.extend(below)
    return tuple(found)


def signal_if_alive(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def end(pid: int, *, grace: float = 15.0) -> None:
    """End a process and all below it: SIGTERM, the grace in seconds, SIGKILL, and seen to be gone."""
    family = (pid, *descendants(pid))
    signal_if_alive(pid, signal.SIGTERM)
    with suppress(MachineError):
        wait_until(lambda: not alive(pid), bound=grace, what=f"end of process {pid}")
    for member in family:
        signal_if_alive(member, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, family)), bound=5, what=f"end of processes {family}")


def launch(
    argv: Sequence[str | Path], *, log: Path, ready: Callable[[], bool], bound: float
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own and wait until it is ready; its words go to `log`."""
    with log.open("ab") as out:
        server = subprocess.Popen(
            [*map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd="/",
            env=without_session(os.environ),
        )
    name = Path(argv[0]).name
    try:
        wait_until(lambda: ready() or server.poll() is not None, bound=bound, what=f"{name} being ready")
        if server.poll() is not None:
            raise MachineError(f"{name} ended at once with exit code {server.returncode}")
    except MachineError as error:
        end(server.pid)
        server.wait()
        raise MachineError(f"{error}; the end of its log:\n{tail(log)}") from None
    return server


@contextmanager
def serving(
    argv: Sequence[str | Path], *, log: Path, ready: Callable[[], bool], bound: float = 30.0
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for as long as the block lasts."""
    server = launch(argv, log=log, ready=ready, bound=bound)
    try:
        yield server
    finally:
        end(server.pid)
        server.wait()


def tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def shared(name: str, *, start: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
    """Share something of the machine between test sessions: each makes sure of it, the last one out stops it.

    `start` must be idempotent; `stop` must leave alone what `start` found there.
    """
    RUN.mkdir(mode=0o755, exist_ok=True)
    with (RUN / f"{name}.users").open("w") as users:
        with exclusively(name):
            fcntl.flock(users, fcntl.LOCK_SH)
            start()
        try:
            yield
        finally:
            with exclusively(name):
                fcntl.flock(users, fcntl.LOCK_UN)
                if nobody_holds(users.fileno()):
                    stop()


@contextmanager
def exclusively(name: str) -> Iterator[None]:
    """Hold the machine-wide lock of this name."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    with (RUN / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def nobody_holds(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def locked(path: Path) -> bool:
    """Tell whether somebody holds a lock on a file or directory; one that is not there is not locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not nobody_holds(descriptor)
    finally:
        os.close(descriptor)


def as_a_user(work: Callable[[], None]) -> None:
    """Do the work in a process without privileges; fail, with its traceback on standard error, when it fails there."""
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
