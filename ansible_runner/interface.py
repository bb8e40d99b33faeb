"""The functions of ansible-runner: those of `ee_runner`, but that a job shows on sys.stdout unless it is quiet."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ansible_runner.runner import Runner
from ee_runner import api
from ee_runner.attachment import Attachment
from ee_runner.options import CALLBACKS
from ee_runner.queries import (
    get_ansible_config,
    get_inventory,
    get_plugin_docs,
    get_plugin_docs_async,
    get_plugin_list,
    get_role_argspec,
    get_role_list,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ee_runner.keywords import JobKeywords

__all__ = [
    "Runner",
    "get_ansible_config",
    "get_inventory",
    "get_plugin_docs",
    "get_plugin_docs_async",
    "get_plugin_list",
    "get_role_argspec",
    "get_role_list",
    "init_command_config",
    "init_plugin_docs_config",
    "init_runner",
    "run",
    "run_async",
    "run_command",
    "run_command_async",
]


def init_runner(**options: Unpack[JobKeywords]) -> Runner:
    """Return a Runner whose job is ready to run, as `ee_runner.init_runner` does."""
    return api.init_runner(attachment=Attachment(shown=True), **options)


def run(**options: Unpack[JobKeywords]) -> Runner:
    """Run one job in the foreground and return its Runner, as `ee_runner.run` does."""
    return api.run(attachment=Attachment(shown=True), **options)


def run_async(**options: Unpack[JobKeywords]) -> tuple[threading.Thread, Runner]:
    """Run one job in a thread of its own and return the thread and the Runner, as `ee_runner.run_async` does."""
    return api.run_async(attachment=Attachment(shown=True), **options)


def run_command(executable_cmd: str, cmdline_args: Iterable[str] | None = None, **options: Any) -> tuple[str, str, int]:
    """Run any command and return its output, error output and exit code, as `ee_runner.run_command` does."""
    return api.run_command(executable_cmd, cmdline_args, attachment=Attachment(shown=True), **options)


def run_command_async(
    executable_cmd: str, cmdline_args: Iterable[str] | None = None, **options: Any
) -> tuple[threading.Thread, Runner]:
    """Run any command in a thread of its own, as `ee_runner.run_command_async` does."""
    return api.run_command_async(executable_cmd, cmdline_args, attachment=Attachment(shown=True), **options)


def init_command_config(executable_cmd: str, cmdline_args: Iterable[str] | None = None, **options: Any) -> Runner:
    """Return a Runner for any command, ready to run; the options are those of `run_command`."""
    from ansible_runner.config.command import CommandConfig

    callbacks = _callbacks(options)
    config = CommandConfig(**options)
    config.prepare_run_command(executable_cmd, cmdline_args)
    return Runner(config, **callbacks)


def init_plugin_docs_config(
    plugin_names: Sequence[str],
    plugin_type: str | None = None,
    response_format: str | None = None,
    snippet: bool = False,
    playbook_dir: str | None = None,
    module_path: str | None = None,
    **options: Any,
) -> Runner:
    """Return a Runner for ``ansible-doc``, ready to run; the arguments are those of `get_plugin_docs`."""
    from ansible_runner.config.doc import DocConfig

    callbacks = _callbacks(options)
    config = DocConfig(**options)
    config.prepare_plugin_docs_command(
        plugin_names,
        plugin_type=plugin_type,
        response_format=response_format,
        snippet=snippet,
        playbook_dir=playbook_dir,
        module_path=module_path,
    )
    return Runner(config, **callbacks)


def _callbacks(options: dict[str, Any]) -> dict[str, Any]:
    """Take the caller's callbacks out of the options."""
    return {name: options.pop(name) for name in CALLBACKS if name in options}
