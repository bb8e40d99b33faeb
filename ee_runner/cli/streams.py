"""The standard streams of the command."""

from __future__ import annotations

import os

_LAST_STANDARD = 2


def occupy_standard_streams() -> None:
    """Point those of descriptors 0 to 2 that are closed nowhere: the next file opened would be taken for one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
