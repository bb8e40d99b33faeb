"""The configuration of any command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TextIO

from ansible_runner.config._base import BaseConfig
from ee_runner import api
from ee_runner.attachment import Attachment


class CommandConfig(BaseConfig):
    """A command, connected to the caller's descriptors or files (see `ee_runner.run_command`)."""

    def __init__(
        self,
        input_fd: int | TextIO | None = None,
        output_fd: int | TextIO | None = None,
        error_fd: int | TextIO | None = None,
        **options: Any,
    ) -> None:
        shown = Attachment(shown=True)
        super().__init__(attachment=api.connected(input_fd, output_fd, error_fd, attachment=shown), **options)

    def prepare_run_command(self, executable_cmd: str, cmdline_args: Iterable[str] | None = None) -> None:
        """Take the command and make it ready to run; raises what `prepare` raises."""
        self._prepare_command(executable_cmd, cmdline_args or ())
