"""The caller's callbacks, and what becomes of one that raises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ee_runner.errors import CallbackError

EventHandler: TypeAlias = Callable[[dict[str, Any]], object]
StatusHandler: TypeAlias = Callable[..., object]
CancelCallback: TypeAlias = Callable[[], object]
FinishedCallback: TypeAlias = Callable[[Any], object]
ArtifactsHandler: TypeAlias = Callable[[str], object]


@dataclass(slots=True)
class Handlers:
    """The callbacks of one job (seed, sections 5.18 to 5.21); each is called in the thread that runs the job.

    What one of them raises comes out as CallbackError with its cause, and it is not called again.
    """

    event_handler: EventHandler | None = None
    status_handler: StatusHandler | None = None
    cancel_callback: CancelCallback | None = None
    finished_callback: FinishedCallback | None = None
    artifacts_handler: ArtifactsHandler | None = None

    def keeps(self, event: dict[str, Any]) -> bool:
        """Show an event to its handler, and say whether its file is kept: a handler that returns nothing keeps it."""
        answer = self._call("event_handler", event)
        return answer is None or bool(answer)

    def told(self, status: Mapping[str, Any], config: object) -> None:
        self._call("status_handler", status, runner_config=config)

    def wants_stop(self) -> bool:
        return bool(self._call("cancel_callback"))

    def gathered(self, artifact_dir: str) -> None:
        self._call("artifacts_handler", artifact_dir)

    def finished(self, runner: object) -> None:
        self._call("finished_callback", runner)

    def _call(self, name: str, *arguments: object, **keywords: object) -> object:
        handler = getattr(self, name)
        if handler is None:
            return None
        setattr(self, name, None)
        try:
            answer: object = handler(*arguments, **keywords)
        except Exception as error:
            raise CallbackError(f"The {name.replace('_', ' ')} raised {type(error).__name__}: {error}") from error
        setattr(self, name, handler)
        return answer
