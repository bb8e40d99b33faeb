"""Helpers that programs take from ansible-runner; most are a name for something that `ee_runner` or Python has."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
import threading
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ee_runner import retention
from ee_runner.errors import ConfigurationError

_FORBIDDEN_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")


class Bunch(SimpleNamespace):
    """An object of the attributes that it is given."""

    def update(self, **attributes: Any) -> None:
        """Set these attributes."""
        vars(self).update(attributes)

    def get(self, key: str) -> Any:
        """Return an attribute, None when there is none of that name."""
        return vars(self).get(key)


def isplaybook(obj: Any) -> bool:
    """Say whether an object is a playbook itself, a list of plays, and not the path of one."""
    return isinstance(obj, Iterable) and not isinstance(obj, str | Mapping)


def isinventory(obj: Any) -> bool:
    """Say whether an object is an inventory, or the path or the text of one."""
    return isinstance(obj, MutableMapping | str)


def args2cmdline(*args: str) -> str:
    """Return the words as one line for a shell."""
    return shlex.join(args)


def sanitize_container_name(original_name: str) -> str:
    """Return a name with the characters that engines forbid replaced by underscores.

    Names that differ may become the same; containers of jobs are named by `ee_runner.names.container_name`.
    """
    return _FORBIDDEN_IN_NAMES.sub("_", original_name)


def get_executable_path(name: str) -> str:
    """Return where a command of that name is found on PATH; raise ConfigurationError when it is not."""
    path = shutil.which(name)
    if path is None:
        raise ConfigurationError(f"There is no command {name!r} on PATH; install it, or add its directory to PATH.")
    return path


def check_isolation_executable_installed(isolation_executable: str) -> bool:
    """Say whether an engine's program is found on PATH; whether it works is told by the engine's `check`."""
    return shutil.which(isolation_executable) is not None


def cleanup_artifact_dir(path: str, num_keep: int = 0) -> None:
    """Remove all but the newest `num_keep` jobs below a directory; 0 keeps all, and a job that runs is kept."""
    if num_keep > 0:
        retention.rotate(Path(path), keep=num_keep)


def dump_artifact(obj: str, path: str, filename: str | None = None) -> str:
    """Write a text to a file with mode 0600 in the directory, which is made when it is absent, and return its path.

    Without a file name there is a new file with a name of its own. A file that holds the text already is left alone.
    """
    directory, data = Path(path), obj.encode()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if filename is not None and _holds(directory / filename, data):
        return str(directory / filename)
    descriptor, made = tempfile.mkstemp(dir=directory)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    return made if filename is None else str(Path(made).replace(directory / filename))


def _holds(file: Path, data: bytes) -> bool:
    try:
        return file.read_bytes() == data and file.stat().st_mode & 0o077 == 0
    except FileNotFoundError:
        return False


def open_fifo_write(path: str, data: str | bytes) -> None:
    """Make a named pipe with mode 0600 and hand the data to the one who reads it; returns at once.

    A thread waits for the reader and ends when the data are read. Raises FileExistsError when something is there.
    """
    os.mkfifo(path, 0o600)
    content = data.encode() if isinstance(data, str) else data
    threading.Thread(target=_write_when_read, args=(path, content), name=f"writer of {path}", daemon=True).start()


def _write_when_read(path: str, data: bytes) -> None:
    try:
        Path(path).write_bytes(data)
    except BrokenPipeError:  # the reader has seen enough
        return
