"""The three ends of a remote job from the command line, and what keeps a worker's host in order."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ee_runner.cli import caller
from ee_runner.console import write
from ee_runner.errors import ConfigurationError

if TYPE_CHECKING:
    from ee_runner.cli.guardian import Ward
    from ee_runner.cli.parser import Parsed
    from ee_runner.sources import Resolved


_ROTATION = ("rotate_artifacts", "rotate_artifacts_age", "rotate_artifacts_size")


def run(parsed: Parsed, ward: Ward | None) -> int:
    """Do what one of these subcommands asks for and return its exit code; raises RunnerError."""
    from ee_runner import settings

    if parsed.value("worker_info"):
        return _info()
    if parsed.value("attach"):
        return _attach(parsed.value("attach"))
    resolved = settings.resolve(parsed.explicit, environ=os.environ, command=parsed.command)
    if resolved.values["explain"]:
        write(1, "".join(f"{line}\n" for line in resolved.explain()).encode())
        return 0
    if parsed.command == "worker cleanup":
        return _clean_up(resolved.values)
    if parsed.command == "cleanup":
        return _settle(resolved)
    if parsed.command == "transmit":
        return _transmit(resolved)
    return _work(resolved, ward) if parsed.command == "worker" else _process(resolved)


def _transmit(resolved: Resolved) -> int:
    from ee_runner.executor import Cancellation
    from ee_runner.stream.output import Canceled
    from ee_runner.stream.transmit import Transmitter

    _refuse_terminal(1, "transmit writes a job to standard output", "ansible-runner worker")
    cancellation = Cancellation()
    with caller.signals(cancellation):
        try:
            Transmitter(resolved, output=1, cancellation=cancellation, warn=caller.complain).run()
        except Canceled as error:
            caller.complain(str(error))
            return 254
    return 0


def _work(resolved: Resolved, ward: Ward | None) -> int:
    from ee_runner.stream import worker

    _refuse_terminal(0, "worker reads a job from standard input", "ansible-runner transmit")
    attached = _attachment()
    with caller.signals(attached.cancellation):
        if ward is not None:
            ward.on_abandoned(attached.cancellation.request)
        terms = worker.terms(resolved)
        end = worker.Worker(terms, source=0, output=1, attachment=attached, keeper=ward, note=caller.complain)
        end.run()
    return end.rc if end.rc is not None else 1


def _process(resolved: Resolved) -> int:
    from ee_runner.stream.process import Processor

    _refuse_terminal(0, "process reads a worker's results from standard input", "ansible-runner worker")
    attached = caller.attachment(resolved.values, emulates=False)
    with caller.signals(attached.cancellation):
        end = Processor(resolved, source=0, attachment=attached)
        end.run()
    if end.detail:
        caller.complain(end.detail)
    return end.rc if end.rc is not None else 1


def _refuse_terminal(descriptor: int, what: str, other: str) -> None:
    if os.isatty(descriptor):
        raise ConfigurationError(f"{what}, which is a terminal here; connect it with '{other}' by a pipe, or a file.")


def _attachment() -> Any:
    from ee_runner.attachment import Attachment
    from ee_runner.logs import log

    return Attachment(explain=log.debug, warn=caller.complain, stoppable=True)


def _info() -> int:
    from ee_runner import node

    write(1, node.as_yaml(node.info(os.environ)).encode() + b"\n")
    return 0


def _attach(ident: str) -> int:
    from ee_runner.stream import journal
    from ee_runner.stream.attach import attach

    attach(journal.home(), ident, output=1)
    return 0


def _clean_up(values: Any) -> int:
    from ee_runner import cleanup

    cleanup.run(
        file_pattern=values["file_pattern"],
        exclude_strings=values["exclude_strings"] or (),
        remove_images=values["remove_images"] or (),
        grace_period=values["grace_period"],
        image_prune=values["image_prune"],
        executable=values["process_isolation_executable"] or "podman",
        say=lambda line: write(1, f"{line}\n".encode()),
    )
    return 0


def _settle(resolved: Resolved) -> int:
    from ee_runner import kinds
    from ee_runner.cleanup import leftovers
    from ee_runner.sources import working_directory

    values, cwd = resolved.values, working_directory()
    directory, artifacts = values["private_data_dir"], values["artifact_dir"]
    rotation = next((name for name in _ROTATION if values[name]), None)
    if directory is not None:
        directory = leftovers.check_directory(cwd / directory)
        artifacts = artifacts or directory / "artifacts"
    elif artifacts is None and rotation is not None:
        raise ConfigurationError(
            f"{resolved.describe(rotation)}: name the private data directory whose artifacts to remove"
        )
    scope = leftovers.Scope(
        private_data_dir=directory,
        artifacts=None if artifacts is None else cwd / artifacts,
        engine=values["process_isolation_executable"],
        keep=values["rotate_artifacts"],
        age=kinds.seconds(values["rotate_artifacts_age"]),
        size=values["rotate_artifacts_size"],
    )
    done = leftovers.clean(scope, say=lambda line: write(1, f"{line}\n".encode()), complain=caller.complain)
    return 0 if done else 1
