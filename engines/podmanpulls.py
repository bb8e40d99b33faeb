"""Pulls through podman's service, and what its client needs to know for one."""

from __future__ import annotations

from typing import Any

from ee_runner.engines import faults, handover, pulls
from ee_runner.engines.images import image_name
from ee_runner.job import ContainerSpec, RegistryAuth


def auth_options(auth: RegistryAuth | None, scratch: handover.Scratch) -> tuple[str, ...]:
    if auth is None:
        return ()
    words = () if auth.verify_ssl else ("--tls-verify=false",)
    if auth.username is None or auth.password is None:
        return words
    return (*words, "--authfile", str(scratch.write("auth.json", pulls.auth_file(auth))))


def by_service(socket: str, container: ContainerSpec) -> pulls.Steps:
    """Pull through podman's service: the credentials stay in memory."""
    import podman
    from podman.errors import APIError, PodmanError

    image, auth = image_name(container), container.auth
    credentials: dict[str, Any] | None = None
    if auth is not None and auth.username is not None and auth.password is not None:
        credentials = {"username": auth.username, "password": auth.password.reveal()}
    try:
        with podman.PodmanClient(base_url=socket, timeout=pulls.LONGEST) as client:
            steps: Any = client.images.pull(
                image,
                stream=True,
                decode=True,
                auth_config=credentials,
                tls_verify=auth is None or auth.verify_ssl,
            )
            for step in steps:
                if step.get("error"):
                    raise faults.image_fault("podman", image, step["error"])
                if step.get("stream"):
                    yield pulls.Step(step["stream"].strip())
    except (APIError, PodmanError, OSError) as error:
        raise faults.image_fault("podman", image, str(error)) from error
