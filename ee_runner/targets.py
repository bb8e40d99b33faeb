"""What a job runs and on which hosts: the target and the inventory, checked against what is on disk."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ee_runner.errors import ConfigurationError, nearest
from ee_runner.job import CommandTarget, ModuleTarget, PlaybookTarget, RawTarget, RoleTarget, Target
from ee_runner.sources import ARGUMENT, Resolved, working_directory
from ee_runner.workspace.inputs import decode, json_text, mode_of, parse_value, read_bytes

NO_INVENTORY = ("",)
"""`JobSpec.inventory` of a caller who wants none, not even the private data directory's."""

_TARGETS = ("playbook", "module", "role")
_COLLECTION_PLAYBOOK = r"(?a)[a-zA-Z_]\w*(\.[a-zA-Z_]\w*){2,}"
_MOST_FILES = 10_000
_PLAYBOOK_SUFFIXES = (".yml", ".yaml", ".json")


def target(resolved: Resolved, cwd: Path, private_data_dir: Path, project_dir: Path) -> Target:
    values = resolved.values
    if values["executable_cmd"]:
        return _command_target(resolved, cwd)
    raw = _raw_words(private_data_dir / "args")
    if raw:
        return RawTarget(raw)
    chosen = _chosen_target(resolved)
    if chosen == "playbook":
        return _playbook_target(resolved, private_data_dir, project_dir)
    if chosen == "module":
        hosts = values["host_pattern"]
        if not hosts:
            raise ConfigurationError("A module needs hosts to run on; give --hosts (host_pattern), 'all' for every one")
        return ModuleTarget(values["module"], hosts, values["module_args"])
    return RoleTarget(
        values["role"], values["host_pattern"] or "all", _role_variables(resolved), values["role_skip_facts"]
    )


def _raw_words(path: Path) -> tuple[str, ...]:
    data = read_bytes(path)
    try:
        return tuple(shlex.split(decode(data, path))) if data else ()
    except ValueError as error:
        raise ConfigurationError(f"{path}: a command line with balanced quotes is expected: {error}") from error


def _chosen_target(resolved: Resolved) -> str:
    """Return which of playbook, module and role runs: the one from the strongest source."""
    given = {name: resolved.rank(name) for name in _TARGETS if resolved.values[name] is not None}
    strongest = [name for name, rank in given.items() if rank == max(given.values())]
    if not strongest:
        raise ConfigurationError(
            "Nothing to run: give a playbook (-p), a module (-m) or a role (-r),"
            " or set RUNNER_PLAYBOOK, RUNNER_MODULE or RUNNER_ROLE"
        )
    if len(strongest) > 1:
        described = " and ".join(resolved.describe(name) for name in strongest)
        raise ConfigurationError(f"Only one of a playbook, a module and a role can run; {described} were given")
    return strongest[0]


def _command_target(resolved: Resolved, cwd: Path) -> CommandTarget:
    values = resolved.values
    directory = Path(os.path.normpath(cwd / (values["host_cwd"] or cwd)))
    if not stat.S_ISDIR(mode_of(directory)):
        raise ConfigurationError(f"{resolved.describe('host_cwd')}: there is no directory {directory}")
    return CommandTarget(values["executable_cmd"], values["cmdline_args"] or (), directory)


def _playbook_target(resolved: Resolved, private_data_dir: Path, project_dir: Path) -> PlaybookTarget:
    playbooks = resolved.values["playbook"]
    if isinstance(playbooks[0], Mapping):
        return PlaybookTarget((json_text(playbooks, resolved.describe("playbook")),))
    for playbook in playbooks:
        if not (Path(playbook).is_absolute() or _is_collection_playbook(playbook)):
            _check_playbook(playbook, resolved.describe("playbook"), private_data_dir, project_dir)
    return PlaybookTarget(tuple(playbooks))


def _is_collection_playbook(name: str) -> bool:
    return not name.endswith(_PLAYBOOK_SUFFIXES) and re.fullmatch(_COLLECTION_PLAYBOOK, name) is not None


def _check_playbook(playbook: str, described: str, private_data_dir: Path, project_dir: Path) -> None:
    path = project_dir / playbook
    mode = mode_of(path)
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
        return
    if stat.S_ISDIR(mode):
        raise ConfigurationError(f"{described}: {path} is a directory; a playbook file is expected")
    for directory, what in ((private_data_dir, "private data directory"), (project_dir, "project directory")):
        if not stat.S_ISDIR(mode_of(directory)):
            raise ConfigurationError(f"{described}: there is no playbook {path}: the {what} {directory} does not exist")
    files = islice(project_dir.rglob("*"), _MOST_FILES)
    known = [str(found.relative_to(project_dir)) for found in files if found.suffix in _PLAYBOOK_SUFFIXES]
    raise ConfigurationError(f"{described}: there is no playbook {path}{nearest(playbook, known)}")


def _role_variables(resolved: Resolved) -> Mapping[str, Any]:
    given = resolved.values["role_vars"]
    described = resolved.describe("role_vars")
    if given is None or isinstance(given, Mapping):
        json_text(given, described)
        return given or {}
    text = _file_text(resolved.path("role_vars", given[1:]), described) if given.startswith("@") else given
    if given.startswith("@") or text.lstrip().startswith("{") or re.match(r"[^\s=]+:\s", text):
        value = parse_value(text, described)
        if value is None:
            return {}
        if isinstance(value, Mapping):
            return {str(key): item for key, item in value.items()}
        raise ConfigurationError(f"{described}: a mapping of names to values is expected")
    return _key_values(text, described)


def _file_text(name: Path, described: str) -> str:
    path = working_directory() / name
    data = read_bytes(path)
    if data is None:
        raise ConfigurationError(f"{described}: there is no file {path}")
    return decode(data, path)


def _key_values(text: str, described: str) -> Mapping[str, Any]:
    try:
        pairs = [word.partition("=") for word in shlex.split(text)]
    except ValueError as error:
        raise ConfigurationError(f"{described}: a quote is not closed") from error
    for number, (key, equals, _) in enumerate(pairs, start=1):
        if not key or not equals:
            raise ConfigurationError(f"{described}: word {number} is not key=value; quote values with spaces")
    return {key: value for key, _, value in pairs}


def inventory(resolved: Resolved, cwd: Path, places: tuple[Path, ...]) -> tuple[str, ...]:
    """Return inventory sources: absolute paths, host lists, or texts that end in a newline."""
    given = resolved.values["inventory"]
    if given is None or resolved.values["executable_cmd"]:
        return ()
    described = resolved.describe("inventory")
    if isinstance(given, Mapping):
        return (json_text(given, described),)
    library = resolved.origins["inventory"] == ARGUMENT
    bases = (*places, cwd) if library else (cwd, *reversed(places))
    if not isinstance(given, str):
        return tuple(_found(item, bases, resolved) or item for item in given) or NO_INVENTORY
    found = _found(given, bases, resolved)
    if found:
        return (found,)
    if "\n" in given or (library and "," not in given):
        if "/" in given and not any(letter in given for letter in "\n ="):
            raise ConfigurationError(f"{described}: there is no inventory {bases[0] / given}")
        return (given.rstrip("\n") + "\n",)
    if "," not in given:
        missing = bases[0] / given
        raise ConfigurationError(f"{described}: there is no inventory {missing}; a list of hosts needs a comma")
    several = [_found(item.strip(), bases, resolved) for item in given.split(",") if item.strip()]
    return tuple(filter(None, several)) if several and all(several) else (given,)


def _found(source: str, bases: tuple[Path, ...], resolved: Resolved) -> str | None:
    if not source.strip() or "\n" in source:
        return None
    named = resolved.path("inventory", source)
    candidates = (Path(os.path.normpath(base / named)) for base in bases)
    return next((str(path) for path in candidates if mode_of(path)), None)
