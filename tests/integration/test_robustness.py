"""What callers do that nobody expects: each ends in words or in a result, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import ansible_runner
import ee_runner
from ee_runner.emitters.plugins import plugins
from tests.support.processes import REPO, alive, wait_until

LATE = """\
import sys
import ee_runner

ee_runner.run_async(
    private_data_dir=sys.argv[1],
    executable_cmd="sh",
    cmdline_args=["-c", "sleep 1; echo late"],
    event_handler=lambda event: print(event["stdout"], flush=True),
    finished_callback=lambda runner: print(runner.status, flush=True),
)
print("the program ends", flush=True)
"""


def shell(place: Path, script: str, **options: Any) -> dict[str, Any]:
    command = {"executable_cmd": "sh", "cmdline_args": ["-c", script], "host_cwd": place}
    return {"private_data_dir": place, "ident": "1", **command, **options}


def outcome(place: Path) -> tuple[str, str]:
    directory = place / "artifacts/1"
    return (directory / "status").read_text(), (directory / "rc").read_text()


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ee_runner.ConfigurationError) as caught:
        call()
    return str(caught.value)


async def coroutine_function(*_: Any, **__: Any) -> None: ...


# Callbacks


@pytest.mark.parametrize("callback", [5, "name", [], coroutine_function], ids=str)
@pytest.mark.parametrize(
    "name", ["event_handler", "status_handler", "cancel_callback", "finished_callback", "artifacts_handler"]
)
def test_a_callback_that_can_not_be_called_is_named_before_anything_is_made(
    tmp_path: Path, name: str, callback: Any
) -> None:
    assert refusal(lambda: ee_runner.init_runner(**shell(tmp_path, "true"), **{name: callback})).startswith(f"{name}: ")
    assert not (tmp_path / "artifacts").exists()


def test_in_a_callback_the_events_end_with_what_is_there(tmp_path: Path) -> None:
    seen: dict[str, list[list[int]]] = {"event": [], "status": [], "cancel": []}

    def look(kind: str) -> None:
        seen[kind].append([event["counter"] for event in runner.events])
        assert [*runner.host_events("nobody")] == []

    runner = ee_runner.init_runner(
        **shell(tmp_path, "echo a; echo b; echo c"),
        event_handler=lambda _: look("event"),
        status_handler=lambda _, runner_config: look("status"),  # noqa: ARG005
        cancel_callback=lambda: look("cancel"),
    )
    assert runner.run() == ("successful", 0)
    assert seen["event"] == [[], [1], [1, 2]]
    assert seen["status"] == [[], [], [1, 2, 3]]
    assert seen["cancel"]


def test_a_handler_may_run_other_jobs_but_not_its_own(tmp_path: Path) -> None:
    inner: list[str] = []
    runner = ee_runner.init_runner(
        **shell(tmp_path, "echo a; echo b"),
        event_handler=lambda event: inner.append(ee_runner.run_command("echo", [event["stdout"]])[0]),
    )
    assert runner.run() == ("successful", 0)
    assert inner == ["a\n", "b\n"]

    again = ee_runner.init_runner(**shell(tmp_path, "echo a; sleep 300"), event_handler=lambda _: again.run())
    with pytest.raises(ee_runner.CallbackError, match="is running") as caught:
        again.run()
    assert isinstance(caught.value.__cause__, ee_runner.ConfigurationError)
    assert outcome(tmp_path) == ("error", "70")


def test_a_job_that_runs_is_not_run_once_more_and_is_not_disturbed(tmp_path: Path) -> None:
    thread, runner = ee_runner.run_async(**shell(tmp_path, "echo > started; while [ ! -e go ]; do sleep .1; done"))
    wait_until((tmp_path / "started").exists, bound=30, what="the job")
    assert "is running" in refusal(runner.run)
    assert runner.status == "running"
    (tmp_path / "go").touch()
    thread.join()
    assert (runner.status, runner.rc) == ("successful", 0)
    assert runner.run() == ("successful", 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda event: event.clear(),
        lambda event: event.update(event_data={"a": object()}),
        lambda event: event.update(stdout="\ud800"),
        lambda event: event.update(event_data={"a": event}),
    ],
    ids=["emptied", "an object", "half a surrogate pair", "itself"],
)
@pytest.mark.parametrize("json_mode", [False, True])
def test_an_event_that_its_handler_made_unwritable_ends_the_job_in_words(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], json_mode: bool
) -> None:
    with pytest.raises(ee_runner.CallbackError, match="event handler left an event that can not be written"):
        ee_runner.run(**shell(tmp_path, "echo a; sleep 300", json_mode=json_mode), event_handler=change)
    assert outcome(tmp_path) == ("error", "70")


class Plugin:
    """An installed plugin, as its module would be."""

    def __init__(self, seen: list[str], error: Exception | None = None) -> None:
        self._seen = seen
        self._error = error

    def status_handler(self, runner_config: Any, data: dict[str, Any]) -> None:  # noqa: ARG002
        self._seen.append(f"plugin {data['status']}")
        if self._error is not None:
            raise self._error

    def event_handler(self, runner_config: Any, data: dict[str, Any]) -> None: ...


@contextlib.contextmanager
def installed(plugin: Plugin) -> Iterator[None]:
    plugins["tried"] = plugin
    try:
        yield
    finally:
        del plugins["tried"]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["event_handler", "cancel_callback", "artifacts_handler"])
def test_an_interrupt_in_a_callback_keeps_the_end_from_nobody(
    tmp_path: Path, interrupt: type[BaseException], where: str
) -> None:
    seen: list[str] = []

    def interrupted(*_: Any) -> None:
        raise interrupt

    chosen: dict[str, Any] = {where: interrupted}
    runner = ee_runner.init_runner(
        **shell(tmp_path, "echo a; sleep 1"),
        status_handler=lambda data, runner_config: seen.append(data["status"]),  # noqa: ARG005
        finished_callback=lambda runner: seen.append(f"finished {runner.status}"),
        **chosen,
    )
    with installed(Plugin(seen)), pytest.raises(interrupt):
        runner.run()
    ended = ("canceled", "254") if interrupt is KeyboardInterrupt else ("error", "1")
    assert outcome(tmp_path) == (("successful", "0") if where == "artifacts_handler" else ended)
    assert seen[-3:] == [f"plugin {runner.status}", runner.status, f"finished {runner.status}"]


def test_a_plugin_that_raises_keeps_no_status_from_the_caller(tmp_path: Path) -> None:
    seen: list[str] = []
    with installed(Plugin(seen, ValueError("token=hunter2"))), pytest.raises(ee_runner.CallbackError) as caught:
        ee_runner.run(
            **shell(tmp_path, "true"),
            status_handler=lambda data, runner_config: seen.append(data["status"]),  # noqa: ARG005
        )
    assert seen == ["plugin starting", "starting", "error"]
    assert "hunter2" not in str(caught.value)


def test_the_interrupt_key_ends_the_job_as_canceled_and_interrupts_the_program(tmp_path: Path) -> None:
    code = (
        "import sys, ee_runner\n"
        "say = lambda event: print(event['stdout'], flush=True)\n"
        "ee_runner.run(private_data_dir=sys.argv[1], ident='1', executable_cmd='sh', event_handler=say,\n"
        "              cmdline_args=['-c', 'echo $$; exec sleep 300'])\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        task = int(program.stdout.readline())
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=60)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert program.returncode == -signal.SIGINT
    assert outcome(tmp_path) == ("canceled", "254")
    assert not alive(task)


# What is changed between init_runner and run


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("env", {"A": "x\0"}, "A: a single value"),
        ("env", {"A": b"x"}, "A: a single value"),
        ("env", {"A": "\ud800"}, "A: a single value"),
        ("env", {"TOKEN=hunter2": "x"}, "found 'TOKEN='"),
        ("env", {1: "x"}, "the name 1"),
        ("env", None, "a mapping"),
        ("command", [], "a list of texts"),
        ("command", ["sh", 1], "item 2"),
        ("cwd", "/a\0b", "text"),
        ("cwd", None, "text"),
    ],
    ids=str,
)
def test_what_no_process_can_get_is_named_when_the_job_runs(tmp_path: Path, name: str, value: Any, said: str) -> None:
    runner = ee_runner.init_runner(**shell(tmp_path, "true"))
    setattr(runner.config, name, value)
    message = refusal(runner.run)
    assert message.startswith(f"config.{name}: ")
    assert said in message
    assert "hunter2" not in message
    assert outcome(tmp_path) == ("error", "78")
    assert (runner.status, runner.rc) == ("error", 78)


def test_numbers_and_paths_in_the_environment_and_the_command_are_passed_as_text(tmp_path: Path) -> None:
    runner = ee_runner.init_runner(**shell(tmp_path, 'echo "$A $B $1"'))
    env: dict[str, Any] = {"A": 1, "B": PurePosixPath("/b")}
    runner.config.env.update(env)
    runner.config.command += ["name", PurePosixPath("/c")]  # type: ignore[list-item]
    runner.config.cwd = tmp_path  # type: ignore[assignment]
    runner.run()
    with runner.stdout as stdout:
        assert stdout.read() == "1 /b /c\n"


# Descriptors and arguments of commands


@pytest.mark.parametrize("descriptor", [-1, -3, 987654, 10**30, "/dev/null", Path("/dev/null")], ids=str)
@pytest.mark.parametrize("name", ["input_fd", "output_fd", "error_fd"])
def test_what_is_no_open_file_is_not_connected(name: str, descriptor: Any) -> None:
    assert refusal(lambda: ee_runner.run_command("cat", **{name: descriptor})).startswith(f"{name}: ")


def test_a_file_that_is_closed_or_open_the_other_way_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("the caller's")
    with path.open() as reading, path.open("a") as writing:
        wrong: list[dict[str, Any]] = [{"output_fd": reading}, {"error_fd": reading}, {"input_fd": writing}]
        for streams in wrong:
            assert "is expected" in refusal(lambda: ee_runner.run_command("echo", ["a"], **streams))  # noqa: B023
        assert reading.read() == "the caller's"
    closed: list[dict[str, Any]] = [{"input_fd": reading}, {"output_fd": reading}, {"error_fd": reading}]
    for streams in closed:
        assert "is expected" in refusal(lambda: ee_runner.run_command("echo", **streams))  # noqa: B023
    assert "text file" in refusal(lambda: ee_runner.run_command("echo", output_fd=io.BytesIO()))  # type: ignore[arg-type]


def test_an_output_that_takes_no_more_stays_the_callers() -> None:
    with Path("/dev/full").open("w") as full:
        assert ee_runner.run_command("seq", ["1000"], output_fd=full) == ("", "", 0)
        assert Path(f"/proc/self/fd/{full.fileno()}").readlink() == Path("/dev/full")


def test_output_and_error_output_may_be_one_file(tmp_path: Path) -> None:
    with (tmp_path / "both").open("w") as both:
        script = ["-c", "echo out; sleep .5; echo err >&2"]
        assert ee_runner.run_command("sh", script, output_fd=both, error_fd=both, runner_mode="subprocess")[2] == 0
    assert (tmp_path / "both").read_text() == "out\nerr\n"


def test_letters_that_a_files_encoding_lacks_do_not_end_its_output() -> None:
    class Narrow(io.StringIO):
        def write(self, text: str) -> int:
            text.encode("ascii")
            return super().write(text)

    shown = Narrow()
    script = ["-c", "echo one; sleep .3; echo zw€i; sleep .3; echo three"]
    ee_runner.run_command("sh", script, output_fd=shown, runner_mode="subprocess")
    assert shown.getvalue() == "one\nzw?i\nthree\n"


@pytest.mark.parametrize("words", [5, [1], [None], [b"a"], ["a\0b"], ["--token", "hunter2", 1]], ids=str)
def test_arguments_that_are_no_texts_are_named_and_not_shown(words: Any) -> None:
    message = refusal(lambda: ee_runner.run_command("echo", words))
    assert message.startswith("cmdline_args: ")
    assert "hunter2" not in message


def test_paths_and_iterators_are_taken_for_commands() -> None:
    assert ee_runner.run_command(Path("/bin/echo"), iter([Path("/a"), "b"]))[0] == "/a b\n"  # type: ignore[arg-type]


def test_the_drop_in_runs_without_a_standard_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert ansible_runner.run(**shell(tmp_path, "echo a")).status == "successful"


# Names and values in every script


def test_names_and_values_are_in_any_script(demo: Path) -> None:
    play = """\
- hosts: hösté
  gather_facts: false
  tasks:
    - name: "задача ☃ 😀"
      debug: {msg: "{{ ключ }} {{ lookup('env', 'ÄÖ') }} {{ tief['é'] }}"}
"""
    (demo / "project/плей ☃.yml").write_text(play)
    runner = ee_runner.run(
        private_data_dir=demo,
        playbook=Path("плей ☃.yml"),
        ident="идент ☃\n",
        inventory={"all": {"hosts": {"hösté": {"ansible_connection": "local"}}}},
        extravars={"ключ": "знач 😀", "tief": {"é": "ü"}},
        envvars={"ÄÖ": "ß☃"},
    )
    assert runner.status == "successful"
    event = next(event for event in runner.host_events("hösté") if event["event"] == "runner_on_ok")
    assert (event["event_data"]["task"], event["event_data"]["res"]["msg"]) == ("задача ☃ 😀", "знач 😀 ß☃ ü")
    assert runner.stats is not None
    assert runner.stats["ok"] == {"hösté": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("extravars", {"a": "x\ud800"}),
        ("extravars", {"a": {"\udcff": 1}}),
        ("inventory", {"all": {"vars": {"a": "\ud800"}}}),
        ("playbook", [{"hosts": "\ud800"}]),
    ],
)
def test_what_ansible_can_not_read_is_refused_here(demo: Path, name: str, value: Any) -> None:
    options = {"playbook": "site.yml", name: value}
    assert refusal(lambda: ee_runner.init_runner(private_data_dir=demo, **options)).startswith(name)
    assert not (demo / "artifacts").exists()


# Secrets


def test_no_repr_and_no_error_shows_what_the_caller_passed(tmp_path: Path) -> None:
    secret = "hunter2-und-mehr"
    (tmp_path / "project").mkdir()
    (tmp_path / "project/site.yml").write_text("[]")
    options: dict[str, Any] = {
        "private_data_dir": tmp_path,
        "playbook": "site.yml",
        "passwords": {"^Password:$": secret},
        "envvars": {"A_TOKEN": secret},
        "extravars": {"a": secret},
        "cmdline": f"-e a={secret}",
        "inventory": {"all": {"vars": {"ansible_password": secret}}},
        "settings": {"runner_http_headers": {"authorization": secret}},
        "container_auth_data": {"host": "localhost", "username": "a", "password": secret},
    }
    config = ee_runner.RunnerConfig(**options)
    assert secret not in repr(vars(config))
    config.prepare()
    runner = ee_runner.Runner(config)
    public = {"env", "command", "_view"}
    hidden = {name: value for name, value in vars(config).items() if name not in public}
    for shown in (config, hidden, config.spec, config.passwords, runner, vars(runner)):
        assert secret not in repr(shown)

    def tells(_: Any, **__: Any) -> None:
        raise ValueError(f"the answer was {secret}")

    with pytest.raises(ee_runner.CallbackError) as caught:
        ee_runner.run(status_handler=tells, **options)
    assert "the answer was" in str(caught.value)
    assert secret not in str(caught.value)


# Processes, threads and the machine


@pytest.fixture
def no_more_threads() -> Iterator[None]:
    """The system refuses every new thread: none has this much room for its stack."""
    threading.stack_size(1 << 47)
    yield
    threading.stack_size(0)


@pytest.mark.usefixtures("no_more_threads")
def test_without_threads_a_job_ends_in_words_and_no_process_is_left(tmp_path: Path) -> None:
    out, _, rc = ee_runner.run_command("sh", ["-c", "echo $$ > pid; exec sleep 300"], host_cwd=tmp_path)
    assert rc == 127
    assert "thread" in out
    pid = tmp_path / "pid"
    assert not pid.exists() or not pid.read_text() or not alive(int(pid.read_text()))
    with pytest.raises(ee_runner.LaunchError, match="thread"):
        ee_runner.run_async(**shell(tmp_path, "true"))


@pytest.mark.usefixtures("no_more_threads")
def test_without_threads_awaiting_a_job_raises_each_time(tmp_path: Path) -> None:
    import asyncio

    async def main() -> None:
        job = ee_runner.arun(**shell(tmp_path, "true"))
        for _ in range(2):
            with pytest.raises(ee_runner.LaunchError, match="thread"):
                await job
        await job.cancel()

    asyncio.run(main())


def test_a_fork_of_the_program_neither_removes_nor_locks_what_is_the_jobs(tmp_path: Path) -> None:
    runner = ee_runner.init_runner(**shell(tmp_path, "echo a"))
    ends, waits = os.fork(), 0
    if ends == 0:  # pragma: no cover
        with contextlib.suppress(BaseException):
            del runner
            gc.collect()
        os._exit(0)
    os.waitpid(ends, 0)
    reading, writing = os.pipe()
    waits = os.fork()
    if waits == 0:  # pragma: no cover - holds every descriptor open until it is told to end
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    try:
        assert runner.run() == ("successful", 0)
        assert ee_runner.run(**shell(tmp_path, "echo b")).status == "successful"
    finally:
        os.close(writing)
        os.waitpid(waits, 0)


def test_a_job_outlives_the_end_of_the_main_thread(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", LATE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    lines = done.stdout.splitlines()
    assert (lines[0], done.stderr) == ("the program ends", "")
    if (3, 12) <= sys.version_info < (3, 12, 2):  # these refuse new threads from here on; a job that needs one says so
        assert lines[-1] == "failed"
        assert "No thread can be started" in lines[-2]
    else:
        assert lines[1:] == ["late", "successful"]


def test_many_jobs_leave_no_descriptor_no_thread_and_no_directory(tmp_path: Path) -> None:
    def held() -> tuple[int, int, int]:
        gc.collect()
        runtime = [*Path(os.environ["XDG_RUNTIME_DIR"]).glob("ee_runner_*")]
        return len(os.listdir("/proc/self/fd")), threading.active_count(), len(runtime)  # noqa: PTH208

    ee_runner.run(**shell(tmp_path, "true"))
    before = held()
    for number in range(40):
        mode: Any = ("pexpect", "subprocess")[number % 2]
        assert ee_runner.run_command("true", runner_mode=mode)[2] == 0
        ee_runner.init_runner(**shell(tmp_path, "true"))
        with pytest.raises(ee_runner.CallbackError):
            ee_runner.run(**shell(tmp_path, "echo a"), event_handler=lambda _: 1 / 0)
    assert held() == before


def test_jobs_that_log_at_once_leave_the_logger_as_it_was(tmp_path: Path) -> None:
    logger = logging.getLogger("ee_runner")
    before = (logger.level, list(logger.handlers), len(os.listdir("/proc/self/fd")))  # noqa: PTH208
    logs = [tmp_path / f"log{number}" for number in range(4)]
    jobs = [
        ee_runner.run_async(
            executable_cmd="sh",
            cmdline_args=["-c", f"sleep 0.{number}"],
            logfile=path,
            ignore_logging=False,
        )
        for number, path in enumerate(logs, start=1)
    ]
    for thread, _ in jobs:
        thread.join()
    gc.collect()
    assert all(path.exists() for path in logs)
    assert (logger.level, list(logger.handlers), len(os.listdir("/proc/self/fd"))) == before  # noqa: PTH208


def test_artifacts_that_a_callback_removed_change_nothing_about_the_end(tmp_path: Path) -> None:
    def removes(directory: str) -> None:
        for path in sorted(Path(directory).parent.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        Path(directory).parent.rmdir()

    runner = ee_runner.run(**shell(tmp_path, "echo a", rotate_artifacts=2), artifacts_handler=removes)
    assert (runner.status, runner.rc) == ("successful", 0)
    assert "can not be listed" in runner.detail
    assert [*runner.events] == []


def test_a_private_data_directory_that_vanishes_under_a_job_ends_it_in_words(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(ee_runner.ArtifactError, match="its directory is gone"):
        ee_runner.run(
            **shell(place, "echo $$ > pid; echo a; sleep 300", host_cwd=tmp_path),
            event_handler=lambda _: shutil.rmtree(place),
        )
    assert not alive(int((tmp_path / "pid").read_text()))
    assert not place.exists()
