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
    "event_data": {"host": "alpha", "task": "Say it"},
}


@pytest.mark.parametrize("event", [LINE, RESULT])
def test_event_keeps_its_fields_and_their_order(event: dict[str, object]) -> None:
    assert list(Event.from_dict(event).to_dict().items()) == list(event.items())


def test_event_keeps_fields_that_only_some_have() -> None:
    event = Event.from_dict({**LINE, "verbosity": 2, "job_id": 5})
    assert event.more == {"verbosity": 2, "job_id": 5}
    assert event.to_dict() == {**LINE, "verbosity": 2, "job_id": 5}


def test_event_knows_its_host_and_task() -> None:
    assert (Event.from_dict(RESULT).host, Event.from_dict(RESULT).task) == ("alpha", "Say it")
    assert (Event.from_dict(LINE).host, Event.from_dict(LINE).task) == (None, None)


def test_event_is_frozen_and_needs_its_identity() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Event.from_dict(LINE).counter = 4  # type: ignore[misc]
    with pytest.raises(KeyError):
        Event.from_dict({"uuid": "u", "counter": 1})


def test_stats_are_complete_whatever_is_missing() -> None:
    stats = Stats.from_event_data({"ok": {"alpha": 2}, "dark": None, "playbook": "main.yml"})
    assert stats.ok == {"alpha": 2}
    assert stats.to_dict() == {
        "ok": {"alpha": 2},
        **{name: {} for name in ("changed", "dark", "failures", "ignored", "processed", "rescued", "skipped")},
    }
