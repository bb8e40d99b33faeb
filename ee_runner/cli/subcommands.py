"""The subcommands, and which options each of them has."""

from __future__ import annotations

from collections.abc import Iterator

from ee_runner.cli.scanner import UsageError
from ee_runner.errors import nearest
from ee_runner.options import OPTIONS, Option
from ee_runner.values import dataclass

PROGRAM = "ansible-runner"


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


def subcommand_of(word: str) -> Subcommand:
    """Return the subcommand of that name or alias; raises UsageError with the nearest one."""
    for each in SUBCOMMANDS:
        if word in (each.name, *each.aliases):
            return each
    hint = nearest(word, words()) or f"; it is one of {', '.join(names())}"
    raise UsageError(f"there is no subcommand {word!r}{hint}")


def names() -> list[str]:
    """Return the names of all subcommands."""
    return [each.name for each in SUBCOMMANDS]


def words() -> list[str]:
    """Return all words that name a subcommand."""
    return [word for each in SUBCOMMANDS for word in (each.name, *each.aliases)]


def options_of(subcommand: Subcommand) -> Iterator[Option]:
    """Yield the options of a subcommand that have flags."""
    return (option for option in OPTIONS if option.flags and subcommand.name in option.commands)
