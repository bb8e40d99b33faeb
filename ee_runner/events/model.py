"""Events and play statistics as typed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

FAILURES: frozenset[str] = frozenset(
    ("runner_on_failed", "runner_on_unreachable", "runner_on_async_failed", "runner_item_on_failed")
)
"""The events of a failure; `only_failed_event_data` keeps the data of these."""

UUID = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
MOMENT = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$"


def _told(description: str, **rules: Any) -> dict[str, Any]:
    """What the schema says of a field besides its type: a description, and rules in the words of JSON Schema."""
    return {"description": description, **rules}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event (section 1.14 of the ansible-runner documentation), in the order of its fields in the artifacts.

    What an event does not have is None: text outside Ansible's events, for one, has neither `pid`, `parent_uuid` nor
    `event_data`. `more` holds what another version of the runner has added. What each field means is in its metadata,
    and in `ee_runner/events/event.schema.json`, which is made from it.
    """

    uuid: str = field(
        metadata=_told("Names the event; that of a playbook, play or task is the parent_uuid below it.", pattern=UUID)
    )
    counter: int = field(metadata=_told("The number of the event in its job, from 1.", minimum=1))
    stdout: str = field(
        default="", metadata=_told("The output that belongs to the event, without its last line end; may be empty.")
    )
    start_line: int = field(
        default=0, metadata=_told("How many lines of output came before the event's own.", minimum=0)
    )
    end_line: int = field(default=0, metadata=_told("How many lines have come with the event's own.", minimum=0))
    runner_ident: str = field(default="", metadata=_told("The ident of the job."))
    event: str = field(metadata=_told("The name of the event."))
    job_id: int | None = field(default=None, metadata=_told("The number in the environment variable JOB_ID, if any."))
    ad_hoc_command_id: int | None = field(
        default=None, metadata=_told("The number in the environment variable AD_HOC_COMMAND_ID, if any.")
    )
    pid: int | None = field(
        default=None, metadata=_told("The process id of Ansible, as it is where Ansible runs.", minimum=1)
    )
    created: str = field(
        default="", metadata=_told("When the event came: UTC, ISO 8601.", format="date-time", pattern=MOMENT)
    )
    parent_uuid: str | None = field(
        default=None, metadata=_told("The task, play or playbook that the event belongs to.", pattern=UUID)
    )
    verbosity: int | None = field(default=None, metadata=_told("How many -v a message needs to be shown.", minimum=0))
    event_data: Mapping[str, Any] | None = field(
        default=None, metadata=_told("What Ansible said about the event; empty if it was left out on request.")
    )
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, event: Mapping[str, Any]) -> Event:
        """Take an event as it is in the artifacts; `event_data` is not copied.

        Raises KeyError if `uuid`, `counter` or `event` is missing.
        """
        known = {name: event[name] for name in KNOWN if name in event}
        required = {name: event[name] for name in ("uuid", "counter", "event")}
        return cls(**{**known, **required}, more={k: v for k, v in event.items() if k not in KNOWN})

    def to_dict(self) -> dict[str, Any]:
        """The event as it is in the artifacts."""
        values = {name: getattr(self, name) for name in KNOWN}
        return {**{name: value for name, value in values.items() if value is not None}, **self.more}

    @property
    def host(self) -> str | None:
        """The host that the event is about."""
        return self._data.get("host")

    @property
    def play(self) -> str | None:
        """The name of the play that the event is about, or that ran at the time."""
        return self._data.get("play")

    @property
    def task(self) -> str | None:
        """The name of the task that the event is about, or that ran at the time."""
        return self._data.get("task")

    @property
    def result(self) -> Mapping[str, Any] | None:
        """What the task returned, for the events that carry it."""
        return self._data.get("res")

    @property
    def is_failure(self) -> bool:
        """Whether a task, or an item of its loop, failed on a host or did not reach it; known without event_data."""
        return self.event in FAILURES

    @property
    def is_ignored(self) -> bool:
        """Whether it is the failure of a task for which the play goes on, by ``ignore_errors``."""
        return self.event == "runner_on_failed" and bool(self._data.get("ignore_errors"))

    @property
    def _data(self) -> Mapping[str, Any]:
        return self.event_data or {}


KNOWN: tuple[str, ...] = tuple(f.name for f in fields(Event) if f.name != "more")
"""The fields of an event in the artifacts, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The numbers of the play recap: for each state, how many tasks left each host in it."""

    ok: Mapping[str, int] = field(
        default_factory=dict, metadata=_told("Tasks that succeeded, or whose failure was ignored.")
    )
    changed: Mapping[str, int] = field(default_factory=dict, metadata=_told("Tasks that changed something."))
    dark: Mapping[str, int] = field(default_factory=dict, metadata=_told("Tasks for which the host was not reached."))
    failures: Mapping[str, int] = field(default_factory=dict, metadata=_told("Tasks that failed."))
    ignored: Mapping[str, int] = field(default_factory=dict, metadata=_told("Failures that were ignored."))
    processed: Mapping[str, int] = field(default_factory=dict, metadata=_told("1 for each host of a play."))
    rescued: Mapping[str, int] = field(default_factory=dict, metadata=_told("Failures that a rescue section took up."))
    skipped: Mapping[str, int] = field(default_factory=dict, metadata=_told("Tasks that were skipped."))

    @classmethod
    def from_event_data(cls, data: Mapping[str, Any] | None) -> Stats:
        """From the `event_data` of a `playbook_on_stats` event; what is missing there is empty."""
        return cls(**{f.name: dict((data or {}).get(f.name) or {}) for f in fields(cls)})

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Name of the state -> host -> count."""
        return {f.name: dict(getattr(self, f.name)) for f in fields(self)}
