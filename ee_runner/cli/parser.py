"""The command line: arguments in, the subcommand and what was given for it out."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ee_runner.cli import scanner
from ee_runner.cli.scanner import UsageError
from ee_runner.cli.subcommands import PROGRAM, Subcommand, names, options_of, subcommand_of, words
from ee_runner.errors import nearest
from ee_runner.options import BY_NAME, Given, Option, Style
from ee_runner.sources import unfit
from ee_runner.values import dataclass, field

COMMAND_LINE = "command line"

_HELP = frozenset({"-h", "--help"})
_TARGETS = ("playbook", "module", "role")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A command line: the subcommand (``version`` for --version), and only what was given, each with its origin.

    `explicit` goes to `settings.resolve` as it is; with playbook and adhoc it holds their command and arguments, which
    `passthrough` has too.
    """

    command: str
    explicit: Mapping[str, Given] = field(default_factory=dict)
    passthrough: tuple[str, ...] = ()

    def value(self, name: str) -> Any:
        """Return an option's value when it was given, else None."""
        given = self.explicit.get(name)
        return given.value if given else None


def parse(argv: Sequence[str]) -> Parsed:
    """Parse the arguments after the program's name.

    Raises SystemExit with 0 after printing help, and with 2 after printing what is wrong and the nearest spelling.
    """
    subcommand = None
    try:
        before, word, after = scanner.split(argv, words())
        if word is None:
            return _without_subcommand(before)
        word, after = _joined_with_next(word, after)
        subcommand = subcommand_of(word)
        if subcommand.executable:
            return _parse_emulation(subcommand, before, after)
        return _parse_job(subcommand, before, after)
    except UsageError as error:
        _refuse(error, subcommand)


def _refuse(error: UsageError, subcommand: Subcommand | None) -> NoReturn:
    program = f"{PROGRAM} {subcommand.name}" if subcommand else PROGRAM
    with contextlib.suppress(AttributeError, OSError):  # there is no standard error, or nobody reads it
        sys.stderr.write(f"{program}: {error}\nTry '{program} --help'.\n")
    raise SystemExit(2)


def _print_help(subcommand: Subcommand | None) -> NoReturn:
    from ee_runner.cli.help import help_of

    help_of(subcommand).print_help()
    raise SystemExit(0)


def _without_subcommand(before: Sequence[str]) -> Parsed:
    if "--version" in before:
        return Parsed("version")
    if _HELP & set(before):
        _print_help(None)
    raise UsageError(f"a subcommand is missing; it is one of {', '.join(names())}")


def _joined_with_next(word: str, after: list[str]) -> tuple[str, list[str]]:
    """Take a second word for a part of the subcommand where there is such a one."""
    both = f"{word} {after[0]}" if after else word
    return (both, after[1:]) if both in names() else (word, after)


def _parse_job(subcommand: Subcommand, before: Sequence[str], after: Sequence[str]) -> Parsed:
    reader = scanner.Reader(_flags_of(subcommand))
    reader.read(before)
    reader.read(after)
    if _HELP & reader.asked:
        _print_help(subcommand)
    if "--version" in reader.asked:
        return Parsed("version")
    if reader.unknown:
        raise UsageError(_unrecognized(reader.unknown[0], subcommand))
    explicit = _folded([*_directory(reader.operands, subcommand), *reader.given])
    several = [explicit[name].origin for name in _TARGETS if name in explicit]
    if len(several) > 1:
        raise UsageError(f"{' and '.join(several)} exclude each other")
    if subcommand.directory and subcommand.required and "private_data_dir" not in explicit:
        raise UsageError(f"the private data directory is missing; for example: {subcommand.example}")
    return Parsed(subcommand.name, explicit)


def _directory(operands: Sequence[str], subcommand: Subcommand) -> list[tuple[str, str, str]]:
    """Return the private data directory, as options are given, if there is one."""
    most = int(subcommand.directory)
    if len(operands) > most:
        raise UsageError(f"the argument {operands[most]!r} is one too many")
    return [("private_data_dir", operand, COMMAND_LINE) for operand in operands]


def _parse_emulation(subcommand: Subcommand, before: Sequence[str], after: Sequence[str]) -> Parsed:
    """Take the runner's own long options out of Ansible's arguments; help is the runner's when asked for first."""
    if "--version" in before:
        return Parsed("version")
    if {"-h", "--help"} & set(before) or after[:1] in (["-h"], ["--help"]):
        _print_help(subcommand)
    flags = _flags_of(subcommand)
    early, rest = scanner.extract(before, flags, short=True)
    if rest:
        hint = f"write it after {subcommand.name!r} if it is for Ansible"
        raise UsageError(f"{rest[0]!r} is no option of the runner for {subcommand.name!r}; {hint}")
    own, arguments = scanner.extract(after, flags, short=False)
    explicit = _folded([*early, *own])
    explicit["executable_cmd"] = Given(subcommand.executable, COMMAND_LINE)
    explicit["cmdline_args"] = Given(arguments, COMMAND_LINE)
    return Parsed(subcommand.name, explicit, tuple(arguments))


def _folded(given: Iterable[tuple[str, Any, str]]) -> dict[str, Given]:
    """Bring repeated options together: counts add up, lists grow, of all others the last counts."""
    folded: dict[str, Given] = {}
    for name, value, origin in given:
        style = BY_NAME[name].style
        earlier = folded.get(name)
        if style is Style.COUNT:
            value = 1 + (earlier.value if earlier else 0)
        elif style is Style.SWITCH:
            value = True
        elif style in (Style.APPEND, Style.MANY):
            value = [*(earlier.value if earlier else []), *([value] if isinstance(value, str) else value)]
        else:
            value = _converted(BY_NAME[name], value, origin)
        folded[name] = Given(value, origin)
    return folded


def _converted(option: Option, text: str, origin: str) -> Any:
    try:
        return option.kind.from_text(text)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{origin}: {unfit(option, text, error)}") from None


def _unrecognized(word: str, subcommand: Subcommand) -> str:
    flag = word.partition("=")[0]
    return f"{subcommand.name} has no option {flag}{nearest(flag, _flags_of(subcommand))}"


def _flags_of(subcommand: Subcommand) -> dict[str, Option]:
    return {flag: option for option in options_of(subcommand) for flag in option.flags}
