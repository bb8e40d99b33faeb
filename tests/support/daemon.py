"""A docker daemon of a test's own, that may be killed: its containers are nobody else's."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .machine import command_line
from .processes import all_pids, checked, end, launch, require_root, signal_if_alive, wait_until

_NETWORK = ("--bridge", "none", "--iptables=false", "--ip-masq=false")
"""A daemon without a bridge removes docker0, whosever it is: it needs a network namespace of its own."""

_BOUND = 60.0
IMAGE = "localhost/ee-runner-tiny:latest"


@dataclass(slots=True)
class Daemon:
    """A daemon whose data, sockets and log lie in one directory; it may be killed and started again."""

    directory: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"unix://{self.directory}/docker.sock"

    @property
    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "DOCKER_HOST": self.url}

    def start(self) -> None:
        places = ("--data-root", self.directory / "data", "--exec-root", self.directory / "exec")
        own = (*places, "--pidfile", self.directory / "pid", "-H", self.url, *_NETWORK)
        for stale in ("pid", "exec/containerd/containerd.pid"):  # of a killed one, which may still be a zombie
            (self.directory / stale).unlink(missing_ok=True)
        self.running.append(
            launch(["unshare", "--net", "dockerd", *own], log=self.directory / "log", ready=self.answers, bound=_BOUND)
        )

    def answers(self) -> bool:
        return (
            subprocess.run(
                ["docker", "info"], env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
            ).returncode
            == 0
        )

    def make_image(self, *programs: str) -> None:
        """Make the image IMAGE of programs of the machine, with the libraries that they need, and nothing else."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", dereference=True) as archive:
            for path in dict.fromkeys(path for program in programs for path in _with_libraries(program)):
                archive.add(path)
        subprocess.run(
            ["docker", "import", "-", IMAGE],
            input=packed.getvalue(),
            env=self.environment,
            capture_output=True,
            check=True,
        )

    def kill(self) -> None:
        """End the daemon by SIGKILL; its containers run on."""
        daemon = self.running.pop()
        daemon.kill()
        daemon.wait()

    def members(self) -> list[int]:
        """Return the processes of this daemon: what it started has its directory among its arguments."""
        return [pid for pid in all_pids() if any(str(self.directory) in word for word in command_line(pid))]

    def close(self) -> None:
        for daemon in self.running:
            end(daemon.pid)
            daemon.wait()
        for pid in self.members():
            signal_if_alive(pid, signal.SIGKILL)
        wait_until(lambda: not self.members(), bound=_BOUND, what=f"end of all of {self.directory}")
        mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for place in reversed([place for place in mounted if place.startswith(f"{self.directory}/")]):
            checked(["umount", "--lazy", place])
        checked(["rm", "-rf", self.directory])


@contextmanager
def own_docker(*programs: str) -> Iterator[Daemon]:
    """Give a docker daemon with an image of these programs; nothing of it is left after the block."""
    require_root("a docker daemon")
    daemon = Daemon(Path(tempfile.mkdtemp(prefix="ee-tests-")))
    try:
        daemon.start()
        daemon.make_image(*programs)
        yield daemon
    finally:
        daemon.close()


def _with_libraries(program: str) -> list[str]:
    return [program, *re.findall(r"(?:=> |^\s*)(/\S+)", checked(["ldd", program]), re.MULTILINE)]
