"""docker: its daemon, rootful or rootless, through the docker client."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from ee_runner.engines import daemon, endings, faults, handover, kept, users
from ee_runner.engines.base import EngineInfo, ImageInfo, Progress
from ee_runner.engines.images import Shortcut, image_name, read_info
from ee_runner.engines.oci import OciEngine
from ee_runner.errors import EngineUnavailable
from ee_runner.executor import Cancellation
from ee_runner.job import ContainerSpec
from ee_runner.plan import ExecutionPlan

_LIMITS = {"memory": "MemoryLimit", "swap": "SwapLimit", "cpus": "CpuCfsQuota", "pids_limit": "PidsLimit"}


class DockerEngine(OciEngine):
    """Runs jobs with docker."""

    name = "docker"
    remedy = "Install docker, or choose another engine (--process-isolation-executable)."

    def check(self) -> EngineInfo:
        known = self._info()
        rootless = any("name=rootless" in option for option in known.get("SecurityOptions") or ())
        return EngineInfo(self.name, self.executable, known["ServerVersion"], rootless)

    def _info(self) -> Mapping[str, Any]:
        """Return what the daemon tells of itself; raises EngineUnavailable when it does not answer."""
        known = daemon.ask(self._url, "/info")
        if known is not None and known.get("ServerVersion"):
            return known
        done = self._control("info", "--format", "{{json .}}")
        fault = faults.daemon_fault(self.name, done.stderr)
        if fault is not None:
            raise EngineUnavailable(fault)
        told: dict[str, Any] = json.loads(done.stdout or "{}") if done.rc == 0 else {}
        if not told.get("ServerVersion"):
            raise EngineUnavailable(f"docker does not work here: {faults.one_line(done.stderr)}")
        return told

    @cached_property
    def _url(self) -> str | None:
        """Where the daemon listens, when that is known without the client."""
        return None if kept.is_script(self.executable) else daemon.endpoint(os.environ)

    def _shortcut(self) -> Shortcut:
        return _Daemon(self._url)

    def _mapping(self) -> users.Mapping:
        return users.Mapping.ROOT_ONLY if self._is_rootless else users.Mapping.ROOTFUL

    @cached_property
    def _is_rootless(self) -> bool:
        return os.geteuid() != 0 and self.check().rootless

    def _event_options(self) -> tuple[str, ...]:
        words = "{{.Action}}{{with .Actor.Attributes.signal}} {{.}}{{end}}"
        return ("--until", f"{time.time():.9f}", "--format", words)

    def _limits_kept(self) -> frozenset[str]:
        """Ask the daemon what the kernel lets it limit: what it can not it leaves out, with a warning."""
        known = self._info()
        return frozenset(limit for limit, name in _LIMITS.items() if known.get(name))

    def _own_options(self, plan: ExecutionPlan) -> tuple[str, ...]:
        """Have the container's id at hand, should the daemon go away: the job runs on without it."""
        return ("--cidfile", str(endings.id_file(plan))) if plan.run_dir.is_dir() else ()

    def _end_processes(self, plan: ExecutionPlan) -> bool:
        try:
            container = endings.id_file(plan).read_text()
        except OSError:
            return False
        return endings.end_processes(container)

    def _init_options(self) -> tuple[str, ...]:
        return ("--init",)

    def _pull(self, container: ContainerSpec, progress: Progress, cancel: Cancellation) -> None:
        from ee_runner.engines import dockerpulls, pulls

        endpoint = self._endpoint()
        if endpoint.startswith("unix://"):
            pulls.follow(dockerpulls.by_daemon(endpoint, container), image_name(container), progress, cancel)
        else:
            self._client_pull(container, progress, cancel)

    def _endpoint(self) -> str:
        """Return where the client's daemon listens: DOCKER_HOST, or that of its current context."""
        stated = self._url or os.environ.get("DOCKER_HOST")
        if stated:
            return stated
        return self._control("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").stdout.strip()

    def _client_pull(self, container: ContainerSpec, progress: Progress, cancel: Cancellation) -> None:
        from ee_runner.engines import pulls

        with handover.scratch(handover.memory()) as scratch:
            words: tuple[str, ...] = ()
            auth = container.auth
            if auth is not None and auth.username is not None and auth.password is not None:
                words = ("--config", str(scratch.write("config.json", pulls.auth_file(auth)).parent))
            argv = (str(self.executable), *words, "pull", image_name(container))
            pulls.by_client(argv, self.name, image_name(container), progress, cancel)


class _Daemon:
    """Images, by the daemon itself."""

    def __init__(self, url: str | None) -> None:
        self._url = url

    def look(self, image: str) -> ImageInfo | None:
        entry = daemon.image(self._url, image)
        return None if entry is None else read_info(entry)

    def learn(self, image: str, entry: Mapping[str, Any], *, began: int) -> None:
        """The daemon is asked each time."""
