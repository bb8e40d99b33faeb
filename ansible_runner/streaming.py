"""The three ends of a remote job, as classes; ``run(streamer=...)`` makes the same (seed, chapter 8)."""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING, Any

from ee_runner import settings
from ee_runner.attachment import Attachment
from ee_runner.config import ALIASES, temporary_directory
from ee_runner.options import CALLBACKS
from ee_runner.stream import process, transmit, worker

if TYPE_CHECKING:
    from ee_runner.handlers import ArtifactsHandler, CancelCallback, EventHandler, FinishedCallback, StatusHandler
    from ee_runner.sources import Resolved

__all__ = ["Processor", "Transmitter", "UUIDEncoder", "Worker"]


class UUIDEncoder(json.JSONEncoder):
    """Writes a UUID as its 32 hexadecimal digits."""

    def default(self, o: Any) -> Any:
        return o.hex if isinstance(o, uuid.UUID) else super().default(o)


class Transmitter(transmit.Transmitter):
    """One job to send to `_output`, sys.stdout when there is none; the options are those of `run`."""

    def __init__(self, _output: Any = None, **options: Any) -> None:
        callbacks = {name: options.pop(name) for name in CALLBACKS if name in options}
        super().__init__(_resolved("transmit", options), output=_output, callbacks=callbacks)


class Worker(worker.Worker):
    """One job of somebody else's, from `_input` (sys.stdin); its results go to `_output` (sys.stdout).

    Of the options, those of the worker itself are `private_data_dir`, without which there is a temporary directory, and
    `keepalive_seconds`; the others hold for the job unless the request has them.
    """

    def __init__(
        self, _input: Any = None, _output: Any = None, keepalive_seconds: float | None = None, **options: Any
    ) -> None:
        resolved = _resolved("worker", {**options, "keepalive_seconds": keepalive_seconds})
        super().__init__(worker.terms(resolved, options), source=_input, output=_output)


class Processor(process.Processor):
    """One job's results, from `_input` (sys.stdin); what is shown of them goes to sys.stdout unless it is `quiet`.

    Without a `private_data_dir` there is a temporary one.
    """

    def __init__(
        self,
        _input: Any = None,
        status_handler: StatusHandler | None = None,
        event_handler: EventHandler | None = None,
        artifacts_handler: ArtifactsHandler | None = None,
        cancel_callback: CancelCallback | None = None,
        finished_callback: FinishedCallback | None = None,
        **options: Any,
    ) -> None:
        callbacks = {
            "status_handler": status_handler,
            "event_handler": event_handler,
            "artifacts_handler": artifacts_handler,
            "cancel_callback": cancel_callback,
            "finished_callback": finished_callback,
        }
        if options.get("private_data_dir") is None:
            options["private_data_dir"] = temporary_directory()
        resolved = _resolved("process", options)
        super().__init__(resolved, source=_input, attachment=Attachment(shown=True), callbacks=callbacks)


def _resolved(kind: str, options: dict[str, Any]) -> Resolved:
    given = {ALIASES.get(name, name): value for name, value in options.items()}
    return settings.resolve(given, environ=os.environ, command=kind)
