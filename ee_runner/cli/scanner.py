"""Reads a command line without argparse: finds the subcommand, and parts the runner's options from Ansible's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ee_runner.errors import nearest
from ee_runner.options import BY_FLAG, Option, Style

_BARE = frozenset({"-h", "--help", "--version"})
_VALUELESS = (Style.SWITCH, Style.COUNT)


class UsageError(Exception):
    """The command line is wrong; the message says what and, if it can, what was meant."""


def split(argv: Sequence[str], subcommands: Collection[str]) -> tuple[list[str], str | None, list[str]]:
    """Return what stands before the subcommand, the subcommand (None when there is none), and what follows it."""
    index = 0
    while index < len(argv):
        word = argv[index]
        if not word.startswith("-") or word in ("-", "--"):
            return list(argv[:index]), word, list(argv[index + 1 :])
        index += 1 + _values_after(argv, index, subcommands)
    return list(argv), None, []


def joined(words: Iterable[str]) -> list[str]:
    """Return the words as argparse wants them: values that may begin with a dash tied to their option, lists not."""
    result: list[str] = []
    pending = ""
    for word in words:
        flag, equals, text = word.partition("=")
        if pending:
            result.append(f"{pending}={word}" if pending.startswith("--") else pending + word)
            pending = ""
        elif word in BY_FLAG and BY_FLAG[word].dashed:
            pending = word
        elif equals and flag in BY_FLAG and BY_FLAG[flag].style is Style.MANY:
            result += [flag, text]
        else:
            result.append(word)
    return [*result, pending] if pending else result


def extract(
    words: Sequence[str], flags: Mapping[str, Option], *, short: bool
) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Part the runner's options, as (name, text, flag), from everything else, which keeps its order.

    Only exact spellings are the runner's, and with `short` unset only long ones; ``--`` and what follows is Ansible's.
    """
    own: list[tuple[str, str, str]] = []
    rest: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--":
            return own, [*rest, *words[index:]]
        flag, equals, text = word.partition("=")
        index += 1
        if flag not in flags or not (short or flag.startswith("--")):
            rest.append(word)
            continue
        if flags[flag].style in _VALUELESS:
            if equals:
                raise UsageError(f"{flag} takes no value, found {text!r}")
        elif not equals:
            if index == len(words):
                raise UsageError(f"{flag} needs a value")
            text = words[index]
            index += 1
        own.append((flags[flag].name, text, flag))
    return own, rest


def _values_after(argv: Sequence[str], index: int, subcommands: Collection[str]) -> int:
    """Return how many words after an option are its values."""
    word = argv[index]
    flag, equals, _ = word.partition("=")
    option = BY_FLAG.get(flag)
    if option is None and not flag.startswith("--"):
        return _values_after_cluster(word)
    if option is None:
        if flag in _BARE:
            return 0
        raise UsageError(f"there is no option {flag}{nearest(flag, [*BY_FLAG, *_BARE])}")
    if equals or option.style in _VALUELESS:
        return 0
    if option.style is not Style.MANY:
        return 1
    values = 0
    for following in argv[index + 1 :]:
        if following.startswith("-") or following in subcommands:
            break
        values += 1
    return values


def _values_after_cluster(word: str) -> int:
    """Return whether the last of several short options in one word (``-vqp``) takes the next word as its value."""
    for position, letter in enumerate(word[1:], start=1):
        flag = f"-{letter}"
        if flag in _BARE:
            continue
        if flag not in BY_FLAG:
            raise UsageError(f"there is no option {flag}" + (f" (in {word})" if len(word) > 2 else ""))
        if BY_FLAG[flag].style not in _VALUELESS:
            return int(position == len(word) - 1)
    return 0
