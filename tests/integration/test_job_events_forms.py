"""Jobs whose events are kept in files, in a log or in both: by keyword, setting and flag, here and from a worker."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ee_runner
from ee_runner.errors import ConfigurationError
from tests.support.processes import wait_until

PLAY = "- hosts: one\n  gather_facts: false\n  tasks: [{debug: {msg: a greeting}}, {debug: {}}]\n"
FORMS = ("files", "log", "both")
BOUND = 60.0


@pytest.fixture
def job(demo: Path) -> Path:
    (demo / "project/site.yml").write_text(PLAY)
    return demo


def logged(artifacts: Path) -> list[dict[str, Any]] | None:
    log = artifacts / "job_events.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else None


def filed(artifacts: Path) -> list[dict[str, Any]]:
    paths = sorted((artifacts / "job_events").iterdir(), key=lambda path: int(path.name.partition("-")[0]))
    return [json.loads(path.read_text()) for path in paths]


def check(artifacts: Path, form: str, events: list[dict[str, Any]]) -> None:
    assert events
    assert filed(artifacts) == ([] if form == "log" else events)
    assert logged(artifacts) == (None if form == "files" else events)


def test_each_form_by_each_way_of_asking_for_it_with_one_ident(job: Path) -> None:
    """A job's events are those of its own form alone, whatever an earlier one of its ident has left."""
    artifacts = job / "artifacts/1"
    seen: list[dict[str, Any]] = []

    def handler(event: dict[str, Any]) -> bool:
        seen.append(json.loads(json.dumps(event)))
        return bool(event["counter"] != 3)

    ended = ee_runner.run(
        private_data_dir=job, playbook="site.yml", ident="1", quiet=True, job_events="both", event_handler=handler
    )
    kept = [event for event in seen if event["counter"] != 3]
    check(artifacts, "both", kept)
    assert list(ended.events) == kept

    (job / "env").mkdir(exist_ok=True)
    (job / "env/settings").write_text("job_events: log\n")
    ended = ee_runner.run(private_data_dir=job, playbook="site.yml", ident="1", quiet=True)
    check(artifacts, "log", list(ended.events))
    assert (ended.stats or {})["ok"] == {"one": 2}
    assert [event["event"] for event in ended.host_events("one")].count("runner_on_ok") == 2
    assert (artifacts / "job_events.jsonl").stat().st_mode & 0o777 == 0o600

    argv = [sys.executable, "-m", "ee_runner", "run", str(job), "-p", "site.yml", "-q", "-i", "1"]
    subprocess.run([*argv, "--job-events", "files"], check=True, timeout=BOUND)
    check(artifacts, "files", filed(artifacts))
    refused = subprocess.run([*argv, "--job-events", "file"], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "one of files, log, both" in refused.stderr


def test_what_is_no_form_is_refused(job: Path) -> None:
    with pytest.raises(ConfigurationError, match="job_events: one of files, log, both is expected"):
        ee_runner.run(private_data_dir=job, playbook="site.yml", job_events="none")  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_a_job_is_followed_in_an_event_loop(job: Path, form: Any) -> None:
    async def follow() -> list[int]:
        running = ee_runner.arun(private_data_dir=job, playbook="site.yml", ident="1", quiet=True, job_events=form)
        return [event["counter"] async for event in running]

    counters = asyncio.run(asyncio.wait_for(follow(), BOUND))
    assert counters == list(range(1, len(counters) + 1))
    assert len(counters) > 5
    check(job / "artifacts/1", form, logged(job / "artifacts/1") or filed(job / "artifacts/1"))


@pytest.mark.parametrize(("there", "here"), [("log", "files"), ("files", "log"), ("log", "both")])
def test_each_end_of_a_remote_job_keeps_events_as_it_is_asked(
    job: Path, tmp_path_factory: pytest.TempPathFactory, there: Any, here: Any
) -> None:
    """What the sender asks for is its own affair; the settings of the directory travel with it."""
    (job / "env").mkdir(exist_ok=True)
    (job / "env/settings").write_text(f"job_events: {there}\n")
    other = tmp_path_factory.mktemp("other")
    sent, came = io.BytesIO(), io.BytesIO()
    ee_runner.run(
        streamer="transmit", _output=sent, private_data_dir=job, playbook="site.yml", ident="1", job_events=there
    )
    ee_runner.run(
        streamer="worker", _input=io.BytesIO(sent.getvalue()), _output=came, private_data_dir=other / "worker"
    )
    artifacts = other / "worker/artifacts/1"
    assert ((artifacts / "job_events.jsonl").exists(), filed(artifacts)) == (there == "log", [])
    end = ee_runner.run(
        streamer="process", _input=io.BytesIO(came.getvalue()), private_data_dir=other, ident="1", job_events=here
    )
    assert end.status == "successful"
    check(other / "artifacts/1", here, list(end.events))
    assert (end.stats or {})["ok"] == {"one": 2}


def test_the_log_of_a_job_that_was_killed_ends_with_a_whole_event(job: Path) -> None:
    (job / "project/site.yml").write_text(PLAY.replace("{debug: {}}", "{command: sleep 300}"))
    argv = [sys.executable, "-m", "ee_runner", "run", str(job), "-p", "site.yml", "-q", "-i", "1"]
    log = job / "artifacts/1/job_events.jsonl"
    running = subprocess.Popen([*argv, "--job-events", "log"], env=dict(os.environ))
    try:
        wait_until(
            lambda: log.exists() and log.read_bytes().count(b'"event":"runner_on_start"') == 2,
            bound=BOUND,
            what="the start of the last task",
        )
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait(BOUND)
    with log.open("ab") as file:
        file.write(b'{"counter": 99, "uuid": "half an ev')
    (job / "project/site.yml").write_text(PLAY)
    subprocess.run([*argv[:-1], "2"], check=True, timeout=BOUND)  # settles what the other left
    assert (job / "artifacts/1/status").read_text() == "error"
    counters = [event["counter"] for event in logged(job / "artifacts/1") or []]
    assert counters == list(range(1, len(counters) + 1))
    assert len(counters) > 5
