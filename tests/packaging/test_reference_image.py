"""The reference image is built offline, and plays a private data directory as any user."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import images, machine

REPO = Path(__file__).resolve().parents[2]
TAG = "localhost/ee-runner-packaging-test:latest"
ENGINES = [engine for engine in ("podman", "docker") if engine in os.environ.get("ENGINES", "podman docker").split()]


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    engine: str
    name: str

    def run(self, *options: str | Path, command: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        argv = [self.engine, "run", "--rm", *map(str, options), self.name, *command]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, text=True, capture_output=True, check=False)


@pytest.fixture(scope="module", params=ENGINES)
def image(request: pytest.FixtureRequest) -> Iterator[ReferenceImage]:
    engine: str = request.param
    with ExitStack() as stack:
        machine.ensure_containers_conf()
        if engine == "docker":
            stack.enter_context(machine.docker_daemon())
        # images/build passes --network none.
        (name,) = images.build("reference", engine, "--tag", TAG)
        stack.callback(subprocess.run, [engine, "rmi", "--force", name], capture_output=True, check=True)
        yield ReferenceImage(engine=engine, name=name)


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy of the demo that every user may write to."""
    copy = tmp_path / "demo"
    shutil.copytree(REPO / "demo", copy, ignore=shutil.ignore_patterns("artifacts"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    return copy


@pytest.mark.parametrize("options", [(), ("--user", "12345"), ("--user", "12345:12345")], ids=" ".join)
def test_it_plays_the_directory_at_runner_as_any_user(
    image: ReferenceImage, demo: Path, options: tuple[str, ...]
) -> None:
    done = image.run(*options, "-e", "RUNNER_PLAYBOOK=test.yml", "-v", f"{demo}:/runner")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: [localhost]" in done.stdout
    assert "Test!" in done.stdout
    (status,) = demo.glob("artifacts/*/status")
    assert status.read_text() == "successful"


def test_an_arbitrary_user_has_a_name_and_a_writable_home(image: ReferenceImage) -> None:
    done = image.run("--user", "12345", command=("sh", "-c", "id -un && touch ~/file && ssh -G localhost"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_serves_as_an_execution_environment(image: ReferenceImage) -> None:
    done = image.run(command=("ansible-playbook", "--version"))
    assert done.stdout.startswith("ansible-playbook [core 2."), done.stdout + done.stderr
