"""How a caller is connected to its job."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ee_runner.executor import Cancellation
from ee_runner.values import dataclass, field

if TYPE_CHECKING:
    from ee_runner.console import Captured
    from ee_runner.engines.base import Progress
    from ee_runner.executor.minding import Minding
    from ee_runner.job import Terminal
    from ee_runner.pipeline import Display


@dataclass(frozen=True, slots=True)
class Attachment:
    """How the caller is connected to the job.

    `display` shows it, `progress` shows a pull; `stdin` is a descriptor handed to the job (see Executor.run);
    `terminal` is how the job is connected, None as the settings say; `tty` whether it may have a terminal in a
    container. `captured` gets the output of a job that keeps no file of it. `shown` asks for the job on sys.stdout,
    unless there is a display or its options say that it is quiet, and for the words of the runner's own with it.
    `strict` has paths of a command line that do not exist refused here, where else Ansible tells of them.
    `explain` takes a line for each decision worth telling (``--debug``), `warn` what nobody should overlook.
    `stoppable` says that SIGTERM to this process ends the job in order, and nothing but the job.
    `started` is called once, when the job's process runs; the job waits for its return.
    `ready` is a minder that was started ahead for the job; whoever started it closes it.
    `unread` says that nobody can ask for the job's events later: lines of a program that has none are no events then.
    """

    display: Display | None = None
    progress: Progress | None = None
    terminal: Terminal | None = None
    tty: bool = True
    stdin: int | None = None
    captured: Captured | None = None
    shown: bool = False
    strict: bool = False
    stoppable: bool = False
    cancellation: Cancellation = field(default_factory=Cancellation)
    explain: Callable[[str], None] = lambda _: None
    warn: Callable[[str], None] = lambda _: None
    started: Callable[[], None] | None = None
    ready: Minding | None = None
    unread: bool = False

    def display_for(self, values: Mapping[str, Any]) -> Display | None:
        """Return what shows a job with these options: the display, or what `shown` asks for."""
        if self.display is not None or not self.shown:
            return self.display
        if values["quiet"] or values["suppress_ansible_output"] or sys.stdout is None:
            return None
        from ee_runner import console

        return console.JsonLines(console.to_file(sys.stdout)) if values["json_mode"] else console.on_standard_streams()
