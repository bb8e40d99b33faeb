"""Whichever end of a remote job is killed, stopped or told to end: the others end soon, say why, and leave nothing."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ee_runner import run
from tests.support.chain import Chain, chained

BOUND = 20.0
"""Seconds in which all is over after a kill; it is less than one where nothing else goes on."""

RUNNING = 4
"""Events after which the first task runs."""

Ended = tuple[int, int, int, str | None]
"""The exit codes of transmit, worker and process, and the status at the processing end."""


def ended(chain: Chain) -> Ended:
    """See that all is over, and that nothing is left; return how the ends ended."""
    assert chain.until_nothing_is_left(BOUND) == []
    return chain.rc("transmit"), chain.rc("worker"), chain.rc("process"), chain.status


def read_until(word: bytes, chain: Chain) -> None:
    assert chain.results is not None
    heard = b""
    while word not in heard:
        more = os.read(chain.results, 65536)
        assert more, f"the worker's results ended before {word!r}: {heard[-1000:]!r}"
        heard += more


def each(play: Callable[[str], Ended], names: Iterable[str]) -> dict[str, Ended]:
    """Play the same for several processes at a time."""
    names = list(names)
    with ThreadPoolExecutor(len(names)) as players:
        return dict(zip(names, players.map(play, names), strict=True))


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    """A file that no pipe can hold."""
    path = tmp_path / "blob"
    path.write_bytes(os.urandom(1 << 20))
    return path


class TestKilled:
    def test_while_the_job_runs(self) -> None:
        def play(victim: str) -> Ended:
            with chained("deaf") as chain:
                chain.until_events(RUNNING)
                chain.send(victim, signal.SIGKILL)
                return ended(chain)

        expected = {
            "front": (0, -9, 254, "canceled"),
            "guardian": (0, 137, 254, "canceled"),
            "working": (0, 137, 76, "error"),
            "process": (0, 76, -9, "running"),
        }
        assert each(play, expected) == expected

    def test_while_the_job_is_sent(self, blob: Path) -> None:
        def play(victim: str) -> Ended:
            with chained("silent", blob=blob) as chain:
                chain.stop_worker()
                chain.until_blocked("transmit")
                chain.send(victim, signal.SIGKILL)
                chain.let_worker_go_on()
                return ended(chain)

        expected = {"transmit": (-9, 76, 76, "error"), "process": (76, 76, -9, None)}
        assert each(play, expected) == expected

    def test_when_its_results_are_read_to_their_end_a_worker_has_done_its_work(self) -> None:
        with chained("empty", processed=False) as chain:
            read_until(b'"eof"', chain)
            chain.hang_up()
            assert chain.until_nothing_is_left(BOUND) == []
            assert (chain.rc("worker"), chain.words("worker")) == (0, "")

    def test_a_lost_worker_is_told_to_the_program_that_processes(self) -> None:
        with chained("daemon", processed=False) as chain:
            statuses: list[Mapping[str, Any]] = []

            def kill(event: Mapping[str, Any]) -> bool:
                if event["event"] == "runner_on_ok":
                    chain.send("working", signal.SIGKILL)
                return True

            assert chain.results is not None
            with open(chain.results, "rb", closefd=False) as results:
                runner = run(
                    streamer="process",
                    _input=results,
                    private_data_dir=chain.root / "results",
                    ident=chain.ident,
                    event_handler=kill,
                    status_handler=lambda status, **_: statuses.append(status),
                    quiet=True,
                )
            assert (runner.status, runner.rc, runner.reason) == ("error", 76, "lost")
            assert "The stream ended after record" in runner.detail
            assert statuses[-1] == {**statuses[-1], "status": "error", "job_explanation": runner.detail}
            assert chain.until_nothing_is_left(BOUND) == []
            assert re.search(r"was killed by SIGKILL; ended \d+ processes", chain.words("worker"))


def test_a_signal_ends_each_end_in_order_and_cancels_the_job(blob: Path) -> None:
    def play(name: str) -> Ended:
        victim, number = name.split()
        with chained("silent", blob=blob) as chain:
            if victim == "transmit":
                chain.stop_worker()
                chain.until_blocked(victim)
            else:
                chain.until_events(RUNNING)
            chain.send(victim, signal.Signals[number])
            chain.let_worker_go_on()
            return ended(chain)

    expected = {
        "transmit SIGTERM": (254, 76, 76, "error"),
        "front SIGINT": (0, 254, 254, "canceled"),
        "front SIGTERM": (0, 254, 254, "canceled"),
        "front SIGHUP": (0, 254, 254, "canceled"),
        "process SIGINT": (0, 76, 254, "canceled"),
    }
    assert each(play, expected) == expected


def test_what_a_canceled_job_runs_in_the_background_ends_with_it() -> None:
    def play(name: str) -> Ended:
        playbook, victim, number = name.split()
        with chained(playbook) as chain:
            chain.until_events(2 * RUNNING)  # the second task runs
            chain.send(victim, signal.Signals[number])
            return ended(chain)

    expected = {
        "daemon front SIGTERM": (0, 254, 254, "canceled"),
        "async process SIGKILL": (0, 76, -9, "running"),
    }
    assert each(play, expected) == expected


class TestSilent:
    def test_a_worker_that_stands_still_is_lost(self) -> None:
        with chained(
            "silent", options={"worker": ["--keepalive-seconds", "1"], "process": ["--stream-timeout", "3"]}
        ) as chain:
            chain.until_events(RUNNING)
            chain.send("working", signal.SIGSTOP)
            assert chain.rc("process") == 76
            assert chain.status == "error"
            assert "Nothing came over the stream for 3 seconds" in chain.words("process")
            chain.send("working", signal.SIGCONT)
            assert ended(chain) == (0, 76, 76, "error")

    def test_a_reader_that_goes_ends_a_job_that_says_nothing(self) -> None:
        with chained("silent", options={"worker": ["--keepalive-seconds", "600"]}, processed=False) as chain:
            read_until(b'"runner_on_start"', chain)
            chain.running()
            chain.hang_up()
            assert chain.until_nothing_is_left(BOUND) == []
            assert chain.rc("worker") == 76

    def test_a_worker_whose_reader_stands_still_ends_when_it_is_told_to(self) -> None:
        with chained("talkative") as chain:
            chain.until_events(RUNNING)
            chain.send("process", signal.SIGSTOP)
            chain.until_blocked("working")
            chain.send("front", signal.SIGTERM)
            assert chain.ends["worker"].wait(BOUND) == 76
            chain.send("process", signal.SIGCONT)
            assert ended(chain) == (0, 76, 76, "error")

    def test_a_reader_that_stands_still_and_is_killed_ends_a_job_that_waits_for_it(self) -> None:
        with chained("talkative") as chain:
            chain.until_events(RUNNING)
            chain.send("process", signal.SIGSTOP)
            chain.until_blocked("working")
            chain.send("process", signal.SIGKILL)
            assert ended(chain)[:3] == (0, 76, -9)
