"""The shared executor: an Invocation in, bytes and an Outcome out.

It knows no Ansible, no engine and no artifacts. It owns the child process, the pty or pipes, the prompts, the limits
and the stopping; nothing else starts processes. Its names are loaded when they are first used: a minder starts while
the rest is still on its way.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ee_runner.executor.cancellation import Cancellation
    from ee_runner.executor.control import Completed, capture, companion, find_program
    from ee_runner.executor.session import Executor, Sink

_HOMES = {
    "Cancellation": "cancellation",
    "Completed": "control",
    "Executor": "session",
    "Sink": "session",
    "capture": "control",
    "companion": "control",
    "find_program": "control",
}

__all__ = [
    "Cancellation",
    "Completed",
    "Executor",
    "Sink",
    "capture",
    "companion",
    "find_program",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
