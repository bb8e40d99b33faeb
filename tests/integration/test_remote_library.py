"""The ends of remote jobs as library calls: over any kind of stream, in any thread, with callbacks."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, Any

import pytest

import ansible_runner
import ee_runner
from ee_runner.errors import StreamError
from ee_runner.stream import frames, transmit
from tests.support import venvs
from tests.support.processes import wait_until
from tests.support.remote import REQUIREMENTS

GREETING = "- hosts: one\n  gather_facts: false\n  tasks: [{debug: {msg: a greeting}}]\n"
LASTING = "- hosts: one\n  gather_facts: false\n  tasks: [{debug: {msg: begins}}, {command: sleep 120}, {debug: {}}]\n"
PAUSING = "- hosts: one\n  gather_facts: false\n  tasks: [{command: sleep 1}]\n"
STATUSES = ["starting", "running", "successful"]


@pytest.fixture
def job(demo: Path) -> Path:
    """A private data directory whose playbook says one thing."""
    (demo / "project/site.yml").write_text(GREETING)
    return demo


@pytest.fixture
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the worker and the process work."""
    return tmp_path_factory.mktemp("other")


def send(job: Path, output: Any, **options: Any) -> Any:
    return ee_runner.run(
        streamer="transmit", _output=output, private_data_dir=job, playbook="site.yml", ident="job", **options
    )


def work(other: Path, source: Any, output: Any, **options: Any) -> Any:
    return ee_runner.run(streamer="worker", _input=source, _output=output, private_data_dir=other / "worker", **options)


def process(other: Path, source: Any, **options: Any) -> Any:
    return ee_runner.run(streamer="process", _input=source, private_data_dir=other, ident="job", **options)


def results(job: Path, other: Path, **options: Any) -> bytes:
    """Send a job and have it done, and return what the worker wrote."""
    request, result = io.BytesIO(), io.BytesIO()
    send(job, request, **options)
    request.seek(0)
    work(other, request, result)
    return result.getvalue()


def kinds(runner: Any) -> list[str]:
    return [event["event"] for event in runner.events]


RAN = ["playbook_on_start", "playbook_on_play_start", "playbook_on_task_start"]
RAN += ["runner_on_start", "runner_on_ok", "playbook_on_stats"]


# Streams


def raw_pipe(stack: ExitStack) -> tuple[Any, Any]:
    reading, writing = os.pipe()
    return stack.enter_context(os.fdopen(reading, "rb", buffering=0)), stack.enter_context(
        os.fdopen(writing, "wb", buffering=0)
    )


def buffered_pipe(stack: ExitStack) -> tuple[Any, Any]:
    reading, writing = os.pipe()
    return stack.enter_context(os.fdopen(reading, "rb")), stack.enter_context(os.fdopen(writing, "wb"))


def text_pipe(stack: ExitStack) -> tuple[Any, Any]:
    reading, writing = os.pipe()
    return stack.enter_context(os.fdopen(reading)), stack.enter_context(os.fdopen(writing, "w"))


def descriptors(stack: ExitStack) -> tuple[Any, Any]:
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    stack.callback(os.close, writing)
    return reading, writing


def sockets(stack: ExitStack) -> tuple[Any, Any]:
    near, far = socket.socketpair()
    return stack.enter_context(near), stack.enter_context(far)


def sockets_with_timeouts(stack: ExitStack) -> tuple[Any, Any]:
    near, far = sockets(stack)
    near.settimeout(60)
    far.settimeout(60)
    return near, far


def socket_files(stack: ExitStack) -> tuple[Any, Any]:
    near, far = sockets(stack)
    return stack.enter_context(near.makefile("rb")), stack.enter_context(far.makefile("wb"))


def raw_socket_files(stack: ExitStack) -> tuple[Any, Any]:
    near, far = sockets(stack)
    return stack.enter_context(near.makefile("rb", buffering=0)), stack.enter_context(far.makefile("wb", buffering=0))


STREAMS = (
    raw_pipe,
    buffered_pipe,
    text_pipe,
    descriptors,
    sockets,
    sockets_with_timeouts,
    socket_files,
    raw_socket_files,
)


@pytest.mark.parametrize("connected", STREAMS, ids=lambda connected: connected.__name__)
def test_three_ends_work_at_once_in_threads_over(
    connected: Callable[[ExitStack], tuple[Any, Any]], job: Path, other: Path
) -> None:
    with ExitStack() as stack:
        requests, to_worker = connected(stack)
        answers, to_process = connected(stack)
        with ThreadPoolExecutor(3) as pool:
            processed = pool.submit(process, other, answers)
            worked = pool.submit(work, other, requests, to_process)
            sent = pool.submit(send, job, to_worker)
        assert (sent.result().status, sent.result().rc) == ("unstarted", None)
        assert (worked.result().status, worked.result().rc) == ("successful", 0)
        assert (processed.result().status, processed.result().rc) == ("successful", 0)
        assert kinds(processed.result()) == RAN
        for stream in (requests, to_worker, answers, to_process):  # they are the caller's, to the end
            assert not getattr(stream, "closed", False)
            os.fstat(stream if isinstance(stream, int) else stream.fileno())


def test_bytes_in_memory_and_files_are_streams_too(job: Path, other: Path) -> None:
    stored = other / "stored"
    with stored.open("wb") as file:
        send(job, file)
    with stored.open("rb") as file, (other / "results").open("wb", buffering=0) as output:
        assert work(other, file, output).status == "successful"
    written = (other / "results").read_bytes()
    assert b'"uuid":0}' not in written  # nobody waits for a file's next byte
    for source in (io.BytesIO(written), (other / "results").open("rb", buffering=0), (other / "results").open()):
        with closing(source):
            runner = process(other, source)
            assert (runner.status, kinds(runner)) == ("successful", RAN)


def test_standard_streams_are_taken_where_no_other_is_given(
    job: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, result = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(request))
    ee_runner.run(streamer="transmit", private_data_dir=job, playbook="site.yml")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(request.getvalue())))
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(result))
    assert ee_runner.run(streamer="worker", private_data_dir=other / "worker").status == "successful"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(result.getvalue())))
    assert ee_runner.run(streamer="process", private_data_dir=other).status == "successful"


@pytest.mark.parametrize("streamer", ["transmit", "worker", "process"])
def test_what_is_no_stream_is_refused_in_words(streamer: str, job: Path) -> None:
    with pytest.raises(ee_runner.RunnerError, match=r"_(in|out)put: .* expected, found a object"):
        ee_runner.run(
            streamer=streamer,  # type: ignore[arg-type]
            _input=object(),
            _output=object(),
            private_data_dir=job,
            **({"playbook": "site.yml"} if streamer == "transmit" else {}),  # type: ignore[arg-type]
        )


def test_each_end_runs_in_a_thread_of_its_own(job: Path, other: Path) -> None:
    with ExitStack() as stack:
        requests, to_worker = sockets(stack)
        answers, to_process = sockets(stack)
        processing, processor = ee_runner.run_async(
            streamer="process", _input=answers, private_data_dir=other, ident="job"
        )
        working, worker = ee_runner.run_async(streamer="worker", _input=requests, _output=to_process)
        sending, sender = ee_runner.run_async(
            streamer="transmit", _output=to_worker, private_data_dir=job, playbook="site.yml"
        )
        assert kinds(processor) == RAN  # live: they end with the job
        for thread in (sending, working, processing):
            thread.join(60)
            assert not thread.is_alive()
    assert [each.status for each in (sender, worker, processor)] == ["unstarted", "successful", "successful"]
    assert not Path(vars(worker)["private_data_dir"]).exists()


# Callbacks


def test_the_processing_end_has_the_callbacks_of_a_local_run(job: Path, other: Path) -> None:
    told: list[Any] = []

    def status_handler(data: dict[str, Any], runner_config: Any) -> None:
        told.append(data["status"])
        if data["status"] != "starting":
            return
        assert (data["command"], data["cwd"], data["env"]) == (
            runner_config.command,
            runner_config.cwd,
            runner_config.env,
        )
        assert Path(runner_config.command[0]).name == "ansible-playbook"
        assert runner_config.cwd == str(other / "worker/project")
        assert "ANSIBLE_RETRY_FILES_ENABLED" in runner_config.env
        assert (runner_config.ident, runner_config.settings) == ("job", {"own": 1})

    def event_handler(event: dict[str, Any]) -> bool:
        told.append(event["event"])
        event["seen"] = True
        return bool(event["event"] == "runner_on_ok")

    runner = process(
        other,
        io.BytesIO(results(job, other)),
        settings={"own": 1},
        status_handler=status_handler,
        event_handler=event_handler,
        artifacts_handler=lambda directory: told.append((directory, (Path(directory) / "rc").read_text())),
        finished_callback=lambda runner: told.append((runner.status, runner.rc)),
        cancel_callback=lambda: False,
    )
    artifacts = str(other / "artifacts/job")
    assert told == [*STATUSES[:2], *RAN, "successful", (artifacts, "0"), ("successful", 0)]
    assert (runner.config.artifact_dir, runner.artifact_dir) == (artifacts, artifacts)
    kept = [json.loads(path.read_text()) for path in Path(artifacts, "job_events").iterdir()]
    assert [(event["event"], event["seen"]) for event in kept] == [("runner_on_ok", True)]
    assert runner.stats["ok"] == {"one": 1}
    with runner.stdout as stdout:
        assert "a greeting" in stdout.read()


def test_what_a_callback_raises_ends_the_processing_in_order(job: Path, other: Path) -> None:
    finished: list[str] = []

    def event_handler(event: dict[str, Any]) -> None:
        raise ValueError(event["counter"])

    with pytest.raises(ee_runner.CallbackError, match="event handler raised ValueError: 1"):
        process(
            other,
            io.BytesIO(results(job, other)),
            event_handler=event_handler,
            finished_callback=lambda runner: finished.append(runner.status),
        )
    assert finished == ["error"]
    assert (other / "artifacts/job/status").read_text() == "error"


def test_a_cancel_at_the_processing_end_ends_the_workers_job(job: Path, other: Path) -> None:
    (job / "project/site.yml").write_text(LASTING)
    seen = threading.Event()
    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        requests, to_worker = sockets(stack)
        answers, to_process = sockets(stack)
        worked = pool.submit(work, other, requests, to_process)
        send(job, to_worker)
        processed = process(
            other,
            answers,
            event_handler=lambda event: seen.set() if event["event"] == "runner_on_ok" else None,
            cancel_callback=seen.is_set,
        )
        answers.close()  # nobody reads the results any more
        assert (processed.status, processed.rc, processed.reason) == ("canceled", 254, "canceled")
        assert (other / "artifacts/job/status").read_text() == "canceled"
        with pytest.raises(StreamError, match="the other end has gone"):
            worked.result(60)
    assert (other / "worker/artifacts/job/status").read_text() == "canceled"


def test_a_worker_is_told_to_stop_by_its_own_program(job: Path, other: Path) -> None:
    (job / "project/site.yml").write_text(LASTING)
    with ExitStack() as stack:
        requests, to_worker = sockets(stack)
        answers, to_process = sockets(stack)
        thread, worker = ee_runner.run_async(
            streamer="worker", _input=requests, _output=to_process, private_data_dir=other / "worker"
        )
        send(job, to_worker)

        def event_handler(event: dict[str, Any]) -> None:
            if event["event"] == "runner_on_ok":
                worker.cancel()

        processed = process(other, answers, event_handler=event_handler)
        thread.join(60)
    assert (worker.status, worker.rc) == ("canceled", 254)
    assert (processed.status, processed.rc, processed.reason) == ("canceled", 254, "canceled")


# What is shown


def test_the_drop_in_shows_the_results_and_the_library_does_not(
    job: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = results(job, other)
    capsys.readouterr()
    process(other, io.BytesIO(written))
    ansible_runner.run(streamer="process", _input=io.BytesIO(written), private_data_dir=other, quiet=True)
    assert capsys.readouterr() == ("", "")
    ansible_runner.run(streamer="process", _input=io.BytesIO(written), private_data_dir=other)
    assert "a greeting" in capsys.readouterr().out


# What the ends agree on


class Tap:
    """Two sockets with a relay between them that keeps what goes each way."""

    def __init__(self, stack: ExitStack) -> None:
        self.here, near = sockets(stack)
        self.there, far = sockets(stack)
        self.sent, self.answered = bytearray(), bytearray()
        ways = ((near, far, self.sent), (far, near, self.answered))
        self._threads = [threading.Thread(target=self._relay, args=way) for way in ways]
        for thread in self._threads:
            thread.start()
        stack.callback(self._end)

    @staticmethod
    def _relay(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        while data := source.recv(65536):
            kept += data
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    def _end(self) -> None:
        for end in (self.here, self.there):
            end.shutdown(socket.SHUT_WR)
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


def test_a_worker_that_is_heard_gets_frames(job: Path, other: Path) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        tap = Tap(stack)
        worked = pool.submit(work, other, tap.there, tap.there)
        send(job, tap.here, _input=tap.here)
        processed = process(other, tap.here)
        assert (worked.result(60).status, processed.status, kinds(processed)) == ("successful", "successful", RAN)
    assert frames.MAGIC in tap.sent
    assert frames.MAGIC in tap.answered


def test_a_worker_of_ansible_runner_gets_lines_when_it_has_not_answered(
    job: Path, other: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = venvs.ensure(*REQUIREMENTS, scratch=tmp_path_factory.mktemp("checkout"))
    environment = peer.environment(other)
    del environment["PYTHONPATH"]
    monkeypatch.setattr(transmit, "NEGOTIATION", 0.2)
    with ExitStack() as stack:
        tap = Tap(stack)
        argv = [str(peer.bin / "ansible-runner"), "worker"]
        with subprocess.Popen(
            argv, stdin=tap.there.fileno(), stdout=tap.there.fileno(), env=environment, cwd=other
        ) as worker:
            send(job, tap.here, _input=tap.here)
            processed = process(other, tap.here)
            assert worker.wait(60) == 0
        assert (processed.status, processed.rc, kinds(processed)) == ("successful", 0, RAN)
    assert frames.MAGIC not in tap.sent
    assert b'{"kwargs"' in tap.sent


@pytest.mark.parametrize(("wire", "framed"), [("frames", True), ("lines", False), ("auto", False)])
def test_the_form_can_be_chosen(wire: str, framed: bool, job: Path, other: Path) -> None:
    request, result = io.BytesIO(), io.BytesIO()
    send(job, request, wire=wire)
    request.seek(0)
    work(other, request, result)
    assert (frames.MAGIC in request.getvalue(), frames.MAGIC in result.getvalue()) == (framed, framed)
    result.seek(0)
    assert kinds(process(other, result)) == RAN


def test_a_silent_job_is_heard_by_keepalives_which_are_no_events(job: Path, other: Path) -> None:
    (job / "project/site.yml").write_text(PAUSING)
    request, result = io.BytesIO(), io.BytesIO()
    send(job, request)
    request.seek(0)
    work(other, request, result, keepalive_seconds=0.2)
    alone = [line for line in result.getvalue().splitlines() if b'"keepalive"' in line and b"ee_runner" not in line]
    assert len(alone) >= 3
    result.seek(0)
    assert kinds(process(other, result)) == RAN


def test_options_of_a_worker_hold_unless_the_request_has_them(job: Path, other: Path) -> None:
    play = GREETING.replace("a greeting", "\"{{ lookup('env', 'A') }} {{ word | default('none') }}\"")
    (job / "project/site.yml").write_text(play)
    request, result = io.BytesIO(), io.BytesIO()
    send(job, request, envvars={"A": "asked"})
    request.seek(0)
    work(other, request, result, envvars={"A": "own"}, extravars={"word": "own"})
    assert b"asked own" in result.getvalue()


# A program of the field


class Callback:
    """What AWX does with a job's results: nothing is kept in files, all goes elsewhere."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.saved: dict[str, Any] = {}
        self.artifacts: list[str] = []
        self.finished = 0

    def event_handler(self, event_data: dict[str, Any]) -> bool:
        event_data.setdefault("job_id", 7)
        event_data.get("event_data", {})["guid"] = "g"
        self.events.append(event_data)
        return False

    def status_handler(self, status_data: dict[str, Any], runner_config: Any) -> None:
        if status_data["status"] == "starting":
            environment = dict(runner_config.env)
            self.saved.update(args=json.dumps(runner_config.command), cwd=runner_config.cwd, env=environment)
        self.saved.setdefault("statuses", []).append(status_data["status"])

    def artifacts_handler(self, artifact_dir: str) -> None:
        self.artifacts.append(artifact_dir)

    def finished_callback(self, _runner: Any) -> None:
        self.finished += 1


class Receptor:
    """A mesh of one node: takes a payload, has it worked on, and gives the results as a socket and its file."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._worker: subprocess.Popen[bytes] | None = None

    def submit_work(self, payload: IO[bytes]) -> None:
        (self._place / "payload").write_bytes(payload.read())

    def get_work_results(self, stack: ExitStack) -> tuple[socket.socket, IO[bytes]]:
        near, far = socket.socketpair()
        argv = [sys.executable, "-m", "ansible_runner", "worker", f"--private-data-dir={self._place / 'worker'}"]
        with (self._place / "payload").open("rb") as payload, far:
            self._worker = subprocess.Popen(argv, stdin=payload, stdout=far.fileno())
        stack.callback(self._end)
        return stack.enter_context(near), stack.enter_context(near.makefile("rb"))

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.wait(60)


def awx(job: Path, callback: Callback, stack: ExitStack, other: Path, *, meanwhile: Callable[..., None]) -> Any:
    """Run a job the way AWX's receptor module does."""
    parameters: dict[str, Any] = {
        "ident": 7,
        "private_data_dir": str(job),
        "playbook": "site.yml",
        "inventory": str(job / "inventory/hosts"),
        "passwords": {r"SSH password:\s*?$": "", r"BECOME.*password:\s*?$": "secret"},
        "suppress_env_files": True,
        "envvars": {"JOB_ID": "7", "ANSIBLE_FORCE_COLOR": "True"},
    }
    receptor = Receptor(other)
    near, far = socket.socketpair()

    def transmit_it() -> None:
        try:
            ansible_runner.interface.run(streamer="transmit", _output=near.makefile("wb"), **parameters)
        finally:
            near.shutdown(socket.SHUT_WR)

    def process_it(file: IO[bytes]) -> Any:
        return ansible_runner.interface.run(
            streamer="process",
            quiet=True,
            _input=file,
            event_handler=callback.event_handler,
            finished_callback=callback.finished_callback,
            status_handler=callback.status_handler,
            artifacts_handler=callback.artifacts_handler,
            **parameters,
        )

    with near, far, ThreadPoolExecutor(2) as pool:
        transmitted = pool.submit(transmit_it)
        receptor.submit_work(payload=far.makefile("rb"))
        transmitted.result()
        results, file = receptor.get_work_results(stack)
        processed = pool.submit(process_it, file)
        meanwhile(processed, results)
        return processed.result(60)


def test_awx_runs_its_jobs(job: Path, other: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (job / "env").mkdir(exist_ok=True)
    (job / "env/settings").write_text(json.dumps({"suppress_ansible_output": True, "suppress_output_file": True}))
    (job / "env/extravars").write_text('{"awx_job_id": 7}')
    (job / "env/cmdline").write_text("--forks 5 -v")
    callback = Callback()
    with ExitStack() as stack:
        result = awx(job, callback, stack, other, meanwhile=lambda *_: None)
    assert (result.status, result.rc) == ("successful", 0)
    assert [event["event"] for event in callback.events if event["event"] != "verbose"] == RAN
    assert {event["job_id"] for event in callback.events} == {7}
    assert callback.saved["statuses"] == STATUSES
    assert callback.saved["cwd"] == str(other / "worker/project")
    assert "--forks" in json.loads(callback.saved["args"])
    assert callback.saved["env"]["JOB_ID"] == "7"
    assert (callback.artifacts, callback.finished) == ([str(job / "artifacts/7")], 1)
    assert list((job / "artifacts/7/job_events").iterdir()) == []
    assert not (job / "artifacts/7/stdout").exists()
    assert capfd.readouterr() == ("", "")


def test_awx_cancels_by_closing_the_results_and_the_worker_ends(job: Path, other: Path) -> None:
    (job / "project/site.yml").write_text(LASTING)
    callback = Callback()

    def cancel(processed: Any, results: socket.socket) -> None:
        wait_until(
            lambda: processed.done() or any(event["event"] == "runner_on_ok" for event in callback.events),
            bound=60,
            what="the first task's end",
        )
        results.shutdown(socket.SHUT_RDWR)

    with ExitStack() as stack:
        began = time.monotonic()
        result = awx(job, callback, stack, other, meanwhile=cancel)
    assert time.monotonic() - began < 90  # the job would have taken 120
    assert (result.status, result.reason, callback.finished) == ("error", "lost", 1)
    assert (other / "worker/artifacts/7/status").read_text() == "canceled"
