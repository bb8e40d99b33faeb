"""The record of a job lives and is held as long as its supervisor runs the job, and no longer."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ee_runner import names, underway
from ee_runner.errors import ArtifactError
from ee_runner.processes import Identity
from tests.support.processes import NOBODY, REPO, alive, wait_until


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "ansible-runner"


def new_mark() -> str:
    return os.urandom(16).hex()


def claim(directory: Path = Path("/data"), ident: str = "x", **more: Any) -> Any:
    words = {"mark": new_mark(), "engine": "local", "artifact_dir": directory / "artifacts" / ident, **more}
    return underway.claim(ident=ident, private_data_dir=directory, **words)


@contextlib.contextmanager
def claimant(**wanted: Any) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Another process that holds a record, and what it says; it is killed at the end, and whom it started."""
    words = {"mark": new_mark(), "ident": "x", "private_data_dir": "/data", "artifact_dir": "/data/artifacts/x"}
    argv = [sys.executable, "-m", "tests.support.claimant", json.dumps({**words, "engine": "local", **wanted})]
    said: dict[str, Any] = {"others": []}
    with subprocess.Popen(argv, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            yield process, said
        finally:
            process.kill()
            for pid in said["others"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_a_record_holds_what_was_claimed(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(b'/data/\xff\n"quoted"'))
    given = {"engine": "/opt/bin/podman-next", "stoppable": True, "paths": (odd, tmp_path), "bases": (tmp_path,)}
    with claim(odd, "an\nident", **given):
        (found,) = underway.underway()
    assert (found.ident, found.private_data_dir, found.artifact_dir) == (
        "an\nident",
        odd,
        odd / "artifacts" / "an\nident",
    )
    assert (found.engine, found.stoppable, found.paths, found.bases) == tuple(given.values())
    assert found.supervisor == Identity.own()
    assert found.prefix == names.run_prefix()
    assert found.file.stem == found.mark
    assert found.is_of_this_host
    assert found.is_of_this_engine


def test_only_its_user_can_read_it_and_nothing_stays(state: Path) -> None:
    state.mkdir(parents=True, mode=0o755)
    (state / "jobs").mkdir(mode=0o777)
    with claim() as claimed:
        assert stat.S_IMODE(claimed.file.stat().st_mode) == 0o600
        assert stat.S_IMODE((state / "jobs").stat().st_mode) == 0o700
        assert list((state / "jobs").iterdir()) == [claimed.file]
    assert list((state / "jobs").iterdir()) == []


def test_jobs_are_found_by_directory_and_ident(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to("one")
    with claim(tmp_path / "one", "a"), claim(tmp_path / "one", "b"), claim(tmp_path / "two", "a"):
        assert len(underway.underway()) == 3
        assert {each.ident for each in underway.underway(tmp_path / "link")} == {"a", "b"}
        (found,) = underway.underway(tmp_path / "one", "a")
        assert (found.private_data_dir, found.ident) == (tmp_path / "one", "a")
        assert underway.underway(tmp_path / "two", "b") == []
    assert underway.underway() == underway.abandoned() == []


@pytest.mark.parametrize("company", ["", "fork", "command"])
def test_the_job_of_a_killed_process_is_abandoned_whoever_outlives_it(company: str) -> None:
    with claimant(**{"with": company}) as (process, said):
        assert [str(each.file) for each in underway.underway()] == [said["file"]]
        assert underway.abandoned() == []
        process.kill()
        process.wait()
        assert [str(each.file) for each in underway.abandoned()] == [said["file"]]
        assert underway.underway() == []
        assert all(map(alive, said["others"]))


def test_a_job_that_is_being_settled_does_not_run() -> None:
    with claimant() as (process, said):
        process.kill()
        process.wait()
        with underway.seized(Path(said["file"])) as record:
            assert record is not None
            assert underway.underway() == []


def test_a_process_that_ends_in_order_leaves_no_record() -> None:
    with claimant() as (process, said):
        process.communicate()
        assert process.returncode == 0
        assert not Path(said["file"]).exists()


def test_a_fork_that_leaves_the_block_or_adds_to_it_changes_nothing(tmp_path: Path) -> None:
    with claim() as claimed:
        before = claimed.file.read_bytes()
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                claimed.add(tmp_path)
                claimed._end()
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert claimed.file.read_bytes() == before
        assert len(underway.underway()) == 1


def test_what_is_added_is_in_the_record_which_stays_held(tmp_path: Path) -> None:
    with claim() as claimed:
        for number in range(3):
            claimed.add(tmp_path / str(number))
        (found,) = underway.underway()
        assert found.paths == tuple(tmp_path / str(number) for number in range(3))


def test_a_record_that_is_to_stay_is_free_after_the_block(tmp_path: Path) -> None:
    with claim(paths=(tmp_path,), bases=(tmp_path,)) as claimed:
        claimed.leave()
        assert underway.abandoned() == []
    (found,) = underway.abandoned()
    assert found.paths == (tmp_path,)
    assert not found.prefix, "other jobs of this process have their directories there"


def test_nobody_ever_finds_the_record_of_a_living_job_free_or_broken(tmp_path: Path) -> None:
    found: list[object] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for file in underway.files():
                try:
                    with underway.seized(file) as record:
                        found.extend([record] if record else [])
                except ArtifactError as error:
                    found.append(error)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    for _ in range(300):
        with claim() as claimed:
            claimed.add(tmp_path)
    over.set()
    for looker in lookers:
        looker.join()
    assert found == []


def test_one_of_two_gets_an_abandoned_record_and_patience_waits_for_it() -> None:
    with claim() as claimed:
        claimed.leave()
    with underway.seized(claimed.file) as first, underway.seized(claimed.file) as second:
        assert first is not None
        assert second is None
    descriptor = os.open(claimed.file, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    later = threading.Timer(0.2, os.close, (descriptor,))
    later.start()
    with underway.seized(claimed.file, patience=30) as record:
        assert record is not None
    later.join()


def no_home(monkeypatch: pytest.MonkeyPatch, _state: Path) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))


def a_file_in_the_way(_monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    state.parent.mkdir()
    state.touch()


def a_link_in_the_way(_monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    (state.parent / "elsewhere").mkdir(parents=True)
    state.mkdir()
    (state / "jobs").symlink_to(state.parent / "elsewhere")


def another_users(_monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    (state / "jobs").mkdir(parents=True)
    os.chown(state / "jobs", NOBODY, NOBODY)


@pytest.mark.parametrize("obstacle", [no_home, a_file_in_the_way, a_link_in_the_way, another_users])
def test_where_no_record_can_be_written_the_job_goes_on_without(
    obstacle: Any, state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    if obstacle is another_users and os.geteuid():
        return  # only root can make it
    with monkeypatch.context() as patch:
        obstacle(patch, state)
        with caplog.at_level(logging.DEBUG, "ee_runner"), claim() as claimed:
            assert claimed.file is None
            claimed.add(tmp_path)
            claimed.leave()
            assert underway.underway() == underway.abandoned() == []
    assert [record.message[:33] for record in caplog.records] == ["There is no record of the job x: "]


WHOLE = {
    "mark": "ab" * 16,
    "ident": "x",
    "private_data_dir": "/data",
    "artifact_dir": "/data/artifacts/x",
    "engine": "local",
    "supervisor": [1, "2@3"],
    "stoppable": True,
    "grace": 10.0,
    "paths": ["/tmp/a"],
    "bases": ["/tmp"],
    "prefix": "ee_runner_1_0123abcd_",
    "address": {},
    "host": "here",
}

CHANGES: list[dict[str, Any]] = [
    {"mark": "cd" * 16},
    {"mark": "../../etc"},
    {"ident": None},
    {"engine": "a\0b"},
    {"private_data_dir": "relative"},
    {"paths": ["/tmp/../etc"]},
    {"paths": [7]},
    {"paths": None},
    {"bases": ["etc"]},
    {"prefix": "e"},
    {"prefix": "ee_runner_1_0123abcd_/../"},
    {"supervisor": ["one", ""]},
    {"supervisor": [float("inf"), ""]},
    {"supervisor": [1]},
    {"address": []},
    {"address": {"DOCKER_HOST": 1}},
    {"host": 1},
]


def file_of(text: str | bytes) -> Path:
    place = underway.directory()
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"{WHOLE['mark']}.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_a_record_is_read_as_it_was_written() -> None:
    with underway.seized(file_of(json.dumps(WHOLE))) as record:
        assert record is not None
        assert (record.supervisor, record.prefix, record.host) == (Identity(1, "2@3"), WHOLE["prefix"], "here")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        b"\xff\xfe",
        "[" * 100_000,
        "{}",
        '{"supervisor": 1}',
        *(json.dumps({**WHOLE, **change}) for change in CHANGES),
    ],
)
def test_what_is_no_record_is_said_and_left(text: str | bytes) -> None:
    file = file_of(text)
    assert underway.abandoned() == []
    with pytest.raises(ArtifactError, match=f"{file} is no record of a job: ") as told, underway.seized(file):
        pass
    assert "\n" not in str(told.value)
    descriptor = os.open(file, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert underway.underway() == []
    os.close(descriptor)
    assert file.exists()


def test_pipes_links_and_directories_are_no_records(tmp_path: Path) -> None:
    file = file_of(json.dumps(WHOLE))
    file.rename(tmp_path / "elsewhere")
    makers: list[Callable[[], None]] = [
        lambda: os.mkfifo(file),
        lambda: file.symlink_to(tmp_path / "elsewhere"),
        lambda: file.mkdir(),
    ]
    for make in makers:
        make()
        assert underway.abandoned() == underway.underway() == []
        with pytest.raises(ArtifactError, match="no record"), underway.seized(file):
            pass
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()


def test_the_record_of_another_user_is_none() -> None:
    file = file_of(json.dumps(WHOLE))
    if os.geteuid():
        return  # only root can make it
    os.chown(file, NOBODY, NOBODY)
    with pytest.raises(ArtifactError, match="this user"), underway.seized(file):
        pass


def test_variables_that_say_where_engines_are_go_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/other.sock")
    with claim():
        (found,) = underway.underway()
        assert found.address == {"DOCKER_HOST": "unix:///run/other.sock"}
        assert found.is_of_this_engine
        monkeypatch.delenv("DOCKER_HOST")
        assert not found.is_of_this_engine


def test_a_job_of_another_machine_is_not_of_this_one() -> None:
    with underway.seized(file_of(json.dumps(WHOLE))) as record:
        assert record is not None
        assert not record.is_of_this_host


def test_a_zombie_holds_no_record() -> None:
    with claimant() as (process, said):
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not alive(process.pid), bound=30, what="its end")
        with underway.seized(Path(said["file"]), patience=30) as record:
            assert record is not None
            assert record.supervisor.gone
