"""Default values, by the names that programs import."""

from ee_runner.cleanup import EXECUTABLE, GRACE_PERIOD
from ee_runner.cleanup.directories import REGISTRY_AUTH_PREFIX
from ee_runner.options import DEFAULT_IMAGE

__all__ = [
    "AUTO_CREATE_DIR",
    "AUTO_CREATE_NAMING",
    "GRACE_PERIOD_DEFAULT",
    "default_container_image",
    "default_process_isolation_executable",
    "registry_auth_prefix",
]

default_container_image = DEFAULT_IMAGE
default_process_isolation_executable = EXECUTABLE
registry_auth_prefix = REGISTRY_AUTH_PREFIX

GRACE_PERIOD_DEFAULT = GRACE_PERIOD

# Where the private data directory is made when none is given, and how its name begins.
AUTO_CREATE_DIR: str | None = None
AUTO_CREATE_NAMING = ".ansible-runner-"
