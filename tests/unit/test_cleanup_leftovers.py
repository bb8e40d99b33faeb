"""``ansible-runner cleanup`` settles and removes what jobs left, says what it did, and touches nothing in use."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ee_runner import underway
from ee_runner.cleanup import leftovers
from ee_runner.cleanup.leftovers import Scope
from ee_runner.workspace import places
from tests.support.processes import NOBODY, REPO


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No records, run directories and engines but the test's own."""
    for name in ("memory", "runtime", "no-programs"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "memory"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    monkeypatch.setattr(places, "_SHARED_MEMORY", tmp_path / "memory")


def job(data: Path, ident: str, status: str) -> Path:
    """Make the artifact directory of a job; return it."""
    (directory := data / "artifacts" / ident).mkdir(parents=True)
    (directory / "status").write_text(status)
    return directory


def abandon(data: Path, *paths: Path, engine: str = "local") -> Path:
    """Leave the record of a job that nobody runs; return its file."""
    words: dict[str, Any] = {"mark": os.urandom(16).hex(), "artifact_dir": data / "artifacts" / "lost", "paths": paths}
    with underway.claim(ident="lost", private_data_dir=data, engine=engine, **words) as claimed:
        claimed.leave()
    assert claimed.file is not None
    return claimed.file


def clean(scope: Scope | None = None) -> tuple[bool, list[str], list[str]]:
    said: list[str] = []
    complaints: list[str] = []
    return leftovers.clean(scope or Scope(), say=said.append, complain=complaints.append), said, complaints


def of(data: Path, **more: Any) -> Scope:
    return Scope(private_data_dir=data, artifacts=data / "artifacts", **more)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def test_where_there_is_nothing_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert clean() == clean(of(tmp_path / "data")) == (True, ["There was nothing to clean up."], [])


def test_lost_jobs_are_settled_wherever_they_were(tmp_path: Path) -> None:
    first, second = job(tmp_path / "one", "lost", "running"), job(tmp_path / "two", "lost", "starting")
    for data in (tmp_path / "one", tmp_path / "two", tmp_path / "vanished"):
        abandon(data)
    done, said, complaints = clean(of(tmp_path / "one"))
    assert (done, complaints) == (True, [])
    assert sorted(said) == [
        f"Settled the job lost of {tmp_path / 'one'}: {first}: status error, reason lost",
        f"Settled the job lost of {tmp_path / 'two'}: {second}: status error, reason lost",
        f"Settled the job lost of {tmp_path / 'vanished'}: nothing of it was left",
    ]
    assert underway.files() == []


def test_what_can_not_be_done_is_named_and_the_rest_is_done(tmp_path: Path) -> None:
    artifacts = job(tmp_path / "one", "lost", "running")
    file = abandon(tmp_path / "one", engine="/no/podman")
    done, said, complaints = clean()
    assert not done
    assert said == [f"Settled the job lost of {tmp_path / 'one'}: {artifacts}: status error, reason lost"]
    assert len(complaints) == 1
    assert "/no/podman" in complaints[0]
    assert file.exists()


def test_a_name_can_not_forge_a_line(tmp_path: Path) -> None:
    abandon(tmp_path / "a\nSettled the job b")
    _, (line,), _ = clean()
    assert "\n" not in line


def test_the_job_of_another_machine_is_named(tmp_path: Path) -> None:
    file = abandon(tmp_path)
    file.write_text(file.read_text().replace(os.uname().nodename, "another"))
    _, (line, *_), _ = clean()
    assert line == f"Left to another, where it ran: {file}. Remove it if that host is no more."


# Run directories


def run_directory(base: Path, name: str = "ee_runner_4194305_0123abcd_dir", *, age: float = 3600) -> Path:
    """Make what a killed job leaves; the pid is one that the kernel does not give."""
    (directory := base / name).mkdir()
    (directory / "secret").touch()
    os.utime(directory, (time.time() - age,) * 2)
    return directory


def test_run_directories_that_nobody_holds_are_removed(tmp_path: Path) -> None:
    left = [run_directory(tmp_path / "runtime"), run_directory(tmp_path / "memory")]
    assert clean() == (True, [f"Removed {path}" for path in left], [])
    assert not any(path.exists() for path in left)


def foreign(tmp_path: Path) -> None:
    if not os.geteuid():
        os.chown(run_directory(tmp_path / "memory"), NOBODY, NOBODY)


def link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (link := tmp_path / "memory" / "ee_runner_4194305_0123abcd_dir").symlink_to(tmp_path / "elsewhere")
    os.utime(link, (0, 0), follow_symlinks=False)


@pytest.mark.parametrize(
    "make",
    [
        foreign,
        link,
        lambda path: run_directory(path / "memory", age=30),
        lambda path: run_directory(path / "memory", "ee_runner_notes"),
        lambda path: run_directory(path / "memory", f"ee_runner_{os.getpid()}_0123abcd_dir"),
        lambda path: (path / "memory" / "ee_runner_4194305_0123abcd_file").touch(),
    ],
)
def test_others_stay(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path)
    before = {path: path.lstat().st_mtime for path in (tmp_path / "memory").rglob("*")}
    assert clean() == (True, ["There was nothing to clean up."], [])
    assert {path: path.lstat().st_mtime for path in (tmp_path / "memory").rglob("*")} == before


def test_the_run_directory_of_a_job_is_held_as_long_as_the_job_lasts(tmp_path: Path) -> None:
    with places.run_directory({"XDG_RUNTIME_DIR": str(tmp_path / "runtime")}) as path:
        moved = path.rename(path.with_name("ee_runner_4194305_0123abcd_dir"))  # else the pid keeps it
        os.utime(moved, (0, 0))
        assert clean()[1] == ["There was nothing to clean up."]
        assert moved.exists()
    os.utime(moved, (0, 0))
    assert clean()[1] == [f"Removed {moved}"]


def test_a_fork_of_the_process_that_was_killed_does_not_hold_it(tmp_path: Path) -> None:
    program = """if True:
        import os, sys, time
        from ee_runner.workspace import places
        with places.run_directory({"XDG_RUNTIME_DIR": sys.argv[1]}) as path:
            if child := os.fork():
                print(child, path, flush=True)
                os.kill(os.getpid(), 9)
            time.sleep(120)
            os._exit(0)
    """
    argv = [sys.executable, "-c", program, str(tmp_path / "runtime")]
    with subprocess.Popen(argv, cwd=REPO, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        child, path = killed.stdout.readline().split()
        killed.wait()
        try:
            os.utime(path, (0, 0))
            with locked(Path(path)):
                pass
        finally:
            os.kill(int(child), 9)


# Artifacts without a record


@pytest.mark.parametrize("status", ["unstarted", "starting", "running", ""])
def test_artifacts_whose_job_nobody_runs_come_to_say_so(tmp_path: Path, status: str) -> None:
    lost, ended = job(tmp_path, "a", status), job(tmp_path, "b", "successful")
    (nothing := tmp_path / "artifacts" / "c").mkdir()
    assert clean(of(tmp_path)) == (True, [f"Settled the job a: {lost}: status error, reason lost"], [])
    assert (lost / "status").read_text() == "error"
    assert (lost / "rc").read_text() == "254"
    assert (lost / "reason").read_text().startswith("lost\n")
    assert (ended / "status").read_text() == "successful"
    assert list(nothing.iterdir()) == []


def test_artifacts_of_a_job_that_runs_stay(tmp_path: Path) -> None:
    held, watched, recorded = (job(tmp_path, name, "running") for name in ("held", "watched", "recorded"))
    words: dict[str, Any] = {"mark": os.urandom(16).hex(), "engine": "local"}
    reader = subprocess.Popen(["/bin/sh", "-c", "read line"], stdin=subprocess.PIPE, cwd=watched)
    with locked(held), underway.claim(ident="r", private_data_dir=tmp_path, artifact_dir=recorded, **words):
        assert clean(of(tmp_path)) == (True, ["There was nothing to clean up."], [])
    reader.communicate()
    assert len(clean(of(tmp_path))[1]) == 3


def test_artifacts_behind_links_are_no_jobs(tmp_path: Path) -> None:
    outside = job(tmp_path / "outside", "a", "running")
    (tmp_path / "data" / "artifacts").mkdir(parents=True)
    (tmp_path / "data" / "artifacts" / "a").symlink_to(outside)
    assert clean(of(tmp_path / "data"))[1] == ["There was nothing to clean up."]
    assert (outside / "status").read_text() == "running"


def test_old_artifacts_are_removed_when_that_is_asked_for(tmp_path: Path) -> None:
    for number in range(3):
        directory = job(tmp_path, str(number), "successful")
        os.utime(directory / "status", (number, number))
        os.utime(directory, (number, number))
    assert clean(of(tmp_path))[1] == ["There was nothing to clean up."]
    removed = [f"Removed the artifacts {tmp_path / 'artifacts' / name}" for name in "01"]
    assert clean(of(tmp_path, keep=1)) == (True, removed, [])
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["2"]


# Engines


def test_engines_that_are_not_there_are_no_failure_unless_they_are_asked_for(tmp_path: Path) -> None:
    down = tmp_path / "no-programs" / "docker"
    down.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon at unix:///x. Is it running?' >&2\nexit 1\n")
    down.chmod(0o755)
    assert clean() == (True, ["There was nothing to clean up."], [])
    for name in ("podman", "docker"):
        done, said, (complaint,) = clean(Scope(engine=name))
        assert not done
        assert said == []
        assert name in complaint.lower()


# The command line


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "ee_runner", "cleanup", *map(str, words)]
    return subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False)


def test_the_command_cleans_up_a_directory(tmp_path: Path) -> None:
    for name in ("a", "b"):
        job(tmp_path, name, "successful")
    lost = job(tmp_path, "lost", "running")
    done = command(tmp_path, "--rotate-artifacts", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Settled the job lost: {lost}: status error, reason lost" in done.stdout.splitlines()
    assert len(list((tmp_path / "artifacts").iterdir())) == 2


def test_artifacts_behind_a_link_are_removed_only_where_the_link_is_not_relied_on(tmp_path: Path) -> None:
    (others := tmp_path / "others").mkdir()
    for name in ("a", "b"):
        job(others, name, "successful")
    (data := tmp_path / "data").mkdir()
    (data / "artifacts").symlink_to(others / "artifacts")
    done = command(data, "--rotate-artifacts", "1")
    assert done.returncode == 1
    assert f"{data}/artifacts is a symbolic link, which a job may have made" in done.stderr
    assert len(list((others / "artifacts").iterdir())) == 2
    assert command(data, "--rotate-artifacts", "1", "--artifact-dir", others / "artifacts").returncode == 0
    assert len(list((others / "artifacts").iterdir())) == 1


def test_the_command_needs_no_directory_and_says_what_fails(tmp_path: Path) -> None:
    assert command().returncode == 0
    abandon(tmp_path, engine="/no/podman")
    done = command()
    assert done.returncode == 1
    assert "ansible-runner: the job lost of" in done.stderr
    assert "/no/podman" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("/no/such",), 78, "There is no private data directory /no/such"),
        (("--rotate-artifacts", "3"), 78, "--rotate-artifacts: name the private data directory"),
        (("--engine", "rocket"), 78, "no engine"),
        (("a", "b"), 2, "'b' is one too many"),
        (("--file-pattern", "x"), 2, "cleanup has no option --file-pattern"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], code: int, said: str) -> None:
    done = command(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_the_command_explains_itself() -> None:
    done = command("--help")
    assert done.returncode == 0
    assert "[DIR]" in done.stdout
    assert "--rotate-artifacts" in done.stdout
    assert "Settle lost jobs, and remove what jobs left behind." in done.stdout
