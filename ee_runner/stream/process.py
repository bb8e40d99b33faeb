"""Takes in a worker's results: callbacks, artifacts and emitters as if the job had run here (seed, chapter 8)."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ee_runner import emitters
from ee_runner.artifacts import FINAL, ArtifactStore
from ee_runner.attachment import Attachment
from ee_runner.conclusion import conclude
from ee_runner.config import RunnerConfig
from ee_runner.errors import ArtifactError, BadFrame, ConfigurationError, StreamError
from ee_runner.events.kept import FILES, LOG, Form, form_of, read_events
from ee_runner.events.model import Stats
from ee_runner.handlers import Handlers, check_callbacks
from ee_runner.job import Outcome, Reason, Status
from ee_runner.logs import log
from ee_runner.pipeline import Display, Distributor
from ee_runner.preparation import outcome_of
from ee_runner.results import Results
from ee_runner.sources import Resolved
from ee_runner.stream.archive.unpack import Unpacker
from ee_runner.stream.incoming import Incoming
from ee_runner.stream.input import Input
from ee_runner.stream.output import Canceled
from ee_runner.stream.progress import Progress, read_start
from ee_runner.stream.records import OWN, Hello, Kind, Record
from ee_runner.workspace import places

if TYPE_CHECKING:
    from ee_runner.emitters import Emitter

_STATUSES = FINAL | {"unstarted", "starting", "running"}
_REMEDY = (
    " The worker keeps the results: pipe 'ansible-runner worker --attach IDENT' there"
    " into 'ansible-runner process {directory} --resume' here."
)
_UUID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z", re.ASCII)
_LARGEST = 2**53
_HIGHEST_RC = 255
_USUAL_RC = {"successful": 0, "canceled": 254, "timeout": 254}
_USUAL_REASON: Mapping[str, Reason] = {"successful": "exited", "failed": "exited", "canceled": "canceled"}
_OF_A_JOB = (FILES, LOG, "status", "rc", "reason", "stdout")
_OF_STARTING = {"command": list, "cwd": str, "env": dict}


class ProcessConfig(RunnerConfig):
    """What handlers and plugins are given of a job that runs elsewhere.

    `command`, `cwd` and `env` are the worker's, once its job starts; `settings` are those of this end. Without an
    ident the artifacts go into the artifact directory itself.
    """

    def __init__(self, resolved: Resolved, attachment: Attachment | None = None) -> None:
        super().__init__(attachment=attachment)
        values = resolved.values
        directory = Path(values["private_data_dir"]).absolute()
        ident = values["ident"]
        own = directory / "artifacts" / ident if ident else directory / "artifacts"
        self._resolved = resolved
        self._view = {
            "ident": ident or "",
            "private_data_dir": str(directory),
            "artifact_dir": str((values["artifact_dir"] or own).absolute()),
            "fact_cache": str((values["artifact_dir"] or own).absolute() / values["fact_cache"]),
            "settings": dict(resolved.settings),
        }


class Processor(Results):
    """One job's results from a worker (seed, chapter 8, ``streamer="process"``); `run` reads them to their end.

    `source` is a file object, a socket or a descriptor, sys.stdin when there is none. How the job ended is in `status`,
    `rc`, `reason` and `detail`; a stream that breaks makes it ``error``, with the reason ``lost`` and the exit code of
    a StreamError as rc. Nothing that comes over the stream is written outside the artifact directory.
    """

    def __init__(
        self,
        resolved: Resolved,
        *,
        source: Any = None,
        attachment: Attachment | None = None,
        callbacks: Mapping[str, Any] | None = None,
    ) -> None:
        self._callbacks = dict(callbacks or {})
        check_callbacks(self._callbacks)
        if resolved.values["private_data_dir"] is None:
            raise ConfigurationError("private_data_dir is missing; name the directory that gets the artifacts")
        super().__init__(ProcessConfig(resolved, attachment))
        self._values = resolved.values
        self._source = source
        self._attachment = attachment or Attachment()
        self._directory = Path(self.config.artifact_dir)
        self._started = False
        self._shown_on: Display | None = None
        self._fact_cache = Path(self.config.fact_cache).name
        self._remedy = ""
        self._is_broken = False
        self.status: Status = "unstarted"
        self.rc: int | None = None
        self.reason: Reason | None = None
        self.detail = ""
        self.undelivered: Mapping[str, int] = {}

    @property
    def artifact_dir(self) -> str:
        return str(self._directory)

    @property
    def private_data_dir(self) -> str:
        return str(self.config.private_data_dir)

    def cancel(self) -> None:
        """Read no further; a worker whose results nobody reads stops its job."""
        self._attachment.cancellation.request()

    def run(self) -> tuple[Status, int | None]:
        """Read the results to their end; raises what `Runner.run` raises of callbacks and artifacts."""
        self.log.begin(writer=threading.get_ident())
        try:
            with contextlib.ExitStack() as stack:
                places.artifact_directory(self._directory, stack, fresh=not self._values["resume"])
                store = stack.enter_context(ArtifactStore(self._directory, keeps_output=False, events=self._form()))
                self._process(store)
        except BaseException as error:
            if self.rc is None:
                self._settle(outcome_of(error))
            raise
        finally:
            self._attachment.cancellation.forget()
            self.log.end()
        return self.status, self.rc

    def _form(self) -> Form:
        """Return how events are kept; those of a stream that is taken up again are kept as they were before."""
        asked: Form = self._values["job_events"]
        return form_of(self._directory, asked) if self._values["resume"] else asked

    def _process(self, store: ArtifactStore) -> None:
        handlers = Handlers(**self._callbacks)
        self._attachment.cancellation.asking(handlers.wants_stop if handlers.cancel_callback else None)
        found = emitters.of_job(self.config, self._values)
        self._shown_on = self._attachment.display_for(self._values)
        distributor = Distributor(
            store=store, handlers=handlers, emitters=found, announce=self.log.announce, display=self._shown_on
        )
        failures: list[BaseException] = []
        try:
            self._read(store, distributor, handlers)
        except StreamError as error:
            self._is_broken = True
            self._settle(_lost(error, remedy=self._remedy))
            with contextlib.suppress(ArtifactError):
                _rescue_output(self._directory)
            self._tell(store, distributor, failures)
        except BaseException as error:
            self._settle(outcome_of(error))
            failures.append(error)
            self._tell(store, distributor, failures)
        self._stats = distributor.stats
        self._conclude(store, handlers, found, failures)

    def _read(self, store: ArtifactStore, distributor: Distributor, handlers: Handlers) -> None:
        """Take the records one by one; what was processed before a stream was cut is passed over."""

        def greeted(hello: Hello) -> None:
            progress.greet(hello)
            if hello.durable:
                self._remedy = _REMEDY.format(directory=self.config.private_data_dir)

        cancellation = self._attachment.cancellation
        incoming = Incoming(
            Input(sys.stdin.buffer if self._source is None else self._source, cancellation=cancellation),
            note=self._attachment.warn,
            patience=self._values["stream_timeout"],
            greeted=greeted,
        )
        ended: Record | None = None
        with contextlib.ExitStack() as stack:
            progress = stack.enter_context(Progress.open(self._directory, resuming=self._values["resume"]))
            unpacking = self._unpacking(handlers, stack)
            for record in incoming:
                ended = record if record.kind is Kind.END else ended
                if progress.is_new(record, known=incoming.hello is not None):
                    self._take(record, incoming, store=store, distributor=distributor, unpacking=unpacking)
                    progress.did(record)
                    if cancellation.requested and record.kind is not Kind.END:
                        raise Canceled("The caller asked to stop.")
                elif record.kind is Kind.STATUS and isinstance(record.body, Mapping):
                    self._learn(dict(record.body), incoming)
            self._note_cache(incoming.hello)
            progress.finish()
        self._finish(ended, incoming)

    def _take(
        self,
        record: Record,
        incoming: Incoming,
        *,
        store: ArtifactStore,
        distributor: Distributor,
        unpacking: Callable[[Record], None],
    ) -> None:
        if isinstance(record.body, bytes) or record.kind in (Kind.ARCHIVE, Kind.ARCHIVE_END):
            unpacking(record)
        elif record.kind is Kind.STATUS:
            details = self._learn(dict(record.body), incoming)
            store.write_status(self.status)
            distributor.status(self.status, self.config, **details)
        elif record.kind is Kind.EVENT:
            event = _checked(dict(record.body), incoming)
            self._show(event)
            distributor.event(event)
        elif record.kind is Kind.REQUEST:
            raise BadFrame(f"{incoming.position}: this is a request, not a worker's results; is the worker missing?")

    def _learn(self, data: dict[str, Any], incoming: Incoming) -> dict[str, Any]:
        """Take note of a status, and return what else its record says."""
        status = data.pop("status")
        data.pop(OWN, None)
        if not isinstance(status, str) or status not in _STATUSES:
            raise BadFrame(f"{incoming.position}: there is no status {ascii(status)[:100]}.")
        if self.status in FINAL:
            raise BadFrame(f"{incoming.position}: the status {status}, where the job had ended as {self.status}.")
        for name, kind in _OF_STARTING.items():
            if status == "starting" and isinstance(data.get(name), kind):
                setattr(self.config, name, data[name])
        self.status = status  # type: ignore[assignment]
        self._started = self._started or status != "error"
        self.detail = str(data.get("job_explanation") or self.detail)
        return data

    def _unpacking(self, handlers: Handlers, stack: contextlib.ExitStack) -> Callable[[Record], None]:
        """Return what takes the records of archives; one that is cut is let go of with the stack."""
        unpackers: list[Unpacker] = []

        def take(record: Record) -> None:
            if record.kind is Kind.ARCHIVE:
                unpackers.append(stack.enter_context(Unpacker(self._directory, keep=self._is_wanted, private=True)))
            elif isinstance(record.body, bytes):
                unpackers[-1].feed(record.body)
            else:
                unpackers.pop().close()
                handlers.gathered(str(self._directory))

        return take

    def _is_wanted(self, name: str) -> bool:
        """Say whether an entry is an artifact of this job: no event, no other job's directory, no file of ours."""
        first = name.partition("/")[0]
        return first not in (FILES, LOG, ".stream", ".events") and not self._is_other_job(first)

    def _is_other_job(self, name: str) -> bool:
        """Say whether this is the artifact directory of another job, when this one shares a directory with others."""
        place = self._directory / name
        return name != self._fact_cache and any(os.path.lexists(place / part) for part in _OF_A_JOB)

    def _finish(self, ended: Record | None, incoming: Incoming) -> None:
        """Settle how the job ended, from the last record and from the artifacts."""
        told = ended.body.get(OWN) if ended is not None and isinstance(ended.body, Mapping) else None
        outcome = told if isinstance(told, Mapping) else {}
        if self.status not in FINAL:
            raise StreamError(f"{incoming.position}, the worker ended its results, but not the job.")
        told_rc = outcome.get("rc")
        rc = told_rc if type(told_rc) is int else _kept_rc(self._directory)
        fits = rc is not None and abs(rc) <= _HIGHEST_RC and (rc == 0) == (self.status == "successful")
        self.rc = rc if fits else _USUAL_RC.get(self.status, 1)
        self.reason = _known_reason(outcome.get("reason")) or _USUAL_REASON.get(self.status)
        self.detail = str(outcome.get("detail") or self.detail)

    def _tell(self, store: ArtifactStore, distributor: Distributor, failures: list[BaseException]) -> None:
        """Say to everybody how a job ended whose worker could not say it."""
        try:
            store.write_status(self.status)
            distributor.status(self.status, self.config, job_explanation=self.detail)
        except BaseException as error:
            failures.append(error)

    def _conclude(
        self, store: ArtifactStore, handlers: Handlers, found: list[Emitter], failures: list[BaseException]
    ) -> None:
        self.log.end()
        rc = None if self._is_broken else self.rc
        outcome = Outcome(self.status, rc, self.reason or "exited", self.detail)
        conclude(
            (lambda: store.write_outcome(outcome), lambda: self._close(found), lambda: handlers.finished(self)),
            failures,
        )

    def _close(self, found: list[Emitter]) -> None:
        self.undelivered = emitters.closed(found)

    def _settle(self, outcome: Outcome) -> None:
        self.status, self.rc, self.reason, self.detail = outcome.status, outcome.rc, outcome.reason, outcome.detail

    def _show(self, event: Mapping[str, Any]) -> None:
        """Show an event's text, as the job's own terminal would have."""
        display, text = self._shown_on, event.get("stdout")
        if display is not None and isinstance(text, str) and text:
            display.stdout(text.encode("utf-8", "replace") + b"\r\n")

    def _note_cache(self, hello: Hello | None) -> None:
        """Remember what the worker's cache holds now, for the next job that is sent to it."""
        if self._values["cache"] is None or hello is None or not hello.cache:
            return
        from ee_runner.stream.ledger import Ledger

        with Ledger(Path(self._values["cache"]).absolute(), explain=log.debug) as ledger:
            if self._started:
                ledger.confirmed(hello.stream, hello.cache)
            else:
                ledger.forget()


def _lost(error: StreamError, *, remedy: str) -> Outcome:
    if isinstance(error, Canceled):
        return Outcome("canceled", 254, "canceled", str(error))
    return Outcome("error", error.exit_code, "lost", f"{error}{remedy}")


def _checked(event: dict[str, Any], incoming: Incoming) -> dict[str, Any]:
    """Return an event that can be kept: its counter and uuid make a file name, nothing more."""
    counter, identifier = event.get("counter"), event.get("uuid")
    counts = isinstance(counter, int) and not isinstance(counter, bool) and 0 < counter < _LARGEST
    if not counts or not isinstance(identifier, str) or not _UUID.match(identifier):
        raise BadFrame(f"{incoming.position}: an event whose counter or uuid is none: {ascii(event)[:200]}.")
    event.setdefault("event", "verbose")
    if not isinstance(event.get("event_data", {}), dict):
        raise BadFrame(f"{incoming.position}: an event whose data is no mapping: {ascii(event)[:200]}.")
    if event["event"] == "playbook_on_stats" and not _are_stats(event.get("event_data", {})):
        raise BadFrame(f"{incoming.position}: statistics that are none: {ascii(event['event_data'])[:200]}.")
    return event


def _are_stats(data: Mapping[str, Any]) -> bool:
    """Say whether counts by kind and host can be read from the data of a ``playbook_on_stats`` event."""
    try:
        Stats.from_event_data(data).to_dict()
    except (TypeError, ValueError, AttributeError, KeyError):
        return False
    return True


def _kept_rc(directory: Path) -> int | None:
    """Return the rc among the artifacts, which is how an older worker tells it."""
    try:
        return int(read_start(directory / "rc"))
    except (OSError, ValueError):
        return None


def _known_reason(reason: object) -> Reason | None:
    return reason if reason in get_args(Reason) else None  # type: ignore[return-value]


def _rescue_output(directory: Path) -> None:
    """Make the output that a lost worker did not send, as far as events tell it."""
    if (directory / "stdout").exists():
        return
    with ArtifactStore(directory) as store:
        for event in read_events(directory):
            if text := event.get("stdout"):
                store.write_stdout(f"{text}\r\n".encode("utf-8", "replace"))
