"""Identifiers, and the container names made from them."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import uuid

CONTAINER_PREFIX = "ansible_runner_"

_UNSAFE = re.compile(r"[^a-zA-Z0-9_.-]")
_HASHED = re.compile(r"_[0-9a-f]{12}\Z")
_LONGEST = 100


def new_ident() -> str:
    """Return a random identifier: a UUID, as the seed's section 1.13 has it."""
    return str(uuid.uuid4())


def run_prefix() -> str:
    """Return how the names of this process's own directories begin, so that a guardian finds them, and them alone."""
    return _run_prefix(os.getpid())


@functools.cache
def _run_prefix(pid: int) -> str:
    return f"ee_runner_{pid}_{os.urandom(4).hex()}_"


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
    safe = _UNSAFE.sub("_", ident)
    if safe == ident and len(safe) <= _LONGEST and not _HASHED.search(safe):
        return CONTAINER_PREFIX + safe
    digest = hashlib.sha256(ident.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{CONTAINER_PREFIX}{safe[:_LONGEST]}_{digest}"
