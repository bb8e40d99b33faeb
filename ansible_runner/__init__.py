"""The import name of ansible-runner, for programs written against it: the same objects as in `ee_runner`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ee_runner import Runner, run
    from ee_runner import RunnerError as AnsibleRunnerException

__all__ = ["AnsibleRunnerException", "Runner", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import ee_runner

    return getattr(ee_runner, {"AnsibleRunnerException": "RunnerError"}.get(name, name))
