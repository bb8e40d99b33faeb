"""One job's life: from its configuration to its results."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ee_runner.artifacts import ArtifactStore
from ee_runner.conclusion import conclude
from ee_runner.config import RunnerConfig
from ee_runner.errors import ArtifactError, LaunchError, RunnerError
from ee_runner.events.decoder import Decoder, EventAssembler
from ee_runner.executor import Cancellation, minding
from ee_runner.handlers import (
    ArtifactsHandler,
    CancelCallback,
    EventHandler,
    FinishedCallback,
    Handlers,
    StatusHandler,
    check_callbacks,
)
from ee_runner.job import CommandTarget, JobSpec, Outcome, Reason, Status, Terminal
from ee_runner.logs import log
from ee_runner.options import CALLBACKS
from ee_runner.pipeline import Pipeline
from ee_runner.preparation import Prepared, failure_recorded, outcome_of
from ee_runner.results import Results
from ee_runner.secrets import Secret, mask_environment, redact_words
from ee_runner.spool import Spool
from ee_runner.values import replace

if TYPE_CHECKING:
    from ee_runner.emitters import Emitter
    from ee_runner.executor.minding import Minding

_OBSERVED = ("ansible", "ansible-playbook")


class Runner(Results):
    """One job and its results (seed, section 5.11).

    `rc`, `status` and `reason` tell how it ended; `detail` says more where there is more to say; `undelivered` counts,
    by emitter, what external systems did not get. `run` returns when the job has ended and everything is on disk;
    `cancel` may be called from any thread or signal handler.

    A configuration that is not prepared is prepared here, which raises what `RunnerConfig.prepare` raises; a callback
    that is no function raises ConfigurationError. In a callback `events` ends with what is there.
    `remove_partials` is taken for compatibility: no partial event file is ever left.
    """

    def __init__(
        self,
        config: RunnerConfig,
        cancel_callback: CancelCallback | None = None,
        remove_partials: bool = True,
        event_handler: EventHandler | None = None,
        artifacts_handler: ArtifactsHandler | None = None,
        finished_callback: FinishedCallback | None = None,
        status_handler: StatusHandler | None = None,
    ) -> None:
        self.remove_partials = remove_partials
        self.event_handler = event_handler
        self.status_handler = status_handler
        self.cancel_callback = cancel_callback
        self.finished_callback = finished_callback
        self.artifacts_handler = artifacts_handler
        check_callbacks({name: getattr(self, name) for name in CALLBACKS})
        if not config.is_prepared:
            config.prepare()
        super().__init__(config)
        self.status: Status = "unstarted"
        self.rc: int | None = None
        self.reason: Reason | None = None
        self.detail = ""
        self.undelivered: Mapping[str, int] = {}
        self._runs = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}(ident={self.config.ident!r}, status={self.status!r}, rc={self.rc})"

    def cancel(self) -> None:
        """Ask the job to stop; its outcome will be ``canceled``, rc 254."""
        self.config.attachment.cancellation.request()

    def terminal_resized(self) -> None:
        """Tell a job that is joined to the caller's terminal that the terminal has another size."""
        self.config.attachment.cancellation.nudge()

    def run(self) -> tuple[Status, int | None]:
        """Run the job to its end and return its status and rc.

        Raises RunnerError for what kept it from running: ConfigurationError, EngineError, ArtifactError and
        CallbackError; the artifacts say ``error`` then, unless it was a callback that is called after the end. What
        interrupts it (KeyboardInterrupt, SystemExit) comes out as it is, when the job has ended. A job that runs can
        not be run once more meanwhile: ConfigurationError.
        """
        with self.config.in_use():
            return self._run_once()

    def _run_once(self) -> tuple[Status, int | None]:
        self.log.begin(writer=threading.get_ident())
        self._runs = False
        self.status, self.rc, self.reason, self.detail, self._stats = "unstarted", None, None, "", None
        try:
            with (
                minding.ahead(self.config.attachment.ready) as ready,
                self.config.opened() as job,
                contextlib.ExitStack() as stack,
            ):
                with failure_recorded(job.spec):
                    stack.enter_context(self._logging())
                    emitters = self._emitters()
                self._run(job, emitters, ready)
        except BaseException as error:
            if self.rc is None:
                self._settle(outcome_of(error))
            raise
        finally:
            self.config.attachment.cancellation.forget()
            self.log.end()
        self._rotate(self.config.spec)
        return self.status, self.rc

    def _run(self, job: Prepared, emitters: Sequence[Emitter], ready: Minding | None) -> None:
        with (
            self._store(job.spec) as store,
            Spool(job.workspace.spool) as spool,
        ):
            handlers = self._handlers(job.plan.passwords.values())
            pipeline = self._pipeline(job, store, spool, handlers, emitters)
            failures: list[BaseException] = []
            try:
                outcome = self._execute(job, store, pipeline, ready)
                failures += self._missing(job, outcome, spool)
                store.write_outcome(outcome)
            except BaseException as error:
                outcome = outcome_of(error)
                if outcome.reason == "engine" and self._runs:  # something may be left, for a later job to end
                    job.claim.leave()
                self._keep_outcome(job, store, outcome, error)
                failures.insert(0, error)
            self._stats = pipeline.stats
            self._settle(outcome)
            self._conclude(pipeline, handlers, emitters, failures)

    @staticmethod
    def _store(spec: JobSpec) -> ArtifactStore:
        return ArtifactStore(spec.artifact_dir, keeps_output=not spec.suppress_output_file, events=spec.job_events)

    @staticmethod
    def _keep_outcome(job: Prepared, store: ArtifactStore, outcome: Outcome, error: BaseException) -> None:
        """Write how a job ended that an error has ended; what the disk does not take now is left to a later job."""
        if isinstance(error, ArtifactError):  # a full disk has room where nobody reads any more
            with contextlib.suppress(OSError):
                os.truncate(job.workspace.spool, 0)
        try:
            store.write_outcome(outcome)
        except ArtifactError:  # the error that is raised says it already
            if job.spec.artifact_dir.is_dir():
                job.claim.leave()

    def _execute(self, job: Prepared, store: ArtifactStore, pipeline: Pipeline, ready: Minding | None) -> Outcome:
        _say_useless_passwords(job)
        self._become("starting", store, pipeline, **self._command(job, store))
        with _agent(job, self.config.attachment.cancellation) as agent_socket:
            self._become("running", store, pipeline)
            try:
                return job.engine.run(
                    replace(job.plan, agent_socket=agent_socket),
                    pipeline,
                    self.config.attachment.cancellation,
                    stdin=self.config.attachment.stdin,
                    progress=self.config.attachment.progress,
                    started=self._has_started,
                    ready=ready,
                )
            except LaunchError as error:
                pipeline.say(str(error), shown=self.config.attachment.shown)
                return Outcome("failed", 127, "launch", str(error))
            finally:
                pipeline.close()

    def _has_started(self) -> None:
        self._runs = True
        if self.config.attachment.started is not None:
            self.config.attachment.started()

    def _conclude(
        self, pipeline: Pipeline, handlers: Handlers, emitters: Sequence[Emitter], failures: list[BaseException]
    ) -> None:
        """Tell everybody how the job ended, then raise the first of what went wrong, an interrupt before all else."""
        self.log.end()
        conclude(
            (
                lambda: self._tell(pipeline, **self._explanation()),
                lambda: self._close(emitters),
                lambda: handlers.gathered(self.config.artifact_dir),
                lambda: handlers.finished(self),
            ),
            failures,
        )

    def _command(self, job: Prepared, store: ArtifactStore) -> dict[str, Any]:
        """Keep and return what is executed, without secrets and without what would let a job forge its events."""
        known = job.plan.passwords.values()
        inherited = {} if job.engine.capabilities.own_root else os.environ
        own = {name: value for name, value in job.plan.env.items() if inherited.get(name) != value != job.nonce}
        command, cwd = redact_words(job.plan.argv, known), str(job.plan.cwd)
        env = mask_environment(own, known, own=job.plan.own_env)
        store.write_command(command=command, cwd=cwd, env=env)
        return {"command": list(command), "cwd": cwd, "env": env}

    def _pipeline(
        self, job: Prepared, store: ArtifactStore, spool: Spool, handlers: Handlers, emitters: Sequence[Emitter]
    ) -> Pipeline:
        plain = not _is_observed(job.spec) and not self._wants_lines(job, emitters)
        return Pipeline(
            decoder=None if plain else Decoder(job.nonce),
            assembler=EventAssembler(ident=job.spec.ident, read_record=spool.read),
            store=store,
            handlers=handlers,
            emitters=emitters,
            announce=self.log.announce,
            display=self.config.attachment.display_for(self.config.values),
            captured=self.config.attachment.captured,
            json_mode=job.spec.json_mode and not plain,
        )

    def _wants_lines(self, job: Prepared, emitters: Sequence[Emitter]) -> bool:
        """Say whether somebody takes the lines of a program that has no events of its own as such."""
        if self.event_handler is not None or job.plan.terminal is Terminal.PIPES:
            return self.event_handler is not None
        return bool(emitters) or job.spec.json_mode or not self.config.attachment.unread

    def _handlers(self, secrets: Collection[Secret]) -> Handlers:
        handlers = Handlers(
            event_handler=self.event_handler,
            status_handler=self.status_handler,
            cancel_callback=self.cancel_callback,
            finished_callback=self.finished_callback,
            artifacts_handler=self.artifacts_handler,
            secrets=secrets,
        )
        self.config.attachment.cancellation.asking(handlers.wants_stop if self.cancel_callback else None)
        return handlers

    def _emitters(self) -> Sequence[Emitter]:
        from ee_runner import emitters

        return emitters.of_job(self.config, self.config.values)

    def _close(self, emitters: Sequence[Emitter]) -> None:
        from ee_runner.emitters import closed

        self.undelivered = closed(emitters)

    def _missing(self, job: Prepared, outcome: Outcome, spool: Spool) -> list[Exception]:
        """Return what to raise when events of a job that ended by itself are not complete (check_job_event_data)."""
        if outcome.reason != "exited" or not spool.left:
            return []
        self.detail = f"events are missing: {spool.left} bytes of their records never showed in the job's output"
        return [RunnerError(f"{job.spec.artifact_dir}: {self.detail}.")] if job.spec.check_job_event_data else []

    def _become(self, status: Status, store: ArtifactStore, pipeline: Pipeline, **details: object) -> None:
        self.status = status
        store.write_status(status)
        self._tell(pipeline, **details)

    def _tell(self, pipeline: Pipeline, **details: object) -> None:
        pipeline.status(self.status, self.config, runner_ident=self.config.ident, **details)

    def _explanation(self) -> dict[str, str]:
        """Say why there is no job to speak of, under the name that programs look for."""
        return {"job_explanation": self.detail} if self.status == "error" and self.detail else {}

    def _settle(self, outcome: Outcome) -> None:
        self.rc, self.reason, self.detail = outcome.rc, outcome.reason, outcome.detail or self.detail
        self.status = outcome.status

    def _logging(self) -> contextlib.AbstractContextManager[None]:
        values = self.config.values
        if values["ignore_logging"]:
            return contextlib.nullcontext()
        from ee_runner import logs

        return logs.logging_to(debug=values["debug"], logfile=values["logfile"])

    def _rotate(self, spec: JobSpec) -> None:
        """Make room; what stands in the way of that does not change how the job ended, and is told."""
        if not (spec.rotate_artifacts > 0 or spec.rotate_age or spec.rotate_size):
            return
        from ee_runner import retention

        try:
            retention.rotate(
                spec.artifact_dir.parent,
                keep=spec.rotate_artifacts,
                age=spec.rotate_age,
                size=spec.rotate_size,
                current=spec.artifact_dir,
            )
        except ArtifactError as error:
            self.detail = self.detail or str(error)

    @property
    def canceled(self) -> bool:
        return self.status == "canceled"

    @property
    def timed_out(self) -> bool:
        return self.status == "timeout"

    @property
    def errored(self) -> bool:
        return self.status == "error"


def _say_useless_passwords(job: Prepared) -> None:
    if job.plan.terminal is Terminal.PIPES and job.workspace.passwords and job.workspace.ssh_key is None:
        log.warning(
            "The passwords of env/passwords answer nothing: the job has no terminal on which a program could ask."
        )


def _is_observed(spec: JobSpec) -> bool:
    target = spec.target
    return not isinstance(target, CommandTarget) or PurePosixPath(target.executable).name in _OBSERVED


@contextlib.contextmanager
def _agent(job: Prepared, cancel: Cancellation) -> Iterator[Path | None]:
    if job.workspace.ssh_key is not None:
        from ee_runner.engines import agent

        with agent.job_agent(
            job.workspace.ssh_key, run_dir=job.workspace.run_dir, passwords=job.workspace.passwords, cancel=cancel
        ) as socket:
            yield socket
    elif isinstance(job.spec.target, CommandTarget):
        from ee_runner.engines import agent

        yield agent.host_socket(os.environ)
    else:
        yield None
