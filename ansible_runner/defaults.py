"""Default values, by the names that programs import."""

from ee_runner.options import DEFAULT_IMAGE

__all__ = ["default_container_image", "default_process_isolation_executable"]

default_container_image = DEFAULT_IMAGE
default_process_isolation_executable = "podman"
