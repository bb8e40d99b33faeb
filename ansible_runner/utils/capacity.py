"""What this machine has for jobs, and the identifier by which it is known."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

_IDENTIFIER = ".ansible_runner_uuid"


def get_cpu_count() -> int:
    """Return the number of processors."""
    return os.cpu_count() or 1


def get_mem_in_bytes() -> int:
    """Return the size of the memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def ensure_uuid(uuid_file_path: Path | None = None, mode: int = 0o600) -> str:
    """Return the identifier that a file holds, after making it where it is absent; in the home by default."""
    path = uuid_file_path or Path.home() / _IDENTIFIER
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError:
        return path.read_text().strip()
    identifier = str(uuid.uuid4())
    with os.fdopen(descriptor, "w") as file:
        file.write(identifier)
    return identifier
