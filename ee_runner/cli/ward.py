"""What the worker tells those who guard it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from ee_runner.cli import remains


class Ward:
    """What a worker under guard may say; every method may be called from any thread.

    `told` are the pipes to its guards, the nearest first; `lifeline` is one that ends with the nearest.
    """

    def __init__(self, told: Iterable[int], lifeline: int) -> None:
        self._told = list(told)
        self._lifeline = lifeline
        self._lock = threading.RLock()  # a signal handler may tell something too
        self._abandoned = False
        self._callback: Callable[[], None] = _end_in_order
        self._tell("is", str(os.getpid()))
        threading.Thread(target=self._watch, name="guardian's end", daemon=True).start()

    def owns(self, path: Path) -> None:
        """Have a directory or a file removed when this process dies; it need not be there yet.

        A symbolic link is left alone, and so is what belongs to another user, unless it was there already now.
        """
        place = _real(path)
        try:
            known = remains.identity(os.lstat(place))
        except OSError:
            known = ""
        self._tell("owns", place, known)

    def owns_all(self, directory: Path, prefix: str) -> None:
        """Have all in the directory whose names begin so removed when this process dies, if it is this user's."""
        self._tell("owns-all", os.path.realpath(directory), prefix)

    def released(self, path: Path) -> None:
        """Take `owns` back: it is gone, or it is to stay."""
        self._tell("released", _real(path))

    def runs(self, engine: str, container: str) -> None:
        """Have the container removed through its engine when this process dies.

        `engine` is a name or an executable, as `registry.choose` takes it. Of an engine that labels its containers
        only those are removed that name this process as their supervisor.
        """
        from ee_runner.engines import labels

        own = labels.of_job("", Path())
        program = os.path.abspath(engine) if "/" in engine else engine  # noqa: PTH100 - links stay
        self._tell("runs", program, container, f"{own[labels.PID]}/{own[labels.START]}")

    def stopped(self) -> None:
        """Have what this process leaves running ended after it, for its job was stopped and did not end by itself."""
        self._tell("stopped", "")

    def on_abandoned(self, callback: Callable[[], None]) -> None:
        """Have this called, in a thread, when a guard has been killed and the job is to be ended in order.

        Without it the process sends SIGTERM to itself.
        """
        with self._lock:
            self._callback = callback
            late = self._abandoned
        if late:
            threading.Thread(target=callback, daemon=True).start()

    def _watch(self) -> None:
        os.read(self._lifeline, 1)  # it only ever ends
        with self._lock:
            self._abandoned = True
            callback = self._callback
        callback()

    def _tell(self, *words: str) -> None:
        record = remains.record(words)
        with self._lock:
            self._told = [pipe for pipe in self._told if _written(pipe, record)]


def _end_in_order() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _real(path: Path) -> str:
    """Return the path without links on the way; what stands at its end is not followed."""
    return os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118 - no Path: as it is told


def _written(pipe: int, record: bytes) -> bool:
    """Write a record whole, or say that the pipe is of no use any more."""
    try:
        return os.write(pipe, record) == len(record)
    except OSError:  # its guard has gone, or is stopped and the pipe is full
        return False
