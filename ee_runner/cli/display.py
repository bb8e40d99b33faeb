"""What the command shows: the job's output as it is, JSON events, the progress of a pull."""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


_LAST_STANDARD = 2


class Console:
    """Writes the job's bytes to standard output and error, untouched where those are terminals.

    Elsewhere a terminal's line ends (CR LF) become plain ones. A reader that goes away (``| head``) ends the showing,
    not the job.
    """

    def __init__(self) -> None:
        self._plain = not os.isatty(1)
        self._held = b""

    def stdout(self, data: bytes) -> None:
        if self._plain:
            data = self._held + data
            self._held = b"\r" if data.endswith(b"\r") else b""
            data = data[: len(data) - len(self._held)].replace(b"\r\n", b"\n")
        write(1, data)

    def stderr(self, data: bytes) -> None:
        write(2, data)

    def event(self, event: dict[str, Any]) -> None: ...


class JsonLines:
    """Writes one JSON object a line, an event each, and nothing else (seed, section 4.8)."""

    def stdout(self, data: bytes) -> None: ...

    def stderr(self, data: bytes) -> None: ...

    def event(self, event: dict[str, Any]) -> None:
        import msgspec

        write(1, msgspec.json.encode(event) + b"\n")


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
        self._bars = Progress(*columns, console=Screen(stderr=True), transient=True)
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


def occupy_standard_streams() -> None:
    """Point those of descriptors 0 to 2 that are closed nowhere: the next file opened would be taken for one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def write(descriptor: int, data: bytes) -> None:
    """Write all of the data; where nobody can take it any more, what follows goes nowhere and the job goes on."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
        except OSError:  # the reader has gone, the disk of a redirection is full, the terminal is closed
            _send_nowhere(descriptor)
            return


def _send_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        with contextlib.suppress(OSError):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _say(text: str) -> None:
    write(2, f"{text}\n".encode())
