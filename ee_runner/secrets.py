"""Secret values, which never show by accident."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

MASK = "********"

_REVEALING_NAMES = ("password", "passwd", "secret", "token", "api_key", "apikey", "private_key", "credential")


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


def mask_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the environment in which values of revealing names are masked."""
    return {name: MASK if _is_revealing(name) else value for name, value in env.items()}


def redact(text: str, secrets: Iterable[Secret]) -> str:
    """Return the text with every occurrence of a secret's value masked, longest value first."""
    for value in sorted({s.reveal() for s in secrets if s}, key=len, reverse=True):
        text = text.replace(value, MASK)
    return text


def _is_revealing(name: str) -> bool:
    lowered = name.lower()
    return any(part in lowered for part in _REVEALING_NAMES)
