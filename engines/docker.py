"""docker: its daemon, rootful or rootless, through the docker client."""

from __future__ import annotations

import os
import time
from functools import cached_property
from typing import Any

from ee_runner.engines import endings, faults, handover, pulls, users
from ee_runner.engines.base import EngineInfo, Progress
from ee_runner.engines.images import image_name
from ee_runner.engines.oci import OciEngine
from ee_runner.errors import EngineUnavailable
from ee_runner.executor import Cancellation
from ee_runner.job import ContainerSpec
from ee_runner.plan import ExecutionPlan


class DockerEngine(OciEngine):
    """Runs jobs with docker."""

    name = "docker"
    remedy = "Install docker, or choose another engine (--process-isolation-executable)."

    def check(self) -> EngineInfo:
        wanted = "{{.ServerVersion}}|{{json .SecurityOptions}}"
        done = self._control("info", "--format", wanted)
        fault = faults.daemon_fault(self.name, done.stderr)
        if fault is not None:
            raise EngineUnavailable(fault)
        version, _, security = done.stdout.strip().partition("|")
        if done.rc != 0 or not version:
            raise EngineUnavailable(f"docker does not work here: {faults.one_line(done.stderr)}")
        return EngineInfo(self.name, self.executable, version, "name=rootless" in security)

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
        wanted = "{{.MemoryLimit}} {{.SwapLimit}} {{.CPUCfsQuota}} {{.PidsLimit}}"
        told = self._control("info", "--format", wanted).stdout.split()
        limits = ("memory", "swap", "cpus", "pids_limit")
        return frozenset(limit for limit, kept in zip(limits, told, strict=False) if kept == "true")

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
        endpoint = self._endpoint()
        if endpoint.startswith("unix://"):
            pulls.follow(_sdk_pull(endpoint, container), image_name(container), progress, cancel)
        else:
            self._client_pull(container, progress, cancel)

    def _endpoint(self) -> str:
        """Return where the client's daemon listens: DOCKER_HOST, or that of its current context."""
        stated = os.environ.get("DOCKER_HOST")
        if stated:
            return stated
        return self._control("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").stdout.strip()

    def _client_pull(self, container: ContainerSpec, progress: Progress, cancel: Cancellation) -> None:
        with handover.scratch(handover.memory()) as scratch:
            words: tuple[str, ...] = ()
            auth = container.auth
            if auth is not None and auth.username is not None and auth.password is not None:
                words = ("--config", str(scratch.write("config.json", pulls.auth_file(auth)).parent))
            argv = (str(self.executable), *words, "pull", image_name(container))
            pulls.by_client(argv, self.name, image_name(container), progress, cancel)


def _sdk_pull(endpoint: str, container: ContainerSpec) -> pulls.Steps:
    """Pull through the daemon's socket: bytes are counted per layer, the credentials stay in memory."""
    import docker
    from docker.errors import APIError, DockerException
    from docker.utils import parse_repository_tag

    image, auth = image_name(container), container.auth
    credentials: dict[str, Any] | None = None
    if auth is not None and auth.username is not None and auth.password is not None:
        credentials = {"username": auth.username, "password": auth.password.reveal(), "serveraddress": auth.host}
    try:
        client = docker.APIClient(base_url=endpoint, timeout=pulls.LONGEST, version="auto")
        try:
            repository, tag = parse_repository_tag(image)
            steps = client.pull(repository, tag or "latest", stream=True, decode=True, auth_config=credentials)
            counts: dict[str, tuple[int, int]] = {}
            for step in steps:
                if "error" in step:
                    raise faults.image_fault("docker", image, step["error"])
                yield _step(step, counts)
        finally:
            client.close()
    except APIError as error:
        raise faults.image_fault("docker", image, str(error.explanation or error)) from error
    except (DockerException, OSError) as error:
        raise faults.image_fault("docker", image, str(error)) from error


def _step(step: dict[str, Any], counts: dict[str, tuple[int, int]]) -> pulls.Step:
    """Add one message on a layer to the counts, and return how far the whole pull is."""
    detail, layer = step.get("progressDetail") or {}, step.get("id", "")
    if step.get("status") == "Downloading" and detail.get("total"):
        counts[layer] = (detail["current"], detail["total"])
    elif step.get("status") in ("Download complete", "Pull complete") and layer in counts:
        counts[layer] = (counts[layer][1], counts[layer][1])
    current, total = (sum(column) for column in zip(*counts.values(), strict=True)) if counts else (0, 0)
    return pulls.Step(f"{layer} {step.get('status', '')}".strip(), current, total)
