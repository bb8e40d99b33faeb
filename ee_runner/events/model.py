"""Events and play statistics as typed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event (section 1.14 of the ansible-runner documentation), in the documented order of its fields.

    Text outside Ansible's events has neither `pid`, `parent_uuid` nor `event_data`. `more` holds what only some
    events have, such as `verbosity` and `job_id`.
    """

    uuid: str
    counter: int
    stdout: str = ""
    start_line: int = 0
    end_line: int = 0
    runner_ident: str = ""
    event: str
    pid: int | None = None
    created: str = ""
    parent_uuid: str | None = None
    event_data: Mapping[str, Any] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, event: Mapping[str, Any]) -> Event:
        """Raises KeyError if `uuid`, `counter` or `event` is missing."""
        known = {name: event[name] for name in _KNOWN if name in event}
        required = {name: event[name] for name in ("uuid", "counter", "event")}
        return cls(**{**known, **required}, more={k: v for k, v in event.items() if k not in _KNOWN})

    def to_dict(self) -> dict[str, Any]:
        """The event as it is in the artifacts."""
        values = {name: getattr(self, name) for name in _KNOWN}
        return {**{name: value for name, value in values.items() if value is not None}, **self.more}

    @property
    def host(self) -> str | None:
        """The host that the event is about."""
        return (self.event_data or {}).get("host")

    @property
    def task(self) -> str | None:
        """The name of the task that the event is about, or that ran at the time."""
        return (self.event_data or {}).get("task")


_KNOWN = tuple(f.name for f in fields(Event) if f.name != "more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The numbers of the play recap: how often each host was in each state."""

    ok: Mapping[str, int] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)
    dark: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)
    processed: Mapping[str, int] = field(default_factory=dict)
    rescued: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_event_data(cls, data: Mapping[str, Any]) -> Stats:
        """From the `event_data` of a `playbook_on_stats` event; what is missing there is empty."""
        return cls(**{f.name: dict(data.get(f.name) or {}) for f in fields(cls)})

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Name of the state -> host -> count."""
        return {f.name: dict(getattr(self, f.name)) for f in fields(self)}
