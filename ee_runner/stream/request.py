"""A job as it travels: the options that the sender gave, and what a worker accepts of them."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ee_runner.errors import BadFrame, ConfigurationError
from ee_runner.job import PlaybookTarget, RegistryAuth, RoleTarget
from ee_runner.names import ident_problem
from ee_runner.options import BY_NAME, Group
from ee_runner.secrets import Secret
from ee_runner.settings import Content, content
from ee_runner.sources import Rank, Resolved, check_names
from ee_runner.stream.records import OWN
from ee_runner.values import dataclass, field
from ee_runner.workspace import inputs, role_play

_STAYS = frozenset(
    {"private_data_dir", "artifact_dir", "debug", "logfile", "ignore_logging", "explain", "quiet", "host_cwd"}
    | {"keepalive_seconds", "only_transmit_kwargs", "suppress_ansible_output", "executable_cmd", "cmdline_args"}
    | {"job_events"}
    | {option.name for option in BY_NAME.values() if option.group in (Group.WORKER, Group.STREAM, Group.CLEANUP)}
)
"""Options of an end itself: none is sent, and off the wire none is taken."""

_OURS = frozenset(
    {"container_pull", "rotate_artifacts_age", "rotate_artifacts_size", "memory", "cpus", "pids_limit", "stop_grace"}
)
"""Options that ansible-runner does not know as keywords: they travel where it does not look."""

_OF_ROLES = ("role", "role_vars", "role_skip_facts", "host_pattern")
_LOCAL_PATHS = ("project_dir", "inventory", "roles_path")
_INVENTORY_FILES = {True: "inventory/.ee_runner_hosts.json", False: "inventory/.ee_runner_hosts"}


@dataclass(frozen=True, slots=True)
class Request:
    """A job to transmit: `kwargs` for any worker, `own` for one of ours, `files` that go with the directory."""

    ident: str
    source: Path
    kwargs: Mapping[str, Any] = field(repr=False)
    own: Mapping[str, Any] = field(default_factory=dict, repr=False)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def body(self) -> dict[str, Any]:
        """The REQUEST record."""
        return {"kwargs": dict(self.kwargs), **({OWN: {"kwargs": dict(self.own)}} if self.own else {})}


def of_options(resolved: Resolved) -> Request:
    """Return what to transmit of a job's options: those that were given, with paths as they are below the directory.

    What comes from files of the private data directory travels with it. Raises ConfigurationError for what is not
    there, and for what lies outside the private data directory and so would not get to the worker.
    """
    given = dict(_given(resolved))
    if resolved.values["only_transmit_kwargs"]:
        directory = Path(resolved.values["private_data_dir"] or "").absolute()
        ident = str(resolved.values["ident"])
        return _request(ident, directory, {**given, **_as_they_are_there(given, directory), "ident": ident}, {})
    job = content(resolved)
    files: dict[str, bytes] = {}
    if resolved.values["project_dir"] is not None:
        given["project_dir"] = _below(job.project_dir, job.private_data_dir, resolved.describe("project_dir"))
    if isinstance(job.target, PlaybookTarget) and given.get("playbook"):
        given["playbook"] = _playbooks(given["playbook"], job)
    given = {**_from_pipes(job.private_data_dir / "env", resolved, files), **given}
    if isinstance(job.target, RoleTarget):
        given = {name: value for name, value in given.items() if name not in _OF_ROLES}
        given["playbook"] = role_play(job.target)
        given.setdefault("roles_path", [])
    if job.inventory:
        given["inventory"] = _inventory(job, files)
    return _request(job.ident, job.private_data_dir, {**given, "ident": job.ident}, files, _roles(given, job))


def accepted(body: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return the options that a REQUEST asks for, to be run in a worker's own directory.

    Every name is of the known set, whatever the sender; paths below the private data directory are the worker's.
    Raises BadFrame for what is no request, and ConfigurationError for an option that does not exist.
    """
    from ee_runner.config import ALIASES  # with all that runs a job, which a sender does not need

    kwargs = _mapping(body.get("kwargs"))
    own = body.get(OWN)
    kwargs = {**kwargs, **(_mapping(own.get("kwargs", {})) if isinstance(own, Mapping) else {})}
    options: dict[str, Any] = {}
    for name, value in kwargs.items():
        check_names((ALIASES.get(name, name),))
        options[ALIASES.get(name, name)] = value
    options = of_the_job(options)
    if problem := ident_problem(str(options.get("ident", "job"))):
        raise ConfigurationError(f"ident: {options['ident']!r} is no identifier: {problem}")
    for name in _LOCAL_PATHS:
        if name in options:
            options[name] = _localized(name, options[name], directory)
    envvars = options.get("envvars")
    if isinstance(envvars, Mapping) and isinstance(envvars.get("ANSIBLE_ROLES_PATH"), str):
        searched = _localized("roles_path", envvars["ANSIBLE_ROLES_PATH"].split(os.pathsep), directory)
        options["envvars"] = {**envvars, "ANSIBLE_ROLES_PATH": os.pathsep.join(searched)}
    return options


def of_the_job(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of some options that say what runs, not how this end works."""
    return {name: value for name, value in options.items() if name not in _STAYS and value is not None}


def _request(
    ident: str,
    source: Path,
    given: Mapping[str, Any],
    files: Mapping[str, bytes],
    roles: Mapping[str, Any] | None = None,
) -> Request:
    """Return the request; `roles` are `roles_path` for ansible-runner, in whose place one of ours takes its own."""
    own = {name: _plain(name, value) for name, value in given.items() if name in _OURS or name in (roles or ())}
    kwargs = {name: _plain(name, value) for name, value in given.items() if name not in own}
    return Request(ident, source, {**kwargs, **(roles or {})}, own, files)


def _given(resolved: Resolved) -> Iterator[tuple[str, Any]]:
    for name, value in resolved.values.items():
        if name not in BY_NAME or name in _STAYS or value is None or resolved.rank(name) < Rank.ENVIRONMENT:
            continue
        if not resolved.origins[name].startswith("argument settings["):  # they travel as settings
            yield name, value


def _plain(name: str, value: Any) -> Any:
    """Return an option as JSON has it, in the form that ansible-runner takes as well."""
    if name == "cmdline":
        return shlex.join(value)
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, RegistryAuth):
        fields = {"host": value.host, "username": value.username, "verify_ssl": value.verify_ssl}
        return {**fields, "password": value.password.reveal() if value.password else None}
    if isinstance(value, Mapping):
        return {key: _plain("", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain("", item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value


def _from_pipes(env: Path, resolved: Resolved, files: dict[str, bytes]) -> dict[str, Any]:
    """Return the inputs that are named pipes, which are read once, here, and travel as options."""
    found: dict[str, Any] = {}
    for name in ("ssh_key", "passwords", "envvars", "cmdline", "settings", "extravars"):
        path = env / name
        if not stat.S_ISFIFO(inputs.mode_of(path)):
            continue
        if name == "settings":  # read already
            found[name] = dict(resolved.settings)
        elif name == "extravars":  # Ansible's own words may be in it
            files["env/extravars"] = inputs.read_bytes(path) or b""
        elif name in ("passwords", "envvars"):
            found[name] = dict(inputs.read_scalars(path, of="a single value").values)
        else:
            text = inputs.read_text(path)
            found[name] = shlex.split(text or "") if name == "cmdline" else text
    return found


def _roles(given: dict[str, Any], job: Content) -> dict[str, Any]:
    """Make the paths of roles those below the directory; return them as ansible-runner's worker can use them.

    That hands them to Ansible as they are, which takes them from where it runs: the project.
    """
    if "roles_path" not in given:
        return {}
    own = [_relative(Path(path).absolute(), job.private_data_dir) for path in given["roles_path"]]
    given["roles_path"] = own
    home = job.project_dir if job.project_dir.is_dir() else job.private_data_dir
    below = (path if Path(path).is_absolute() else os.path.relpath(job.private_data_dir / path, home) for path in own)
    return {"roles_path": os.pathsep.join((*below, os.path.relpath(job.private_data_dir / "roles", home)))}


def _as_they_are_there(given: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return the paths of a job whose files are at the worker already, perhaps in another place."""
    found: dict[str, Any] = {}
    if "playbook" in given:
        project = Path(given.get("project_dir") or directory / "project")
        found["playbook"] = _one_or_all([_below_if_path(each, project) for each in given["playbook"]])
    if "project_dir" in given:
        found["project_dir"] = _below_if_path(str(given["project_dir"]), directory)
    if "inventory" in given:
        found["inventory"] = _each(given["inventory"], lambda source: _named(source, directory))
    return found


def _named(source: Any, directory: Path) -> Any:
    if not isinstance(source, str) or "\n" in source or Path(source).is_absolute():
        return _below_if_path(source, directory)
    return f"inventory/{source}" if inputs.mode_of(directory / "inventory" / source) else source


def _playbooks(playbooks: list[Any], job: Content) -> Any:
    return _one_or_all([_playbook(each, job) if isinstance(each, str) else each for each in playbooks])


def _playbook(name: str, job: Content) -> str:
    """Return a playbook's path from the project directory; one elsewhere in the private data directory gets there."""
    path = Path(name)
    if not path.is_absolute():
        return name
    _below(path, job.private_data_dir, "playbook")
    return os.path.relpath(path, job.project_dir)


def _below_if_path(value: Any, directory: Path) -> Any:
    return _relative(Path(value), directory) if isinstance(value, str) and Path(value).is_absolute() else value


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    return [change(item) for item in value] if isinstance(value, list | tuple) else change(value)


def _one_or_all(playbooks: list[Any]) -> Any:
    """Return a single playbook's name as such: ansible-runner takes a list for plays."""
    return playbooks[0] if len(playbooks) == 1 and isinstance(playbooks[0], str) else playbooks


def _inventory(job: Content, files: dict[str, bytes]) -> Any:
    """Return the inventory as a path below the directory; hosts that were given as such become a file sent with it."""
    sources = list(dict.fromkeys(_source(source, job, files) for source in job.inventory))
    return sources[0] if len(sources) == 1 else sources


def _source(source: str, job: Content, files: dict[str, bytes]) -> str:
    if Path(source).is_absolute() and not source.endswith("\n"):
        return _below(Path(source), job.private_data_dir, "inventory")
    text = source if source.endswith("\n") else "".join(f"{host}\n" for host in _hosts(source))
    name = _INVENTORY_FILES[text.startswith("{")]
    files[name] = files.get(name, b"") + os.fsencode(text)
    return name


def _hosts(source: str) -> list[str]:
    return [host.strip() for host in source.split(",") if host.strip()]


def _below(path: Path, directory: Path, described: str) -> str:
    relative = _relative(path, directory)
    if Path(relative).is_absolute():
        raise ConfigurationError(
            f"{described}: {path} lies outside the private data directory {directory}, which is all that is sent. "
            "Move it there."
        )
    return relative


def _relative(path: Path, directory: Path) -> str:
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else str(path)


def _localized(name: str, value: Any, directory: Path) -> Any:
    """Return a path of the sender's directory as one of the worker's; host lists and data stay as they are."""
    if isinstance(value, list):
        return [_localized(name, item, directory) for item in value]
    is_path = isinstance(value, str) and value and "\n" not in value and not (name == "inventory" and "," in value)
    return str(directory / value) if is_path else value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadFrame(f"The request holds no options: a mapping is expected, found a {type(value).__name__}.")
    return value
