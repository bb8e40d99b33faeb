"""The log of this library, kept for the length of one job by who asks for it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from ee_runner.errors import ConfigurationError

log = logging.getLogger("ee_runner")


@contextlib.contextmanager
def logging_to(*, debug: bool, logfile: Path | None) -> Iterator[None]:
    """Log in detail for the length of the block: to standard error with `debug`, and to a file.

    Raises ConfigurationError for a file that can not be written.
    """
    handlers: list[logging.Handler] = []
    if debug:
        handlers.append(logging.StreamHandler())
    if logfile:
        handlers.append(logging.StreamHandler(os.fdopen(_opened(logfile), "a", encoding="utf-8")))
    before = log.level
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.DEBUG if handlers else logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"The log file {path} can not be written: {error.strerror}.") from error
