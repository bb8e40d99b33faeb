"""Identifiers, and the container names made from them."""

from __future__ import annotations

import functools
import os
import re

CONTAINER_PREFIX = "ansible_runner_"

_LONGEST = 100
_RUN_PREFIX = "ee_runner_[0-9]+_[0-9a-f]{8}_"
_OWN = rf"{_RUN_PREFIX}.*|\.ee_runner_[0-9a-f]{{16}}\.yml|\.ansible-runner-.*"
_UNSAFE = r"[^a-zA-Z0-9_.-]"
_HASHED = r"_[0-9a-f]{12}\Z"
"""Expressions, not compiled: few jobs come to need them."""


def new_ident() -> str:
    """Return a random identifier: a UUID of version 4 (RFC 9562), as the seed's section 1.13 has it."""
    number = bytearray(os.urandom(16))
    number[6] = 0x40 | number[6] & 0x0F
    number[8] = 0x80 | number[8] & 0x3F
    text = number.hex()  # the module uuid costs more to load than all that is here
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def run_prefix() -> str:
    """Return how the names of this process's own directories begin, so that a guardian finds them, and them alone."""
    return _run_prefix(os.getpid())


@functools.cache
def _run_prefix(pid: int) -> str:
    return f"ee_runner_{pid}_{os.urandom(4).hex()}_"


def is_run_prefix(text: str) -> bool:
    """Say whether `run_prefix` gives this text, here or in another process."""
    return re.fullmatch(_RUN_PREFIX, text) is not None


def maker_of(name: str) -> int | None:
    """Return the pid of the process whose own directory has a name like this; None when it is no such name."""
    begins = re.match(r"ee_runner_([0-9]+)_", name)
    return int(begins[1]) if begins else None


def is_own(name: str) -> bool:
    """Say whether nobody but this library gives a file or a directory such a name."""
    return re.fullmatch(_OWN, name, re.DOTALL) is not None


def ident_problem(ident: str) -> str | None:
    """Say why an identifier can not name an artifact directory, or None when it can."""
    if not ident or ident in (".", ".."):
        return "it must name a directory"
    if "/" in ident or "\0" in ident:
        return "it must not contain '/' or NUL"
    if any("\ud800" <= letter <= "\udfff" for letter in ident):
        return "it must be text in UTF-8"
    if len(ident.encode()) > 200:
        return "it must not be longer than 200 bytes"
    return None


def container_name(ident: str) -> str:
    """Return ``ansible_runner_<ident>`` with characters that engines forbid replaced by underscores.

    An identifier that had to be changed, or that looks as if it had been, gets a hash of the original: two
    identifiers never share a name (seed, section 6.2.2).
    """
    safe = re.sub(_UNSAFE, "_", ident)
    if safe == ident and len(safe) <= _LONGEST and not re.search(_HASHED, safe):
        return CONTAINER_PREFIX + safe
    import hashlib  # loads OpenSSL, which most jobs need not

    digest = hashlib.sha256(ident.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{CONTAINER_PREFIX}{safe[:_LONGEST]}_{digest}"
