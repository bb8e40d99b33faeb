"""How values reach a container without showing on a command line, and the files that this takes."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ee_runner import names, pipes
from ee_runner.errors import ConfigurationError
from ee_runner.job import Mount
from ee_runner.plan import ExecutionPlan
from ee_runner.secrets import Secret, mask_environment

SECRETS = PurePosixPath("/run/ee_runner_environment")
"""Where the pipe with the secret variables lands inside: beside the per-run directory, whatever that is."""

SHELL = "/bin/sh"
STARTER = "ee_runner_job"
"""What the shell that starts a job calls itself when it says what is wrong."""

_PRIVATE = 0o600
_SCRIPT = f'. {SECRETS}; exec "$@"'
_SHELL_NAME = r"[A-Za-z_][A-Za-z0-9_]*"

_STEERING = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TMPDIR", "ENV", "BASH_ENV", "LANG", "LANGUAGE"),
    *("REGISTRY_AUTH_FILE", "NOTIFY_SOCKET", "SSH_AUTH_SOCK"),
    *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"),
)
_STEERING_FAMILIES = (
    *("LC_", "LD_", "XDG_", "DBUS_", "CONTAINER_", "CONTAINERS_", "_CONTAINER_", "_CONTAINERS_", "PODMAN_", "BUILDAH_"),
    *("STORAGE_", "CNI_", "DOCKER_", "BUILDKIT_", "OTEL_", "LISTEN_", "SSL_CERT_", "PYTHON"),
)
"""Variables that would steer the engine's own client if they were put into its environment."""


class Handed(NamedTuple):
    """How a job's variables reach its container.

    `options` go to the client's ``run``, `client` into the client's own environment, `argv` is what the container runs
    in place of the job's words, and `mounts` are needed for that.
    """

    options: tuple[str, ...]
    client: Mapping[str, str]
    argv: tuple[str, ...]
    mounts: tuple[Mount, ...] = ()


def environment(plan: ExecutionPlan, scratch: Scratch, *, engine: str) -> Handed:
    """Hand the plan's variables over: what a container's description must not show goes through a pipe.

    A shell inside reads that, and becomes the job. Raises ConfigurationError for variables that can not be handed over.
    """
    if not pipes.reach(engine, plan.container.options, os.environ):
        return Handed(*_shown(plan.env, scratch), plan.argv)
    plain, secret = split_secrets(plan.env, plan.passwords.values(), own=plan.own_env)
    if not secret:
        return Handed(*_shown(plain, scratch), plan.argv)
    shell_text = os.fsencode("".join(map(_export, secret.items())))
    odd = {name: value for name, value in plain.items() if not _is_shell_name(name)}  # shells drop these
    again = ("env", *(f"{name}={value}" for name, value in odd.items())) if odd else ()
    words = (SHELL, "-c", _SCRIPT, STARTER, *again, *plan.argv)
    mount = Mount(scratch.pipe("secrets", shell_text, mode=0o644), SECRETS, read_only=True)  # for any user inside
    return Handed(*_shown(plain, scratch), words, (mount,))


def split_secrets(
    env: Mapping[str, str], known: Collection[Secret], *, own: Collection[str] = ()
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables that may be seen, and those that hold a secret: what the artifact ``command`` masks.

    `own` are the names of variables that may hold one, see `mask_environment`; no shell has to know them.
    """
    masked = mask_environment(env, known, own={name for name in own if _is_shell_name(name)})
    secret = {name: value for name, value in env.items() if value and masked[name] != value}
    for name, value in secret.items():
        if not _is_shell_name(name) or "\0" in value:
            raise ConfigurationError(
                f"The variable {name!r} seems to hold a secret, and can not be handed to a container unseen. "
                "Use a name of letters, digits and underscores."
            )
    return {name: value for name, value in env.items() if name not in secret}, secret


def _is_shell_name(name: str) -> bool:
    return re.fullmatch(_SHELL_NAME, name) is not None


def _export(variable: tuple[str, str]) -> str:
    """Return a variable as a line for a shell; single quotes keep line breaks and all else."""
    name, value = variable
    quoted = value.replace("'", "'\\''")
    return f"export {name}='{quoted}'\n"


def _shown(env: Mapping[str, str], scratch: Scratch) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the options of the client's ``run``, and what they need in the client's environment."""
    by_name, in_file = split_environment(env)
    words = ("--env-file", str(scratch.write("env", environment_file(in_file)))) if in_file else ()
    return (*words, *(word for name in by_name for word in ("--env", name))), by_name


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
        if not _steers(name) and "*" not in name:
            by_name[name] = value
        elif "\n" in value or "\r" in value:
            raise ConfigurationError(f"The environment variable {name} of a container can not hold a line break.")
        else:
            in_file[name] = value
    return by_name, in_file


def _steers(name: str) -> bool:
    """Say whether the variable means something to the client, in either case; Go's own are GO and a word."""
    upper = name.upper()
    of_go = upper.startswith("GO") and upper[2:].isalpha()
    return of_go or upper in _STEERING or upper.startswith(_STEERING_FAMILIES)


def environment_file(env: Mapping[str, str]) -> str:
    """Return the variables in the form of ``--env-file``."""
    return "".join(f"{name}={value}\n" for name, value in env.items())


class Scratch:
    """A directory of what one client call reads: files that anybody may read, and named pipes for the rest."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack

    def write(self, name: str, text: str, *, mode: int = 0o600) -> Path:
        """Give the path of a text; what is private (0600) is read from a pipe, and so lies in no file."""
        data = text.encode("utf-8", "surrogateescape")
        if mode == _PRIVATE:
            return self.pipe(name, data, again=True)
        path = self._directory / name
        path.touch(mode=_PRIVATE)
        path.chmod(mode)
        path.write_bytes(data)
        return path

    def pipe(self, name: str, data: bytes, *, again: bool = False, mode: int = 0o600) -> Path:
        """Give the path of a named pipe from which the data is read once, or `again` and again."""
        return self._stack.enter_context(pipes.handed_out(self._directory / name, data, again=again, mode=mode))

    def directory(self, name: str, *, mode: int) -> Path:
        path = self._directory / name
        path.mkdir()
        path.chmod(mode)
        return path


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Scratch]:
    """Give a scratch directory in `parent`, where that exists, and remove it with all in it."""
    import shutil
    import tempfile

    place = parent if parent is not None and parent.is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix=names.run_prefix(), dir=place))
    try:
        with ExitStack() as stack:
            yield Scratch(directory, stack)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def memory() -> Path | None:
    """Return a directory in memory for what must not reach a disk, or None where there is none."""
    for place in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):  # noqa: S108 - a private directory is made in it
        if place and Path(place).is_dir() and os.access(place, os.W_OK | os.X_OK):
            return Path(place)
    return None
