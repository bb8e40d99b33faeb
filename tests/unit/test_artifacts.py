"""Artifacts are private, whole, and said to be incomplete when they are."""

from __future__ import annotations

import json
import os
import resource
import stat
from pathlib import Path

import pytest

from ee_runner.artifacts import ArtifactStore
from ee_runner.errors import ArtifactError
from ee_runner.events.kept import PARTIAL
from ee_runner.job import Outcome


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "job" / "job_events").mkdir(parents=True)
    return tmp_path / "job"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_file_is_private_whatever_the_umask(directory: Path) -> None:
    old = os.umask(0)
    try:
        with ArtifactStore(directory) as store:
            store.write_stdout(b"out")
            store.write_event({"counter": 1, "uuid": "u"})
            store.write_command(command=("true",), cwd="/", env={})
            store.write_status("running")
            store.write_outcome(Outcome("successful", 0, "exited"))
    finally:
        os.umask(old)
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"stdout", "stderr", "1-u.json", "command", "status", "rc"}
    assert {mode(path) for path in files} == {0o600}


def test_outcome_and_output_are_what_was_written(directory: Path) -> None:
    with ArtifactStore(directory) as store:
        store.write_stdout(b"a\r\n")
        store.write_stdout(b"b")
        store.write_outcome(Outcome("timeout", 254, "job_timeout"))
    assert (directory / "stdout").read_bytes() == b"a\r\nb"
    assert (directory / "rc").read_text() == "254"
    assert (directory / "status").read_text() == "timeout"


def test_a_vanished_directory_is_named_with_what_happened(directory: Path) -> None:
    with ArtifactStore(directory) as store:
        (directory / "job_events").rmdir()
        with pytest.raises(ArtifactError, match=r"1-u\.json.*is gone"):
            store.write_event({"counter": 1, "uuid": "u"})


def test_a_short_write_is_no_success(directory: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ArtifactStore(directory) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(ArtifactError, match="stdout can not be written"):
                store.write_stdout(b"x" * 1500)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (directory / "stdout").stat().st_size == 1000


def test_an_outcome_that_can_not_be_written_is_told_in_the_status_all_the_same(directory: Path) -> None:
    with ArtifactStore(directory) as store:
        store.write_status("running")
        (directory / "rc.partial").mkdir()
        with pytest.raises(ArtifactError, match="rc"):
            store.write_outcome(Outcome("successful", 0, "exited"))
    assert (directory / "status").read_text() == "error"


def test_the_rc_is_there_before_the_terminal_status(directory: Path) -> None:
    with ArtifactStore(directory) as store:
        (directory / "status.partial").mkdir()
        with pytest.raises(ArtifactError, match="status"):
            store.write_outcome(Outcome("successful", 0, "exited"))
    assert (directory / "rc").read_text() == "0"


@pytest.mark.parametrize("name", ["stdout", "stderr", "job_events"])
def test_links_that_a_job_put_there_before_are_refused(directory: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "loot").mkdir()
    if name == "job_events":
        (directory / name).rmdir()
    (directory / name).symlink_to(tmp_path / "loot")
    with pytest.raises(ArtifactError, match=name):
        ArtifactStore(directory)


def test_what_a_job_puts_in_the_way_is_never_written_through(directory: Path, tmp_path: Path) -> None:
    loot = tmp_path / "loot"
    loot.mkdir()
    (loot / "file").write_text("precious")
    with ArtifactStore(directory) as store:
        for name in ("rc.partial", "status.partial", f"job_events/{PARTIAL}"):
            (directory / name).symlink_to(loot / "file")
        store.write_event({"counter": 1, "uuid": "u"})
        (directory / "job_events").rename(directory / "moved")
        (directory / "job_events").symlink_to(loot)
        store.write_event({"counter": 2, "uuid": "u"})
        store.write_outcome(Outcome("failed", 2, "exited"))
    assert (loot / "file").read_text() == "precious"
    assert [path.name for path in loot.iterdir()] == ["file"]
    assert (directory / "rc").read_text() == "2"


def test_the_command_is_readable_json(directory: Path) -> None:
    with ArtifactStore(directory) as store:
        store.write_command(command=("ansible", "all"), cwd="/runner/project", env={"A": "ü"})
    assert json.loads((directory / "command").read_text()) == {
        "command": ["ansible", "all"],
        "cwd": "/runner/project",
        "env": {"A": "ü"},
    }


def test_bytes_that_are_no_text_do_not_stop_a_command_from_being_kept(directory: Path) -> None:
    with ArtifactStore(directory) as store:
        store.write_command(command=("n\udce9.yml",), cwd="/\udce9", env={"A\udce9": "\udce9"})
    assert json.loads((directory / "command").read_text())["command"] == ["n\ufffd.yml"]


@pytest.mark.parametrize("obstacle", ["rc.partial", "status.partial"])
def test_a_pipe_in_the_place_of_the_status_holds_nothing_up(tmp_path: Path, obstacle: str) -> None:
    (tmp_path / "job_events").mkdir()
    with ArtifactStore(tmp_path) as store:
        (tmp_path / obstacle).mkdir()
        os.mkfifo(tmp_path / "status")
        with pytest.raises(ArtifactError, match=obstacle.removesuffix(".partial")):
            store.write_outcome(Outcome("successful", 0, "exited"))


def test_a_pipe_in_the_place_of_the_output_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "job_events").mkdir()
    os.mkfifo(tmp_path / "stdout")
    with pytest.raises(ArtifactError, match="stdout can not be written"):
        ArtifactStore(tmp_path)
