"""Reads a command line: finds the subcommand and its options, and parts the runner's options from Ansible's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

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


class Reader:
    """Reads the words of a subcommand, before and after it: `given` are its options, as (name, value, flag).

    `operands` are no options, `unknown` none of these; `asked` has those of ``-h``, ``--help`` and ``--version`` that
    stand there. A flag has its value behind it, behind ``=``, or, a short one, in the same word, as has a cluster of
    short ones (``-vp site.yml``). A value that begins with a dash is one only where the option is `dashed`. Raises
    UsageError.
    """

    def __init__(self, flags: Mapping[str, Option]) -> None:
        self.given: list[tuple[str, Any, str]] = []
        self.operands: list[str] = []
        self.unknown: list[str] = []
        self.asked: set[str] = set()
        self._flags = flags
        self._waiting: list[str] = []

    def read(self, words: Iterable[str]) -> None:
        self._waiting = [*words][::-1]
        while self._waiting:
            word = self._waiting.pop()
            if word == "--":
                self.operands += self._waiting[::-1]
                return
            if _is_value(word):
                self.operands.append(word)
            elif word.startswith("--"):
                self._long(word)
            else:
                self._short(word)

    def _long(self, word: str) -> None:
        flag, equals, text = word.partition("=")
        if word in _BARE:
            self.asked.add(word)
        elif flag not in self._flags:
            self.unknown.append(word)
        elif self._flags[flag].style not in _VALUELESS:
            self._value(flag, text if equals else None)
        elif equals:
            raise UsageError(f"{flag} takes no value, found {text!r}")
        else:
            self._note(flag, "")

    def _short(self, word: str) -> None:
        for position, letter in enumerate(word[1:], start=2):
            flag = f"-{letter}"
            if flag in _BARE:
                self.asked.add(flag)
            elif flag not in self._flags:
                self.unknown.append(flag)
            elif self._flags[flag].style in _VALUELESS:
                if word[position:].startswith("="):
                    raise UsageError(f"{flag} takes no value, found {word[position + 1 :]!r}")
                self._note(flag, "")
            else:
                self._value(flag, word[position:].removeprefix("=") if word[position:] else None)
                return

    def _value(self, flag: str, text: str | None) -> None:
        option = self._flags[flag]
        if option.style is Style.MANY:
            values = [] if text is None else [text]
            while self._waiting and _is_value(self._waiting[-1]):
                values.append(self._waiting.pop())
            self._note(flag, values)
        elif text is not None:
            self._note(flag, text)
        elif self._waiting and (option.dashed or _is_value(self._waiting[-1])):
            self._note(flag, self._waiting.pop())
        else:
            raise UsageError(f"{flag} needs a value")

    def _note(self, flag: str, value: str | list[str]) -> None:
        self.given.append((self._flags[flag].name, value, flag))


def _is_value(word: str) -> bool:
    """Say whether a word is no option: text, a dash alone, a negative number, or several words in one."""
    if not word.startswith("-") or word == "-":
        return True
    known = word.partition("=")[0] in BY_FLAG or (word[:2] in BY_FLAG and word[1] != "-")
    return not known and (" " in word or word[1:].replace(".", "", 1).isdigit())


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
