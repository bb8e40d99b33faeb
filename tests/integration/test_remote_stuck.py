"""Ends of a remote job whose reader is there, and reads nothing: they can be stopped, and durable jobs go on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import ee_runner
from ee_runner.stream.attach import attach
from ee_runner.stream.decoder import StreamDecoder
from ee_runner.stream.frames import FrameEncoder
from ee_runner.stream.input import Input
from ee_runner.stream.journal import Journal
from ee_runner.stream.lines import LineEncoder
from ee_runner.stream.records import Encoder, Hello, Kind, Noise, Record, hello_line
from tests.support.processes import wait_until

RUNNER = Path(sys.executable).parent / "ansible-runner"
HOST = "localhost ansible_connection=local ansible_python_interpreter={{ansible_playbook_python}}\n"
LOUD = """
- hosts: all
  gather_facts: false
  tasks:
    - debug: {msg: "{{ 'x' * 20000 }} {{ item }}"}
      loop: "{{ range(0, %d) | list }}"
"""
TIME = 60


class Chain:
    """The ends that are stuck in these tests, all started at once, for each needs a while until it is."""

    def __init__(self, place: Path) -> None:
        self.place, self.processes, self.readers = place, {}, {}  # type: Path, dict[str, Any], dict[str, Any]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "EE_RUNNER_"))}
        self.environment: Mapping[str, str] = {
            **kept,
            "PATH": f"{RUNNER.parent}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(place / "tmp"),
            "XDG_STATE_HOME": str(place / "state"),
        }
        (place / "tmp").mkdir()
        for name, text in {
            "job/project/endless.yml": LOUD % 2000,
            "job/project/loud.yml": LOUD % 10,
            "job/inventory/hosts": HOST,
            "limited/project/endless.yml": LOUD % 2000,
            "limited/inventory/hosts": HOST,
            "limited/env/settings": "job_timeout: 8\n",
            "large/project/site.yml": LOUD % 1,
            "large/project/file": os.urandom(1_500_000).hex(),
        }.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)

    def run(self, *argv: str | Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [RUNNER, *argv], input=given, capture_output=True, env=self.environment, cwd=self.place, timeout=TIME,
            check=False,
        )  # fmt: skip

    def start(self, name: str, reader: Any, output: Any, argv: tuple[str | Path, ...], *, given: bytes = b"") -> None:
        (self.place / f"{name}.stream").write_bytes(given)
        with (self.place / f"{name}.stream").open("rb") as stdin:
            self.processes[name] = subprocess.Popen(
                [RUNNER, *argv], stdin=stdin, stdout=output, stderr=subprocess.PIPE, env=self.environment,
                cwd=self.place,
            )  # fmt: skip
        self.readers[name] = reader

    def until_stuck(self, name: str) -> None:
        """Wait until the reader could read much, and for a while no more comes."""
        seen, since = -1, time.monotonic()

        def is_stuck() -> bool:
            nonlocal seen, since
            unread = _unread(self.readers[name])
            if unread != seen:
                seen, since = unread, time.monotonic()
            return unread > 50_000 and time.monotonic() - since > 0.7

        wait_until(is_stuck, bound=TIME, what=f"{name} is stuck")

    def stop(self, name: str) -> tuple[int, float]:
        """Ask for the end once; return the exit code, and how long it took."""
        process, began = self.processes[name], time.monotonic()
        process.send_signal(signal.SIGTERM)
        return process.wait(TIME), time.monotonic() - began


def _unread(reader: Any) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(reader.fileno(), termios.FIONREAD, b"\0" * 4))[0]
    return count


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    chain = Chain(tmp_path_factory.mktemp("stuck"))
    endless = chain.run("transmit", chain.place / "job", "-p", "endless.yml").stdout
    limited = chain.run("transmit", chain.place / "limited", "-p", "endless.yml").stdout
    loud = chain.run("transmit", chain.place / "job", "-p", "loud.yml", "-i", "dur").stdout
    with contextlib.ExitStack() as stack:
        for name, argv, given in (
            ("durable", ("worker", "--durable", "--keepalive-seconds", "1"), loud),
            ("worker", ("worker",), endless),
            ("limited", ("worker",), limited),
            ("transmit", ("transmit", chain.place / "large", "-p", "site.yml"), b""),
        ):
            reading, writing = os.pipe()
            reader = stack.enter_context(os.fdopen(reading, "rb", buffering=0))
            with os.fdopen(writing, "wb") as output:
                chain.start(name, reader, output, argv, given=given)
        ours, theirs = map(stack.enter_context, socket.socketpair())
        chain.start("worker at a socket", ours, theirs, ("worker",), given=endless)
        theirs.close()
        yield chain
        for process in chain.processes.values():
            process.terminate()
            process.wait(TIME)
            process.stderr.close()
    assert list((chain.place / "tmp").glob(".ansible-runner-*")) == []


@pytest.mark.parametrize("name", ["worker", "worker at a socket"])
def test_a_worker_that_nobody_reads_ends_when_it_is_told_to_once(chain: Chain, name: str) -> None:
    chain.until_stuck(name)
    code, seconds = chain.stop(name)
    assert code == 76
    assert b"The caller asked to stop, and the other end has read nothing" in chain.processes[name].stderr.read()
    assert seconds < 20


def test_the_limit_of_a_job_holds_though_nobody_reads_its_results(chain: Chain) -> None:
    assert chain.processes["limited"].wait(TIME) == 76
    assert b"the other end has read nothing" in chain.processes["limited"].stderr.read()


def test_a_transmit_that_nobody_reads_ends_when_it_is_told_to_once(chain: Chain) -> None:
    chain.until_stuck("transmit")
    code, seconds = chain.stop("transmit")
    assert code == 254
    assert seconds < 10


def test_a_durable_job_that_nobody_reads_goes_on_to_its_end_and_can_be_attached_to(chain: Chain) -> None:
    assert chain.processes["durable"].wait(TIME) == 0
    attached = chain.run("worker", "--attach", "dur")
    done = chain.run("process", chain.place / "job", "-i", "dur", given=attached.stdout)
    assert done.returncode == 0
    assert b"x 9" in done.stdout
    assert (chain.place / "job" / "artifacts" / "dur" / "status").read_text() == "successful"


@pytest.mark.parametrize("form", ["lines", "sealed lines", "frames"])
def test_an_attachment_keeps_its_keepalives_out_of_what_is_not_whole(form: str, tmp_path: Path) -> None:
    encoder: Encoder = FrameEncoder() if form == "frames" else LineEncoder(sealed=form == "sealed lines")
    hello = hello_line(Hello(frames=form == "frames", stream="s", keepalive=0.1))
    content = bytes(range(256)) * 8
    reading, writing = os.pipe()
    journal = Journal.create(tmp_path, "j")
    journal.append(hello if form != "lines" else b"")
    got: list[Any] = []

    def read() -> None:
        decoder = StreamDecoder()
        for data in Input(reading).chunks():
            got.extend(decoder.feed(data))

    def follow() -> None:
        attach(tmp_path, "j", output=writing)
        os.close(writing)

    threads = [threading.Thread(target=each) for each in (read, follow)]
    message = encoder.message(Kind.STATUS, {"status": "running"})
    journal.append(message[:-30])
    for thread in threads:
        thread.start()
    for data in (
        message[-30:],
        encoder.archive(len(content)),
        encoder.content(content[:999]),
        encoder.content(content[999:]) + encoder.archive_end(),
        encoder.message(Kind.END, {"eof": True}),
    ):
        time.sleep(0.3)
        journal.append(data)
    journal.end()
    for thread in threads:
        thread.join(TIME)
    os.close(reading)
    assert not [item for item in got if isinstance(item, Noise)]
    records = [item for item in got if isinstance(item, Record)]
    assert b"".join(item.body for item in records if isinstance(item.body, bytes)) == content
    kinds = [item.kind for item in records]
    assert kinds[-1] is Kind.END
    within = kinds[kinds.index(Kind.ARCHIVE) : kinds.index(Kind.ARCHIVE_END)]
    assert (Kind.KEEPALIVE in within) == (form == "frames")
    assert (Kind.KEEPALIVE in kinds) == (form != "lines")


def test_what_a_login_says_before_the_worker_does_not_keep_it_from_frames(chain: Chain) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"Welcome to this host.\n\nLast login: today\n")
        worker = subprocess.Popen(
            [RUNNER, "worker"], stdin=theirs.fileno(), stdout=theirs.fileno(), env=chain.environment
        )
        theirs.close()
        (chain.place / "tiny" / "project").mkdir(parents=True)
        (chain.place / "tiny" / "project" / "site.yml").write_text("- hosts: localhost\n  gather_facts: false\n")
        place = chain.place / "tiny"
        ee_runner.run(streamer="transmit", _output=ours, _input=ours, private_data_dir=place, playbook="site.yml")
        decoder = StreamDecoder()
        for data in Input(ours).chunks():
            for _ in decoder.feed(data):
                pass
            if decoder.ended:
                break
        assert worker.wait(TIME) == 0
    assert decoder.hello is not None
    assert decoder.hello.frames
