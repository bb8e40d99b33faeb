"""The configuration of a playbook, a module or a role."""

from __future__ import annotations

from enum import IntEnum

from ansible_runner.config._base import BaseConfig
from ee_runner.job import CommandTarget, ModuleTarget, RawTarget


class ExecutionMode(IntEnum):
    """What kind of command a job is."""

    NONE = 0
    ANSIBLE = 1
    ANSIBLE_PLAYBOOK = 2
    RAW = 3


class RunnerConfig(BaseConfig):
    """`ee_runner.RunnerConfig`, for a job that shows on sys.stdout unless it is quiet."""

    @property
    def execution_mode(self) -> ExecutionMode:
        """What kind of command the prepared job is; NONE before `prepare`."""
        if not self.is_prepared:
            return ExecutionMode.NONE
        raw = dict.fromkeys((CommandTarget, RawTarget), ExecutionMode.RAW)
        modes = {ModuleTarget: ExecutionMode.ANSIBLE, **raw}
        return modes.get(type(self.spec.target), ExecutionMode.ANSIBLE_PLAYBOOK)
