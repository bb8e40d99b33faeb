"""The command lines of Ansible's tools: which options take values, and which values are paths.

The tables hold what ansible-core 2.14 to 2.22 accept, taken together. Arguments are read as argparse reads them:
``--opt value``, ``--opt=value``, unambiguous beginnings of long options, ``-ovalue``, and clusters (``-bKi inv``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from pathlib import PurePath

from ee_runner.values import dataclass


class Kind(Enum):
    """What the value of an argument says about host paths."""

    FILE = "a file"
    DIRECTORY = "a directory"
    PRIVATE_KEY = "a private key, with its certificate beside it"
    INVENTORY = "a file or directory, or hosts separated by commas"
    VAULT_ID = "label@source"
    EXTRA_VARS = "@file, or variables"
    MODULE_PATH = "directories separated by colons"
    LIMIT = "@file, or a host pattern"
    TREE = "a directory that is written"
    OUTPUT = "a file that is written"
    PLAYBOOK = "a playbook"
    PROMPT = "no value: Ansible asks for one"


@dataclass(frozen=True, slots=True)
class Argument:
    """One value on a command line: token `index` is `prefix` + `value`, and `option` says whose value it is."""

    option: str
    kind: Kind
    index: int
    prefix: str
    value: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """The path arguments of a command line, in its order.

    `certain` is False when Ansible will not get to read its files (``--help``, ``--version``, an option that is not in
    the tables, a missing value): what looks like a path then need not be one.
    """

    arguments: tuple[Argument, ...]
    certain: bool


@dataclass(frozen=True, slots=True)
class _Option:
    names: tuple[str, ...]
    takes_value: bool
    kind: Kind | None = None
    ends: bool = False


def _paths(names: str, kind: Kind) -> _Option:
    return _Option(tuple(names.split()), True, kind)


def _values(names: str) -> tuple[_Option, ...]:
    return tuple(_Option(tuple(group.split()), True) for group in names.split(","))


def _flags(names: str) -> tuple[_Option, ...]:
    return tuple(_Option(tuple(group.split()), False) for group in names.split(","))


def _prompts(names: str) -> tuple[_Option, ...]:
    return tuple(_Option(tuple(group.split()), False, Kind.PROMPT) for group in names.split(","))


_COMMON = (
    _Option(("-h", "--help"), False, ends=True),
    _Option(("--version",), False, ends=True),
    _paths("-i --inventory --inventory-file", Kind.INVENTORY),
    _paths("--vault-password-file --vault-pass-file", Kind.FILE),
    _paths("--vault-id", Kind.VAULT_ID),
    _paths("--private-key --key-file", Kind.PRIVATE_KEY),
    _paths("-e --extra-vars", Kind.EXTRA_VARS),
    _paths("-M --module-path", Kind.MODULE_PATH),
    _paths("--become-password-file --become-pass-file", Kind.FILE),
    _paths("--connection-password-file --conn-pass-file", Kind.FILE),
    _paths("-l --limit", Kind.LIMIT),
    *_values("-u --user, -c --connection, -T --timeout, -f --forks, --become-method, --become-user"),
    *_values("--ssh-common-args, --sftp-extra-args, --scp-extra-args, --ssh-extra-args"),
    *_flags("-v --verbose, -b --become, -C --check, -D --diff, --list-hosts, --flush-cache"),
    *_prompts("-K --ask-become-pass, -k --ask-pass, -J --ask-vault-password --ask-vault-pass"),
)
_PLAYBOOK = (
    *_COMMON,
    *_values("-t --tags, --skip-tags, --start-at-task"),
    *_flags("--force-handlers, --list-tags, --list-tasks, --step, --syntax-check"),
)
_ADHOC = (
    *_COMMON,
    _paths("-t --tree", Kind.TREE),
    _paths("--playbook-dir", Kind.DIRECTORY),
    *_values("-a --args, -m --module-name, -B --background, -P --poll, --task-timeout"),
    *_flags("-o --one-line"),
)
_INVENTORY = (
    *_COMMON,
    _paths("--playbook-dir", Kind.DIRECTORY),
    _paths("--output", Kind.OUTPUT),
    *_values("--host"),
    *_flags("--list, --graph, -y --yaml, --toml, --vars, --export"),
)
_DOC = (
    _paths("--playbook-dir", Kind.DIRECTORY),
    _paths("-M --module-path", Kind.MODULE_PATH),
    _paths("-r --roles-path", Kind.MODULE_PATH),
    *_values("-t --type, -e --entry-point"),
    *_flags("-h --help, --version, -v --verbose, -j --json, -l --list, -F --list_files, -s --snippet"),
    *_flags("--metadata-dump, --no-fail-on-errors"),
)
_CONFIG = (
    _paths("-c --config", Kind.FILE),
    *_values("-t --type, -f --format"),
    *_flags("-h --help, --version, -v --verbose, --only-changed --changed-only, --disabled"),
)
_TOOLS = {"ansible-inventory": _INVENTORY, "ansible-doc": _DOC, "ansible-config": _CONFIG}

_NEGATIVE_NUMBER = r"-\d+|-\d*\.\d+"


def parse(executable: str, arguments: Sequence[str]) -> Parsed:
    """Return the arguments whose values may be host paths, and those for which Ansible asks at the terminal.

    Other tools of Ansible are read without certainty, those that have no table for the options that they share with
    ansible and ansible-playbook; for any other program there is nothing to know.
    """
    tool = PurePath(executable).name
    if tool == "ansible-playbook":
        return _Reader(_PLAYBOOK, positional=Kind.PLAYBOOK).read(arguments)
    if tool == "ansible":
        return _Reader(_ADHOC, positional=None).read(arguments)
    if tool.startswith("ansible-"):
        return Parsed(_Reader(_TOOLS.get(tool, _COMMON), positional=None).read(arguments).arguments, certain=False)
    return Parsed((), certain=True)


class _Reader:
    def __init__(self, options: Sequence[_Option], *, positional: Kind | None) -> None:
        self._known = {name: option for option in options for name in option.names}
        self._positional = positional
        self._found: list[Argument] = []
        self._certain = True

    def read(self, arguments: Sequence[str]) -> Parsed:
        index = 0
        while index < len(arguments):
            token = arguments[index]
            if token == "--":  # noqa: S105 - the end of the options
                for operand in range(index + 1, len(arguments)):
                    self._operand(operand, arguments[operand])
                break
            if self._is_option(token):
                index = self._option(arguments, index)
            else:
                self._operand(index, token)
            index += 1
        return Parsed(tuple(self._found), self._certain)

    def _operand(self, index: int, token: str) -> None:
        if self._positional is not None:
            self._found.append(Argument("playbook", self._positional, index, "", token))

    def _is_option(self, token: str) -> bool:
        if not token.startswith("-") or len(token) == 1:
            return False
        if self._named(token) is not None:
            return True
        return " " not in token and re.fullmatch(_NEGATIVE_NUMBER, token) is None

    def _named(self, token: str) -> _Option | None:
        """Return the option that a token names, in full, by its beginning, or as the first of a cluster."""
        name = token.partition("=")[0]
        if name in self._known:
            return self._known[name]
        if not token.startswith("--"):
            return self._known.get(token[:2])
        matches = {id(option): option for known, option in self._known.items() if known.startswith(name)}
        return next(iter(matches.values())) if len(matches) == 1 else None

    def _option(self, arguments: Sequence[str], index: int) -> int:
        """Read the option at `index`; return the index of the last token that belongs to it."""
        token = arguments[index]
        option = self._named(token)
        if option is None:
            self._certain = False
            return index
        rest, given = _attached(token)
        while not option.takes_value:
            self._certain = self._certain and not option.ends
            self._keep(option, index, token, "")
            if not given:
                return index
            following = None if token.startswith("--") else self._known.get(f"-{rest[0]}") if rest else None
            if following is None:
                self._certain = False
                return index
            option, rest, given = following, rest[1:].removeprefix("="), len(rest) > 1
        if given:
            self._keep(option, index, token[: len(token) - len(rest)], rest)
            return index
        return self._separate(option, arguments, index + 1)

    def _separate(self, option: _Option, arguments: Sequence[str], index: int) -> int:
        if index >= len(arguments) or arguments[index] == "--" or self._is_option(arguments[index]):
            self._certain = False
            return index - 1
        self._keep(option, index, "", arguments[index])
        return index

    def _keep(self, option: _Option, index: int, prefix: str, value: str) -> None:
        if option.kind is not None:
            name = next((name for name in option.names if name.startswith("--")), option.names[0])
            self._found.append(Argument(name, option.kind, index, prefix, value))


def _attached(token: str) -> tuple[str, bool]:
    """Return what is joined to an option's name, and whether anything is."""
    name, equals, value = token.partition("=")
    if token.startswith("--") or len(name) == 2:
        return value, bool(equals)
    return token[2:], True
