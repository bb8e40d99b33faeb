"""What this machine has for jobs, and the identifier by which it is known."""

from __future__ import annotations

from pathlib import Path

from ee_runner import node
from ee_runner.errors import RunnerError


def get_cpu_count() -> int:
    """Return the number of processors that jobs can have, within the limits of a container."""
    return node.cpu_count()


def get_mem_in_bytes() -> int | str:
    """Return the bytes of memory that jobs can have, within the limits of a container; words when it is unknown."""
    try:
        return node.memory()
    except RunnerError as error:
        return str(error)


def ensure_uuid(uuid_file_path: Path | None = None, mode: int = 0o600) -> str:
    """Return the identifier that a file holds, after making it where it is absent; in the home by default."""
    return node.identifier(uuid_file_path or Path.home() / node.IDENTIFIER, mode=mode)
