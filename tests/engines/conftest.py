"""The engines that the contract suite runs on; ``ENGINES="docker bwrap"`` leaves the others out by name."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.place import CONTAINERS, Place
from tests.support import images, machine
from tests.support.rootless import RootlessUser

KNOWN = ("podman", "podman-rootless", "docker", "bwrap", "local")
ENGINES = tuple(os.environ.get("ENGINES", " ".join(KNOWN)).split())


def pytest_configure() -> None:
    unknown = set(ENGINES) - set(KNOWN)
    if unknown:
        raise pytest.UsageError(f"ENGINES names {', '.join(sorted(unknown))}; known are {', '.join(KNOWN)}")


@pytest.fixture(scope="session")
def rootless() -> Iterator[RootlessUser]:
    with machine.rootless_user() as user:
        yield user


@pytest.fixture(scope="session")
def prepared(request: pytest.FixtureRequest) -> Iterator[dict[str, images.ImageSet]]:
    """The images of every engine that the suite runs on; what is missing on the machine fails here, in words."""
    with contextlib.ExitStack() as stack:
        machine.ensure_containers_conf()
        if "docker" in ENGINES:
            stack.enter_context(machine.docker_daemon())
        if "podman-rootless" in ENGINES:
            request.getfixturevalue("rootless")
        if "bwrap" in ENGINES and shutil.which("bwrap") is None:
            pytest.fail("bwrap is not installed; run: apt-get install bubblewrap, or leave it out of ENGINES")
        yield {engine: images.ensure(engine) for engine in ENGINES if engine in CONTAINERS}


def make_place(name: str, prepared: dict[str, images.ImageSet], user: RootlessUser | None) -> Place:
    root = Path(tempfile.mkdtemp(prefix="contract-"))
    place = Place(name, prepared.get(name), user, root)
    place.own(root)
    return place


@contextlib.contextmanager
def placed(request: pytest.FixtureRequest, prepared: dict[str, images.ImageSet]) -> Iterator[Place]:
    """Give a fresh directory with the engine of the request's parameter; no container may be left after it."""
    user = request.getfixturevalue("rootless") if request.param == "podman-rootless" else None
    here = make_place(request.param, prepared, user)
    yield here
    left = here.containers()
    if left:
        here.command([here.engine, "rm", "-f", *left])
    here.clear()
    assert not left, f"containers left behind: {left}"


@pytest.fixture(params=ENGINES)
def place(request: pytest.FixtureRequest, prepared: dict[str, images.ImageSet]) -> Iterator[Place]:
    """Each engine in turn."""
    with placed(request, prepared) as here:
        yield here


@pytest.fixture(params=[engine for engine in ENGINES if engine in CONTAINERS])
def contained(request: pytest.FixtureRequest, prepared: dict[str, images.ImageSet]) -> Iterator[Place]:
    """Each engine that has images, in turn."""
    with placed(request, prepared) as here:
        yield here
