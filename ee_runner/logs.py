"""The log of this library, kept for the length of one job by who asks for it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from ee_runner.errors import ConfigurationError

if TYPE_CHECKING:
    import logging


class _Log:
    """The logger ``ee_runner``, which loads `logging` when there is something to say, or somebody may listen."""

    def debug(self, message: str, *arguments: object, exc_info: bool = False) -> None:
        if "logging" in sys.modules:
            self.__getattr__("debug")(message, *arguments, exc_info=exc_info, stacklevel=2)

    def __getattr__(self, name: str) -> Any:
        import logging

        return getattr(logging.getLogger("ee_runner"), name)


log = cast("logging.Logger", _Log())
_lock = threading.Lock()
_levels: list[int] = []
"""The level as it was found, once for each job that logs at the moment."""


@contextlib.contextmanager
def logging_to(*, debug: bool, logfile: Path | None) -> Iterator[None]:
    """Log in detail for the length of the block: to standard error with `debug`, and to a file.

    Raises ConfigurationError for a file that can not be written.
    """
    with contextlib.ExitStack() as stack:
        streams: list[TextIO] = [sys.stderr] if debug else []
        if logfile:
            streams.append(stack.enter_context(_opened(logfile)))
        for stream in streams:
            stack.enter_context(_shown_on(stream))
        if streams:
            stack.enter_context(_in_detail())
        yield


@contextlib.contextmanager
def _shown_on(stream: TextIO) -> Iterator[None]:
    import logging

    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def _in_detail() -> Iterator[None]:
    """Let everything through as long as any job logs; the last of them leaves the level as the first found it."""
    import logging

    with _lock:
        _levels.append(_levels[0] if _levels else log.level)
        log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        with _lock:
            before = _levels.pop()
            if not _levels:
                log.setLevel(before)


def _opened(path: Path) -> TextIO:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigurationError(f"The log file {path} can not be written: {error.strerror}.") from error
