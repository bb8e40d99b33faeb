"""What a program has once said, kept in the caller's cache for as long as all that it depends on is the same."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_SLACK = 50_000_000
"""Nanoseconds by which a file system's clock may be late."""


def recall(kind: str, context: Sequence[str]) -> Any:
    """Return what was kept of this kind under these words, or None: there is nothing, or it may be out of date."""
    try:
        with _place(kind, context).open("rb") as file:
            if not _is_own(os.fstat(file.fileno())):
                return None
            kept = json.load(file)
        if kept["context"] == list(context) and all(_stamp(path) == then for path, then in kept["depends"].items()):
            return kept["answer"]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whatever lies there is not what was kept
    return None


def keep(kind: str, context: Sequence[str], answer: object, *, depends: Iterable[Path], began: int) -> None:
    """Keep an answer that holds while the paths in `depends` are what they are now, absent ones included.

    `began` is when the question was asked (`time.time_ns`): where a path has changed since then nothing is kept, as
    the answer may be older than the change. Nor is there where no cache can be written.
    """
    with contextlib.suppress(OSError, RuntimeError):  # without a cache it only takes longer
        stamps = {str(path): _stamp(path) for path in depends}
        if any(stamp is not None and stamp[-1] > began - _SLACK for stamp in stamps.values()):
            return
        place = _place(kind, context)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f"{place.name}.{os.urandom(6).hex()}")
        partial.touch(mode=0o600, exist_ok=False)
        partial.write_text(json.dumps({"context": list(context), "depends": stamps, "answer": answer}))
        partial.replace(place)


def is_script(program: Path) -> bool:
    """Say whether a program may be a script: what it answers depends on more than can be told from here."""
    try:
        with program.open("rb") as file:
            return file.read(4) != b"\x7fELF"
    except OSError:
        return True


def _place(kind: str, context: Sequence[str]) -> Path:
    """Return the file of an answer, RuntimeError when the caller has no home."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "ee-runner" / kind / f"{re.sub(r'[^A-Za-z0-9.-]', '_', context[0])[-200:]}.json"


def _is_own(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _stamp(path: str | Path) -> list[int] | None:
    """Return what changes with a file, or with the names in a directory; its last change comes last."""
    try:
        status = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
