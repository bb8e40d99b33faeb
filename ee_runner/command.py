"""The Ansible command line and its environment, as seen inside. Pure: values in, values out."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ee_runner.job import CommandTarget, JobSpec, ModuleTarget, PlaybookTarget, RawTarget, View
from ee_runner.secrets import mask_environment
from ee_runner.values import dataclass

if TYPE_CHECKING:
    from ee_runner.workspace import Workspace

CALLBACK_PLUGINS = "ANSIBLE_CALLBACK_PLUGINS"
LOAD_CALLBACKS = "ANSIBLE_LOAD_CALLBACK_PLUGINS"
ADHOC_ID = "AD_HOC_COMMAND_ID"
CACHE_PLUGIN = "ANSIBLE_CACHE_PLUGIN"
CACHE_CONNECTION = "ANSIBLE_CACHE_PLUGIN_CONNECTION"
RETRY_FILES = "ANSIBLE_RETRY_FILES_ENABLED"
ROLES_PATH = "ANSIBLE_ROLES_PATH"

_JOB_COMMANDS = ("ansible", "ansible-playbook")
_LONG = {"-i": "--inventory", "-m": "--module-name", "-a": "--args"}


@dataclass(frozen=True, slots=True)
class Command:
    """What runs inside, with which variables on top of the engine's own, and from where."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str


def build(spec: JobSpec, workspace: Workspace, view: View, *, nonce: str) -> Command:
    """Return the job's command as seen inside; `nonce` marks this run's events on the output stream."""
    return Command(_argv(spec, workspace, view), _env(spec, workspace, view, nonce), view.inside(workspace.project_dir))


def _argv(spec: JobSpec, workspace: Workspace, view: View) -> tuple[str, ...]:
    target = spec.target
    if isinstance(target, CommandTarget):
        return (target.executable, *target.arguments)
    if isinstance(target, RawTarget):
        return target.words
    common = (*workspace.cmdline, *_options(spec, workspace, view))
    if isinstance(target, ModuleTarget):
        module = (*_option("-m", target.module), *(_option("-a", target.arguments) if target.arguments else ()))
        return (_executable("ansible", spec, view), *common, *module, *_positional(target.hosts))
    playbooks = _playbooks(spec, workspace, view)
    return (_executable("ansible-playbook", spec, view), *common, *_positional(*playbooks))


def _option(flag: str, value: str) -> tuple[str, ...]:
    """Return an option's words; a value that begins with a hyphen stands in one word with the flag, or it is one."""
    return (f"{_LONG.get(flag, flag)}={value}",) if value.startswith("-") else (flag, value)


def _positional(*words: str) -> tuple[str, ...]:
    return ("--", *words) if any(word.startswith("-") for word in words) else words


def _options(spec: JobSpec, workspace: Workspace, view: View) -> tuple[str, ...]:
    """Return the options in the order in which ansible-runner 2.4 gives them, after those of the cmdline."""
    words: list[str] = []
    for source in workspace.inventory:
        words += _option("-i", _inside(source, view))
    if spec.limit is not None:
        words += _option("--limit", spec.limit)
    for file in workspace.extravars_files:
        words += ("-e", f"@{view.inside(file)}")
    if spec.verbosity:
        words.append("-" + "v" * spec.verbosity)
    if not isinstance(spec.target, ModuleTarget):
        words += _option("--tags", spec.tags) if spec.tags else ()
        words += _option("--skip-tags", spec.skip_tags) if spec.skip_tags else ()
    if spec.forks:
        words += ("--forks", str(spec.forks))
    return tuple(words)


def _playbooks(spec: JobSpec, workspace: Workspace, view: View) -> tuple[str, ...]:
    if workspace.playbook is not None:
        return (view.inside(workspace.playbook),)
    playbooks = spec.target.playbooks if isinstance(spec.target, PlaybookTarget) else ()
    return tuple(_playbook(playbook, workspace.project_dir, view) for playbook in playbooks)


def _playbook(playbook: str, project_dir: Path, view: View) -> str:
    """Return a playbook as it is, unless a way out of the project leads to it: that leads elsewhere inside."""
    path = PurePosixPath(posixpath.normpath(playbook))
    if path.parts[:1] != ("..",):
        return _inside(playbook, view)
    return view.inside(Path(posixpath.normpath(project_dir / playbook)))


def _executable(name: str, spec: JobSpec, view: View) -> str:
    """Return the executable: found on PATH, in the given directory, or beside the given tool of Ansible."""
    if spec.binary is None:
        return name
    binary = _inside(spec.binary.rstrip("/"), view)
    if spec.binary.endswith("/"):
        return f"{binary}/{name}"
    other = PurePosixPath(binary)
    return str(other.with_name(name)) if other.name in _JOB_COMMANDS else binary


def _env(spec: JobSpec, workspace: Workspace, view: View, nonce: str) -> dict[str, str]:
    target = spec.target
    env = dict(workspace.envvars)
    if isinstance(target, CommandTarget) and PurePosixPath(target.executable).name not in _JOB_COMMANDS:
        return env
    taken = {**workspace.inherited, **env}
    roles = _roles_path(spec, workspace, view)
    if roles:
        env[ROLES_PATH] = roles
    if isinstance(target, CommandTarget):  # the caller's own configuration stays in charge
        return {**env, **_observation(spec, workspace, view, nonce, taken)}
    if RETRY_FILES not in taken:
        env[RETRY_FILES] = "False"
    if spec.fact_cache_type == "jsonfile" and CACHE_PLUGIN not in taken:
        env[CACHE_PLUGIN] = "jsonfile"
        env.setdefault(CACHE_CONNECTION, view.inside(workspace.fact_cache_dir))
    return {**env, **_observation(spec, workspace, view, nonce, taken)}


def _observation(
    spec: JobSpec, workspace: Workspace, view: View, nonce: str, taken: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables that load the observer, and what it needs to put the user's own values back."""
    searched = (*workspace.callback_plugins, str(workspace.callback_dir))
    changed = {CALLBACK_PLUGINS: _search_path(searched, view)}
    if _is_adhoc(spec):
        changed[LOAD_CALLBACKS] = "1"
    own = {
        "EE_RUNNER_EVENTS_SPOOL": view.inside(workspace.spool),
        "EE_RUNNER_EVENTS_NONCE": nonce,
        "EE_RUNNER_RESTORE_ENV": json.dumps({name: taken.get(name) for name in changed}),
    }
    if _is_adhoc(spec):
        own[ADHOC_ID] = taken.get(ADHOC_ID, "1")
    hidden = _hidden(workspace)
    if hidden:
        own["EE_RUNNER_HIDDEN_ENV"] = ",".join(hidden)
    if spec.omit_event_data:
        own["EE_RUNNER_OMIT_EVENT_DATA"] = "1"
    if spec.only_failed_event_data:
        own["EE_RUNNER_ONLY_FAILED_EVENT_DATA"] = "1"
    return {**changed, **own}


def _hidden(workspace: Workspace) -> list[str]:
    """Return the names of the variables whose values are to lie in no file, not even as gathered facts."""
    given = workspace.envvars
    masked = mask_environment(given, workspace.passwords.values(), own=given)
    return [name for name, value in given.items() if masked[name] != value and "," not in name]


def _is_adhoc(spec: JobSpec) -> bool:
    target = spec.target
    if isinstance(target, CommandTarget):
        return PurePosixPath(target.executable).name == "ansible"
    if isinstance(target, RawTarget):
        return PurePosixPath(target.words[0]).name == "ansible"
    return isinstance(target, ModuleTarget)


def _roles_path(spec: JobSpec, workspace: Workspace, view: View) -> str:
    """Return the caller's directories, then the private data directory's own, then those that Ansible would search."""
    if isinstance(spec.target, CommandTarget) or not (spec.roles_path or workspace.own_roles):
        return ""
    return _search_path((*spec.roles_path, *map(str, workspace.own_roles), *workspace.roles_path), view)


def _search_path(directories: tuple[str, ...], view: View) -> str:
    return ":".join(dict.fromkeys(_inside(directory, view) for directory in directories))


def _inside(text: str, view: View) -> str:
    return view.inside(Path(text)) if text.startswith("/") else text
