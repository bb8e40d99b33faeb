"""How messages are delivered, whatever the receiver does; over HTTP to real servers."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ee_runner.emitters.delivery import Limits, QueuedEmitter
from ee_runner.emitters.http import ANSWERING, Address, HttpTransport
from ee_runner.emitters.http import emitter as http_emitter
from tests.support.receivers import GENEROUS, certificate, dead_port, http_receiver

pytestmark = pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    gc.collect()
    assert not deliverers()


def deliverers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ee-runner")]


def posting(url: str, **limits: Any) -> QueuedEmitter:
    return QueuedEmitter("http", HttpTransport(Address(url, url), {}), Limits(**{"closing": GENEROUS, **limits}))


def event(counter: int) -> dict[str, Any]:
    return {"counter": counter, "event": "runner_on_ok", "event_data": {"host": "a", "res": {"changed": False}}}


def answering(*first: int, then: int = 200) -> Callable[[Any], int]:
    answers = list(first)
    return lambda _: answers.pop(0) if answers else then


def counters(bodies: list[Any]) -> list[int]:
    return [body["counter"] for body in bodies]


@pytest.mark.parametrize("refusal", [503, 500, 429, 408])
def test_a_message_that_is_put_off_is_sent_again_before_those_behind_it(refusal: int) -> None:
    with http_receiver(answer=answering(refusal, refusal)) as receiver:
        emitter = posting(receiver.url)
        for counter in (1, 2, 3):
            emitter.event(event(counter))
        assert emitter.close() == 0
    assert counters(receiver.bodies) == [1, 1, 1, 2, 3]


@pytest.mark.parametrize("refusal", [400, 401, 404, 301])
def test_a_message_that_is_refused_is_not_sent_again_and_counted(refusal: int) -> None:
    with http_receiver(answer=answering(refusal)) as receiver:
        emitter = posting(receiver.url)
        emitter.event(event(1))
        emitter.event(event(2))
        assert emitter.close() == 1
        assert emitter.fault == f"{receiver.url} answered {refusal}."
    assert counters(receiver.bodies) == [1, 2]


def test_a_message_is_given_up_in_the_end_and_the_next_is_sent() -> None:
    with http_receiver(answer=lambda body: 503 if body["counter"] == 1 else 200) as receiver:
        emitter = posting(receiver.url, patience=0.5, first_wait=0.05)
        for counter in (1, 2, 3):
            emitter.event(event(counter))
        assert emitter.close() == 1
    sent = counters(receiver.bodies)
    assert sent[-2:] == [2, 3]
    assert 1 < sent.count(1) <= 5  # 0, 0.05, 0.15, 0.35 s, and the rest of the half second


def test_a_receiver_that_comes_late_gets_everything_in_order() -> None:
    port = dead_port()
    emitter = posting(f"http://127.0.0.1:{port}")
    for counter in range(1, 51):
        emitter.event(event(counter))
    deadline = time.monotonic() + GENEROUS
    while not emitter.fault and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "Connection refused" in emitter.fault
    with http_receiver(port=port) as receiver:
        assert emitter.close() == 0
    assert counters(receiver.bodies) == list(range(1, 51))


def test_a_dead_receiver_costs_the_time_for_closing_and_is_counted() -> None:
    emitter = posting(f"http://127.0.0.1:{dead_port()}", closing=0.5)
    for counter in (1, 2, 3):
        emitter.event(event(counter))
    begun = time.monotonic()
    assert emitter.close() == 3
    assert time.monotonic() - begun < 5
    assert emitter.close() == 3


@pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
def test_a_receiver_that_never_answers_holds_up_neither_the_job_nor_its_end(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path) if way == "tls" else None
    monkeypatch.setenv("SSL_CERT_FILE", str(pem or ""))
    with http_receiver(path=tmp_path / "socket" if way == "unix" else None, certificate=pem, hangs=True) as receiver:
        emitter = http_emitter(receiver.url, headers={}, path="/", closing=0.5)
        emitter.event(event(0))
        receiver.wait_for(1)
        taken = []
        for counter in range(1, 1001):
            begun = time.perf_counter()
            emitter.event(event(counter))
            taken.append(time.perf_counter() - begun)
        begun = time.monotonic()
        dropped = emitter.close()
        closing = time.monotonic() - begun
        for thread in deliverers():
            thread.join(ANSWERING / 3)
        assert not deliverers()  # while the receiver still hangs
    assert statistics.median(taken) < 0.0005
    assert dropped == 1001
    assert 0.4 < closing < 5
    assert counters(receiver.bodies) == [0]


def test_what_the_queue_does_not_hold_is_dropped_and_counted_but_a_status_is_kept() -> None:
    with http_receiver(hangs=True) as receiver:
        emitter = posting(receiver.url, messages=10)
        emitter.event(event(0))
        receiver.wait_for(1)
        for counter in range(1, 101):
            emitter.event(event(counter))
        assert emitter.fault == "The queue is full."
        emitter.status({"status": "successful", "runner_ident": "x"})
        receiver.release.set()
        assert emitter.close() == 91
    assert counters(receiver.bodies[:-1]) == list(range(10))
    assert receiver.bodies[-1] == {"status": "successful", "runner_ident": "x"}


def test_the_queue_is_bounded_in_bytes_and_takes_one_message_of_any_size() -> None:
    with http_receiver(hangs=True) as receiver:
        emitter = posting(receiver.url, size=10_000)
        emitter.event({"counter": 0, "stdout": "x" * 20_000})
        receiver.wait_for(1)
        emitter.event({"counter": 1, "stdout": ""})
        receiver.release.set()
        assert emitter.close() == 1
    assert counters(receiver.bodies) == [0]


def test_what_comes_after_close_is_counted() -> None:
    with http_receiver() as receiver:
        emitter = posting(receiver.url)
        emitter.event(event(1))
        assert emitter.close() == 0
        emitter.event(event(2))
        assert emitter.close() == 1
    assert counters(receiver.bodies) == [1]


def test_a_delivery_that_had_nothing_to_send_ends_at_once() -> None:
    begun = time.monotonic()
    assert posting(f"http://127.0.0.1:{dead_port()}").close() == 0
    assert time.monotonic() - begun < 5


def test_what_the_caller_changes_later_is_sent_as_it_was() -> None:
    with http_receiver(hangs=True) as receiver:
        emitter = posting(receiver.url)
        emitter.event(event(0))
        receiver.wait_for(1)
        changing = event(1)
        emitter.event(changing)
        changing["event_data"]["host"] = "changed"
        receiver.release.set()
        assert emitter.close() == 0
    assert receiver.bodies[1] == event(1)


def test_text_that_is_no_utf_8_and_values_that_json_has_not_are_sent() -> None:
    with http_receiver() as receiver:
        emitter = posting(receiver.url)
        emitter.event({"counter": 1, "stdout": "caf\udce9", "path": Path("/a")})
        emitter.event({"counter": 2, "stdout": "café", "path": Path("/a")})
        assert emitter.close() == 0
    assert receiver.bodies == [
        {"counter": 1, "stdout": "caf\udce9", "path": "/a"},
        {"counter": 2, "stdout": "café", "path": "/a"},
    ]


@pytest.mark.parametrize("is_waiting_to_retry", [False, True])
def test_a_delivery_that_waits_sleeps(is_waiting_to_retry: bool) -> None:
    with http_receiver(answer=answering(503 if is_waiting_to_retry else 200)) as receiver:
        emitter = posting(receiver.url, first_wait=60.0, patience=120.0)
        emitter.event(event(1))
        receiver.wait_for(1)
        (thread,) = deliverers()
        before, since = wakings(thread), time.monotonic()
        while time.monotonic() - since < GENEROUS:  # until the answer is read, and then it stays so
            time.sleep(0.5)
            before, now = wakings(thread), before
            if now == before:
                break
        assert now == before
        assert emitter.close() == 0


def wakings(thread: threading.Thread) -> int:
    """How often a thread has slept and was woken."""
    text = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
