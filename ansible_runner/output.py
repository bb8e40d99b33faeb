"""Messages of the runner itself, through the logger `ee_runner`; for programs that configure them by these names."""

from __future__ import annotations

import logging
import sys

_LOG = logging.getLogger("ee_runner")
_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def display(msg: str, log_only: bool = False) -> None:
    """Log a message, and print it to standard output unless it is for the log alone."""
    _LOG.info(msg)
    if not log_only:
        sys.stdout.write(f"{msg}\n")


def debug(msg: str) -> None:
    """Log a message that is seen when debugging is enabled."""
    _LOG.debug(msg)


def set_debug(value: str) -> None:
    """Let debugging messages through, or hold them back: ``enable`` or ``disable``."""
    if value not in ("enable", "disable"):
        raise ValueError(f"debug is 'enable' or 'disable', not {value!r}")
    _LOG.setLevel(logging.DEBUG if value == "enable" else logging.INFO)


def set_logfile(filename: str) -> None:
    """Append what is logged to a file as well, debugging messages where they are let through."""
    if _LOG.level == logging.NOTSET:
        _LOG.setLevel(logging.INFO)
    handler = logging.FileHandler(filename)
    handler.setFormatter(logging.Formatter(_FORMAT))
    _LOG.addHandler(handler)
