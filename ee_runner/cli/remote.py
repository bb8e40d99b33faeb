"""The three ends of a remote job from the command line, and what keeps a worker's host in order."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ee_runner.cli import job
from ee_runner.console import write

if TYPE_CHECKING:
    from ee_runner.cli.guardian import Ward
    from ee_runner.cli.parser import Parsed
    from ee_runner.sources import Resolved


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
    if parsed.command == "transmit":
        return _transmit(resolved)
    return _work(resolved, ward) if parsed.command == "worker" else _process(resolved)


def _transmit(resolved: Resolved) -> int:
    from ee_runner.executor import Cancellation
    from ee_runner.stream.transmit import Transmitter

    cancellation = Cancellation()
    with job.signals(cancellation):
        Transmitter(resolved, output=1, cancellation=cancellation, warn=job.complain).run()
    return 0


def _work(resolved: Resolved, ward: Ward | None) -> int:
    from ee_runner.stream import worker

    attached = _attachment()
    with job.signals(attached.cancellation):
        if ward is not None:
            ward.on_abandoned(attached.cancellation.request)
        terms = worker.terms(resolved)
        end = worker.Worker(terms, source=0, output=1, attachment=attached, keeper=ward, note=job.complain)
        end.run()
    return end.rc if end.rc is not None else 1


def _process(resolved: Resolved) -> int:
    from ee_runner.stream.process import Processor

    attached = job.attachment(resolved.values, emulates=False)
    with job.signals(attached.cancellation):
        end = Processor(resolved, source=0, attachment=attached)
        end.run()
    if end.detail:
        job.complain(end.detail)
    return end.rc if end.rc is not None else 1


def _attachment() -> Any:
    from ee_runner.attachment import Attachment
    from ee_runner.logs import log

    return Attachment(explain=log.debug, warn=job.complain)


def _info() -> int:
    from ee_runner import node

    write(1, node.as_yaml(node.info(os.environ)).encode() + b"\n")
    return 0


def _attach(ident: str) -> int:
    from ee_runner.sources import state_directory
    from ee_runner.stream import journal
    from ee_runner.stream.wire import Output

    with Output(1) as output:
        for data in journal.attached(state_directory() / "worker", ident):
            output.write(data)
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
