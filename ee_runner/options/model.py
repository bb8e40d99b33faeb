"""What an option is, and which subcommands there are to have it."""

from __future__ import annotations

from enum import Enum
from typing import Any

from ee_runner.kinds import Kind
from ee_runner.values import dataclass

CALLBACKS = ("event_handler", "status_handler", "cancel_callback", "finished_callback", "artifacts_handler")
"""The callables of the caller's that a job takes (seed, sections 5.18 to 5.21); no options, for they have no text."""

DEFAULT_IMAGE = "ghcr.io/ansible/community-ansible-dev-tools:latest"
OPEN_PREFIX = "runner_"

JOB_COMMANDS = frozenset({"run", "start", "transmit"})
EMULATING_COMMANDS = frozenset({"playbook", "adhoc"})
CONTROL_COMMANDS = frozenset({"stop", "is-alive"})
ALL_COMMANDS = JOB_COMMANDS | EMULATING_COMMANDS | CONTROL_COMMANDS | {"worker", "worker cleanup", "process", "cleanup"}
RUNNING_COMMANDS = JOB_COMMANDS | EMULATING_COMMANDS
WORKER = frozenset({"worker"})
CLEANUP = frozenset({"worker cleanup"})
SETTLING = frozenset({"cleanup"})


class Group(Enum):
    """The groups of the documented help, in its order."""

    GENERAL = "General Options"
    TARGET = "What To Run"
    RUNNER = "Ansible Runner Options"
    ANSIBLE = "Ansible Options"
    ROLE = "Ansible Role Options"
    MODULE = "Ansible Module Options"
    ISOLATION = "Process Isolation Options"
    CONTAINER = "Ansible Container Options"
    WORKER = "Worker Options"
    STREAM = "Stream Options"
    CLEANUP = "Cleanup Options"
    LIBRARY = "Keywords And Settings"


class Style(Enum):
    """How a flag takes its value: one, none, counted, one per repetition, or all that follow."""

    ONE = "one"
    SWITCH = "switch"
    COUNT = "count"
    APPEND = "append"
    MANY = "many"


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was given, with where it came from: "--flag", "command line"."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Option:
    """One option; `name` is the keyword of the library and, where `in_settings`, the key in env/settings.

    `dashed` marks flags whose value may begin with a dash. An option without flags belongs to the library alone.
    """

    name: str
    kind: Kind
    help: str
    group: Group = Group.LIBRARY
    flags: tuple[str, ...] = ()
    style: Style = Style.ONE
    metavar: str = ""
    env: str = ""
    in_settings: bool = False
    default: Any = None
    default_text: str = ""
    commands: frozenset[str] = JOB_COMMANDS
    dashed: bool = False
