"""Runs the job that comes over one stream, and writes its results to another (seed, chapter 8)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ee_runner.artifacts import FINAL
from ee_runner.attachment import Attachment
from ee_runner.config import RunnerConfig
from ee_runner.errors import BadFrame, RunnerError
from ee_runner.events.kept import LOG
from ee_runner.job import Outcome, Status
from ee_runner.logs import log
from ee_runner.names import new_ident, run_prefix
from ee_runner.preparation import outcome_of
from ee_runner.runner import Runner
from ee_runner.sources import Resolved
from ee_runner.stream import place, request
from ee_runner.stream.archive import pack
from ee_runner.stream.archive.unpack import Unpacker
from ee_runner.stream.incoming import Incoming
from ee_runner.stream.input import Input
from ee_runner.stream.keeper import Keeper, Nobody
from ee_runner.stream.outgoing import Outgoing
from ee_runner.stream.output import Canceled, Output
from ee_runner.stream.records import Hello, Kind
from ee_runner.stream.ways import is_live
from ee_runner.values import dataclass, field
from ee_runner.workspace import places

if TYPE_CHECKING:
    from ee_runner.stream.cache import BlobStore

CACHE_LIMIT = 10 * 2**30
"""Bytes that stay in a worker's cache after a job; what was used least recently makes room."""

KEEPALIVE = 10.0
"""Seconds of silence after which a keepalive goes into a pipe or a socket."""


_PATIENCE = 3.0
"""Seconds that the results of a canceled job wait for a reader that stands still."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a worker works, whatever it is sent.

    `directory` is the private data directory, a temporary one when it is None; with `delete` it is emptied before and
    removed after the job. `keepalive` and `patience` are seconds, None for the usual, 0 for none. `cache` is the
    directory of the cache, `journals` that of the results of durable jobs. `defaults` are options of the job that hold
    unless the request has others.
    """

    directory: Path | None = None
    delete: bool = False
    keepalive: float | None = None
    patience: float | None = None
    outside_links: bool = False
    cache: Path | None = None
    journals: Path | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict, repr=False)


def terms(resolved: Resolved, defaults: Mapping[str, Any] | None = None) -> Terms:
    """Return the terms that options give; relative paths are taken from the working directory."""
    values = resolved.values
    directory, cache = values["private_data_dir"], values["cache"]
    return Terms(
        directory=None if directory is None else directory.absolute(),
        delete=values["delete"],
        keepalive=values["keepalive_seconds"],
        patience=values["stream_timeout"],
        outside_links=values["allow_outside_links"],
        cache=None if cache is None else cache.absolute(),
        journals=_journals() if values["durable"] else None,
        defaults=request.of_the_job(defaults or {}),
    )


class _Received:
    """What came over the stream so far."""

    def __init__(self) -> None:
        self.options: dict[str, Any] | None = None
        self.hello: Hello | None = None


class Worker:
    """One job of somebody else's (seed, chapter 8, ``streamer="worker"``).

    `source` and `output` are file objects, sockets or descriptors, sys.stdin and sys.stdout when there are none.
    `run` reads the request, runs the job and returns its status and rc; what keeps it from running is told over the
    stream as an ``error`` with an explanation, and rc is the exit code of that error.
    """

    def __init__(
        self,
        terms: Terms,
        *,
        source: Any = None,
        output: Any = None,
        attachment: Attachment | None = None,
        keeper: Keeper | None = None,
        note: Callable[[str], None] = log.warning,
    ) -> None:
        self._terms = terms
        self._source = source
        self._output = output
        self._attachment = attachment or Attachment()
        self._keeper = keeper or Nobody()
        self._note = note
        self._received = _Received()
        self._cache: BlobStore | None = None
        self.private_data_dir = str(terms.directory or "")
        self.status: Status = "unstarted"
        self.rc: int | None = None
        self.detail = ""

    def cancel(self) -> None:
        """Ask the job to stop."""
        self._attachment.cancellation.request()

    def run(self) -> tuple[Status, int | None]:
        """Run the job to its end; raises StreamError when the results could not be written, and nothing keeps them."""
        target = sys.stdout.buffer if self._output is None else self._output
        keepalive = self._terms.keepalive
        if keepalive is None:
            keepalive = KEEPALIVE if is_live(target) else 0
        outgoing = Outgoing(keepalive=keepalive, lost=self.cancel)
        with Output(
            target,
            keepalive=keepalive,
            idle=outgoing.idle,
            gone=outgoing.gone,
            cancellation=self._attachment.cancellation,
            patience=_PATIENCE,
        ) as output:
            outgoing.to(output)
            try:
                self._serve(outgoing)
            except Exception as error:
                self._explain(error, outgoing)
                if not isinstance(error, RunnerError):
                    raise
            finally:
                outgoing.close()
        if outgoing.failure is not None and not outgoing.is_durable:
            self.rc = outgoing.failure.exit_code
            raise outgoing.failure
        return self.status, self.rc

    def _serve(self, outgoing: Outgoing) -> None:
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(self._directory())
            self.private_data_dir = str(directory)
            self._cache = _cache(self._terms.cache)
            options = {**self._terms.defaults, **self._receive(directory, outgoing)}
            options.setdefault("ident", new_ident())
            ident, asked = str(options["ident"]), self._received.hello
            outgoing.begin(asked, ident=ident, cache=self._cache, journals=self._terms.journals)
            self._work(options, directory, outgoing)
            if self._cache is not None:
                self._cache.prune(CACHE_LIMIT)

    def _receive(self, directory: Path, outgoing: Outgoing) -> dict[str, Any]:
        """Read the request, and unpack what comes with it; the options are checked before anything is written."""

        def greeted(hello: Hello) -> None:
            self._received.hello = hello
            if hello.offers:
                outgoing.answer()

        source = sys.stdin.buffer if self._source is None else self._source
        incoming = Incoming(
            Input(source, cancellation=self._attachment.cancellation),
            note=self._note,
            patience=self._terms.patience,
            greeted=greeted,
        )
        with Unpacker(directory, links="any" if self._terms.outside_links else "inside", cache=self._cache) as unpacker:
            for record in incoming:
                if record.kind is Kind.REQUEST and self._received.options is not None:
                    raise BadFrame(f"{incoming.position}: a second request; a job has one.")
                if record.kind is Kind.REQUEST and isinstance(record.body, Mapping):
                    self._received.options = request.accepted(record.body, directory)
                elif record.kind is Kind.CONTENT and isinstance(record.body, bytes):
                    self._expect_request(incoming)
                    unpacker.feed(record.body)
                elif record.kind is Kind.ARCHIVE_END:
                    unpacker.close_one()
                elif record.kind not in (Kind.ARCHIVE, Kind.END, Kind.KEEPALIVE):
                    raise BadFrame(f"{incoming.position}: {record.kind.name.lower()} is no record of a request.")
            self._expect_request(incoming)
            unpacker.close()
        return self._received.options or {}

    def _expect_request(self, incoming: Incoming) -> None:
        if self._received.options is None:
            raise BadFrame(f"{incoming.position}: there is no request before it; 'ansible-runner transmit' writes one.")

    def _work(self, options: dict[str, Any], directory: Path, outgoing: Outgoing) -> None:
        """Run the job; what it says of itself goes over the stream as it comes."""

        def status(data: Mapping[str, Any], runner_config: object = None) -> None:
            del runner_config
            outgoing.status(data)

        def event(data: dict[str, Any]) -> bool:
            outgoing.event(data)
            return False  # the stream has it

        if base := options.get("directory_isolation_base_path"):
            self._keeper.owns_all(Path(str(base)).absolute(), run_prefix())
        config = RunnerConfig(private_data_dir=directory, attachment=self._attachment, quiet=True, **options)
        place.refuse_links(directory / "artifacts", Path(config.artifact_dir))
        runner = Runner(
            config, status_handler=status, event_handler=event, artifacts_handler=lambda made: _send(made, outgoing)
        )
        if config.container_name:
            self._keeper.runs(config.process_isolation_executable, config.container_name)
        try:
            runner.run()
        finally:
            self.status, self.rc, self.detail = runner.status, runner.rc, runner.detail
            if runner.reason != "exited":
                self._keeper.stopped()
        outgoing.end({"rc": runner.rc, "reason": runner.reason, "detail": runner.detail})

    def _explain(self, error: Exception, outgoing: Outgoing) -> None:
        """Say over the stream why there is no job, unless its own status said so."""
        outcome = outcome_of(error)
        if isinstance(error, Canceled):
            outcome = Outcome("canceled", 254, "canceled", str(error))
        self.status, self.rc, self.detail = outcome.status, outcome.rc, outcome.detail
        if outgoing.last_status not in FINAL:
            outgoing.begin(self._received.hello, ident="", cache=self._cache, journals=None)
            outgoing.status({"status": self.status, "job_explanation": str(error)})
        outgoing.end({"rc": outcome.rc, "reason": outcome.reason, "detail": outcome.detail})

    def _directory(self) -> contextlib.AbstractContextManager[Path]:
        """Give the private data directory, held so that no cleanup takes it; one that does not stay is removed."""
        for base in places.run_directory_bases(os.environ):
            self._keeper.owns_all(base, run_prefix())
        given = self._terms.directory
        if given is not None and not self._terms.delete:
            return place.staying(given)
        return place.passing(given, cache=self._terms.cache, keeper=self._keeper, note=self._note)


def _journals() -> Path:
    from ee_runner.stream import journal

    return journal.home()


def _cache(directory: Path | None) -> BlobStore | None:
    if directory is None:
        return None
    from ee_runner.stream.cache import BlobStore

    return BlobStore(directory)


def _send(made: str, outgoing: Outgoing) -> None:
    """Send the artifacts: all but the events, which went one by one."""
    left_out = (".events", ".stream", LOG)

    def stays(name: str) -> bool:
        return name.startswith("job_events/") or name in left_out

    if outgoing.frames:
        outgoing.archive(pack.stream(Path(made), exclude=stays))
    else:
        outgoing.archive(pack.single(Path(made), exclude=stays))
