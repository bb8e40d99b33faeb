"""The types that an option's value can have: what is accepted, and the words for what is not.

A kind turns a Python value (argument, settings file) or a text (flag, environment variable) into the value that the
library works with, or raises ValueError; the caller adds the place and `Kind.expected`.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ee_runner.secrets import Secret
from ee_runner.values import dataclass

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})
_AUTH_KEYS = ("host", "username", "password", "verify_ssl")
_AGE = r"(?ai)(\d{1,12}(?:\.\d{1,9})?)\s*([smhdw])"
_AGE_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE = r"(?ai)(\d{1,19}(?:\.\d{1,9})?)\s*(?:([kmgt])i?)?b?"
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LARGEST = (1 << 63) - 1
_LONGEST = 10 * 366 * 86400
_MOST_CPUS = 8192


@dataclass(frozen=True, slots=True)
class Kind:
    """One type: `convert` takes Python values, `from_text` a flag's or a variable's text; both raise ValueError."""

    expected: str
    convert: Callable[[Any], Any]
    from_text: Callable[[str], Any]


class Unfit(ValueError):
    """A value of the right type that can not be used; its text says why, without the place."""


def expanded(text: str) -> Path:
    """Return a path with ``~`` and ``~user`` replaced; raise Unfit for a user who has no home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise Unfit(f"{text}: the home directory of {text.split('/')[0]} is not known") from None


def choice(*words: str) -> Kind:
    """Return the kind that accepts exactly these words."""

    def convert(value: Any) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return Kind(f"one of {', '.join(words)}", convert, convert)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _flag_text(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError
    return word in _TRUE


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _seconds(value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError
    if value > _LONGEST:
        raise Unfit(f"{value:g} seconds are more than ten years; 0 is no limit")
    return value


def _cpus(value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value == 0 or 0.01 <= value <= _MOST_CPUS):
        raise ValueError
    return value


def _number(text: str) -> float | int:
    return int(text) if text.strip().isdigit() else float(text)


def seconds(age: str | int) -> float:
    """Return the seconds of a value of the kind AGE."""
    found = re.fullmatch(_AGE, str(age)) if age else None
    return float(found[1]) * _AGE_UNITS[found[2].lower()] if found else 0.0


def _age(value: Any) -> str | int:
    """Keep a length of time as it was written; 30 alone is none, for days may be meant: only 0 needs no unit."""
    text = str(value).strip()
    if text == "0":
        return 0
    if isinstance(value, bool) or not re.fullmatch(_AGE, text):
        raise ValueError
    return text if seconds(text) else 0


def _size(value: Any) -> int:
    size = _count(value) if not isinstance(value, str) else _size_text(value)
    if size > _LARGEST:
        raise ValueError
    return size


def _size_text(text: str) -> int:
    """Read a number of bytes; units are powers of 1024, written as the engines take them (m) or in full (MiB, MB)."""
    found = re.fullmatch(_SIZE, text.strip())
    if found is None:
        raise ValueError
    return int(_number(found[1]) * _SIZE_UNITS[(found[2] or "").lower()])


def _text(value: Any) -> str:
    if not isinstance(value, str) or not is_transferable(value):
        raise ValueError
    return value


def _text_or_path(value: Any) -> str:
    return _text(os.fspath(value) if isinstance(value, os.PathLike) else value)


def is_transferable(text: str) -> bool:
    """Say whether the system takes a text as a path, a word or a variable: no NUL, no half of a surrogate pair."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _word(value: Any) -> str:
    text = _text_or_path(value)
    if not text.strip():
        raise ValueError
    return text


def _ident(value: Any) -> str:
    if isinstance(value, bool) or value is None or isinstance(value, Mapping | list | tuple | set | bytes):
        raise ValueError
    return str(value)


def _path(value: Any) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise ValueError
    text = _text_or_path(value)
    if not text:
        raise ValueError
    return expanded(text)


def _paths(value: Any) -> tuple[Path, ...]:
    return tuple(_path(item) for item in _sequence(value))


def _search_path(value: Any) -> tuple[str, ...]:
    items = [_text_or_path(item) for item in _sequence(value)]
    return tuple(part for item in items for part in item.split(os.pathsep) if part)


def _words(value: Any) -> tuple[str, ...]:
    return tuple(_item(number, item) for number, item in enumerate(_sequence(value), start=1))


def _item(number: int, value: Any) -> str:
    try:
        return _text_or_path(value)
    except ValueError:
        raise Unfit(f"item {number}: text is expected, found {_described(value)}") from None


def _sequence(value: Any) -> Sequence[Any]:
    if isinstance(value, str | os.PathLike):
        return [value]
    if not isinstance(value, list | tuple):
        raise ValueError
    return value


def _split(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(shlex.split(value))
    return _words(value)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError
    for key in value:
        if not isinstance(key, str):
            raise Unfit(f"the name {key!r}: text is expected, found {_described(key)}")
    return dict(value)


def _environment(value: Any) -> dict[str, str]:
    return {name: _variable(name, item) for name, item in _mapping(value).items()}


def _variable(name: str, value: Any) -> str:
    if not name or "=" in name or not is_transferable(name):
        shown = "".join(name.partition("=")[:2])
        raise Unfit(f"the name of a variable is expected, found {shown!r}")
    try:
        return _text("" if value is None else _scalar(value))
    except ValueError:
        raise Unfit(f"{name}: a single value is expected, found {_described(value)}") from None


def _described(value: Any) -> str:
    """Say why a value is none that can be used, without showing it: it may be a secret."""
    if isinstance(value, str):
        return "a text with a NUL or half of a surrogate pair, which the system does not take"
    return f"a value of type {type(value).__name__}"


def _scalar(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple | set | bytes):
        raise ValueError
    return str(value)


def _secret(value: Any) -> Secret:
    return value if isinstance(value, Secret) else Secret(_text(value))


def _secrets(value: Any) -> dict[str, Secret]:
    return {pattern: _answer(pattern, item) for pattern, item in _mapping(value).items()}


def _answer(pattern: str, value: Any) -> Secret:
    try:
        return value if isinstance(value, Secret) else Secret(_text(_scalar(value)))
    except ValueError:
        raise Unfit(f"{pattern!r}: a single value is expected, found {_described(value)}") from None


def _playbook(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [dict(value)]
    items = _sequence(value)
    if items and all(isinstance(item, Mapping) for item in items):
        return list(items)
    if not items or not all(map(_text_or_path, items)):
        raise ValueError
    return [_text_or_path(item) for item in items]


def _inventory(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str | os.PathLike):
        return _text_or_path(value)
    return [_text_or_path(item) for item in _sequence(value)]


def _variables(value: Any) -> Any:
    return _text(value) if isinstance(value, str) else _mapping(value)


def _registry_auth(value: Any) -> Any:
    from ee_runner.job import RegistryAuth

    if isinstance(value, RegistryAuth):
        return value
    fields = {key: item for key, item in _mapping(value).items() if item is not None}
    if "host" not in fields or not set(fields) <= set(_AUTH_KEYS):
        raise ValueError
    return RegistryAuth(
        host=_word(fields["host"]),
        username=_text(fields["username"]) if "username" in fields else None,
        password=_secret(fields["password"]) if "password" in fields else None,
        verify_ssl=_flag(fields.get("verify_ssl", True)),
    )


def _no_text(text: str) -> Any:
    raise ValueError(text)


FLAG = Kind("true or false", _flag, _flag_text)
COUNT = Kind("a whole number, 0 or more", _count, lambda text: _count(int(text)))
SECONDS = Kind("a number of seconds, 0 or more", _seconds, lambda text: _seconds(_number(text)))
CPUS = Kind("a number of CPUs, 0.01 or more", _cpus, lambda text: _cpus(_number(text)))
AGE = Kind("a length of time with its unit (s, m, h, d or w), such as 30d", _age, _age)
SIZE = Kind("a number of bytes, or a size such as 512m or 2g", _size, _size)
TEXT = Kind("text", _text, _text)
WORD = Kind("text that is not empty", _word, _word)
IDENT = Kind("a name", _ident, _ident)
PATH = Kind("a path", _path, _path)
PATHS = Kind("a path or a list of paths", _paths, _paths)
SEARCH_PATH = Kind("a directory or a list of directories", _search_path, _search_path)
WORDS = Kind("a text or a list of texts", _words, _words)
ARGUMENTS = Kind("command line arguments with balanced quotes", _split, _split)
MAPPING = Kind("a mapping of names to values", _mapping, _no_text)
ENVIRONMENT = Kind("a mapping of variable names to single values", _environment, _no_text)
SECRET = Kind("text", _secret, _no_text)
SECRETS = Kind("a mapping of regular expressions to single values", _secrets, _no_text)
PLAYBOOK = Kind("the path of a playbook, or a list of paths or of plays", _playbook, _playbook)
INVENTORY = Kind("an inventory path or text, a list of these, or a mapping", _inventory, _inventory)
VARIABLES = Kind("a mapping, 'key=value key=value', JSON, YAML or @FILE", _variables, _variables)
REGISTRY_AUTH = Kind(f"a mapping with host and, optionally, {', '.join(_AUTH_KEYS[1:])}", _registry_auth, _no_text)
