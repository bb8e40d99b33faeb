"""Terminals: the size and the modes of a job's, and the caller's own in raw mode."""

from __future__ import annotations

import contextlib
import os
import termios
import tty
from collections.abc import Mapping

from ee_runner.job import Invocation

_SIZE = (24, 80)


class RawTerminal:
    """The caller's terminal in raw mode for the length of the block, so that each key reaches the job."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        self._saved = termios.tcgetattr(self._descriptor)
        tty.setraw(self._descriptor)

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(termios.error):  # the terminal has been closed meanwhile
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)


def prepare(terminal: int, *, size: tuple[int, int], echo: bool) -> None:
    """Give a new terminal its size, and have it echo what is typed or not."""
    set_size(terminal, size)
    if not echo:
        attributes = termios.tcgetattr(terminal)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSANOW, attributes)


def set_size(terminal: int, size: tuple[int, int]) -> None:
    import fcntl
    import struct

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))


def wanted_size(invocation: Invocation, stdin: int | None) -> tuple[int, int]:
    """Return the rows and columns for a job: those of the caller's terminal, or what its environment states."""
    return size_of(stdin) if stdin is not None else _stated_size(invocation.env)


def size_of(terminal: int) -> tuple[int, int]:
    try:
        columns, rows = os.get_terminal_size(terminal)
    except OSError:
        return _SIZE
    return (rows, columns) if rows and columns else _SIZE


def _stated_size(env: Mapping[str, str]) -> tuple[int, int]:
    """Return the size that LINES and COLUMNS state, or 24 by 80."""
    stated = []
    for name, usual in zip(("LINES", "COLUMNS"), _SIZE, strict=True):
        text = env.get(name, "")
        stated.append(int(text) if text.isdigit() and 0 < int(text) < 65536 else usual)
    return stated[0], stated[1]
