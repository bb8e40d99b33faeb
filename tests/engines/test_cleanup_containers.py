"""``ansible-runner cleanup`` removes the containers of jobs that nobody runs any more, and no other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ee_runner.engines import labels
from ee_runner.processes import Identity
from tests.engines.conftest import ENGINES
from tests.engines.place import CONTAINERS, Place
from tests.support.processes import REPO

OF_THIS_USER = [name for name in ENGINES if name in CONTAINERS and name != "podman-rootless"]


def ended() -> Identity:
    """The identity of a process that has ended."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        return Identity.of(process.pid)


@contextmanager
def container(place: Place, supervisor: Identity, directory: Path) -> Iterator[str]:
    """A container as a job has it, which is deaf to SIGTERM; give its id."""
    assert place.images is not None
    told = {
        labels.IDENT: "stale",
        labels.DIRECTORY: str(directory),
        labels.PID: str(supervisor.pid),
        labels.START: supervisor.born,
    }
    made = run(place, "run", "--detach", *labels.options(told), place.images.default, "sleep", "300").strip()
    try:
        yield made
    finally:
        for words in (("kill", made), ("rm", "--force", made)):
            with suppress(subprocess.CalledProcessError):
                run(place, *words)


def run(place: Place, *words: str) -> str:
    return subprocess.run([place.engine, *words], check=True, capture_output=True, text=True).stdout


def clean(place: Place, directory: Path) -> list[str]:
    argv = [sys.executable, "-m", "ee_runner", "cleanup", str(directory), "--engine", place.engine]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("contained", OF_THIS_USER, indirect=True)
def test_stale_containers_go_and_those_of_jobs_that_run_stay(
    contained: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "data").mkdir()
    (tmp_path / "other").mkdir()
    with (
        container(contained, ended(), tmp_path / "data") as stale,
        container(contained, Identity.own(), tmp_path / "data") as used,
        container(contained, ended(), tmp_path / "other") as others,
    ):
        (line,) = [line for line in clean(contained, tmp_path / "data") if "container" in line]
        assert line.startswith("Removed the container ")
        assert line.endswith(f" of the job stale ({contained.engine})")
        listed = run(contained, "ps", "--all", "--quiet", "--no-trunc").split()
        assert [stale in listed, used in listed, others in listed] == [False, True, True]
