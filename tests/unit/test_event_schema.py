"""The schema is the one that is shipped, knows every event, and is strict."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.resources import files
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from ee_runner.events.decoder import Boundary, EventAssembler, EventMark, Text
from ee_runner.events.model import KNOWN, Event
from ee_runner.events.schema import DATA, KINDS, event_schema, schema_text
from tests.support.processes import REPO

UUID = "525400c9-c704-29a6-4107-00000000000c"
MOMENT = "2026-01-02T03:04:05.000006+00:00"
PLAYBOOK = {"playbook": "site.yml", "playbook_uuid": UUID}
TASK = {
    **PLAYBOOK,
    **{"play": "All", "play_uuid": UUID, "play_pattern": "all"},
    **{"task": "Say it", "task_uuid": UUID, "task_action": "debug", "resolved_action": "ansible.builtin.debug"},
    **{"task_args": "", "task_path": "/project/site.yml:3"},
}
LINE: dict[str, Any] = {
    **{"uuid": UUID, "counter": 3, "stdout": "text", "start_line": 1, "end_line": 2, "runner_ident": "job"},
    **{"event": "verbose", "created": MOMENT},
}
RESULT: dict[str, Any] = {
    **LINE,
    **{"event": "runner_on_ok", "pid": 7, "parent_uuid": UUID},
    "event_data": {
        **TASK,
        **{"host": "alpha", "remote_addr": "alpha", "res": {"changed": False}, "event_loop": None, "uuid": UUID},
        **{"start": MOMENT, "end": MOMENT, "duration": 0.5},
    },
}
STATS: dict[str, Any] = {
    **{**RESULT, "event": "playbook_on_stats"},
    "event_data": {
        **PLAYBOOK,
        **{state: {"alpha": 1} for state in ("ok", "changed", "dark", "failures", "ignored", "processed", "rescued")},
        **{"skipped": {}, "artifact_data": {}, "custom": {"alpha": {"mine": 1}}, "uuid": UUID},
    },
}

RECORDING = ("record", "_note", "_of_task", "_ended", "_during", "_async")  # of the callback plugin
VALIDATOR = jsonschema.Draft202012Validator(event_schema())


def faults(event: dict[str, Any]) -> list[str]:
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in VALIDATOR.iter_errors(event)]


def without(event: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != name}


def test_the_shipped_file_is_what_the_model_gives() -> None:
    shipped = files("ee_runner.events").joinpath("event.schema.json").read_text()
    assert shipped == schema_text(), "run: python -m ee_runner.events.schema > ee_runner/events/event.schema.json"


def test_the_module_prints_the_schema() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "ee_runner.events.schema"], capture_output=True, check=True, text=True, timeout=60
    )
    assert printed.stdout == schema_text()
    assert printed.stderr == ""


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(event_schema())


def test_every_event_of_the_callback_plugin_has_its_kind_and_no_other_is_there() -> None:
    source = ast.parse((REPO / "ee_runner" / "callback" / "ee_events.py").read_text())
    written = {
        argument.value
        for call in ast.walk(source)
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") in RECORDING
        for argument in call.args[:1]
        if isinstance(argument, ast.Constant)
    }
    assigned = {ast.unparse(node.targets[0]): node.value for node in source.body if isinstance(node, ast.Assign)}
    kinds = ast.literal_eval(assigned["MESSAGE_KINDS"])
    assert written | {kind for _, kind in kinds} | {"verbose", "debug"} == KINDS.keys()


def test_every_field_is_told_and_used() -> None:
    used = {name for kind in KINDS.values() for name in (*kind.always, *kind.perhaps)}
    assert used | {"uuid", "ee_runner_cut", "ee_runner_error"} == DATA.keys()
    assert event_schema()["properties"].keys() == set(KNOWN)
    told = [*event_schema()["properties"].values(), *event_schema()["$defs"].values()]
    assert all("description" in schema for schema in told)


def test_the_manual_names_every_event_and_field_and_no_other_event() -> None:
    manual = (REPO / "docs" / "events.md").read_text()
    named = set(re.findall(r"`(\w+)`", manual))
    assert {*KINDS, *KNOWN, *DATA} <= named
    assert {name for name in named if re.match("(playbook|runner)(_item)?_(on|retry)", name)} <= KINDS.keys()


@pytest.mark.parametrize("event", [LINE, RESULT, STATS], ids=["line", "result", "stats"])
def test_an_event_is_valid(event: dict[str, Any]) -> None:
    assert faults(event) == []
    assert faults(Event.from_dict(event).to_dict()) == []


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"ee_runner_error": "ValueError: odd", "uuid": UUID},
        {"ee_runner_cut": "99 bytes, cut to about 9", "host": "alpha", "uuid": UUID},
    ],
    ids=["omitted", "untold", "cut"],
)
@pytest.mark.parametrize("name", KINDS)
def test_data_may_be_left_out_cut_or_untold(name: str, data: dict[str, Any]) -> None:
    if "host" not in (*KINDS[name].always, *KINDS[name].perhaps):
        data = without(data, "host")
    assert faults({**RESULT, "event": name, "event_data": data}) == []


@pytest.mark.parametrize("name", ["uuid", "counter", "stdout", "start_line", "end_line", "runner_ident", "event"])
def test_what_every_event_has_is_required(name: str) -> None:
    for event in (LINE, RESULT):
        assert any(f"'{name}' is a required property" in fault for fault in faults(without(event, name)))


@pytest.mark.parametrize("name", ["pid", "event_data", "created"])
def test_what_ansibles_events_have_is_required_of_them(name: str) -> None:
    assert any(f"'{name}' is a required property" in fault for fault in faults(without(RESULT, name)))


@pytest.mark.parametrize("event", [LINE, RESULT, STATS], ids=["line", "result", "stats"])
def test_a_value_of_another_type_is_refused(event: dict[str, Any]) -> None:
    for name in event:
        wrong = ["a list is never right"]
        assert faults({**event, name: wrong}), name
    for name in event.get("event_data", {}):
        data = {**event["event_data"], name: ["a list is never right"]}
        assert faults({**event, "event_data": data}), name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("event", "runner_on_okay"),
        ("event", "on_file_diff"),
        ("counter", 0),
        ("counter", "3"),
        ("counter", True),
        ("start_line", -1),
        ("uuid", "u"),
        ("uuid", f"{UUID}0"),
        ("uuid", UUID.replace("-", "_")),
        ("parent_uuid", None),
        ("parent_uuid", "p"),
        ("created", "2026-01-02T03:04:05.000006"),
        ("created", "2026-01-02T03:04:05.000006+01:00"),
        ("created", "2026-01-02 03:04:05.000006+00:00"),
        ("pid", 0),
        ("parent_uid", UUID),
        ("Stdout", ""),
    ],
)
def test_a_wrong_value_and_a_misspelt_key_are_refused(name: str, value: object) -> None:
    assert faults({**RESULT, name: value})


@pytest.mark.parametrize("name", ["host", "res", "task", "duration", "uuid"])
def test_what_the_data_of_an_event_always_has_is_required(name: str) -> None:
    assert faults({**RESULT, "event_data": without(RESULT["event_data"], name)})


def test_a_field_of_another_event_is_refused() -> None:
    assert faults({**RESULT, "event_data": {**RESULT["event_data"], "ignore_errors": True}})
    assert faults({**RESULT, "event_data": {**RESULT["event_data"], "hots": "alpha"}})


def test_counts_are_numbers() -> None:
    assert faults({**STATS, "event_data": {**STATS["event_data"], "ok": {"alpha": "1"}}})
    assert faults({**STATS, "event_data": {**STATS["event_data"], "ok": {"alpha": -1}}})


def test_what_the_decoder_makes_of_text_and_of_a_broken_record_is_valid() -> None:
    assembler = EventAssembler(ident="job", read_record=lambda _offset, _length: b"{")
    items = (Text(b"outside\n"), Boundary(), Text(b"inside\n"), EventMark(0, 5), Text(b"rest"))
    events = [event for item in items for event in assembler.push(item)] + assembler.close()
    assert [event["event"] for event in events] == ["verbose", "error", "verbose"]
    assert [faults(event) for event in events] == [[], [], []]
