"""Makes a job ready to run: its engine, its workspace and its plan."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ee_runner import arguments, plan, underway
from ee_runner.artifacts import ArtifactStore
from ee_runner.attachment import Attachment
from ee_runner.cleanup import lost
from ee_runner.engines import registry
from ee_runner.errors import ArtifactError, CallbackError, EngineError, ImageError, LaunchError, RunnerError
from ee_runner.job import CommandTarget, JobSpec, Outcome, Reason, Terminal
from ee_runner.plan import ExecutionPlan
from ee_runner.values import dataclass, replace
from ee_runner.workspace import Workspace, places

if TYPE_CHECKING:
    from ee_runner.engines.base import ContainerEngine


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job whose inputs are read and whose places are made; `nonce` marks its events on the output stream."""

    spec: JobSpec
    engine: ContainerEngine
    workspace: Workspace
    plan: ExecutionPlan
    nonce: str
    claim: underway.Claim


@contextlib.contextmanager
def prepare(
    spec: JobSpec, attachment: Attachment, terminal: Terminal, *, temporary: Iterable[Path] = ()
) -> Iterator[Prepared]:
    """Choose the engine, read the inputs, make the places and the plan; the places go when the context ends.

    What jobs that were lost have left is settled first. `temporary` are paths of the caller's own that are removed
    when the job has ended, and so are to be when it is lost.

    Raises ConfigurationError and EngineUnavailable before anything is written; after it, what `arguments` and `plan`
    raise, and then the artifacts say ``error``.
    """
    lost.settle_abandoned()
    asked, engine = spec.engine, _choose_engine(spec, attachment)
    spec = replace(spec, engine=engine.name)
    own_root, isolated = engine.capabilities.own_root, engine.capabilities.isolates
    if own_root and terminal is Terminal.PIPES and attachment.stdin is not None and os.isatty(attachment.stdin):
        arguments.refuse_prompts(spec)
    spec, brought = arguments.of_command(
        spec, os.environ, own_root=own_root, isolated=isolated, strict=attachment.strict
    )
    nonce = os.urandom(16).hex()
    mark = plan.new_mark()
    found_by = engine.name if asked in registry.DETECTED else asked
    with (
        _claim(spec, attachment, mark=mark, engine=found_by, temporary=temporary) as claim,
        Workspace.open(spec, own_root=own_root, isolated=isolated, cancel=attachment.cancellation) as workspace,
    ):
        with failure_recorded(spec):
            if workspace.playbook is not None and workspace.playbook.parent != workspace.run_dir:
                claim.add(workspace.playbook)
            named = arguments.of_workspace(workspace, os.environ, own_root=own_root, isolated=isolated)
            job = plan.make(
                spec,
                workspace,
                own_root=own_root,
                nonce=nonce,
                mark=mark,
                references=(*brought.references, *named),
                environment=brought.environment,
                ssh_directory=_ssh_directory(spec),
                terminal=terminal,
                tty=attachment.tty,
                rescue=lost.command(claim.file) if claim.file is not None else (),
            )
        yield Prepared(spec, engine, workspace, job, nonce, claim)


def outcome_of(error: BaseException) -> Outcome:
    """Say what the artifacts hold of a job that an error kept from running or from going on."""
    if isinstance(error, KeyboardInterrupt):
        return Outcome("canceled", 254, "canceled", "interrupted")
    reasons: tuple[tuple[type[BaseException], Reason], ...] = (
        (ImageError, "image"),
        (LaunchError, "launch"),
        (EngineError, "engine"),
        (CallbackError, "callback"),
    )
    reason: Reason = next((reason for kind, reason in reasons if isinstance(error, kind)), "lost")
    rc = error.exit_code if isinstance(error, RunnerError) else 1
    return Outcome("error", rc, reason, str(error))


def _claim(
    spec: JobSpec, attachment: Attachment, *, mark: str, engine: str, temporary: Iterable[Path]
) -> contextlib.AbstractContextManager[underway.Claim]:
    own = (spec.sandbox.staging, spec.directory_isolation_base_path)
    return underway.claim(
        mark=mark,
        ident=spec.ident,
        private_data_dir=spec.private_data_dir,
        artifact_dir=spec.artifact_dir,
        engine=engine,
        stoppable=attachment.stoppable,
        grace=spec.limits.grace,
        paths=temporary,
        bases=(*places.run_directory_bases(os.environ), *filter(None, own)),
    )


def _choose_engine(spec: JobSpec, attachment: Attachment) -> ContainerEngine:
    engine, reasons = registry.choose(spec.engine)
    for line in reasons:
        attachment.explain(line)
    if spec.engine == registry.AUTO and not engine.capabilities.isolates:
        attachment.warn("no engine that isolates can be used; the job runs on this host (--debug says why)")
    return engine


@contextlib.contextmanager
def failure_recorded(spec: JobSpec) -> Iterator[None]:
    """Have the artifacts say how a job ended that did not get as far as to run."""
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(ArtifactError), ArtifactStore(spec.artifact_dir) as store:
            store.write_outcome(outcome_of(error))
        raise


def _ssh_directory(spec: JobSpec) -> Path | None:
    if not isinstance(spec.target, CommandTarget):
        return None
    try:
        directory = Path.home() / ".ssh"
        return directory if directory.is_dir() else None
    except (RuntimeError, OSError):  # no home, or one that is not ours
        return None
