"""Who called the command: their signals, their terminal, and what is said to them.

Signals are caught here, and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ee_runner.console import write
from ee_runner.logs import log

if TYPE_CHECKING:
    from ee_runner.attachment import Attachment
    from ee_runner.executor import Cancellation


def attachment(values: Any, *, emulates: bool) -> Attachment:
    """Connect a job to the standard streams: a terminal on both ends is joined to a command that emulates Ansible's."""
    from ee_runner.attachment import Attachment
    from ee_runner.cli.display import PullProgress
    from ee_runner.cli.screen import Screen
    from ee_runner.console import Console, JsonLines
    from ee_runner.executor import Cancellation
    from ee_runner.job import Terminal

    quiet = values["quiet"] or values["suppress_ansible_output"]
    cancellation = Cancellation()
    out, err = Screen(1, cancellation).write, Screen(2, cancellation).write
    shown = JsonLines(out) if values["json_mode"] else Console(out, err, plain=not os.isatty(1))
    on_terminal = emulates and os.isatty(0) and os.isatty(1)
    return Attachment(
        display=None if quiet else shown,
        progress=None if quiet else PullProgress(),
        terminal=Terminal.INTERACTIVE if on_terminal else Terminal.PIPES if emulates else None,
        stdin=0 if emulates else None,
        explain=log.debug,
        strict=emulates,
        cancellation=cancellation,
        warn=complain,
        stoppable=True,
    )


ECHO = 0.1
"""Seconds in which a signal is the same one: a service manager sends it to all processes, and some pass it on."""


@contextlib.contextmanager
def signals(cancellation: Cancellation) -> Iterator[None]:
    """Turn the signals that ask a command to end into a cancel, for the length of the block."""
    previous: dict[int, Any] = {}
    asked = 0.0

    def cancel(signum: int, _frame: object) -> None:
        nonlocal asked
        asked = time.monotonic()
        cancellation.request()
        signal.signal(signum, interrupt)

    def interrupt(_signum: int, _frame: object) -> None:
        if time.monotonic() - asked > ECHO:
            raise KeyboardInterrupt  # asked a second time: out of whatever it is that takes so long

    def resize(_signum: int, _frame: object) -> None:
        cancellation.nudge()

    try:
        for stopping in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(stopping) is not signal.SIG_IGN:  # nohup
                previous[stopping] = signal.signal(stopping, cancel)
        previous[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, resize)
        with _passed_on():
            yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler or signal.SIG_DFL)


@contextlib.contextmanager
def _passed_on() -> Iterator[None]:
    """Have a signal that the kernel gives to another thread wake the main one, in which alone Python handles it.

    It does so at times, for one when a suspended process goes on.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    listener = threading.Thread(target=_pass_on, args=(read, threading.get_ident()), daemon=True)
    listener.start()
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)
        listener.join()
        os.close(read)


def _pass_on(read: int, main: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while numbers := os.read(read, 64):
        if set(numbers) != {signal.SIGWINCH}:  # which is what wakes, and does no harm
            signal.pthread_kill(main, signal.SIGWINCH)


def complain(text: str) -> None:
    """Say what is wrong on standard error."""
    write(2, f"ansible-runner: {text}\n".encode(errors="backslashreplace"))
