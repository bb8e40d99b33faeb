"""A job that was lost is settled: its status says so, its files are gone, and no other job is touched."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ee_runner import underway
from ee_runner.artifacts import FINAL
from ee_runner.cleanup import endings, lost
from ee_runner.cleanup.lost import Settled
from ee_runner.underway import Underway
from tests.support.processes import NOBODY, REPO


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "ansible-runner"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A private data directory with the artifacts of a job that runs."""
    (directory := tmp_path / "data" / "artifacts" / "x" / "job_events").mkdir(parents=True)
    (directory.parent / "status").write_text("running")
    return tmp_path / "data"


def abandoned(data: Path, *paths: Path, **more: Any) -> Underway:
    """Leave the record of a job that nobody runs."""
    words = {"engine": "local", "artifact_dir": data / "artifacts" / "x", "mark": os.urandom(16).hex(), **more}
    with underway.claim(ident="x", private_data_dir=data, paths=paths, **words) as claimed:
        claimed.leave()
        assert claimed.file is not None
    with underway.seized(claimed.file) as record:
        assert record is not None
        return record


def settled(record: Underway) -> Settled:
    result = lost.settle(record)
    assert result is not None
    return result


def nothing_was_done(record: Underway) -> None:
    """Settle what needs no settling: the record goes, and that is all."""
    result = settled(record)
    assert (result.done, result.failures) == ((), ())
    assert not record.file.exists()


def ending(data: Path) -> tuple[str, str, str]:
    directory = data / "artifacts" / "x"
    reason = directory / "reason"
    word = reason.read_text().splitlines()[0] if reason.exists() else ""
    return (directory / "status").read_text(), (directory / "rc").read_text(), word


LOST = ("error", "254", "lost")


# What is done


def test_the_status_says_that_it_was_lost_and_what_is_temporary_goes(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "deep").mkdir(parents=True)
    (tmp_path / "playbook.yml").touch()
    record = abandoned(data, tmp_path / "run", tmp_path / "playbook.yml", tmp_path / "gone")
    result = settled(record)
    artifacts = data / "artifacts" / "x"
    assert result.failures == ()
    assert result.done == (
        f"{artifacts}: status error, reason lost",
        f"removed {tmp_path / 'run'}",
        f"removed {tmp_path / 'playbook.yml'}",
    )
    assert result.job == f"the job x of {data}"
    assert ending(data) == LOST
    assert {stat.S_IMODE((artifacts / name).stat().st_mode) for name in ("status", "rc", "reason")} == {0o600}
    assert f"process {os.getpid()}" in (artifacts / "reason").read_text()
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "playbook.yml").exists()
    assert underway.files() == []
    assert lost.settle(record) is None


@pytest.mark.parametrize("status", sorted(FINAL))
def test_how_a_job_ended_is_not_touched(data: Path, status: str) -> None:
    for name, text in (("status", status), ("rc", "3")):
        (data / "artifacts" / "x" / name).write_text(text)
    nothing_was_done(abandoned(data))
    artifacts = data / "artifacts" / "x"
    assert ((artifacts / "status").read_text(), (artifacts / "rc").read_text()) == (status, "3")
    assert not (artifacts / "reason").exists()


def test_a_job_that_was_lost_before_its_first_status_has_one(data: Path) -> None:
    artifacts = data / "artifacts" / "x"
    (artifacts / "status").unlink()
    (artifacts / "job_events").rmdir()
    assert settled(abandoned(data)).done
    assert ending(data) == LOST


def test_what_was_not_written_whole_goes_and_events_stay(data: Path) -> None:
    artifacts = data / "artifacts" / "x"
    (artifacts / ".events").mkdir()
    (artifacts / ".events" / "spool").write_text("secret")
    for name in ("rc.partial", "job_events/2-b-partial.json", "job_events/1-a.json", "stdout"):
        (artifacts / name).touch()
    assert settled(abandoned(data)).failures == ()
    left = {str(path.relative_to(artifacts)) for path in artifacts.rglob("*")}
    assert left == {"job_events", "job_events/1-a.json", "stdout", "status", "rc", "reason"}


def test_artifacts_that_have_vanished_are_no_failure(data: Path, tmp_path: Path) -> None:
    record = abandoned(data)
    data.rename(tmp_path / "elsewhere")
    nothing_was_done(record)
    assert not data.exists()
    assert underway.files() == []


def test_a_job_that_lives_is_not_settled(data: Path) -> None:
    words = {"mark": os.urandom(16).hex(), "engine": "local", "private_data_dir": data, "ident": "x"}
    with underway.claim(artifact_dir=data / "artifacts" / "x", **words):  # type: ignore[arg-type]
        (record,) = underway.underway()
        assert lost.settle(record) is None
        assert lost.settle_abandoned() == lost.settle_all() == []
    assert (data / "artifacts" / "x" / "status").read_text() == "running"


def test_a_later_job_in_the_same_artifacts_is_not_touched(data: Path) -> None:
    (data / "artifacts" / "x" / ".events").mkdir()
    descriptor = os.open(data / "artifacts" / "x", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        nothing_was_done(abandoned(data))
    finally:
        os.close(descriptor)
    assert (data / "artifacts" / "x" / "status").read_text() == "running"
    assert (data / "artifacts" / "x" / ".events").exists()
    assert underway.files() == []


# What a job may have put in the way


def test_a_status_that_is_a_link_is_replaced_and_not_written_through(data: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("running")
    for name in ("status", "rc", "reason", "status.partial", "rc.partial", "reason.partial"):
        (data / "artifacts" / "x" / name).unlink(missing_ok=True)
        (data / "artifacts" / "x" / name).symlink_to(tmp_path / "outside")
    assert settled(abandoned(data)).failures == ()
    assert ending(data) == LOST
    assert (tmp_path / "outside").read_text() == "running"
    assert not (data / "artifacts" / "x" / "status").is_symlink()


@pytest.mark.parametrize("where", ["artifacts/x", "artifacts"])
def test_artifacts_behind_a_link_are_not_written_and_the_record_stays(data: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "run").mkdir()
    record = abandoned(data, tmp_path / "run")
    (data / where).rename(tmp_path / "outside")
    (data / where).symlink_to(tmp_path / "outside")
    (failure,) = settled(record).failures
    assert str(data / "artifacts" / "x") in failure
    assert not list((tmp_path / "outside").rglob("rc"))
    assert not (tmp_path / "run").exists(), "the rest is done"
    assert underway.files() == [record.file]


def test_artifacts_that_the_user_keeps_elsewhere_by_a_link_are_settled(data: Path, tmp_path: Path) -> None:
    (data / "artifacts").rename(tmp_path / "disk")
    (data / "artifacts").symlink_to(tmp_path / "disk")
    assert settled(abandoned(data)).failures == ()
    assert ending(data) == LOST


@pytest.mark.parametrize("directory", ["status", "status.partial", "rc.partial", "reason", "reason.partial", ".events"])
def test_directories_in_the_place_of_what_is_written_do_no_harm(data: Path, directory: str) -> None:
    artifacts = data / "artifacts" / "x"
    (artifacts / "status").unlink()
    if directory != "status":
        os.mkfifo(artifacts / "status")  # which would hold up whoever opened it to write
    (artifacts / directory / "within").mkdir(parents=True)
    assert settled(abandoned(data)).failures == ()
    assert ending(data) == LOST


@pytest.mark.parametrize("name", ["status", "job_events", ".events"])
def test_pipes_and_links_in_the_place_of_artifacts_do_no_harm(data: Path, tmp_path: Path, name: str) -> None:
    (outside := tmp_path / "outside").mkdir()
    (outside / "1-partial.json").touch()
    for make in (os.mkfifo, lambda path: path.symlink_to(outside)):
        place = data / "artifacts" / "x" / name
        if place.is_symlink() or not place.is_dir():
            place.unlink(missing_ok=True)
        else:
            place.rmdir()
        (data / "artifacts" / "x" / "status").unlink(missing_ok=True)
        make(place)
        assert settled(abandoned(data)).failures == ()
        assert ending(data) == LOST
        assert (outside / "1-partial.json").exists()


def test_links_and_what_is_another_users_in_the_place_of_what_is_temporary_stay(data: Path, tmp_path: Path) -> None:
    (tmp_path / "outside" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("outside")
    (tmp_path / "foreign").touch()
    kept = {"outside", "link", "outside/below"}
    if not os.geteuid():
        os.chown(tmp_path / "foreign", NOBODY, NOBODY)
        kept |= {"foreign"}
    settled(abandoned(data, tmp_path / "link", tmp_path / "foreign"))
    assert all((tmp_path / name).exists() for name in kept)


def test_no_record_has_a_home_removed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home" / "me").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "me"))
    for path in (tmp_path / "home", tmp_path / "home" / "me", Path("/etc/hostname")):
        (failure,) = settled(abandoned(data, path)).failures
        assert failure.startswith(f"{path} is not removed: ")
        assert path.exists()
        underway.files()[0].unlink()


# What fails


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_its_engine_the_rest_is_done_and_the_record_stays(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    record = abandoned(data, tmp_path / "run", engine=str(tmp_path / "podman-gone"))
    (failure,) = settled(record).failures
    assert str(tmp_path / "podman-gone") in failure
    assert ending(data) == LOST
    assert not (tmp_path / "run").exists()
    assert underway.files() == [record.file]


def test_a_start_tries_again_but_not_at_once(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = tmp_path / "podman-later"
    record = abandoned(data, engine=str(engine))
    with caplog.at_level(logging.INFO, "ee_runner"):
        (first,) = lost.settle_abandoned()
    assert first.failures
    assert "something is left" in caplog.text
    assert lost.settle_abandoned() == []
    program(engine, "exit 0")
    assert lost.settle_abandoned() == []
    os.utime(record.file, (time.time(), time.time() - 1))
    (second,) = lost.settle_abandoned()
    assert second.failures == ()
    assert underway.files() == []


def test_asked_for_it_is_tried_at_once_and_a_clock_that_was_set_back_is_no_matter(data: Path, tmp_path: Path) -> None:
    engine = tmp_path / "podman-later"
    record = abandoned(data, engine=str(engine))
    assert settled(record).failures
    program(engine, "exit 0")
    (done,) = lost.settle_all()
    assert done.failures == ()
    record = abandoned(data)
    os.utime(record.file, (time.time() + 86400,) * 2)
    assert lost.settle_abandoned()


def test_an_engine_that_does_not_answer_is_asked_once_for_all(data: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    broken = "echo 'Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?' >&2; exit 1"
    engine = program(tmp_path / "docker-dead", f"echo >>{asked}; {broken}")
    for _ in range(3):
        abandoned(data, engine=str(engine))
    assert [len(each.failures) for each in lost.settle_abandoned()] == [1, 1, 1]
    assert len(asked.read_text().splitlines()) == 1


def test_a_faulty_engine_keeps_nothing_else_from_being_settled(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ee_runner.engines.local import LocalEngine

    def clear(_self: object, _mark: str) -> None:
        raise ZeroDivisionError("a plugin's own fault")

    monkeypatch.setattr(LocalEngine, "clear", clear)
    assert settled(abandoned(data)).failures == ("ZeroDivisionError: a plugin's own fault",)
    assert ending(data) == LOST


def test_what_is_no_record_is_said_once_a_minute_and_left(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = abandoned(data)
    record.file.write_text("{")
    with caplog.at_level(logging.INFO, "ee_runner"):
        (first,) = lost.settle_abandoned()
    assert first.record is None
    assert "no record of a job" in first.failures[0]
    assert lost.settle_abandoned() == []
    assert "no record of a job" in caplog.text
    assert record.file.exists()


def test_the_job_of_another_machine_is_left_to_it(data: Path) -> None:
    record = abandoned(data)
    fields = json.loads(record.file.read_text())
    record.file.write_text(json.dumps({**fields, "host": "another"}))
    assert lost.settle_abandoned() == lost.settle_all() == []
    assert (data / "artifacts" / "x" / "status").read_text() == "running"


# Several at a time, and at a start


def test_of_two_that_settle_one_does_and_the_other_passes_over(data: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "go-on")
    engine = program(tmp_path / "podman-slow", f"echo >{tmp_path / 'begun'}; cat {tmp_path / 'go-on'}")
    record = abandoned(data, engine=str(engine))
    results: list[Settled | None] = []
    first = threading.Thread(target=lambda: results.append(lost.settle(record)))
    first.start()
    (tmp_path / "begun").read_text()
    assert lost.settle(record) is None
    assert lost.settle_abandoned() == []
    (tmp_path / "go-on").write_text("")
    first.join()
    assert [result and result.failures for result in results] == [()]


def test_where_nothing_was_abandoned_a_start_is_not_delayed(data: Path) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(3):
            words = {"mark": os.urandom(16).hex(), "engine": "local", "ident": str(number)}
            stack.enter_context(underway.claim(private_data_dir=data, artifact_dir=data, **words))  # type: ignore[arg-type]
        assert min(map(_duration, range(50))) < 0.001


def _duration(_round: int) -> float:
    begin = time.perf_counter()
    assert lost.settle_abandoned() == []
    return time.perf_counter() - begin


def test_a_start_leaves_very_many_to_the_next(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        abandoned(data)
    with monkeypatch.context() as patch:
        patch.setattr(lost, "_TIME_OF_A_START", 0.0)
        assert lost.settle_abandoned() == []
    assert len(lost.settle_abandoned()) == 2


def test_what_was_settled_is_logged(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    abandoned(data)
    with caplog.at_level(logging.INFO, "ee_runner"):
        lost.settle_abandoned()
    assert caplog.messages == [
        f"Settled the job x of {data}, which was lost: {data / 'artifacts' / 'x'}: status error, reason lost"
    ]


def test_a_record_that_was_not_written_whole_goes_when_it_is_old(data: Path) -> None:
    old, new = (underway.directory() / f"{name}.partial" for name in ("old", "new"))
    abandoned(data)
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    lost.settle_abandoned()
    assert not old.exists()
    assert new.exists()


# Where the engine is


def test_the_engine_is_asked_where_the_job_was(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program(tmp_path / "docker", f'echo "$DOCKER_HOST,$DOCKER_CONTEXT" >>{tmp_path / "hosts"}')
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/here.sock")
    abandoned(data, engine="docker")
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONTEXT", "there")
    (result,) = lost.settle_abandoned()
    assert result.failures == ()
    assert result.done == (f"{data / 'artifacts' / 'x'}: status error, reason lost",)
    assert set((tmp_path / "hosts").read_text().splitlines()) == {"unix:///run/here.sock,"}
    assert os.environ["DOCKER_CONTEXT"] == "there"
    assert underway.files() == []


# In a process of its own


def rescue(file: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(lost.command(file), capture_output=True, text=True, check=False, cwd="/", env={}, **options)


def test_the_command_settles_one_job_wherever_it_is_run(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    record, other = abandoned(data, tmp_path / "run"), abandoned(tmp_path)
    done = rescue(record.file)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"removed {tmp_path / 'run'}" in done.stdout.splitlines()
    assert ending(data) == LOST
    assert underway.files() == [other.file]
    assert rescue(record.file).returncode == 0, "there is nothing to do any more"


def test_all_directories_of_a_process_that_was_killed_go_and_no_others(tmp_path: Path) -> None:
    (base := tmp_path / "memory").mkdir()
    others = [base / f"ee_runner_{os.getpid()}_0123abcd_directory", base / "ee_runner_", base / "file"]
    for path in others:
        path.mkdir()
    words = {"mark": "ab" * 16, "ident": "x", "engine": "local", "bases": [str(base)]}
    places = {"private_data_dir": str(tmp_path / "data"), "artifact_dir": str(tmp_path / "data" / "artifacts" / "x")}
    argv = [sys.executable, "-m", "tests.support.claimant", json.dumps({**words, **places})]
    with subprocess.Popen(argv, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        file = Path(json.loads(process.stdout.readline())["file"])
        assert len(list(base.iterdir())) == 4
        process.kill()
    assert rescue(file).returncode == 0
    assert sorted(base.iterdir()) == sorted(others)
    assert not file.exists()


def test_the_command_says_what_it_could_not_do(data: Path, tmp_path: Path) -> None:
    record = abandoned(data, engine=str(tmp_path / "podman-gone"))
    done = rescue(record.file)
    assert done.returncode == 1
    assert "podman-gone" in done.stderr
    assert record.file.exists()


def test_the_command_waits_for_a_supervisor_that_is_about_to_end(data: Path) -> None:
    record = abandoned(data)
    with held(record.file):
        process = subprocess.Popen(lost.command(record.file), stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.7)
        assert (data / "artifacts" / "x" / "status").read_text() == "running"
    process.communicate()
    assert ending(data) == LOST


@contextlib.contextmanager
def held(file: Path) -> Iterator[None]:
    descriptor = os.open(file, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def test_an_error_of_which_a_full_disk_took_the_status_alone_is_completed(tmp_path: Path) -> None:
    for name in ("half", "whole"):
        (tmp_path / name / "job_events").mkdir(parents=True)
        (tmp_path / name / "status").write_text("error")
    (tmp_path / "whole/rc").write_text("74")
    assert endings.lose(tmp_path / "half", "the disk was full")
    assert not endings.lose(tmp_path / "whole", "the disk was full")
    assert [(tmp_path / name / "rc").read_text() for name in ("half", "whole")] == ["254", "74"]
    assert (tmp_path / "half/reason").read_text() == "lost\nthe disk was full\n"
