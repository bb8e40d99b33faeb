"""What comes of a worker's results: callbacks, artifacts, rc; and of results that are broken, cut or hostile."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ee_runner import api
from ee_runner.errors import ArtifactError, CallbackError, ConfigurationError
from tests.support import streams
from tests.support.streams import archive, event, older, own, results

FORMS = {
    "older": lambda *parts: older(*parts),
    "sealed": lambda *parts: own(*parts),
    "frames": lambda *parts: own(*parts, frames=True),
}


def processed(directory: Path, data: bytes, **options: Any) -> Any:
    return api.run(streamer="process", private_data_dir=directory, _input=io.BytesIO(data), **options)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Any:
    return FORMS[request.param]


def tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def test_results_become_artifacts_as_if_the_job_had_run_here(form: Any, tmp_path: Path) -> None:
    end = processed(tmp_path, form(*results(rc=2, status="failed")), ident="job")
    place = tmp_path / "artifacts" / "job"
    names = {f"job_events/{n}-00000000-0000-4000-8000-{n:012}.json" for n in (1, 2, 3)}
    assert tree(place) == {"job_events", *names, "rc", "status", "stdout", "stderr", "fact_cache", "fact_cache/host"}
    assert (end.status, end.rc, end.reason) == ("failed", 2, "exited")
    assert [each["counter"] for each in end.events] == [1, 2, 3]
    assert end.stdout.read() == "all of it\n"
    assert (place / "rc").read_text() == "2"
    assert [path for path in place.rglob("*") if path.stat().st_mode & 0o077] == []


def test_without_an_ident_the_artifacts_lie_in_the_directory_itself(tmp_path: Path) -> None:
    end = processed(tmp_path, older(*results()))
    assert (tmp_path / "artifacts" / "rc").read_text() == "0"
    assert end.artifact_dir == str(tmp_path / "artifacts")


def test_an_artifact_directory_that_is_named_is_taken_as_it_is(tmp_path: Path) -> None:
    processed(tmp_path, older(*results()), ident="job", artifact_dir=tmp_path / "here")
    assert (tmp_path / "here" / "rc").read_text() == "0"


def test_handlers_see_what_they_see_of_a_job_here(form: Any, tmp_path: Path) -> None:
    seen: list[Any] = []

    def note(data: dict[str, Any]) -> bool:
        seen.append(data["counter"])
        return bool(data["counter"] != 2)

    processed(
        tmp_path,
        form(*results()),
        event_handler=note,
        status_handler=lambda data, runner_config: seen.append((data["status"], runner_config.command)),
        artifacts_handler=lambda place: seen.append(place),
        finished_callback=lambda end: seen.append(end.rc),
    )
    command = ["ansible-playbook", "x.yml"]
    told = [("starting", command), ("running", command), 1, 2, 3, ("successful", command)]
    assert seen == [*told, str(tmp_path / "artifacts"), 0]
    assert len(list((tmp_path / "artifacts" / "job_events").iterdir())) == 2


def test_a_handler_that_raises_fails_the_processing_and_keeps_the_event(tmp_path: Path) -> None:
    def handler(data: dict[str, Any]) -> bool:
        raise ValueError(data["counter"])

    with pytest.raises(CallbackError, match="event handler raised ValueError: 1"):
        processed(tmp_path, older(*results()), event_handler=handler)
    assert (tmp_path / "artifacts" / "status").read_text() == "error"
    assert len(list((tmp_path / "artifacts" / "job_events").iterdir())) == 1


def test_a_worker_without_a_job_says_why_and_the_exit_code_of_it(tmp_path: Path) -> None:
    error = {"status": "error", "job_explanation": "There is no image."}
    end = processed(tmp_path, own(error, {"eof": True, "ee_runner": {"rc": 66, "reason": "image"}}))
    assert (end.status, end.rc, end.reason, end.detail) == ("error", 66, "image", "There is no image.")
    end = processed(tmp_path, older(error, {"eof": True}))
    assert (end.status, end.rc, end.detail) == ("error", 1, "There is no image.")


def test_events_are_shown_as_the_job_showed_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import ansible_runner

    quiet: Any = {"streamer": "process", "private_data_dir": tmp_path}
    ansible_runner.run(_input=io.BytesIO(older(*results())), **quiet)
    assert capsys.readouterr().out == "line 1\nline 2\nline 3\n"
    ansible_runner.run(_input=io.BytesIO(older(*results())), json_mode=True, **quiet)
    assert [json.loads(line)["counter"] for line in capsys.readouterr().out.splitlines()] == [1, 2, 3]
    ansible_runner.run(_input=io.BytesIO(older(*results())), quiet=True, **quiet)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("status", "rc", "expected"),
    [
        ("failed", 0, 1),
        ("failed", 256, 1),
        ("failed", True, 2),
        ("failed", 2**70, 1),
        ("failed", "2", 2),
        ("failed", 4, 4),
        ("successful", 3, 0),
        ("canceled", 0, 254),
        ("timeout", 254, 254),
        ("error", 0, 1),
    ],
)
def test_an_rc_that_does_not_fit_the_status_is_not_believed(
    form: Any, tmp_path: Path, status: str, rc: Any, expected: int
) -> None:
    end = {"eof": True, "ee_runner": {"rc": rc}}
    done = processed(tmp_path, form(streams.STARTING, {"status": status}, archive({"rc": "2"}), end))
    assert (done.status, done.rc) == (status, expected)
    assert (tmp_path / "artifacts" / "rc").read_text() == str(done.rc)


def test_a_job_ends_once(form: Any, tmp_path: Path) -> None:
    end = processed(tmp_path, form(streams.STARTING, {"status": "failed"}, {"status": "successful"}, {"eof": True}))
    assert (end.status, end.reason) == ("error", "lost")
    assert "the status successful, where the job had ended as failed" in end.detail


def test_an_rc_that_is_a_huge_file_is_not_read(tmp_path: Path) -> None:
    hole = archive({"rc": b"0" * (8 << 20)})
    end = processed(tmp_path, older(streams.STARTING, {"status": "failed"}, hole, {"eof": True}))
    assert end.rc == 1


def test_a_late_answer_to_a_requester_that_waited_no_longer_is_passed_over(tmp_path: Path) -> None:
    from ee_runner.stream.records import Hello, hello_line

    end = processed(tmp_path, hello_line(Hello()) + own(*results()))
    assert end.status == "successful"


def test_cancel_in_a_handler_ends_the_reading_at_once(form: Any, tmp_path: Path) -> None:
    from ee_runner.attachment import Attachment

    attachment = Attachment()
    seen: list[int] = []

    def handler(data: dict[str, Any]) -> None:
        seen.append(data["counter"])
        attachment.cancellation.request()

    end = processed(tmp_path, form(*results()), event_handler=handler, attachment=attachment)
    assert (end.status, end.rc, seen) == ("canceled", 254, [1])


# A stream that breaks


@pytest.mark.parametrize("cut", [0, 1, 100, 600])
def test_a_stream_that_is_cut_is_a_lost_job_with_all_that_came(form: Any, tmp_path: Path, cut: int) -> None:
    statuses: list[Any] = []
    end = processed(tmp_path, form(*results())[:cut], status_handler=lambda data, **_: statuses.append(data))
    assert (end.status, end.rc, end.reason) == ("error", 76, "lost")
    assert (tmp_path / "artifacts" / "status").read_text() == "error"
    assert not (tmp_path / "artifacts" / "rc").exists()
    assert statuses[-1]["status"] == "error"
    assert statuses[-1]["job_explanation"] == end.detail
    assert "The other end" in end.detail
    assert end.stdout.read().splitlines() == [each["stdout"] for each in end.events]


def test_a_stream_that_is_cut_in_the_artifacts_is_lost_as_well(form: Any, tmp_path: Path) -> None:
    end = processed(tmp_path, form(*results())[:-250])
    assert (end.status, end.rc, end.reason) == ("error", 76, "lost")
    assert "in the middle of an archive" in end.detail
    assert not [path for path in (tmp_path / "artifacts").iterdir() if "partial" in path.name]


def test_a_stream_whose_end_alone_is_cut_is_lost_too_with_all_its_artifacts(form: Any, tmp_path: Path) -> None:
    end = processed(tmp_path, form(*results())[:-5])
    assert (end.status, end.rc, end.reason) == ("error", 76, "lost")
    assert end.stdout.read() == "all of it\n"


def test_an_older_stream_with_noise_in_it_is_broken_and_the_noise_is_quoted(tmp_path: Path) -> None:
    begin, rest = older(streams.STARTING, event(1)), older(event(2), {"eof": True})
    end = processed(tmp_path, begin + b"Connection reset by peer\n" + rest)
    assert end.reason == "lost"
    assert "After record 2 (an event) came 25 bytes" in end.detail
    assert "Connection reset by peer" in end.detail


def test_noise_in_a_stream_of_ours_is_passed_over_and_told(tmp_path: Path) -> None:
    from ee_runner.attachment import Attachment

    told: list[str] = []
    lines = own(*results()).splitlines(keepends=True)
    noisy = b"Welcome to this host!\n" + lines[0] + b"WARNING: disk\n" + b"".join(lines[1:])
    end = processed(tmp_path, noisy, attachment=Attachment(warn=told.append))
    assert end.status == "successful"
    assert ["Welcome" in told[0], "WARNING: disk" in told[1]] == [True, True]


def test_a_worker_that_never_started_is_quoted(tmp_path: Path) -> None:
    end = processed(tmp_path, b"bash: line 1: ansible-runner: command not found\n")
    assert "command not found" in end.detail
    assert "never started" in end.detail


def test_a_request_in_the_place_of_results_is_told_as_such(tmp_path: Path) -> None:
    end = processed(tmp_path, older({"kwargs": {"playbook": "x.yml"}}, {"eof": True}))
    assert "this is a request, not a worker's results" in end.detail


# A stream that is taken up again


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("cut", range(300, 3000, 300))
def test_a_cut_stream_is_taken_up_where_it_was_cut(tmp_path: Path, cut: int, frames: bool) -> None:
    data = own(*results(events=6), frames=frames)
    counters: list[int] = []
    statuses: list[str] = []
    handlers: Any = {
        "event_handler": lambda data: counters.append(data["counter"]),
        "status_handler": lambda data, **_: statuses.append(data["status"]),
    }
    first = processed(tmp_path, data[:cut], **handlers)
    if first.reason == "lost":
        statuses.pop()
        last = processed(tmp_path, data, resume=True, **handlers)
        assert (last.status, last.rc, last.reason) == ("successful", 0, "exited")
    assert counters == [1, 2, 3, 4, 5, 6]
    assert statuses == ["starting", "running", "successful"]
    assert (tmp_path / "artifacts" / "stdout").read_text() == "all of it\n"
    assert not (tmp_path / "artifacts" / ".stream").exists()


def test_there_must_be_something_to_take_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no stream to take up again"):
        processed(tmp_path, own(*results()), resume=True)


def test_another_jobs_stream_is_not_taken_for_it(tmp_path: Path) -> None:
    processed(tmp_path, own(*results())[:900])
    end = processed(tmp_path, own(*results(), stream="stream-2"), resume=True)
    assert "This is the stream stream-2; the one that was cut is stream-1" in end.detail


@pytest.mark.parametrize("position", ["stream-1 99", "stream-1 10", "stream-1 -1x", "../x 3", "", "x" * 10_000])
@pytest.mark.parametrize("frames", [False, True])
def test_a_place_that_was_tampered_with_is_no_success(tmp_path: Path, position: str, frames: bool) -> None:
    data = own(*results(), frames=frames)
    processed(tmp_path, data[:900])
    (tmp_path / "artifacts" / ".stream").write_text(position)
    try:
        end = processed(tmp_path, data, resume=True)
    except ConfigurationError:
        return
    assert end.reason == "lost" or (end.status == "successful" and (tmp_path / "artifacts" / "stdout").exists())


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_place_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "artifacts").mkdir()
    place = tmp_path / "artifacts" / ".stream"
    place.symlink_to("/etc/hostname") if kind == "link" else os.mkfifo(place)
    with pytest.raises((ConfigurationError, ArtifactError)):
        processed(tmp_path, own(*results()), resume=True)


def test_an_older_stream_can_not_be_taken_up(tmp_path: Path) -> None:
    processed(tmp_path, own(*results())[:900])
    end = processed(tmp_path, older(*results()), resume=True)
    assert "its records carry no numbers" in end.detail


# A stream that is hostile


HOSTILE_EVENTS = [
    event(1, uuid="../../../../project/x"),
    event(1, uuid="/etc/passwd"),
    event(1, uuid="a/b"),
    event(1, uuid=""),
    event(1, uuid=["x"]),
    event(1, uuid="x" * 1000),
    {**event(1), "counter": "../1"},
    {**event(1), "counter": True},
    {**event(1), "counter": -1},
    {**event(1), "counter": 1.5},
    {**event(1), "counter": 10**400},
    {**event(1), "event_data": "text"},
    {**event(1), "event": "playbook_on_stats", "event_data": {"ok": 5}},
]


@pytest.mark.parametrize("hostile", HOSTILE_EVENTS)
def test_an_event_can_not_choose_where_it_is_written(tmp_path: Path, hostile: dict[str, Any]) -> None:
    end = processed(tmp_path / "job", older(streams.STARTING, hostile, {"status": "successful"}, {"eof": True}))
    assert end.reason == "lost"
    assert tree(tmp_path) <= {
        "job",
        *(
            f"job/artifacts{name}"
            for name in ("", "/job_events", "/reason", "/status", "/stdout", "/stderr", "/.stream")
        ),
    }


@pytest.mark.parametrize("status", ["done", "", None, 7, {"a": 1}, "../x"])
def test_a_status_is_one_of_those_that_there_are(tmp_path: Path, status: Any) -> None:
    end = processed(tmp_path, older({"status": status}, {"eof": True}))
    assert end.reason == "lost"
    assert "there is no status" in end.detail


def test_a_status_sets_nothing_but_what_it_tells(tmp_path: Path) -> None:
    hostile = {**streams.STARTING, "config": 1, "self": 2, "artifact_dir": "/etc", "command": "rm", "env": ["x"]}
    data = older(hostile, {"status": "successful"}, archive({"rc": "0"}), {"eof": True})
    seen: list[Any] = []
    end = processed(tmp_path, data, status_handler=lambda _, runner_config: seen.append(runner_config))
    assert end.status == "successful"
    assert seen[0].artifact_dir == str(tmp_path / "artifacts")
    assert (seen[0].command, seen[0].env, seen[0].cwd) == ([], {}, "/there")


@pytest.mark.parametrize("name", ["../env/envvars", "/etc/x", "../../x", "a/../../x", "job_events/../../project/x"])
def test_no_artifact_lands_outside_the_artifact_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "job" / "project").mkdir(parents=True)
    end = processed(tmp_path / "job", older(streams.STARTING, {"status": "successful"}, archive({name: "x"})))
    assert end.reason == "lost"
    assert {path.split("/")[1] for path in tree(tmp_path) if "/" in path} == {"project", "artifacts"}
    assert list((tmp_path / "job" / "project").iterdir()) == []


def test_results_of_one_job_do_not_touch_those_of_another_beside_it(tmp_path: Path) -> None:
    processed(tmp_path, older(*results()), ident="other")
    files = {"other/rc": "7", "other/status": "failed", "rc": "0", "profile/data": "kept"}
    processed(tmp_path, older(streams.STARTING, {"status": "successful"}, archive(files), {"eof": True}))
    place = tmp_path / "artifacts"
    assert (place / "other" / "rc").read_text() == "0"
    assert (place / "profile" / "data").read_text() == "kept"


def test_results_of_a_job_that_ended_meanwhile_are_not_touched(tmp_path: Path) -> None:
    def status_handler(data: dict[str, Any], **_: Any) -> None:
        if data["status"] == "successful":
            processed(tmp_path, older(*results(rc=2, status="failed")), ident="later")

    data = older(streams.STARTING, {"status": "successful"}, archive({"later/rc": "0", "rc": "0"}), {"eof": True})
    processed(tmp_path, data, status_handler=status_handler)
    assert (tmp_path / "artifacts" / "later" / "rc").read_text() == "2"


def test_a_link_among_the_artifacts_that_leads_out_is_refused(tmp_path: Path) -> None:
    import zipfile

    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        info = zipfile.ZipInfo("stdout")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    end = processed(tmp_path, older(streams.STARTING, {"status": "successful"}, made.getvalue(), {"eof": True}))
    assert end.reason == "lost"
    assert not (tmp_path / "artifacts" / "stdout").is_symlink()


def test_what_a_worker_says_of_its_events_does_not_undo_what_the_handler_dropped(tmp_path: Path) -> None:
    first = event(1)
    files = {f"job_events/1-{first['uuid']}.json": json.dumps(first), "rc": "0"}
    data = older(streams.STARTING, first, {"status": "successful"}, archive(files), {"eof": True})
    processed(tmp_path, data, event_handler=lambda _: False)
    assert list((tmp_path / "artifacts" / "job_events").iterdir()) == []


def test_a_worker_that_ends_without_a_jobs_end_is_lost(tmp_path: Path) -> None:
    end = processed(tmp_path, own(streams.STARTING, streams.RUNNING, {"eof": True}))
    assert (end.reason, end.rc) == ("lost", 76)
    assert "the worker ended its results, but not the job" in end.detail


def test_cancel_ends_the_reading(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, older(streams.STARTING, event(1)))
    end = api.run(streamer="process", private_data_dir=tmp_path, _input=reading, cancel_callback=lambda: True)
    assert (end.status, end.rc, end.reason) == ("canceled", 254, "canceled")
    os.close(reading)
    os.close(writing)
