"""A flood of output is handed on in large pieces, and a line that comes alone at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ee_runner.executor import Cancellation, Executor
from ee_runner.job import Invocation, Limits, Outcome, Terminal

CONNECTED = (Terminal.PTY, Terminal.PIPES)
HELD = {Terminal.PTY: 8_000, Terminal.PIPES: 60_000}
"""Bytes that a terminal and a pipe hold without a reader."""


class Pieces:
    """Keeps the output as it was handed on, and tells of each piece."""

    def __init__(self, told: Callable[[bytes], object]) -> None:
        self.out: list[bytes] = []
        self.told = told

    def stdout(self, data: bytes) -> None:
        self.out.append(data)
        self.told(data)

    def stderr(self, data: bytes) -> None: ...


def execute(script: str, sink: Pieces, *, terminal: Terminal, cwd: Path, cancel: Cancellation | None = None) -> Outcome:
    return Executor().run(
        Invocation(("sh", "-c", script), dict(os.environ), cwd, terminal),
        sink,
        cancel=cancel or Cancellation(),
        limits=Limits(job_timeout=60, grace=1),
        passwords={},
    )


@pytest.mark.parametrize("terminal", CONNECTED)
def test_what_has_gathered_while_the_last_was_delivered_comes_in_few_pieces(terminal: Terminal, tmp_path: Path) -> None:
    written = tmp_path / "written"
    deadline = time.monotonic() + 30

    def wait(_: bytes) -> None:
        while not written.exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    sink = Pieces(wait)
    script = f"echo; head -c {HELD[terminal]} /dev/zero; touch {written}"
    assert execute(script, sink, terminal=terminal, cwd=tmp_path).status == "successful"
    assert b"".join(sink.out).count(b"\0") == HELD[terminal]
    assert len(sink.out) <= 2, [len(piece) for piece in sink.out]


@pytest.mark.parametrize("terminal", CONNECTED)
def test_no_piece_is_larger_than_a_pipe(terminal: Terminal, tmp_path: Path) -> None:
    sink = Pieces(lambda _: time.sleep(0.001))
    execute("head -c 3000000 /dev/zero", sink, terminal=terminal, cwd=tmp_path)
    assert sum(map(len, sink.out)) == 3_000_000
    assert max(map(len, sink.out)) <= 65536


@pytest.mark.parametrize("terminal", CONNECTED)
@pytest.mark.parametrize("size", [1, 80, 2047, 2048, 4000])
def test_what_comes_alone_is_delivered_before_anything_follows(terminal: Terminal, size: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go-on")
    go_on = os.open(tmp_path / "go-on", os.O_RDWR)
    sink = Pieces(lambda data: os.write(go_on, b"\n" * data.count(b".")))
    script = f"exec <go-on; for n in $(seq 50); do printf '%{size}s' .; read answer; done"
    try:
        outcome = execute(script, sink, terminal=terminal, cwd=tmp_path)
    finally:
        os.close(go_on)
    assert outcome.status == "successful"
    assert b"".join(sink.out).count(b".") == 50


@pytest.mark.parametrize("terminal", CONNECTED)
def test_a_flood_without_end_is_stopped_at_once(terminal: Terminal, tmp_path: Path) -> None:
    cancel, began = Cancellation(), time.monotonic()
    sink = Pieces(lambda _: cancel.request())
    outcome = execute("exec yes", sink, terminal=terminal, cwd=tmp_path, cancel=cancel)
    assert (outcome.status, outcome.rc) == ("canceled", 254)
    assert time.monotonic() - began < 20
