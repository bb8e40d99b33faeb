"""What the configurations of ansible-runner have in common."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ee_runner import config
from ee_runner.attachment import Attachment
from ee_runner.query_words import Words


class BaseConfig(config.RunnerConfig):
    """`ee_runner.RunnerConfig`, for a job that shows on sys.stdout unless it is quiet."""

    def __init__(
        self,
        private_data_dir: str | os.PathLike[str] | None = None,
        *,
        attachment: Attachment | None = None,
        **options: Any,
    ) -> None:
        super().__init__(private_data_dir, attachment=attachment or Attachment(shown=True), **options)

    def prepare(self) -> None:
        """Prepare the job, then call the methods that a subclass may override to change what was prepared."""
        super().prepare()
        self.prepare_inventory()
        self.prepare_env()
        self.prepare_command()

    def prepare_inventory(self) -> None:
        """Change nothing; a subclass may."""

    def prepare_env(self) -> None:
        """Leave `env` as it was prepared; a subclass may change it."""

    def prepare_command(self) -> None:
        """Take the words of `generate_ansible_command`, which a subclass may override, as the command."""
        self.command = list(self.generate_ansible_command())

    def generate_ansible_command(self) -> list[str]:
        """Return the words of the prepared command."""
        return list(self.command)

    def _prepare_words(self, words: Words) -> None:
        """Prepare one of Ansible's own tools, on pipes unless the options say otherwise."""
        self._prepare_command(*words, runner_mode=self._options.get("runner_mode") or "subprocess")

    def _prepare_command(self, executable_cmd: str, cmdline_args: Iterable[str], **options: Any) -> None:
        for name, value in {"executable_cmd": executable_cmd, "cmdline_args": tuple(cmdline_args), **options}.items():
            setattr(self, name, value)
        self.prepare()
