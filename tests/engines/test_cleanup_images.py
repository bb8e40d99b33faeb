"""Cleaning up with real engines: images lose the names that are meant, containers keep the directories they use."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ee_runner import cleanup
from ee_runner.engines import labels
from ee_runner.errors import ConfigurationError
from ee_runner.names import container_name
from tests.engines.conftest import ENGINES
from tests.engines.place import CONTAINERS, Place
from tests.support import processes
from tests.support.processes import REPO

PROGRAM = "import json, sys; from ee_runner import cleanup; cleanup.run(say=print, **json.loads(sys.argv[1]))"
OF_THIS_USER = [name for name in ENGINES if name in CONTAINERS and name != "podman-rootless"]


def clean(place: Place, *, env: Mapping[str, str] | None = None, **options: Any) -> list[str]:
    """Clean up as the place's user and return the lines."""
    python = str(place.user.python) if place.user is not None else sys.executable
    variables = [f"{name}={value}" for name, value in (env or {}).items()]
    given = json.dumps({"executable": place.engine, "grace_period": 0, **options})
    done = place.command(["env", *variables, python, "-c", PROGRAM, given])
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def engine(place: Place, *words: str) -> str:
    done = place.command([place.engine, *words])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def image_of(place: Place) -> str:
    assert place.images is not None
    return place.images.default


def names_of(place: Place, name: str) -> set[str]:
    """Return the tags of a repository; podman lists an image's other names too."""
    names = engine(place, "images", "--format", "{{.Repository}}:{{.Tag}}", name).split()
    return {tag for repository, _, tag in (each.rpartition(":") for each in names) if repository == name}


def end(place: Place, container: str) -> None:
    """End a container that is deaf to SIGTERM at once."""
    for words in (("kill", container), ("rm", "--force", container)):
        place.command([place.engine, *words])


# Images


@pytest.fixture
def repository(contained: Place) -> Iterator[str]:
    """A name for images of a test; an image that was made under it goes at the end, whatever its names are then."""
    name = f"localhost/ee-cleanup-{os.urandom(4).hex()}"
    yield name
    listing = engine(contained, "images", "--all", "--quiet", "--no-trunc", "--filter", f"label={name}")
    for made in set(listing.split()):
        contained.command([contained.engine, "rmi", "--force", made])


@pytest.fixture
def image(contained: Place, repository: str) -> str:
    """The name of an image of the test's own."""
    made = engine(contained, "create", image_of(contained), "true")
    engine(contained, "commit", "--change", f"LABEL {repository}=test", made, f"{repository}:one")
    engine(contained, "rm", made)
    return f"{repository}:one"


@pytest.mark.parametrize("contained", OF_THIS_USER, indirect=True)
def test_a_name_is_taken_from_its_image_and_other_names_stay(contained: Place, repository: str, image: str) -> None:
    for tag in ("two", "three"):
        engine(contained, "tag", image, f"{repository}:{tag}")
    wanted = [image, f"{repository}:absent", "registry.invalid/absent", "no name", ""]
    assert clean(contained, remove_images=wanted) == ["Removed 1 image(s)", "(changed: True)"]
    assert names_of(contained, repository) == {"two", "three"}
    assert clean(contained, remove_images=wanted) == ["(changed: False)"]
    engine(contained, "tag", f"{repository}:two", f"{repository}-other:two")
    assert clean(contained, remove_images=[repository]) == ["Removed 2 image(s)", "(changed: True)"]
    assert (names_of(contained, repository), names_of(contained, f"{repository}-other")) == (set(), {"two"})
    short = f"{repository}-other".removeprefix("localhost/")
    removed = clean(contained, remove_images=[short, f"{repository}-other:t?o"])
    assert removed == ["Removed 1 image(s)", "(changed: True)"]


@pytest.mark.parametrize("contained", OF_THIS_USER, indirect=True)
def test_a_running_container_keeps_its_image(contained: Place, repository: str, image: str) -> None:
    container = engine(contained, "run", "--detach", "--rm", image, "sleep", "100")
    identifier = engine(contained, "inspect", "--format", "{{.Image}}", container)
    try:
        assert clean(contained, remove_images=[image]) == ["Removed 1 image(s)", "(changed: True)"]
        assert names_of(contained, repository) == set()
        engine(contained, "exec", container, "true")
        engine(contained, "image", "inspect", identifier)
    finally:
        end(contained, container)
        contained.command([contained.engine, "rmi", identifier])


@contextmanager
def own_podman(root: Path) -> Iterator[dict[str, str]]:
    """Give the variables of a store of the test's own, so that pruning it takes nobody's images."""
    store = root / "storage.conf"
    store.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{root}/graph"\nrunroot = "{root}/run"\n')
    yield {"CONTAINERS_STORAGE_CONF": str(store)}


@contextmanager
def own_docker(root: Path) -> Iterator[dict[str, str]]:
    """Give the variables of a daemon of the test's own, so that pruning takes nobody's images.

    It has a network of its own too: it would take the bridge of the machine's daemon away.
    """
    variables = {"DOCKER_HOST": f"unix://{root}/docker.sock"}
    argv = [
        "unshare",
        "--net",
        "dockerd",
        "--host",
        variables["DOCKER_HOST"],
        "--data-root",
        f"{root}/data",
        "--exec-root",
        f"{root}/exec",
    ]
    argv += ["--pidfile", f"{root}/pid", "--bridge", "none", "--iptables=false", "--storage-driver", "vfs"]
    ready = ["env", *(f"{name}={value}" for name, value in variables.items()), "docker", "info"]

    def answers() -> bool:
        return subprocess.run(ready, capture_output=True, check=False).returncode == 0

    with processes.serving(argv, log=root / "log", ready=answers, bound=60):
        yield variables


def archive(directory: Path, text: str) -> str:
    """Write the archive of a tiny image."""
    with tarfile.open(directory / f"{text}.tar", "w") as tar:
        file = tarfile.TarInfo("file")
        file.size = len(text)
        tar.addfile(file, io.BytesIO(text.encode()))
    return f"{directory}/{text}.tar"


@pytest.mark.parametrize("contained", OF_THIS_USER, indirect=True)
def test_images_without_a_name_are_pruned(contained: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    own = own_docker if contained.name == "docker" else own_podman
    with own(contained.root) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        first = engine(contained, "import", archive(contained.root, "one"), "localhost/ee-cleanup:named")
        assert clean(contained, image_prune=True) == ["(changed: False)"]
        second = engine(contained, "import", archive(contained.root, "two"), "localhost/ee-cleanup:named")
        assert clean(contained, image_prune=True) == ["Pruned images", "(changed: True)"]
        listed = engine(contained, "images", "--all", "--quiet", "--no-trunc")
        assert (first in listed, second in listed) == (False, True)
        monkeypatch.undo()


# Containers


@contextmanager
def container_of(place: Place, directory: Path, **other: str) -> Iterator[str]:
    """Run a container with the labels of a job of this process, or with others."""
    ident = f"job-{os.urandom(4).hex()}"
    marks = {**labels.of_job(ident, directory), **other}
    words = ["--name", container_name(ident), "--rm", *labels.options(marks)]
    container = engine(place, "run", "--detach", *words, image_of(place), "sleep", "100")
    try:
        yield container
    finally:
        end(place, container)


def test_a_directory_stays_while_a_container_of_it_runs_unless_the_job_was_abandoned(contained: Place) -> None:
    directory = contained.write({"awx_1/project/site.yml": "[]"}) / "awx_1"
    other = contained.write({"other/project/site.yml": "[]"}) / "other"
    pattern = f"{contained.root}/awx_*"
    with container_of(contained, directory):
        assert clean(contained, file_pattern=pattern) == [
            f"Excluding running project {directory} from cleanup",
            "(changed: False)",
        ]
    gone = {labels.START: f"1@{Path('/proc/self/ns/pid').stat().st_ino}"}
    with container_of(contained, directory, **gone) as abandoned, container_of(contained, other, **gone) as kept:
        assert clean(contained, file_pattern=pattern) == [
            f"Removed 1 private data dir(s) in pattern {pattern}",
            "(changed: True)",
        ]
        assert not directory.exists()
        running = engine(contained, "ps", "--quiet", "--no-trunc").split()
        assert (abandoned in running, kept in running) == (False, True)


@pytest.mark.parametrize("contained", OF_THIS_USER, indirect=True)
def test_where_the_engine_does_not_answer_directories_stay_and_the_reason_is_said(contained: Place) -> None:
    directory = contained.write({"awx_1/project/site.yml": "[]"}) / "awx_1"
    pattern = f"{contained.root}/awx_*"
    nobody = f"unix://{contained.root}/nobody.sock"
    env = {"DOCKER_HOST": nobody} if contained.name == "docker" else {"CONTAINER_HOST": nobody}
    kept, end = clean(contained, file_pattern=pattern, env=env)
    assert kept.startswith(f"Excluding project {directory} from cleanup: {contained.engine} does not say what runs: ")
    assert "does not answer" in kept
    assert (end, directory.exists()) == ("(changed: False)", True)
    other = next(name for name in ("podman", "docker") if name != contained.engine)
    env["PATH"] = str(programs(contained, contained.engine))
    assert clean(contained, file_pattern=pattern, env=env, executable=other)[-1] == "(changed: True)"


def programs(place: Place, *names: str) -> Path:
    """Make a directory that has these programs alone."""
    directory = place.root / "bin"
    directory.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None
        (directory / name).symlink_to(found)
    return directory


@pytest.mark.parametrize("contained", [name for name in ENGINES if name == "podman-rootless"], indirect=True)
def test_files_of_a_rootless_containers_users_are_removed_too(contained: Place) -> None:
    directory = contained.write({"awx_1/project/deep/file": "text"}) / "awx_1"
    engine(contained, "unshare", "chown", "-R", "1000:1000", str(directory / "project"))
    engine(contained, "unshare", "chmod", "0700", str(directory / "project"))
    assert clean(contained, file_pattern=f"{contained.root}/awx_*")[-1] == "(changed: True)"
    assert not directory.exists()


# What a container has


@pytest.mark.parametrize("contained", OF_THIS_USER, indirect=True)
def test_in_a_container_a_node_has_what_the_container_has(contained: Place) -> None:
    code = "from ee_runner import node; print(node.cpu_limit(), node.memory())"
    words = ["--rm", "--cpus", "1.5", "--memory", "512m", "--volume", f"{REPO}:/repo:ro", "--workdir", "/repo"]
    told = engine(contained, "run", *words, image_of(contained), "python3", "-c", code)
    assert told == f"2 {512 << 20}"


def test_an_engine_without_images_is_no_place_to_remove_them_from() -> None:
    with pytest.raises(ConfigurationError, match="bwrap has no images"):
        cleanup.run(remove_images=["a"], executable="bwrap", say=print)
