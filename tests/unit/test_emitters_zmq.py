"""The ZeroMQ emitter, with real subscribers."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from ee_runner.emitters.delivery import QueuedEmitter
from ee_runner.emitters.zmq import emitter
from ee_runner.errors import ConfigurationError
from tests.support.receivers import GENEROUS, Subscriber, dead_port

STATUS = {"status": "running", "runner_ident": "X"}

pytestmark = pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    gc.collect()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("ee-runner")]


def publishing(url: str, *, bind: bool = False, closing: float = GENEROUS) -> QueuedEmitter:
    return emitter(url, bind=bind, closing=closing)


def events(count: int, *, start: int = 1) -> list[dict[str, Any]]:
    return [{"counter": counter, "event": "verbose", "stdout": "ü"} for counter in range(start, start + count)]


def send(made: QueuedEmitter, sent: list[dict[str, Any]]) -> list[tuple[bytes, Any]]:
    for event in sent:
        made.event(event)
    return [(b"event", event) for event in sent]


def test_a_subscriber_that_binds_gets_everything_from_the_first_on() -> None:
    with Subscriber() as subscriber:
        made = publishing(subscriber.url)
        made.status(STATUS)
        expected = [(b"status", STATUS), *send(made, events(3000))]
        assert made.close() == 0
        assert subscriber.wait_for(3001) == expected


def test_one_collector_gets_what_many_jobs_publish() -> None:
    with Subscriber() as subscriber:
        jobs = [publishing(subscriber.url) for _ in range(3)]
        for ident, job in enumerate(jobs):
            job.status({"status": "running", "runner_ident": str(ident)})
        assert [job.close() for job in jobs] == [0, 0, 0]
        assert {data["runner_ident"] for _, data in subscriber.wait_for(3)} == {"0", "1", "2"}


def test_what_was_sent_before_a_subscriber_came_waits_for_it() -> None:
    url = f"tcp://127.0.0.1:{dead_port()}"
    made = publishing(url, bind=True)
    expected = send(made, events(100))
    with Subscriber(url, connect=True) as subscriber:
        assert made.close() == 0
        assert subscriber.wait_for(100) == expected


def test_every_topic_of_a_subscriber_is_served_from_the_first_message_on() -> None:
    with Subscriber(topics=(b"status", b"event")) as subscriber:
        made = publishing(subscriber.url)
        expected = send(made, events(1))
        made.status(STATUS)
        assert made.close() == 0
        assert subscriber.wait_for(2) == [*expected, (b"status", STATUS)]


def test_what_no_subscriber_wants_is_not_counted_as_dropped() -> None:
    with Subscriber(topics=(b"event",)) as subscriber:
        made = publishing(subscriber.url)
        made.status(STATUS)
        expected = send(made, events(2))
        assert made.close() == 0
        assert subscriber.wait_for(2) == expected


@pytest.mark.parametrize("bind", [False, True])
def test_without_a_subscriber_closing_takes_its_time_and_all_is_counted(bind: bool) -> None:
    made = publishing(f"tcp://127.0.0.1:{dead_port()}", bind=bind, closing=0.5)
    send(made, events(5))
    begun = time.monotonic()
    assert made.close() == 5
    assert time.monotonic() - begun < 5
    assert made.fault.endswith(": nobody has subscribed.")


def test_what_follows_on_the_end_of_a_subscriber_is_for_the_next_one() -> None:
    with Subscriber() as first:
        made = publishing(first.url)
        send(made, events(1))
        first.wait_for(1)
    last, deadline = 1, time.monotonic() + GENEROUS
    while len(made._delivery._queue) < 5:  # the first of these may be lost with the connection
        assert time.monotonic() < deadline
        last += 1
        send(made, events(1, start=last))
        time.sleep(0.1)
    with Subscriber(first.url) as second:
        assert made.close() == 0
        assert second.wait_for(5) == [(b"event", event) for event in events(5, start=last - 4)]


def test_a_subscriber_that_does_not_read_holds_up_neither_the_job_nor_its_end() -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as sub:
        sub.setsockopt(zmq.RCVHWM, 1)
        sub.setsockopt(zmq.LINGER, 0)
        sub.subscribe(b"")
        url = f"tcp://127.0.0.1:{sub.bind_to_random_port('tcp://127.0.0.1')}"
        made = publishing(url, closing=0.5)
        send(made, events(1))
        assert sub.poll(int(GENEROUS * 1000))
        taken = []
        for counter in range(2, 5002):
            begun = time.perf_counter()
            made.event({"counter": counter, "stdout": "x" * 10_000})
            taken.append(time.perf_counter() - begun)
        begun = time.monotonic()
        dropped = made.close()
        closing = time.monotonic() - begun
    assert statistics.median(taken) < 0.0005
    assert 0 < dropped < 5000
    assert closing < 5
    assert made.fault == f"{url}: a subscriber does not keep up."


def test_an_address_that_is_none_is_refused() -> None:
    for url in ("nonsense", "tcp://127.0.0.1", "ftp://127.0.0.1:5000"):
        with pytest.raises(ConfigurationError, match=f"^runner_zmq_url: {url} can not be used: "):
            publishing(url)


def test_a_refusal_does_not_show_what_an_address_holds() -> None:
    with pytest.raises(ConfigurationError, match="can not be used") as caught:
        publishing("tcp://hunter2@nowhere:x")
    assert "hunter2" not in str(caught.value)


def test_an_address_that_is_taken_is_refused() -> None:
    with Subscriber() as subscriber, pytest.raises(ConfigurationError, match="Address already in use"):
        publishing(subscriber.url, bind=True)
