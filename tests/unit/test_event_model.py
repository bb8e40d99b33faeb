"""Typed events and statistics."""

from __future__ import annotations

import dataclasses

import pytest

from ee_runner.events.model import Event, Stats

LINE = {
    "uuid": "u",
    "counter": 3,
    "stdout": "text",
    "start_line": 1,
    "end_line": 2,
    "runner_ident": "job",
    "event": "verbose",
    "created": "2026-01-02T03:04:05.000006+00:00",
}
RESULT = {
    **{name: LINE[name] for name in ("uuid", "counter", "stdout", "start_line", "end_line", "runner_ident")},
    "event": "runner_on_ok",
    "pid": 7,
    "created": LINE["created"],
    "parent_uuid": "p",
    "event_data": {"play": "All", "host": "alpha", "task": "Say it", "res": {"changed": False}},
}


MESSAGE = {
    **{name: RESULT[name] for name in ("uuid", "counter", "stdout", "start_line", "end_line", "runner_ident")},
    "event": "warning",
    "job_id": 5,
    "ad_hoc_command_id": 6,
    **{name: RESULT[name] for name in ("pid", "created", "parent_uuid")},
    "verbosity": 1,
    "event_data": {},
}


@pytest.mark.parametrize("event", [LINE, RESULT, MESSAGE])
def test_event_keeps_its_fields_and_their_order(event: dict[str, object]) -> None:
    assert list(Event.from_dict(event).to_dict().items()) == list(event.items())


def test_event_has_every_field_as_an_attribute() -> None:
    event = Event.from_dict(MESSAGE)
    assert {name: getattr(event, name) for name in MESSAGE} == MESSAGE
    assert event.more == {}


def test_event_keeps_what_another_version_has_added() -> None:
    event = Event.from_dict({**LINE, "colour": "green"})
    assert event.more == {"colour": "green"}
    assert event.to_dict() == {**LINE, "colour": "green"}


def test_event_knows_where_it_belongs() -> None:
    event = Event.from_dict(RESULT)
    assert (event.host, event.play, event.task, event.result) == ("alpha", "All", "Say it", {"changed": False})


@pytest.mark.parametrize("event", [LINE, MESSAGE])
def test_event_without_data_says_so_by_none(event: dict[str, object]) -> None:
    typed = Event.from_dict(event)
    assert (typed.host, typed.play, typed.task, typed.result) == (None, None, None, None)
    assert not typed.is_ignored


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("runner_on_failed", True),
        ("runner_on_unreachable", True),
        ("runner_on_async_failed", True),
        ("runner_item_on_failed", True),
        ("runner_on_ok", False),
        ("runner_on_skipped", False),
        ("runner_retry", False),
        ("error", False),
    ],
)
def test_event_knows_a_failure_by_its_name_alone(name: str, failure: bool) -> None:
    assert Event.from_dict({**LINE, "event": name}).is_failure is failure


@pytest.mark.parametrize(("flag", "ignored"), [(True, True), (False, False), (None, False)])
def test_event_knows_whether_the_play_goes_on(flag: object, ignored: bool) -> None:
    event = {**RESULT, "event": "runner_on_failed", "event_data": {"ignore_errors": flag}}
    assert Event.from_dict(event).is_ignored is ignored
    assert not Event.from_dict({**event, "event": "runner_on_ok"}).is_ignored


def test_event_is_frozen_and_needs_its_identity() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Event.from_dict(LINE).counter = 4  # type: ignore[misc]
    for name in ("uuid", "counter", "event"):
        with pytest.raises(KeyError, match=name):
            Event.from_dict({key: value for key, value in LINE.items() if key != name})


def test_stats_are_complete_whatever_is_missing() -> None:
    stats = Stats.from_event_data({"ok": {"alpha": 2}, "dark": None, "playbook": "main.yml"})
    assert stats.ok == {"alpha": 2}
    assert stats.to_dict() == {
        "ok": {"alpha": 2},
        **{name: {} for name in ("changed", "dark", "failures", "ignored", "processed", "rescued", "skipped")},
    }


@pytest.mark.parametrize("data", [None, {}])
def test_stats_of_data_that_was_left_out_are_empty(data: dict[str, object] | None) -> None:
    assert Stats.from_event_data(data) == Stats()


def test_stats_keep_the_counts_of_every_state() -> None:
    counts = {f.name: {"alpha": number} for number, f in enumerate(dataclasses.fields(Stats))}
    assert Stats.from_event_data(counts).to_dict() == counts
