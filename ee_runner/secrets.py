"""Secret values, which never show by accident."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

MASK = "********"

_LEAST = 4
"""Shorter values are not looked for in texts: they would be found everywhere, and masking them gives them away."""

_REVEALING_PARTS = ("password", "passwd", "passphrase", "secret", "token", "apikey", "credential")
_REVEALING_WORDS = r"(?a)\w*pass|pass\w*|(\w*pwd|\w*auth|authorization|\w*keys?)\d*"
_STEMS = ("pass", "pwd", "auth", "key", "secret", "token", "credential")
"""One of these is in every revealing name, hyphens and underscores apart."""

_SETTING = (
    r"(?ai)(ansible|ee_runner|lc)_\w+|python\w*|lang(uage)?|term|tz|path|home|user|logname|shell|pwd|tmpdir|editor|pager"
    r"|columns|lines|no_color|(https?|ftp|no|all)_proxy|(job|ad_hoc_command)_id"
)
_ORDINARY = r"(?a)(old)?pwd|ssh_auth_sock|\w*host_?key_?(checking|auto_?add)|(pubkey|password|hostbased)authentication"
_WORDS = r"[A-Z]*[a-z0-9]+|[A-Z0-9]+"
_USERINFO = r"(?<=://)[^\s/?#\"']+@"
_ASSIGNED = r"""(?a)(?<![\w.-])([\w.-]+)(?:\s*(=)\s*|\\?["']\s*:\s*|\s*:\s+)"""
_QUOTED = r""" "(?:\\.|[^"\\])*"? | '(?:\\.|[^'\\])*'? """
_SHELL_VALUE = rf"""(?xs)(?: {_QUOTED} | \\. | [^\s"'] )+"""
_DATA_VALUE = rf"""(?xs) {_QUOTED} | \[[^]]*\]? | \{{[^}}]*\}}? | [^,}}\]\n]+"""


class Secret:
    """A string that is masked wherever it is printed; `reveal` is the one way to its value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Secret is never pickled")


def mask_environment(
    env: Mapping[str, str], secrets: Iterable[Secret] = (), *, own: Collection[str] = ()
) -> dict[str, str]:
    """Return a copy of the environment with the values of revealing names masked, and in the others what is secret.

    `own` are the names of variables that the user has set for the job: what they hold is the user's own affair, unless
    the name is that of a setting that everybody knows.
    """
    known = tuple(secrets)
    hidden = {name for name in env if is_revealing(name) or (name in own and not re.fullmatch(_SETTING, name))}
    return {name: MASK if name in hidden else _redacted(value, known) for name, value in env.items()}


def redact_words(argv: Sequence[str], secrets: Iterable[Secret] = ()) -> tuple[str, ...]:
    """Return a command line with what is secret masked: known values, what revealing names are set to, URL userinfo.

    Names are looked for in ``name=value``, and in YAML and JSON mappings.
    """
    known = tuple(secrets)
    return tuple(_redacted(word, known) for word in argv)


def redact(text: str, secrets: Iterable[Secret]) -> str:
    """Return the text with every occurrence of a secret's value, or of it as JSON, masked, longest value first."""
    values = {secret.reveal().strip() for secret in secrets}
    written = values | {json.dumps(value)[1:-1] for value in values}
    for value in sorted((each for each in written if len(each) >= _LEAST), key=len, reverse=True):
        text = text.replace(value, MASK)
    return text


def is_revealing(name: str) -> bool:
    """Say whether a variable of this name holds a secret, as far as names tell."""
    if not _may_reveal(name) or re.fullmatch(_ORDINARY, name.lower()):
        return False
    squeezed = _squeezed(name)
    words = (word.lower() for word in re.findall(_WORDS, name))
    return any(part in squeezed for part in _REVEALING_PARTS) or any(re.fullmatch(_REVEALING_WORDS, w) for w in words)


def _may_reveal(text: str) -> bool:
    """Say whether a revealing name can be in a text: what decides for most of them costs next to nothing."""
    squeezed = _squeezed(text)
    return any(stem in squeezed for stem in _STEMS)


def _squeezed(text: str) -> str:
    return text.lower().replace("_", "").replace("-", "")


def _redacted(text: str, secrets: tuple[Secret, ...]) -> str:
    text = redact(text, secrets)
    if _may_reveal(text):
        text = _without_assigned(text)
    return re.sub(_USERINFO, f"{MASK}@", text) if "://" in text else text


def _without_assigned(text: str) -> str:
    """Return the text with the values of revealing names masked; a value in quotes may itself hold names."""
    pieces, done = [], 0
    for found in re.finditer(_ASSIGNED, text):
        if found.start() < done or not is_revealing(found[1]):
            continue
        value = re.compile(_SHELL_VALUE if found[2] else _DATA_VALUE).match(text, found.end())
        if value:
            pieces += [text[done : found.end()], _masked(value[0])]
            done = value.end()
    return "".join((*pieces, text[done:]))


def _masked(value: str) -> str:
    """Return the mask, in the quotes that the value stands in."""
    quote = value[0] if value[0] in "\"'" and value[-1] == value[0] and len(value) > 1 else ""
    return f"{quote}{MASK}{quote}"
