"""Run Ansible in execution environments: the public names, each loaded when it is first used."""

TYPE_CHECKING = False  # typing itself would cost more than all of this

if TYPE_CHECKING:
    from ee_runner.aio import AsyncJob, arun
    from ee_runner.api import init_runner, run, run_async, run_command, run_command_async
    from ee_runner.config import RunnerConfig
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
        StreamError,
    )
    from ee_runner.events.model import Event, Stats
    from ee_runner.queries import (
        get_ansible_config,
        get_inventory,
        get_plugin_docs,
        get_plugin_docs_async,
        get_plugin_list,
        get_role_argspec,
        get_role_list,
    )
    from ee_runner.runner import Runner
    from ee_runner.secrets import Secret

__version__ = "0.1.0"

_HOMES = {
    "ee_runner.aio": ("AsyncJob", "arun"),
    "ee_runner.api": ("init_runner", "run", "run_async", "run_command", "run_command_async"),
    "ee_runner.config": ("RunnerConfig",),
    "ee_runner.errors": (
        "ArtifactError",
        "CallbackError",
        "ConfigurationError",
        "EngineError",
        "EngineUnavailable",
        "ImageError",
        "LaunchError",
        "MountRefused",
        "RunnerError",
        "StreamError",
    ),
    "ee_runner.events.model": ("Event", "Stats"),
    "ee_runner.queries": (
        "get_ansible_config",
        "get_inventory",
        "get_plugin_docs",
        "get_plugin_docs_async",
        "get_plugin_list",
        "get_role_argspec",
        "get_role_list",
    ),
    "ee_runner.runner": ("Runner",),
    "ee_runner.secrets": ("Secret",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ArtifactError",
    "AsyncJob",
    "CallbackError",
    "ConfigurationError",
    "EngineError",
    "EngineUnavailable",
    "Event",
    "ImageError",
    "LaunchError",
    "MountRefused",
    "Runner",
    "RunnerConfig",
    "RunnerError",
    "Secret",
    "Stats",
    "StreamError",
    "__version__",
    "arun",
    "get_ansible_config",
    "get_inventory",
    "get_plugin_docs",
    "get_plugin_docs_async",
    "get_plugin_list",
    "get_role_argspec",
    "get_role_list",
    "init_runner",
    "run",
    "run_async",
    "run_command",
    "run_command_async",
]


def __dir__() -> list[str]:
    return [*__all__, *globals()]


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(home), name)
    return value
