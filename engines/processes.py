"""Processes of this machine, as /proc shows them; where there is no /proc, none are found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def with_argument(word: str) -> list[int]:
    """Return the processes that have this word as an argument, parents before their children."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if word.encode("utf-8", "surrogateescape") in words:
            found.append(int(directory.name))
    return sorted(found, key=lambda pid: (len(list(ancestors(pid))), pid))


def children(pid: int) -> list[int]:
    """Return the direct children of a process."""
    found: list[int] = []
    with suppress(OSError):  # it ends meanwhile, and so does each of its threads
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def ancestors(pid: int) -> Iterator[int]:
    """Yield the processes that started this one, the nearest first."""
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return
        yield pid
