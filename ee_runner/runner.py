"""One job's life: from its specification to its results."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ee_runner import arguments, artifacts, plan
from ee_runner.arguments import Brought
from ee_runner.artifacts import ArtifactStore
from ee_runner.engines import registry
from ee_runner.errors import ArtifactError, CallbackError, EngineError, ImageError, LaunchError, RunnerError
from ee_runner.events.decoder import Decoder, EventAssembler
from ee_runner.events.model import Stats
from ee_runner.executor import Cancellation
from ee_runner.job import CommandTarget, JobSpec, Outcome, Reason, Status, Terminal
from ee_runner.pipeline import Display, EventHandler, Pipeline
from ee_runner.plan import ExecutionPlan
from ee_runner.secrets import mask_environment, redact_words
from ee_runner.workspace import Workspace

if TYPE_CHECKING:
    from ee_runner.engines.base import ContainerEngine, Progress


@dataclass(frozen=True, slots=True)
class Attachment:
    """How the caller is connected to the job.

    `display` shows it, `progress` shows a pull; `stdin` is a descriptor handed to the job (see Executor.run);
    `explain` takes a line for each decision worth telling (``--debug``), `warn` what nobody should overlook.
    """

    display: Display | None = None
    progress: Progress | None = None
    terminal: Terminal = Terminal.PTY
    stdin: int | None = None
    json_mode: bool = False
    explain: Callable[[str], None] = lambda _: None
    warn: Callable[[str], None] = lambda _: None

    @property
    def shows_typing(self) -> bool:
        """Whether the job's input is a terminal of the caller's to which the job itself is not joined."""
        return self.terminal is Terminal.PIPES and self.stdin is not None and os.isatty(self.stdin)


class Runner:
    """One job and its results (seed, section 5.11).

    `rc`, `status` and `reason` tell how it ended; `detail` says more where there is more to say. `run` returns when
    the job has ended and everything is on disk; `cancel` may be called from any thread or signal handler.
    """

    def __init__(
        self,
        spec: JobSpec,
        *,
        attachment: Attachment | None = None,
        event_handler: EventHandler | None = None,
    ) -> None:
        self.spec = spec
        self.status: Status = "unstarted"
        self.rc: int | None = None
        self.reason: Reason | None = None
        self.detail = ""
        self._attachment = attachment or Attachment()
        self._event_handler = event_handler
        self._cancellation = Cancellation()

    def cancel(self) -> None:
        """Ask the job to stop; its outcome will be ``canceled``, rc 254."""
        self._cancellation.request()

    def terminal_resized(self) -> None:
        """Tell a job that is joined to the caller's terminal that the terminal has another size."""
        self._cancellation.nudge()

    def run(self) -> Runner:
        """Run the job to its end.

        Raises RunnerError for what kept it from running: ConfigurationError before anything is written; EngineError,
        ArtifactError and CallbackError after the artifacts say ``error``.
        """
        engine = self._choose_engine()
        own_root = engine.capabilities.own_root
        if own_root and self._attachment.shows_typing:
            arguments.refuse_prompts(self.spec)
        self.spec, brought = arguments.of_command(
            self.spec, os.environ, own_root=own_root, isolated=engine.capabilities.isolates
        )
        with (
            Workspace.open(self.spec, own_root=own_root) as workspace,
            ArtifactStore(self.spec.artifact_dir) as store,
        ):
            try:
                outcome = self._run_in(workspace, store, engine, brought)
                store.write_outcome(outcome)
                self._settle(outcome)
            except BaseException as error:
                outcome = _outcome_of(error)
                self._settle(outcome)
                with contextlib.suppress(ArtifactError):  # the error that is raised says it already
                    store.write_outcome(outcome)
                raise
        self._rotate()
        return self

    def _rotate(self) -> None:
        """Make room; what stands in the way of that does not change how the job ended, and is told."""
        try:
            artifacts.rotate(
                self.spec.artifact_dir.parent, keep=self.spec.rotate_artifacts, current=self.spec.artifact_dir
            )
        except ArtifactError as error:
            self.detail = self.detail or str(error)

    @property
    def stdout(self) -> TextIO:
        """An open handle on the job's output; the caller closes it."""
        return self._open("stdout")

    @property
    def stderr(self) -> TextIO:
        """An open handle on what the job wrote apart from its terminal; the caller closes it."""
        return self._open("stderr")

    @property
    def events(self) -> Iterator[dict[str, Any]]:
        """The job's events in order (seed, section 1.14)."""
        return artifacts.read_events(self.spec.artifact_dir)

    @property
    def stats(self) -> dict[str, Any] | None:
        """The counts of the last ``playbook_on_stats`` event by kind and host, or None when there is none."""
        last: dict[str, Any] | None = None
        for event in self.events:
            if event["event"] == "playbook_on_stats":
                last = event["event_data"]
        return None if last is None else Stats.from_event_data(last).to_dict()

    def host_events(self, host: str) -> Iterator[dict[str, Any]]:
        """The events of one host, in order."""
        return (event for event in self.events if event.get("event_data", {}).get("host") == host)

    def _open(self, name: str) -> TextIO:
        path = self.spec.artifact_dir / name
        try:
            return path.open(encoding="utf-8", errors="replace", newline="")
        except OSError as error:
            raise ArtifactError(f"The artifact {path} can not be read: {error.strerror}.") from error

    def _choose_engine(self) -> ContainerEngine:
        engine, reasons = registry.choose(self.spec.engine)
        for line in reasons:
            self._attachment.explain(line)
        if self.spec.engine == registry.AUTO and not engine.capabilities.isolates:
            self._attachment.warn("no engine that isolates can be used; the job runs on this host (--debug says why)")
        self.spec = replace(self.spec, engine=engine.name)
        return engine

    def _run_in(self, workspace: Workspace, store: ArtifactStore, engine: ContainerEngine, brought: Brought) -> Outcome:
        self._become("starting", store)
        nonce = os.urandom(16).hex()
        own_root = engine.capabilities.own_root
        named = arguments.of_workspace(workspace, os.environ, own_root=own_root, isolated=engine.capabilities.isolates)
        with self._agent(workspace) as agent_socket:
            job = plan.make(
                self.spec,
                workspace,
                own_root=own_root,
                nonce=nonce,
                references=(*brought.references, *named),
                environment=brought.environment,
                agent_socket=agent_socket,
                ssh_directory=self._ssh_directory(),
                terminal=self._attachment.terminal,
            )
            self._write_command(job, store, nonce)
            with _Spool(workspace.spool) as spool:
                pipeline = self._pipeline(store, nonce, spool)
                self._become("running", store)
                try:
                    return engine.run(
                        job,
                        pipeline,
                        self._cancellation,
                        stdin=self._attachment.stdin,
                        progress=self._attachment.progress,
                    )
                except LaunchError as error:
                    pipeline.say(str(error))
                    return Outcome("failed", 127, "launch", str(error))
                finally:
                    pipeline.close()

    def _write_command(self, job: ExecutionPlan, store: ArtifactStore, nonce: str) -> None:
        """Keep what is executed, without secrets and without what would let a job forge its events."""
        known = job.passwords.values()
        env = {name: value for name, value in job.env.items() if value != nonce}
        store.write_command(command=redact_words(job.argv, known), cwd=str(job.cwd), env=mask_environment(env, known))

    def _pipeline(self, store: ArtifactStore, nonce: str, spool: _Spool) -> Pipeline:
        return Pipeline(
            decoder=Decoder(nonce),
            assembler=EventAssembler(ident=self.spec.ident, read_record=spool.read),
            store=store,
            display=self._attachment.display,
            event_handler=self._event_handler,
            json_mode=self._attachment.json_mode,
        )

    @contextlib.contextmanager
    def _agent(self, workspace: Workspace) -> Iterator[Path | None]:
        from ee_runner.engines import agent

        if workspace.ssh_key is not None:
            with agent.job_agent(
                workspace.ssh_key,
                run_dir=workspace.run_dir,
                passwords=workspace.passwords,
                cancel=self._cancellation,
            ) as socket:
                yield socket
        elif isinstance(self.spec.target, CommandTarget):
            yield agent.host_socket(os.environ)
        else:
            yield None

    def _ssh_directory(self) -> Path | None:
        if not isinstance(self.spec.target, CommandTarget):
            return None
        try:
            directory = Path.home() / ".ssh"
            return directory if directory.is_dir() else None
        except (RuntimeError, OSError):  # no home, or one that is not ours
            return None

    def _become(self, status: Status, store: ArtifactStore) -> None:
        self.status = status
        store.write_status(status)

    def _settle(self, outcome: Outcome) -> None:
        self.rc, self.reason, self.detail = outcome.rc, outcome.reason, outcome.detail
        self.status = outcome.status


class _Spool:
    """The file into which the observer inside writes its records."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Spool:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)


def _outcome_of(error: BaseException) -> Outcome:
    """Say what the artifacts hold of a job that an error kept from running or from going on."""
    reasons: tuple[tuple[type[BaseException], Reason], ...] = (
        (ImageError, "image"),
        (LaunchError, "launch"),
        (EngineError, "engine"),
        (CallbackError, "callback"),
    )
    reason: Reason = next((reason for kind, reason in reasons if isinstance(error, kind)), "lost")
    rc = error.exit_code if isinstance(error, RunnerError) else 1
    return Outcome("error", rc, reason, str(error))
