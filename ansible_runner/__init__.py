"""The import names of ansible-runner, for programs written against it: what they name is made of `ee_runner`."""

TYPE_CHECKING = False  # typing itself would cost more than all of this

if TYPE_CHECKING:
    from ansible_runner.exceptions import AnsibleRunnerException, CallbackError, ConfigurationError
    from ansible_runner.interface import (
        get_ansible_config,
        get_inventory,
        get_plugin_docs,
        get_plugin_docs_async,
        get_plugin_list,
        get_role_argspec,
        get_role_list,
        run,
        run_async,
        run_command,
        run_command_async,
    )
    from ansible_runner.plugins import plugins
    from ansible_runner.runner import Runner
    from ansible_runner.runner_config import RunnerConfig

__all__ = [
    "AnsibleRunnerException",
    "CallbackError",
    "ConfigurationError",
    "Runner",
    "RunnerConfig",
    "get_ansible_config",
    "get_inventory",
    "get_plugin_docs",
    "get_plugin_docs_async",
    "get_plugin_list",
    "get_role_argspec",
    "get_role_list",
    "plugins",
    "run",
    "run_async",
    "run_command",
    "run_command_async",
]

_HOMES = {
    "AnsibleRunnerException": "exceptions",
    "CallbackError": "exceptions",
    "ConfigurationError": "exceptions",
    "Runner": "runner",
    "RunnerConfig": "runner_config",
}
# Programs write `import ansible_runner` and go on with `ansible_runner.interface.run`.
_MODULES = (
    "cleanup",
    "config",
    "defaults",
    "exceptions",
    "interface",
    "loader",
    "output",
    "plugins",
    "runner",
    "runner_config",
    "streaming",
    "utils",
)


def __getattr__(name: str) -> object:
    if name not in __all__ and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'interface')}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
