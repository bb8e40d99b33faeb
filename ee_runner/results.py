"""What a job left: its output, its events, its numbers and its facts."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ee_runner import facts
from ee_runner.config import RunnerConfig
from ee_runner.errors import ArtifactError, ConfigurationError
from ee_runner.events.log import EventLog

if TYPE_CHECKING:
    from ee_runner.events.model import Event, Stats


class Results:
    """One job's artifacts as values (seed, sections 5.12 to 5.17); of a running job as far as they are there."""

    def __init__(self, config: RunnerConfig) -> None:
        self.config = config
        self.log = EventLog(Path(config.artifact_dir))
        self._stats: Mapping[str, Any] | None = None

    @property
    def stdout(self) -> TextIO:
        """An open handle on the job's output; ArtifactError when there is none."""
        return self._open("stdout")

    @property
    def stderr(self) -> TextIO:
        """An open handle on what the job wrote apart from its terminal; ArtifactError when there is none."""
        return self._open("stderr")

    @property
    def events(self) -> Iterator[dict[str, Any]]:
        """The job's events in order (seed, section 1.14); while it runs they follow as they come, until it ends."""
        return iter(self.log)

    def iter_events(self) -> Iterator[Event]:
        """The same as typed values."""
        from ee_runner.events.model import Event

        return map(Event.from_dict, self.log)

    @property
    def stats(self) -> dict[str, Any] | None:
        """The counts of the last ``playbook_on_stats`` event by kind and host, or None when there is none."""
        stats = self.typed_stats
        return None if stats is None else stats.to_dict()

    @property
    def typed_stats(self) -> Stats | None:
        """The same as a typed value; None while the job runs."""
        last = self._stats
        if last is None and not self.log.is_running:
            last = (self.log.last("playbook_on_stats") or {}).get("event_data")
        if last is None:
            return None
        from ee_runner.events.model import Stats

        return Stats.from_event_data(last)

    def host_events(self, host: str) -> Iterator[dict[str, Any]]:
        """The events of one host, in order."""
        events = self.events if self.log.is_running else self.log.read(holding=host)
        return (event for event in events if (event.get("event_data") or {}).get("host") == host)

    def get_fact_cache(self, host: str) -> dict[str, Any]:
        """Return the facts that are kept of a host, empty when there are none (seed, section 5.17)."""
        return facts.read_facts(Path(self.config.fact_cache), host, prefix=self._fact_prefix)

    def set_fact_cache(self, host: str, data: Mapping[str, Any]) -> None:
        """Keep facts of a host, for this job to come and for later ones with its ident.

        Raises ConfigurationError when the job keeps its facts elsewhere than in files.
        """
        kind = self.config.values["fact_cache_type"]
        if kind != "jsonfile":
            raise ConfigurationError(f"fact_cache_type is {kind!r}: facts can be set in files only ('jsonfile')")
        facts.write_facts(Path(self.config.fact_cache), host, data, prefix=self._fact_prefix)

    @property
    def _fact_prefix(self) -> str:
        return self.config.env.get("ANSIBLE_CACHE_PLUGIN_PREFIX", "")

    def _open(self, name: str) -> TextIO:
        path = Path(self.config.artifact_dir) / name
        try:
            return _Output(path.open("rb"), encoding="utf-8", errors="replace")
        except OSError as error:
            raise ArtifactError(f"The artifact {path} can not be read: {error.strerror}.") from error


class _Output(io.TextIOWrapper):
    """A file that is closed without a word when nobody holds it any more."""

    mode = "r"

    def __del__(self) -> None:
        self.close()
