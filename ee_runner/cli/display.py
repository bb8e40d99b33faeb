"""What the command shows beside the job's output: the progress of a pull."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any

from ee_runner.console import write

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class PullProgress:
    """Shows a pull as bars on a terminal, as one line elsewhere."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def start(self, image: str) -> None:
        if not os.isatty(2):
            _say(f"Pulling {image} ...")
            return
        from rich.console import Console as Screen
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        screen = io.TextIOWrapper(io.BufferedWriter(_Terminal()), sys.stderr.encoding, "replace")
        self._bars = Progress(*columns, console=Screen(file=screen), transient=True)
        self._bars.start()
        self._tasks[""] = self._bars.add_task(f"Pulling {image}", total=None)

    def update(self, text: str, current: int | None = None, total: int | None = None) -> None:
        if self._bars is None:
            return
        if text not in self._tasks:
            self._tasks[text] = self._bars.add_task(text, total=None)
        self._bars.update(self._tasks[text], completed=current or 0, total=total)

    def finish(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


class _Terminal(io.RawIOBase):
    """Standard error, which takes everything, also when its terminal has been closed."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        write(2, bytes(data))
        return len(data)

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2


def _say(text: str) -> None:
    write(2, f"{text}\n".encode())
