"""The help of the command, derived from the option table. The only user of argparse, which knows how to lay it out."""

from __future__ import annotations

import argparse
from typing import Any

from ee_runner.cli.subcommands import PROGRAM, SUBCOMMANDS, Subcommand, options_of, subcommand_of
from ee_runner.options import BY_NAME, Group, Option, Style


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return what prints the help of the program, or of one subcommand: for documentation, too."""
    return help_of(None if command is None else subcommand_of(command))


def help_of(subcommand: Subcommand | None) -> argparse.ArgumentParser:
    """Return what prints the help of a subcommand, or of the program."""
    return _program() if subcommand is None else _subcommand(subcommand)


def _program() -> argparse.ArgumentParser:
    lines = [f"  {each.name:<16}{each.summary}" for each in SUBCOMMANDS]
    examples = [f"  {each.example}" for each in SUBCOMMANDS]
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage="%(prog)s [options] SUBCOMMAND [options] [arguments]",
        description="Run Ansible in execution environments.",
        epilog="\n".join(
            ["subcommands:", *lines, "", "examples:", *examples, "", f"'{PROGRAM} SUBCOMMAND --help' says more."]
        ),
        formatter_class=_Formatter,
        add_help=False,
    )
    _add_general(parser)
    return parser


def _subcommand(subcommand: Subcommand) -> argparse.ArgumentParser:
    directory = " DIR" if subcommand.required else " [DIR]"
    tail = directory if subcommand.directory else " ANSIBLE_ARGUMENTS" if subcommand.executable else ""
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} {subcommand.name}",
        usage=f"%(prog)s [options]{tail}",
        description=_description(subcommand),
        epilog=f"example:\n  {subcommand.example}",
        formatter_class=_Formatter,
        add_help=False,
    )
    if subcommand.directory:
        parser.add_argument("private_data_dir", metavar="DIR", nargs="?", help=BY_NAME["private_data_dir"].help)
    _add_general(parser, version=not subcommand.executable)
    options = list(options_of(subcommand))
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
    parser.add_argument("-h", "--help", action=_Shown, nargs=0, help="show this help and exit")
    if version:
        parser.add_argument("--version", action=_Shown, nargs=0, help="show the version and exit")


def _add(section: Any, option: Option, *, long_only: bool) -> None:
    flags = [flag for flag in option.flags if flag.startswith("--") or not long_only]
    arities: dict[Style, int | str] = {Style.SWITCH: 0, Style.COUNT: 0, Style.MANY: "*"}
    arity = None if long_only and option.style is Style.MANY else arities.get(option.style)
    section.add_argument(
        *flags, dest=option.name, action=_Shown, nargs=arity, metavar=option.metavar or None, help=_help(option)
    )


def _help(option: Option) -> str:
    notes = []
    default = option.default_text or (option.default if option.style is Style.ONE else None)
    if default not in (None, ""):
        notes.append(f"default: {default}")
    if option.env:
        notes.append(f"variable: {option.env}")
    return (option.help + (f" ({'; '.join(notes)})" if notes else "")).replace("%", "%%")


class _Shown(argparse.Action):
    """An option that is described; the scanner reads it."""

    def __call__(self, *_: object) -> None:
        raise NotImplementedError


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
