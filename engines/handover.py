"""How values reach a container without showing on a command line, and the files that this takes."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ee_runner import names
from ee_runner.errors import ConfigurationError

_STEERING = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TERM|TMPDIR|ENV|BASH_ENV|LANG|LANGUAGE|LC_.*|LD_.*|GO[A-Z]+|XDG_.*|DBUS_.*|"
    r"_?CONTAINERS?_.*|PODMAN_.*|BUILDAH_.*|STORAGE_.*|CNI_.*|DOCKER_.*|BUILDKIT_.*|OTEL_.*|REGISTRY_AUTH_FILE|"
    r"LISTEN_.*|NOTIFY_SOCKET|SSL_CERT_.*|SSH_AUTH_SOCK|PYTHON.*|(HTTPS?|FTP|NO|ALL)_PROXY",
    re.IGNORECASE,
)
"""Variables that would steer the engine's own client if they were put into its environment."""


def split_environment(env: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables for the client's environment, and those for a file that it reads.

    podman's ``-e NAME*`` stands for all of the client's variables that begin so: a name with an asterisk needs the
    file. Raises ConfigurationError for a name that is none, and for a line break in a variable that needs the file.
    """
    by_name: dict[str, str] = {}
    in_file: dict[str, str] = {}
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value or name[0] == "#" or name != name.strip():
            raise ConfigurationError(f"{name!r} can not be an environment variable of a container.")
        if not _STEERING.fullmatch(name) and "*" not in name:
            by_name[name] = value
        elif "\n" in value or "\r" in value:
            raise ConfigurationError(f"The environment variable {name} of a container can not hold a line break.")
        else:
            in_file[name] = value
    return by_name, in_file


def environment_file(env: Mapping[str, str]) -> str:
    """Return the variables in the form of ``--env-file``."""
    return "".join(f"{name}={value}\n" for name, value in env.items())


class Scratch:
    """A directory of files for one client call; each has mode 0600 unless said otherwise."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, name: str, text: str, *, mode: int = 0o600) -> Path:
        path = self._directory / name
        path.touch(mode=0o600)
        path.chmod(mode)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        return path

    def directory(self, name: str, *, mode: int) -> Path:
        path = self._directory / name
        path.mkdir()
        path.chmod(mode)
        return path


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Scratch]:
    """Give a scratch directory in `parent`, where that exists, and remove it with all in it."""
    place = parent if parent is not None and parent.is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix=names.run_prefix(), dir=place))
    try:
        yield Scratch(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def memory() -> Path | None:
    """Return a directory in memory for what must not reach a disk, or None where there is none."""
    for place in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):  # noqa: S108 - a private directory is made in it
        if place and Path(place).is_dir() and os.access(place, os.W_OK | os.X_OK):
            return Path(place)
    return None
