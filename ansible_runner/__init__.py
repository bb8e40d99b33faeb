"""The import name of ansible-runner, for programs written against it: the same objects as in `ee_runner`."""

TYPE_CHECKING = False  # typing itself would cost more than all of this

if TYPE_CHECKING:
    from ee_runner import Runner, run
    from ee_runner import RunnerError as AnsibleRunnerException

__all__ = ["AnsibleRunnerException", "Runner", "run"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import ee_runner

    value: object = getattr(ee_runner, {"AnsibleRunnerException": "RunnerError"}.get(name, name))
    return value
