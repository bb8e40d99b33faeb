"""The caller's callbacks, and what becomes of one that raises."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

from ee_runner.errors import CallbackError, ConfigurationError
from ee_runner.secrets import Secret, redact_words

EventHandler: TypeAlias = Callable[[dict[str, Any]], object]
StatusHandler: TypeAlias = Callable[..., object]
CancelCallback: TypeAlias = Callable[[], object]
FinishedCallback: TypeAlias = Callable[[Any], object]
ArtifactsHandler: TypeAlias = Callable[[str], object]


def check_callbacks(callbacks: Mapping[str, object]) -> None:
    """Raise ConfigurationError for a callback that can not be called, or that only an event loop could call."""
    for name, callback in callbacks.items():
        if callback is None:
            continue
        if not callable(callback):
            raise ConfigurationError(f"{name}: a function is expected, found a value of type {type(callback).__name__}")
        if _is_coroutine_function(callback):
            raise ConfigurationError(
                f"{name}: a plain function is expected, found a coroutine function. It is called in the job's thread; "
                "from there, asyncio.run_coroutine_threadsafe hands work to an event loop."
            )


def _is_coroutine_function(callback: object) -> bool:
    import inspect  # a job without callbacks does without it

    return inspect.iscoroutinefunction(callback)


class Handlers:
    """The callbacks of one job (seed, sections 5.18 to 5.21); each is called in the thread that runs the job.

    What one of them raises comes out as CallbackError with its cause, and it is not called again. `secrets` are masked
    in what is told of it.
    """

    def __init__(
        self,
        *,
        event_handler: EventHandler | None = None,
        status_handler: StatusHandler | None = None,
        cancel_callback: CancelCallback | None = None,
        finished_callback: FinishedCallback | None = None,
        artifacts_handler: ArtifactsHandler | None = None,
        secrets: Collection[Secret] = (),
    ) -> None:
        self.event_handler = event_handler
        self.status_handler = status_handler
        self.cancel_callback = cancel_callback
        self.finished_callback = finished_callback
        self.artifacts_handler = artifacts_handler
        self.secrets = secrets

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
            said = redact_words((f"{type(error).__name__}: {error}",), self.secrets)[0]
            raise CallbackError(f"The {name.replace('_', ' ')} raised {said}") from error
        setattr(self, name, handler)
        return answer
