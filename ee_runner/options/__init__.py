"""Every option, declared once: keyword and settings key, type, flags, environment variable, default, help, place."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ee_runner.options import isolation, job, library, remote
from ee_runner.options.model import (
    ALL_COMMANDS,
    CALLBACKS,
    CONTROL_COMMANDS,
    DEFAULT_IMAGE,
    EMULATING_COMMANDS,
    JOB_COMMANDS,
    OPEN_PREFIX,
    Given,
    Group,
    Option,
    Style,
)

__all__ = [
    "ALL_COMMANDS",
    "BY_FLAG",
    "BY_NAME",
    "CALLBACKS",
    "CONTROL_COMMANDS",
    "DEFAULT_IMAGE",
    "EMULATING_COMMANDS",
    "JOB_COMMANDS",
    "OPEN_PREFIX",
    "OPTIONS",
    "SETTINGS_KEYS",
    "Given",
    "Group",
    "Option",
    "Style",
    "default_of",
]

OPTIONS: tuple[Option, ...] = (*job.OPTIONS, *isolation.OPTIONS, *remote.OPTIONS, *library.OPTIONS)
BY_NAME: Mapping[str, Option] = MappingProxyType({option.name: option for option in OPTIONS})
BY_FLAG: Mapping[str, Option] = MappingProxyType({flag: option for option in OPTIONS for flag in option.flags})
SETTINGS_KEYS: frozenset[str] = frozenset(option.name for option in OPTIONS if option.in_settings)


def default_of(option: Option, command: str) -> Any:
    """Return the option's default; the subcommands that emulate Ansible's run in a container unless told otherwise."""
    if option.name == "process_isolation":
        return command in EMULATING_COMMANDS
    return option.kind.convert(option.default) if option.default is not None else None
