"""Many jobs at once, and many readers of one: nothing of one shows in another."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import ee_runner
from tests.support.processes import wait_until

TWENTY = range(20)


def plays(number: int) -> list[dict[str, Any]]:
    message = "{{ inventory_hostname }} {{ own }} {{ of_host }} {{ lookup('env', 'OWN') }} " + f"play{number}"
    return [{"hosts": "all", "gather_facts": False, "tasks": [{"name": f"task{number}", "debug": {"msg": message}}]}]


def inventory(number: int) -> dict[str, Any]:
    return {"all": {"hosts": {f"host{number}": {"of_host": f"var{number}", "ansible_connection": "local"}}}}


def job(place: Path, number: int) -> ee_runner.Runner:
    return ee_runner.run(
        private_data_dir=place,
        ident=number,
        playbook=plays(number),
        inventory=inventory(number),
        extravars={"own": f"extra{number}"},
        envvars={"OWN": f"env{number}"},
        passwords={"Word": f"secret{number}"},
    )


def files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file() and "artifacts" not in path.parts)


def test_twenty_jobs_at_once_in_one_private_data_directory_each_have_their_own(demo: Path) -> None:
    before = files(demo)
    with ThreadPoolExecutor(len(TWENTY)) as pool:
        runners = list(pool.map(lambda number: job(demo, number), TWENTY))
    assert [(runner.status, runner.rc) for runner in runners] == [("successful", 0)] * len(TWENTY)
    for number, runner in zip(TWENTY, runners, strict=True):
        events = list(runner.events)
        told = [event["event_data"] for event in events if event["event"] == "runner_on_ok"]
        message = f"host{number} extra{number} var{number} env{number} play{number}"
        assert [(data["task"], data["host"], data["res"]["msg"]) for data in told] == [
            (f"task{number}", f"host{number}", message)
        ]
        assert [event["counter"] for event in events] == list(range(1, len(events) + 1))
        assert {event["runner_ident"] for event in events} == {str(number)}
        assert runner.stats is not None
        assert runner.stats["ok"] == {f"host{number}": 1}
        with runner.stdout as stdout:
            assert stdout.read().count("PLAY [") == 1
    assert files(demo) == before


def test_one_ident_has_one_job_at_a_time(tmp_path: Path) -> None:
    options: dict[str, Any] = {"private_data_dir": tmp_path, "ident": "1", "executable_cmd": "sleep"}
    thread, runner = ee_runner.run_async(**options, cmdline_args=["300"])
    with pytest.raises(ee_runner.ConfigurationError, match="A job with the ident '1' is running"):
        ee_runner.run(**options, cmdline_args=["0"])
    runner.cancel()
    thread.join()
    assert runner.status == "canceled"
    assert ee_runner.run(**options, cmdline_args=["0"]).rc == 0


def test_several_threads_follow_a_job_while_it_runs_and_see_the_same(tmp_path: Path) -> None:
    """The job goes on only when each reader has seen the last line: they are live, or the test never ends."""
    readers = 4
    script = f"for n in 1 2 3; do echo $n; while test $(ls | grep -c seen$n) -lt {readers}; do sleep 0.02; done; done"
    thread, runner = ee_runner.run_async(
        private_data_dir=tmp_path,
        executable_cmd="sh",
        cmdline_args=["-c", script],
        host_cwd=tmp_path,
        timeout=60,
    )

    def follow(reader: int) -> list[str]:
        seen = []
        for event in runner.events if reader % 2 else map(ee_runner.Event.to_dict, runner.iter_events()):
            seen.append(event["stdout"])
            (tmp_path / f"{reader}.seen{event['stdout']}").touch()
        return seen

    with ThreadPoolExecutor(readers) as pool:
        followed = list(pool.map(follow, range(readers)))
    thread.join()
    assert runner.rc == 0
    assert followed == [["1", "2", "3"]] * readers
    assert [event["stdout"] for event in runner.events] == ["1", "2", "3"]


def test_results_can_be_looked_at_while_the_job_runs(tmp_path: Path) -> None:
    thread, runner = ee_runner.run_async(
        private_data_dir=tmp_path,
        executable_cmd="sh",
        cmdline_args=["-c", "echo going; while ! test -e go; do sleep 0.02; done"],
        host_cwd=tmp_path,
        timeout=60,
    )
    wait_until(lambda: next(runner.events, None) is not None, bound=60, what="the first event")
    assert (runner.status, runner.rc) == ("running", None)
    with runner.stdout as stdout:
        assert stdout.read() == "going\n"
    assert runner.stats is None
    (tmp_path / "go").touch()
    thread.join()
    assert runner.rc == 0


def test_a_hundred_threads_that_cancel_one_job_end_it_once(tmp_path: Path) -> None:
    statuses: list[str] = []
    thread, runner = ee_runner.run_async(
        private_data_dir=tmp_path,
        executable_cmd="sleep",
        cmdline_args=["300"],
        status_handler=lambda data, runner_config: statuses.append(data["status"]),  # noqa: ARG005
    )
    threads = [threading.Thread(target=runner.cancel) for _ in range(100)]
    for each in threads:
        each.start()
    for each in (*threads, thread):
        each.join()
    assert runner.status == "canceled"
    assert statuses == ["starting", "running", "canceled"]
