"""Run Ansible in execution environments: the public names, each loaded when it is first used."""

TYPE_CHECKING = False  # typing itself would cost more than all of this

if TYPE_CHECKING:
    from ee_runner.api import run
    from ee_runner.errors import (
        ArtifactError,
        CallbackError,
        ConfigurationError,
        EngineError,
        EngineUnavailable,
        ImageError,
        LaunchError,
        MountRefused,
        RunnerError,
    )
    from ee_runner.runner import Runner

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "CallbackError",
    "ConfigurationError",
    "EngineError",
    "EngineUnavailable",
    "ImageError",
    "LaunchError",
    "MountRefused",
    "Runner",
    "RunnerError",
    "__version__",
    "run",
]

_HOMES = {"run": "ee_runner.api", "Runner": "ee_runner.runner"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_HOMES.get(name, "ee_runner.errors")), name)
    return value
