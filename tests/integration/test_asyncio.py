"""Jobs in an event loop: awaited, entered, followed, cancelled, and many at once."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ee_runner
from tests.support.processes import alive

MANY = 200


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that jobs work in, empty; their temporary places are elsewhere."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "place").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def sh(script: str, **options: Any) -> ee_runner.AsyncJob:
    return ee_runner.arun(executable_cmd="sh", cmdline_args=["-c", script], **options)


def waits(sign: str = "going") -> str:
    return f"echo $$ > pid; echo {sign}; exec sleep 300"


async def seen(path: Path) -> None:
    while not path.exists() or not path.read_text():
        await asyncio.sleep(0.02)


def is_over(place: Path) -> bool:
    return not alive(int((place / "pid").read_text()))


def text(runner: ee_runner.Runner) -> str:
    with runner.stdout as stdout:
        return stdout.read()


def jobs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ee_runner")]


def test_awaiting_a_job_gives_its_runner_as_often_as_it_is_awaited(place: Path) -> None:
    async def main() -> None:
        job = sh("echo ran >> count; exit 3")
        runner = await job
        assert (runner.status, runner.rc, text(runner)) == ("failed", 3, "")
        assert await job is runner
        assert (place / "count").read_text() == "ran\n"

    asyncio.run(main())
    for thread in jobs():
        thread.join(60)
    assert jobs() == []


def test_a_playbook_is_followed_while_it_runs(demo: Path) -> None:
    (demo / "project/site.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n"
        "  vars: {ansible_python_interpreter: '{{ ansible_playbook_python }}'}\n"
        "  tasks:\n    - debug: msg=first\n    - wait_for: path={{ playbook_dir }}/go timeout=60\n"
    )

    async def main() -> None:
        events = []
        async with ee_runner.arun(private_data_dir=demo, playbook="site.yml", ident="1") as job:
            async for event in job:
                events.append(event)
                if event["event"] == "runner_on_ok" and not (demo / "project/go").exists():
                    (demo / "project/go").touch()
        runner = await job
        assert runner.rc == 0
        assert events == list(runner.events)
        assert [event["event"] for event in events].count("runner_on_ok") == 2

    asyncio.run(main())


def test_leaving_the_block_waits_for_the_job(place: Path) -> None:
    async def main() -> None:
        async with sh("sleep 0.3; echo > ended") as job:
            assert not (place / "ended").exists()
        assert (place / "ended").exists()
        assert (await job).status == "successful"

    asyncio.run(main())


def test_what_the_block_raises_cancels_the_job_and_comes_out(place: Path) -> None:
    async def block(job: ee_runner.AsyncJob) -> None:
        async with job:
            await seen(place / "pid")
            raise KeyError("mine")

    async def main() -> None:
        job = sh(waits())
        with pytest.raises(KeyError, match="mine"):
            await block(job)
        assert is_over(place)
        assert (await job).status == "canceled"

    asyncio.run(main())


def test_cancelling_a_job_waits_until_nothing_of_it_is_left(place: Path) -> None:
    async def main() -> None:
        async with sh(waits()) as job:
            await seen(place / "pid")
            await job.cancel()
            assert is_over(place)
            assert [event["stdout"] async for event in job] == ["going"]
        runner = await job
        assert (runner.status, runner.rc) == ("canceled", 254)
        await job.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("how", ["awaited", "entered", "followed"])
def test_cancelling_the_task_cancels_its_job(place: Path, how: str) -> None:
    runners: list[ee_runner.Runner] = []

    async def awaiting() -> None:
        job = sh(waits(), finished_callback=runners.append)
        if how == "awaited":
            await job
        elif how == "entered":
            async with job:
                await asyncio.sleep(300)
        else:
            async for event in job:
                assert event["stdout"] == "going"

    async def main() -> None:
        task = asyncio.create_task(awaiting())
        await seen(place / "pid")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert is_over(place)

    asyncio.run(main())
    assert [runner.status for runner in runners] == ["canceled"]


def test_a_time_limit_of_asyncio_ends_the_job(place: Path) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(sh(waits()), timeout=3)
        assert is_over(place)

    asyncio.run(main())


def test_a_loop_that_ends_takes_its_jobs_with_it(place: Path) -> None:
    tasks = []

    async def awaiting() -> None:
        await sh(waits())

    async def main() -> None:
        tasks.append(asyncio.create_task(awaiting()))
        await seen(place / "pid")

    asyncio.run(main())
    assert tasks[0].cancelled()
    assert is_over(place)


def test_a_loop_that_is_closed_under_a_job_changes_nothing_for_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    finished = threading.Event()

    async def main() -> None:
        job = sh("while ! test -e go; do sleep 0.05; done; echo $$ > pid", finished_callback=lambda _: finished.set())
        await job.__aenter__()
        (thread,) = jobs()
        threads.append(thread)

    threads: list[threading.Thread] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    (place / "go").touch()
    threads[0].join(60)
    assert finished.is_set()
    assert raised == []


def test_what_is_wrong_with_the_arguments_is_raised_where_the_job_is_awaited() -> None:
    async def main() -> None:
        job = ee_runner.arun(executable_cm="x")  # type: ignore[call-arg]
        for _ in range(2):
            with pytest.raises(ee_runner.ConfigurationError, match="executable_cmd"):
                await job
        with pytest.raises(ee_runner.ConfigurationError, match="there is no playbook"):
            async with ee_runner.arun(private_data_dir=".", playbook="none.yml"):
                raise AssertionError
        with pytest.raises(ee_runner.ConfigurationError, match="there is no playbook"):
            await anext(aiter(ee_runner.arun(private_data_dir=".", playbook="none.yml")))

    asyncio.run(main())


def test_what_a_callback_raises_is_raised_where_the_job_is_awaited(place: Path) -> None:
    def boom(_: Any) -> None:
        raise ValueError("boom")

    async def main() -> None:
        job = sh(waits(), event_handler=boom)
        assert [event["stdout"] async for event in job] == ["going"]
        with pytest.raises(ee_runner.CallbackError, match="boom"):
            await job
        assert is_over(place)

    asyncio.run(main())


def test_an_error_that_nobody_awaits_makes_no_noise(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)

    async def main() -> None:
        job = ee_runner.arun(executable_cm="x")  # type: ignore[call-arg]
        task = asyncio.ensure_future(job)
        await asyncio.wait({task})
        assert isinstance(task.exception(), ee_runner.ConfigurationError)
        async with sh("echo a"):
            pass
        ee_runner.arun(executable_cmd="never")
        await sh(waits(), cancel_callback=lambda: True).cancel()

    asyncio.run(main())
    gc.collect()
    assert raised == []
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_a_job_that_is_not_wanted_any_more_before_it_starts_does_not_start(place: Path) -> None:
    async def main() -> None:
        job = sh("echo > started")
        await job.cancel()
        assert (await job).status == "canceled"
        assert not (place / "started").exists()

    asyncio.run(main())


def test_the_loop_goes_on_while_a_callback_blocks(place: Path) -> None:
    async def main() -> None:
        free = threading.Event()

        def blocks(event: dict[str, Any]) -> None:
            assert event["stdout"] == "going"
            assert free.wait(60)

        job = asyncio.ensure_future(sh("echo going", event_handler=blocks))
        ticks = 0
        while not list(place.parent.rglob("stdout")) or ticks < 20:
            ticks += 1
            await asyncio.sleep(0.01)
        assert not job.done()
        free.set()
        assert (await job).rc == 0

    asyncio.run(main())


def test_200_jobs_in_one_loop_are_all_right(
    tmp_path: Path, record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    async def light(number: int) -> tuple[int | None, str, list[str]]:
        job = sh(f"echo {number}; exit {number % 3}", envvars={"N": number})
        events = [event["stdout"] async for event in job]
        runner = await job
        return runner.rc, text(runner), events

    async def main() -> list[tuple[int | None, str, list[str]]]:
        return await asyncio.gather(*(light(number) for number in range(MANY)))

    began = time.monotonic()
    results = asyncio.run(main())
    taken = time.monotonic() - began
    assert results == [(number % 3, f"{number}\n", [str(number)]) for number in range(MANY)]
    for thread in jobs():
        thread.join(60)
    gc.collect()
    assert [*(tmp_path / "tmp").iterdir()] == []
    record_property("seconds", taken)
    with capsys.disabled():
        print(f"\n{MANY} jobs in one loop: {taken:.1f} s")
    assert not [name for name in os.listdir("/proc/self/fd") if leads_to(name, tmp_path)]  # noqa: PTH208


def leads_to(descriptor: str, directory: Path) -> bool:
    try:
        return re.match(str(directory), str(Path(f"/proc/self/fd/{descriptor}").readlink())) is not None
    except OSError:
        return False
