"""The execution environment images of the tests, in each engine's own store."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from .processes import REPO, checked
from .rootless import USER

BUILD = REPO / "images" / "build"
STORES = {
    "podman": ("--engine", "podman"),
    "docker": ("--engine", "docker"),
    "podman-rootless": ("--engine", "podman", "--user", USER),
}


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Names of images that differ in their Ansible or in the user they run as.

    `default` has the newest ansible-core that its Python runs, and runs as root; `debian` has Debian's 2.14.
    `user` runs as 1000, who has an entry in passwd and a home; `uid` as 12345, who has neither.
    """

    default: str
    debian: str
    user: str
    uid: str


def ensure(engine: str) -> ImageSet:
    """Make the test images present in the engine's store: podman, docker or podman-rootless.

    The docker daemon must run; for podman-rootless the user must exist.
    """
    return ImageSet(*build("test", engine))


def build(image: str, engine: str, *options: str) -> tuple[str, ...]:
    """Run images/build for one of its images in this engine's store and return the names it made."""
    python = f"PYTHON={sys.executable}"
    return tuple(checked(["env", python, BUILD, image, *STORES[engine], *options]).split())
