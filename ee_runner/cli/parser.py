"""The command line: subcommands, and flags derived from the option table. The only user of argparse."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ee_runner.cli import scanner
from ee_runner.cli.scanner import UsageError
from ee_runner.errors import nearest
from ee_runner.options import BY_NAME, OPTIONS, Given, Group, Option, Style
from ee_runner.sources import unfit

PROGRAM = "ansible-runner"
COMMAND_LINE = "command line"

_TARGETS = ("playbook", "module", "role")


@dataclass(frozen=True, slots=True)
class Subcommand:
    """One subcommand; `executable` is the Ansible command that it emulates."""

    name: str
    summary: str
    example: str
    aliases: tuple[str, ...] = ()
    executable: str = ""
    directory: bool = True
    required: bool = True


SUBCOMMANDS = (
    Subcommand("run", "run a job in the foreground", "ansible-runner run demo -p test.yml"),
    Subcommand("start", "run a job in the background", "ansible-runner start demo -p test.yml"),
    Subcommand("stop", "stop a job in the background", "ansible-runner stop demo"),
    Subcommand("is-alive", "say whether a job in the background runs", "ansible-runner is-alive demo"),
    Subcommand(
        "playbook", "run ansible-playbook in an execution environment",
        "ansible-runner playbook demo.yml -i inventory.ini", executable="ansible-playbook", directory=False,
    ),
    Subcommand(
        "adhoc", "run ansible in an execution environment", "ansible-runner adhoc localhost -m ping",
        aliases=("ad-hoc",), executable="ansible", directory=False,
    ),
    Subcommand("transmit", "write a job to stdout, for a worker", "ansible-runner transmit demo -p test.yml >job"),
    Subcommand("worker", "run the job that is read from stdin", "ansible-runner worker <job >results",
               directory=False),
    Subcommand("worker cleanup", "remove what old jobs left on a worker",
               "ansible-runner worker cleanup --file-pattern '/tmp/.ansible-runner-*'", directory=False),
    Subcommand("process", "read a worker's results from stdin", "ansible-runner process demo <results"),
    Subcommand("cleanup", "settle lost jobs, and remove what jobs left behind", "ansible-runner cleanup demo",
               required=False),
)  # fmt: skip


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
    parser = build_parser()
    try:
        before, word, after = scanner.split(argv, _words())
        if word is None:
            return _without_subcommand(parser, before)
        word, after = _joined_with_next(word, after)
        subcommand = _subcommand(word)
        parser = _command_parser(subcommand)
        if subcommand.executable:
            return _parse_emulation(parser, subcommand, before, after)
        return _parse_job(parser, subcommand, before, after)
    except UsageError as error:
        parser.error(str(error))


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the program, or of one subcommand: for their help, and for documentation."""
    if command is not None:
        return _command_parser(_subcommand(command))
    lines = [f"  {each.name:<16}{each.summary}" for each in SUBCOMMANDS]
    examples = [f"  {each.example}" for each in SUBCOMMANDS]
    parser = _Parser(
        prog=PROGRAM,
        usage="%(prog)s [options] SUBCOMMAND [options] [arguments]",
        description="Run Ansible in execution environments.",
        epilog="\n".join(
            ["subcommands:", *lines, "", "examples:", *examples, "", f"'{PROGRAM} SUBCOMMAND --help' says more."]
        ),
        formatter_class=_Formatter,
        add_help=False,
        allow_abbrev=False,
    )
    _add_general(parser)
    return parser


def _without_subcommand(parser: argparse.ArgumentParser, before: Sequence[str]) -> Parsed:
    if "--version" in before:
        return Parsed("version")
    if {"-h", "--help"} & set(before):
        _print_help(parser)
    raise UsageError(f"a subcommand is missing; it is one of {', '.join(_names())}")


def _subcommand(word: str) -> Subcommand:
    for each in SUBCOMMANDS:
        if word in (each.name, *each.aliases):
            return each
    hint = nearest(word, _words()) or f"; it is one of {', '.join(_names())}"
    raise UsageError(f"there is no subcommand {word!r}{hint}")


def _joined_with_next(word: str, after: list[str]) -> tuple[str, list[str]]:
    """Take a second word for a part of the subcommand where there is such a one."""
    both = f"{word} {after[0]}" if after else word
    return (both, after[1:]) if both in _names() else (word, after)


def _print_help(parser: argparse.ArgumentParser) -> NoReturn:
    parser.print_help()
    parser.exit(0)


def _names() -> list[str]:
    return [each.name for each in SUBCOMMANDS]


def _words() -> list[str]:
    return [word for each in SUBCOMMANDS for word in (each.name, *each.aliases)]


def _parse_job(
    parser: argparse.ArgumentParser, subcommand: Subcommand, before: Sequence[str], after: Sequence[str]
) -> Parsed:
    given: list[tuple[str, Any, str]] = []
    for words in (before, after):
        namespace = argparse.Namespace(given=given, version=False)
        _, rest = parser.parse_known_args(scanner.joined(words), namespace)
        if namespace.version:
            return Parsed("version")
        if rest:
            raise UsageError(_unrecognized(rest[0], subcommand))
    explicit = _folded(given)
    several = [explicit[name].origin for name in _TARGETS if name in explicit]
    if len(several) > 1:
        raise UsageError(f"{' and '.join(several)} exclude each other")
    if subcommand.directory and subcommand.required and "private_data_dir" not in explicit:
        raise UsageError(f"the private data directory is missing; for example: {subcommand.example}")
    return Parsed(subcommand.name, explicit)


def _parse_emulation(
    parser: argparse.ArgumentParser, subcommand: Subcommand, before: Sequence[str], after: Sequence[str]
) -> Parsed:
    """Take the runner's own long options out of Ansible's arguments; help is the runner's when asked for first."""
    if "--version" in before:
        return Parsed("version")
    if {"-h", "--help"} & set(before) or after[:1] in (["-h"], ["--help"]):
        _print_help(parser)
    flags = {flag: option for option in _options_of(subcommand) for flag in option.flags}
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
    if not word.startswith("-"):
        return f"the argument {word!r} is one too many"
    flag = word.partition("=")[0]
    known = [flag for option in _options_of(subcommand) for flag in option.flags]
    return f"{subcommand.name} has no option {flag}{nearest(flag, known)}"


def _options_of(subcommand: Subcommand) -> Iterator[Option]:
    return (option for option in OPTIONS if option.flags and subcommand.name in option.commands)


def _command_parser(subcommand: Subcommand) -> argparse.ArgumentParser:
    directory = " DIR" if subcommand.required else " [DIR]"
    tail = directory if subcommand.directory else " ANSIBLE_ARGUMENTS" if subcommand.executable else ""
    parser = _Parser(
        prog=f"{PROGRAM} {subcommand.name}",
        usage=f"%(prog)s [options]{tail}",
        description=_description(subcommand),
        epilog=f"example:\n  {subcommand.example}",
        formatter_class=_Formatter,
        add_help=False,
        allow_abbrev=False,
    )
    if subcommand.directory:
        parser.add_argument(
            "private_data_dir", metavar="DIR", nargs="?", action=_Record, default=argparse.SUPPRESS,
            help=BY_NAME["private_data_dir"].help,
        )  # fmt: skip
    _add_general(parser, version=not subcommand.executable)
    options = list(_options_of(subcommand))
    for group in Group:
        members = [option for option in options if option.group is group]
        if members:
            section = parser.add_argument_group(group.value)
            for option in members:
                _add(section, option, long_only=bool(subcommand.executable))
    return parser


def _description(subcommand: Subcommand) -> str:
    sentence = subcommand.summary[0].upper() + subcommand.summary[1:] + "."
    if not subcommand.executable:
        return sentence
    return (
        f"{sentence} The options below are the runner's and are written out in full; every other argument, every short"
        f" option, and all that follows '--' goes to {subcommand.executable} as it is."
    )


def _add_general(parser: argparse.ArgumentParser, *, version: bool = True) -> None:
    parser.add_argument("-h", "--help", action="help", help="show this help and exit")
    if version:
        parser.add_argument(
            "--version", action="store_true", default=argparse.SUPPRESS, help="show the version and exit"
        )


def _add(section: Any, option: Option, *, long_only: bool) -> None:
    flags = [flag for flag in option.flags if flag.startswith("--") or not long_only]
    arities: dict[Style, int | str] = {Style.SWITCH: 0, Style.COUNT: 0, Style.MANY: "*"}
    arity = None if long_only and option.style is Style.MANY else arities.get(option.style)
    section.add_argument(
        *flags, dest=option.name, action=_Record, nargs=arity, metavar=option.metavar or None,
        default=argparse.SUPPRESS, help=_help(option),
    )  # fmt: skip


def _help(option: Option) -> str:
    notes = []
    default = option.default_text or (option.default if option.style is Style.ONE else None)
    if default not in (None, ""):
        notes.append(f"default: {default}")
    if option.env:
        notes.append(f"variable: {option.env}")
    return (option.help + (f" ({'; '.join(notes)})" if notes else "")).replace("%", "%%")


class _Record(argparse.Action):
    """Note the option, its text and the flag's spelling in the order of the command line."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        del parser
        namespace.given.append((self.dest, values, option_string or COMMAND_LINE))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help with one metavar an option, and wrapped descriptions."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, action.dest.upper())}"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)
