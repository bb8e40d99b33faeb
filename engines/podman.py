"""podman, rootful and rootless."""

from __future__ import annotations

import os
import re
import shutil
import sys
from functools import cached_property
from pathlib import Path

from ee_runner.engines import faults, handover, users
from ee_runner.engines.base import EngineInfo, Progress
from ee_runner.engines.images import AlwaysAsk, Shortcut, image_name
from ee_runner.engines.oci import OciEngine
from ee_runner.engines.storage import PodmanMemory
from ee_runner.errors import EngineUnavailable
from ee_runner.executor import Cancellation
from ee_runner.job import ContainerSpec

_INIT_DIRECTORIES = ("/usr/local/libexec/podman", "/usr/local/lib/podman", "/usr/libexec/podman", "/usr/lib/podman")
_INIT_PROGRAMS = ("catatonit", "tini-static", "docker-init", "tini")
_KEEP_ANY_SINCE = (4, 3)
_CONTROLLERS = {"memory": "memory", "cpus": "cpu", "pids_limit": "pids"}
_SWAP_LIMIT = Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")


class PodmanEngine(OciEngine):
    """Runs jobs with podman; `podman-remote` and CONTAINER_HOST work where the service shares this host's files."""

    name = "podman"
    remedy = "Install podman, or choose another engine (--process-isolation-executable)."

    def check(self) -> EngineInfo:
        done = self._control("info", "--format", "{{.Version.Version}}|{{.Host.Security.Rootless}}")
        if done.rc != 0:
            raise EngineUnavailable(
                faults.daemon_fault(self.name, done.stderr)
                or faults.diagnosis(self.name, done.stderr)
                or f"podman does not work here: {faults.one_line(done.stderr)}"
            )
        version, _, rootless = done.stdout.strip().partition("|")
        return EngineInfo(self.name, self.executable, version, rootless == "true")

    def _mapping(self) -> users.Mapping:
        if not self._is_rootless:
            return users.Mapping.ROOTFUL
        asked = PodmanMemory(self.executable).version(lambda: self._control("--version").stdout)
        version = re.search(r"(\d+)\.(\d+)", asked)
        recent = version is None or (int(version[1]), int(version[2])) >= _KEEP_ANY_SINCE
        return users.Mapping.KEEP_ANY if recent else users.Mapping.KEEP_SAME

    def _shortcut(self) -> Shortcut:
        return AlwaysAsk() if self._is_remote else PodmanMemory(self.executable)

    @cached_property
    def _is_remote(self) -> bool:
        return "remote" in Path(self._asked).name or bool({"CONTAINER_HOST", "CONTAINER_CONNECTION"} & set(os.environ))

    @cached_property
    def _is_rootless(self) -> bool:
        return self.check().rootless if self._is_remote else os.geteuid() != 0

    def _global_options(self) -> tuple[str, ...]:
        return ("--log-level=error",)

    def _event_options(self) -> tuple[str, ...]:
        return ("--stream=false", "--format", "{{.Status}}")  # with --until, podman 4.3 misses some

    def _limits_kept(self) -> frozenset[str]:
        """Ask podman which control groups it has: without them it ignores the limits, or fails to start."""
        done = self._control("info", "--format", '{{.Host.CgroupsVersion}} {{join .Host.CgroupControllers " "}}')
        if done.rc != 0:
            return frozenset()
        version, *controllers = done.stdout.split() or [""]
        swap = version == "v2" or self._is_remote or _SWAP_LIMIT.exists()
        kept = {limit for limit, controller in _CONTROLLERS.items() if controller in controllers}
        return frozenset(kept | ({"swap"} if swap else set()))

    def _init_options(self) -> tuple[str, ...]:
        """Name the init program: podman knows only catatonit's own place, and distributions leave that out.

        Without any, the job is told to stop by SIGINT, which Python hears even as pid 1.
        """
        if sys.platform != "linux":
            return ("--init",)
        elsewhere = self._is_remote and not os.environ.get("CONTAINER_HOST", "").startswith("unix://")
        program = None if elsewhere else _find_init()
        return ("--init", "--init-path", str(program)) if program is not None else ("--stop-signal", "SIGINT")

    def _pull(self, container: ContainerSpec, progress: Progress, cancel: Cancellation) -> None:
        from ee_runner.engines import podmanpulls, pulls

        socket = self._socket()
        if socket is not None:
            pulls.follow(podmanpulls.by_service(socket, container), image_name(container), progress, cancel)
        else:
            self._client_pull(container, progress, cancel)

    def _socket(self) -> str | None:
        """Return the URL of podman's service, where it runs; nothing is started for a pull."""
        from ee_runner.engines import pulls

        if self._is_remote:
            stated = os.environ.get("CONTAINER_HOST", "")
            return stated if stated.startswith("unix://") else None
        runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}") if self._is_rootless else "/run"
        path = Path(runtime, "podman", "podman.sock")
        return f"unix://{path}" if pulls.answers(path) else None

    def _client_pull(self, container: ContainerSpec, progress: Progress, cancel: Cancellation) -> None:
        from ee_runner.engines import podmanpulls, pulls

        with handover.scratch(handover.memory()) as scratch:
            argv = (
                str(self.executable),
                *self._global_options(),
                "pull",
                *podmanpulls.auth_options(container.auth, scratch),
            )
            pulls.by_client((*argv, image_name(container)), self.name, image_name(container), progress, cancel)


def _find_init() -> Path | None:
    candidates = [Path(directory, "catatonit") for directory in _INIT_DIRECTORIES]
    candidates += [Path(found) for program in _INIT_PROGRAMS if (found := shutil.which(program))]
    return next((path for path in candidates if path.exists() and _is_static(path)), None)


def _is_static(program: Path) -> bool:
    """Say whether a program needs no libraries, and so runs in any image."""
    with program.open("rb") as file:
        return b"/ld-" not in file.read(4096)
