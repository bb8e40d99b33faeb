"""The JSON Schema of an event: what `python -m ee_runner.events.schema` prints and `event.schema.json` holds."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeAlias

from ee_runner.events.model import KNOWN, MOMENT, UUID, Event, Stats

Schema: TypeAlias = dict[str, Any]

_TYPES: dict[object, str] = {str: "string", int: "integer", Mapping: "object"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What the `event_data` of an event holds, by the names of the fields below.

    `always` is there unless the data was left out, cut or could not be told; `perhaps` depends on the run. `open`
    means that Ansible adds fields of its own; `bare` that the event may come without `event_data` and `pid`.
    """

    summary: str
    always: tuple[str, ...] = ()
    perhaps: tuple[str, ...] = ()
    open: bool = False
    bare: bool = False


_PLAYBOOK = ("playbook", "playbook_uuid")
_PLAY = ("play", "play_uuid", "play_pattern")
_TASK = ("task", "task_uuid", "task_action", "resolved_action", "task_args", "task_path")
_ROLE = ("role", "resolved_role")
_PLACE = (*_PLAYBOOK, *_PLAY, *_TASK, *_ROLE)
_OF_TASK = (*_TASK, "host")
_AROUND_TASK = (*_PLAYBOOK, *_PLAY, *_ROLE)  # an ad-hoc command has no play, and few tasks a role
_TIMES = ("start", "end", "duration")
_OWN = ("uuid", "ee_runner_cut", "ee_runner_error")
_STATES = tuple(field.name for field in dataclasses.fields(Stats))


def _result(summary: str, *more: str) -> Kind:
    return Kind(summary=summary, always=(*_OF_TASK, *more), perhaps=_AROUND_TASK)


def _message(summary: str, *flags: str) -> Kind:
    return Kind(summary=summary, perhaps=(*_PLACE, *flags), bare=True)


KINDS: dict[str, Kind] = {
    "playbook_on_start": Kind(summary="A playbook begins.", always=_PLAYBOOK),
    "playbook_on_play_start": Kind(summary="A play begins.", always=(*_PLAY, "name", "pattern"), perhaps=_PLAYBOOK),
    "playbook_on_task_start": Kind(
        summary="A task or handler begins.", always=(*_TASK, "name", "is_conditional"), perhaps=_AROUND_TASK
    ),
    "playbook_on_include": Kind(summary="Tasks are included.", always=("included_file",), perhaps=_PLACE),
    "playbook_on_notify": Kind(summary="A host notifies a handler.", always=("host", "handler"), perhaps=_PLACE),
    "playbook_on_no_hosts_matched": Kind(summary="A play has no hosts.", perhaps=_PLACE),
    "playbook_on_no_hosts_remaining": Kind(summary="A play has lost all its hosts.", perhaps=_PLACE),
    "playbook_on_vars_prompt": Kind(
        summary="A play asks for a variable.", always=("varname", "private"), perhaps=_PLAYBOOK, open=True
    ),
    "playbook_on_stats": Kind(
        summary="The recap; the last of Ansible's own events.",
        always=(*_STATES, "artifact_data"),
        perhaps=(*_PLAYBOOK, "custom"),
    ),
    "runner_on_start": _result("A task begins on a host."),
    "runner_on_ok": _result("A task succeeded on a host.", "remote_addr", "res", *_TIMES, "event_loop"),
    "runner_on_failed": _result(
        "A task failed on a host.", "remote_addr", "res", *_TIMES, "ignore_errors", "event_loop"
    ),
    "runner_on_unreachable": _result("A host was not reached.", "remote_addr", "res", *_TIMES),
    "runner_on_skipped": _result("A task was skipped on a host.", "remote_addr", *_TIMES, "event_loop"),
    "runner_item_on_ok": _result("An item of a loop succeeded.", "res"),
    "runner_item_on_failed": _result("An item of a loop failed.", "res"),
    "runner_item_on_skipped": _result("An item of a loop was skipped.", "res"),
    "runner_retry": _result("A task is tried again.", "res"),
    "runner_on_async_poll": _result("An asynchronous task is looked at.", "res", "jid"),
    "runner_on_async_ok": _result("An asynchronous task succeeded.", "res", "jid"),
    "runner_on_async_failed": _result("An asynchronous task failed.", "res", "jid"),
    "runner_on_file_diff": _result("A task changed, or would change, a file.", "diff"),
    "verbose": _message("A line outside Ansible's events, or what -v shows.", "verbose"),
    "warning": _message("A warning.", "warning", "system_warning", "verbose"),
    "deprecated": _message("A note that something is deprecated.", "deprecated", "verbose"),
    "error": _message("An error outside a task, or an event without a readable record.", "error", "verbose"),
    "debug": _message("What ANSIBLE_DEBUG shows.", "debug"),
}
"""Every event by its name."""


def _text(description: str, **rules: Any) -> Schema:
    return {"type": "string", "description": description, **rules}


def _or_null(description: str, kind: str = "string") -> Schema:
    return {"type": [kind, "null"], "description": description}


def _flag(description: str) -> Schema:
    return {"type": "boolean", "description": description}


def _moment(description: str) -> Schema:
    return _text(description, format="date-time", pattern=MOMENT)


_UUID: Schema = {"type": "string", "pattern": UUID}
_COUNTS: Schema = {
    "type": "object",
    "description": "Host -> count.",
    "properties": {"ee_runner_cut": {"$ref": "#/$defs/field.ee_runner_cut"}},
    "additionalProperties": {"type": "integer", "minimum": 0},
}

DATA: dict[str, Schema] = {
    "playbook": _text("The playbook's file; __adhoc_playbook__ for an ad-hoc command."),
    "playbook_uuid": {**_UUID, "description": "The uuid of the playbook's event."},
    "play": _text("The play's name."),
    "play_uuid": {**_UUID, "description": "Ansible's uuid of the play; the same for each batch of a serial play."},
    "play_pattern": _text("The play's hosts pattern."),
    "task": _text("The task's name, or its action if it has none."),
    "task_uuid": {**_UUID, "description": "Ansible's uuid of the task."},
    "task_action": _text("The action as the task names it."),
    "resolved_action": _text("The action's full name."),
    "task_args": _text("The arguments, if Ansible is told to show them, else empty."),
    "task_path": _text("File and line of the task; empty for one that no file holds."),
    "role": _text("The role that the task is from."),
    "resolved_role": _text("The role's full name, where that is another."),
    "host": _text("The host's name in the inventory."),
    "remote_addr": _or_null("The host's address in the inventory."),
    "res": {"type": "object", "description": "What the task returned; only `censored` with no_log."},
    "start": _moment("When the task began on the host."),
    "end": _moment("When it ended there."),
    "duration": {"type": "number", "description": "Seconds from start to end."},
    "event_loop": _or_null("The kind of the task's loop, for example `items` for with_items; null without one."),
    "ignore_errors": _or_null("Whether the play goes on in spite of the failure.", "boolean"),
    "jid": _or_null("The id of the asynchronous job."),
    "diff": {"type": ["array", "object", "null"], "description": "What `--diff` shows."},
    "name": _text("The name of the play or task as it is shown."),
    "pattern": _text("The play's hosts pattern."),
    "is_conditional": _flag("Whether the task is a handler, or one that Ansible announces as conditional."),
    "included_file": _text("The file of the tasks."),
    "handler": _text("The handler's name."),
    "varname": _text("The variable that is asked for."),
    "private": _flag("Whether what is typed is hidden; defaults are censored then."),
    **{field.name: {"$ref": "#/$defs/counts", **field.metadata} for field in dataclasses.fields(Stats)},
    "artifact_data": {"type": "object", "description": "The data of set_stats for the whole run."},
    "custom": {"type": "object", "description": "The data of set_stats by host."},
    "verbose": _flag("A message of -v."),
    "warning": _flag("A warning."),
    "system_warning": _flag("A warning about the machine that Ansible runs on."),
    "deprecated": _flag("A note of deprecation."),
    "error": {"type": ["boolean", "string"], "description": "An error; or why an event's record could not be read."},
    "debug": _flag("A message of ANSIBLE_DEBUG."),
    "uuid": {**_UUID, "description": "The event's own uuid once more."},
    "ee_runner_cut": _text("How much is missing of what was too large to keep."),
    "ee_runner_error": _text("Why the data of this event could not be told."),
}
"""Every field of `event_data` by its name."""


def event_schema() -> Schema:
    """Return the schema (draft 2020-12) of one event, as it is in the artifacts and as handlers and emitters get it."""
    hints = typing.get_type_hints(Event)
    fields = {field.name: field for field in dataclasses.fields(Event) if field.name in KNOWN}
    properties = {name: {**_type(hints[name]), **field.metadata} for name, field in fields.items()}
    properties["event"]["enum"] = list(KINDS)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:ee-runner:event",
        "title": "An event of an Ansible job",
        "type": "object",
        "properties": properties,
        "required": [name for name in KNOWN if not _is_optional(hints[name])],
        "additionalProperties": False,
        "allOf": [_case(name, kind) for name, kind in KINDS.items()],
        "$defs": {
            "counts": _COUNTS,
            "incomplete": {
                "description": "The data was left out on request, cut, or could not be told.",
                "anyOf": [{"maxProperties": 0}, {"required": ["ee_runner_cut"]}, {"required": ["ee_runner_error"]}],
            },
            **{_field(name): schema for name, schema in DATA.items()},
            **{_data(name): _data_schema(kind) for name, kind in KINDS.items()},
        },
    }


def schema_text() -> str:
    """Return the schema as the text of the file that is shipped."""
    import json

    return json.dumps(event_schema(), indent=2) + "\n"


def _type(hint: object) -> Schema:
    kept = [kind for kind in typing.get_args(hint) if kind is not types.NoneType] if _is_optional(hint) else [hint]
    return {"type": _TYPES[typing.get_origin(kept[0]) or kept[0]]}


def _is_optional(hint: object) -> bool:
    return types.NoneType in typing.get_args(hint)


def _case(name: str, kind: Kind) -> Schema:
    then: Schema = {"properties": {"event_data": {"$ref": f"#/$defs/{_data(name)}"}}}
    if not kind.bare:
        then["required"] = ["pid", "event_data"]
    return {"if": {"properties": {"event": {"const": name}}, "required": ["event"]}, "then": then}


def _field(name: str) -> str:
    return f"field.{name}"


def _data(event: str) -> str:
    return f"data.{event}"


def _data_schema(kind: Kind) -> Schema:
    names = (*kind.always, *kind.perhaps, *_OWN)
    schema: Schema = {
        "description": kind.summary,
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/{_field(name)}"} for name in names},
        "additionalProperties": kind.open,
    }
    if kind.always:
        schema["anyOf"] = [{"required": [*kind.always, "uuid"]}, {"$ref": "#/$defs/incomplete"}]
    return schema


if __name__ == "__main__":
    sys.stdout.write(schema_text())
