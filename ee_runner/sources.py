"""Where values come from: arguments and flags, the environment, env/settings, defaults; in this order."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ee_runner import kinds
from ee_runner.errors import ConfigurationError, nearest
from ee_runner.options import BY_NAME, CALLBACKS, OPEN_PREFIX, OPTIONS, SETTINGS_KEYS, Given, Option, default_of
from ee_runner.secrets import MASK, mask_environment, redact_words
from ee_runner.values import dataclass, field

if TYPE_CHECKING:
    from ee_runner.workspace.inputs import Loaded

ARGUMENT = "argument"
DEFAULT = "default"
_ENVIRONMENT = "environment variable "
_CONFIDENTIAL = (
    *(kinds.SECRET, kinds.SECRETS, kinds.ENVIRONMENT, kinds.MAPPING, kinds.REGISTRY_AUTH),
    *(kinds.ARGUMENTS, kinds.VARIABLES, kinds.PLAYBOOK, kinds.INVENTORY, kinds.WORDS),
)


_WITH_VARIABLE = tuple(option for option in OPTIONS if option.env)


class Rank(IntEnum):
    """How strong an origin is; the stronger source wins."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    EXPLICIT = 3


@dataclass(frozen=True, slots=True)
class Resolved:
    """Every option's value, and the text of where it came from.

    `settings` are the settings as they were written, known or of plugins: those of env/settings, then those of the
    ``settings`` argument on top.
    """

    values: Mapping[str, Any] = field(repr=False)
    origins: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    command: str = "run"

    def rank(self, name: str) -> Rank:
        """Return how strong the source of a value is."""
        origin = self.origins[name]
        if origin == DEFAULT:
            return Rank.DEFAULT
        if origin.startswith(_ENVIRONMENT):
            return Rank.ENVIRONMENT
        return Rank.FILE if origin.startswith("/") else Rank.EXPLICIT

    def describe(self, name: str) -> str:
        """Return how to name an option in a message: its flag, its variable, its settings key, or its keyword."""
        origin = self.origins[name]
        if origin.startswith("-"):
            return origin
        return name if origin in (ARGUMENT, DEFAULT) else f"{name} ({origin})"

    def path(self, name: str, text: str) -> Path:
        """Return a path that an option holds, ``~`` replaced; ConfigurationError names the option."""
        try:
            return kinds.expanded(text)
        except kinds.Unfit as error:
            raise ConfigurationError(f"{self.describe(name)}: {error}") from None

    def explain(self) -> list[str]:
        """Return a line for each value of this subcommand, ``name = value  (origin)``, by name; secrets are masked."""
        names = (name for name in sorted(self.values) if name not in BY_NAME or self._applies(BY_NAME[name]))
        lines = [(name, f"{name} = {self._shown(name)}") for name in names]
        width = min(max((len(line) for _, line in lines), default=0), 60)
        return [f"{line:<{width}}  ({self.origins[name]})" for name, line in lines]

    def _applies(self, option: Option) -> bool:
        if self.rank(option.name) > Rank.DEFAULT or option.in_settings:
            return True
        return self.command in option.commands

    def _shown(self, name: str) -> str:
        value = self.values[name]
        if value is None and name in BY_NAME and BY_NAME[name].default_text:
            return BY_NAME[name].default_text
        return _text(value)


def resolve(explicit: Mapping[str, Any], *, environ: Mapping[str, str], command: str = "run") -> Resolved:
    """Merge all sources into one value for each option.

    `explicit` holds keyword arguments, or `Given` values whose origin is the flag; None and, of an argument, the empty
    text mean not given. env/settings of the private data directory is read here, once, but not for a worker. Raises
    ConfigurationError with the place of what is wrong.
    """
    from ee_runner.workspace.inputs import Loaded, read_mapping

    check_names(explicit)
    arguments = dict(_arguments(explicit))
    directory = arguments.get("private_data_dir")
    file = Loaded(Path())
    if directory and command != "worker":  # what a worker finds there is another job's
        file = read_mapping(working_directory() / directory.value / "env" / "settings")
    from_file = dict(_file_settings(file))
    passed = arguments["settings"].value if "settings" in arguments else {}
    from_argument = dict(_argument_settings(passed))
    from_environment = dict(_environment(environ))
    merged = {**_defaults(command), **from_file, **from_environment, **from_argument, **arguments}
    return Resolved(
        values=MappingProxyType({name: given.value for name, given in merged.items()}),
        origins=MappingProxyType({name: given.origin for name, given in merged.items()}),
        settings=MappingProxyType({**file.values, **passed}),
        command=command,
    )


@functools.cache
def _defaults(command: str) -> Mapping[str, Given]:
    """Return every option's default; none of their values can be changed by who gets them."""
    return MappingProxyType({option.name: Given(default_of(option, command), DEFAULT) for option in OPTIONS})


def check_names(given: Iterable[str]) -> None:
    """Raise ConfigurationError for the name of an argument that does not exist, with the nearest one."""
    for name in given:
        if name not in BY_NAME:
            raise ConfigurationError(f"{name}: there is no such argument{nearest(name, (*BY_NAME, *CALLBACKS))}")


def working_directory() -> Path:
    """Return the caller's working directory; ConfigurationError when it was deleted."""
    try:
        return Path.cwd()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigurationError(f"The working directory can not be used: {reason}. Change to another (cd).") from error


def state_directory() -> Path:
    """Return where this user's jobs keep what no private data directory holds; ConfigurationError without a home."""
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "ansible-runner"
    except RuntimeError as error:
        raise ConfigurationError("There is no home directory. Set HOME, or name --private-data-dir.") from error


def _arguments(explicit: Mapping[str, Any]) -> Iterator[tuple[str, Given]]:
    for name, value in explicit.items():
        given = value if isinstance(value, Given) else Given(value, ARGUMENT)
        if given.value is not None and (given.value != "" or given.origin != ARGUMENT):
            place = f"{given.origin}: " if given.origin.startswith("-") else f"{name}: "
            yield name, Given(_converted(BY_NAME[name], given.value, place), given.origin)


def _environment(environ: Mapping[str, str]) -> Iterator[tuple[str, Given]]:
    for option in _WITH_VARIABLE:
        text = environ.get(option.env)
        if text:
            try:
                value = option.kind.from_text(text)
            except (ValueError, TypeError) as error:
                raise ConfigurationError(f"environment variable {option.env}: {unfit(option, text, error)}") from None
            yield option.name, Given(value, _ENVIRONMENT + option.env)


def _file_settings(file: Loaded) -> Iterator[tuple[str, Given]]:
    for key, value in file.values.items():
        yield from _setting(key, value, place=file.place(key), origin=file.place(key))


def _argument_settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, Given]]:
    for key, value in settings.items():
        yield from _setting(key, value, place="settings argument", origin=f"argument settings[{key!r}]")


def _setting(key: str, value: Any, *, place: str, origin: str) -> Iterator[tuple[str, Given]]:
    if key in SETTINGS_KEYS:
        if value is not None:
            yield key, Given(_converted(BY_NAME[key], value, f"{place}: {key}: "), origin)
    elif key.startswith(OPEN_PREFIX):
        yield key, Given(value, origin)
    elif key in BY_NAME:
        raise ConfigurationError(f"{place}: {key!r} is no setting; {_other_way(BY_NAME[key])}")
    elif close := nearest(key, SETTINGS_KEYS):
        raise ConfigurationError(f"{place}: there is no setting {key!r}{close}")
    else:
        yield key, Given(value, origin)


def _other_way(option: Option) -> str:
    ways = [*option.flags[-1:], *(f"the variable {option.env}" for _ in range(1) if option.env)]
    return f"give it as {' or '.join(ways) if ways else f'the argument {option.name}'}"


def _converted(option: Option, value: Any, place: str) -> Any:
    try:
        return option.kind.convert(value)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{place}{unfit(option, value, error)}") from None


def unfit(option: Option, value: Any, error: Exception) -> str:
    """Say why an option's kind refused a value with this error; a value that may hold secrets is not shown."""
    if isinstance(error, kinds.Unfit):
        return str(error)
    found = MASK if isinstance(value, Mapping) or option.kind in _CONFIDENTIAL else repr(value)
    return f"{option.kind.expected} is expected, found {_type(value)} {found}"


def _type(value: Any) -> str:
    words = {
        str: "the text",
        bool: "the truth value",
        int: "the number",
        float: "the number",
        list: "the list",
        dict: "the mapping",
    }
    return words.get(type(value), f"a value of type {type(value).__name__}")


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        masked = mask_environment({str(key): _text(item) for key, item in value.items()})
        return "{" + ", ".join(f"{key}: {item}" for key, item in masked.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else redact_words((str(value),))[0]
