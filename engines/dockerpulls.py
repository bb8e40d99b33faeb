"""Pulls through docker's daemon."""

from __future__ import annotations

from typing import Any

from ee_runner.engines import faults, pulls
from ee_runner.engines.images import image_name
from ee_runner.job import ContainerSpec


def by_daemon(endpoint: str, container: ContainerSpec) -> pulls.Steps:
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
