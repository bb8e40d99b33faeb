"""Virtual environments with programs of others in them, made once and kept in the cache of the test images."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .processes import REPO, checked

_PACKAGES = ("ee_runner", "ansible_runner")


@dataclass(frozen=True, slots=True)
class Venv:
    """A virtual environment, and the packages of this checkout as `PYTHONPATH` shows them to it.

    They are no part of it: it is shared by all checkouts, and holds no other ansible_runner.
    """

    bin: Path
    checkout: Path

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Return what the programs in it run with, for a user who has just come to the machine."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "RUNNER_"))}
        return {
            **kept,
            "HOME": str(home),
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.checkout),
            "LC_ALL": "C.UTF-8",
            "TERM": "xterm",
            **more,
        }

    def run(self, *argv: str | Path, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment to its end, without a terminal."""
        program, *arguments = map(str, argv)
        return subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            text=True,
            capture_output=True,
            check=False,
            timeout=240,
        )


def ensure(*requirements: str, alone: tuple[str, ...] = (), scratch: Path) -> Venv:
    """Return a virtual environment that holds the requirements, and those of `alone` without what they depend on.

    What this project itself requires is there too. `scratch` is a new directory that lasts as long as the environment
    is used.
    """
    requirements = (*_own_requirements(), *requirements)
    for package in _PACKAGES:
        (scratch / package).symlink_to(REPO / package)
    wanted = "\n".join((sys.version, *requirements, "--no-deps", *alone))
    place = _cache() / f"venv-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}"
    with _locked(place):
        if not (place / ".complete").exists():
            _make(place, requirements, alone)
    return Venv(place / "bin", scratch)


def _own_requirements() -> tuple[str, ...]:
    return tuple(each for each in metadata.requires("ee-runner") or () if "extra ==" not in each)


def _make(place: Path, requirements: tuple[str, ...], alone: tuple[str, ...]) -> None:
    shutil.rmtree(place, ignore_errors=True)
    checked([sys.executable, "-m", "venv", place])
    python = str(place / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    checked([*install, *requirements])
    if alone:
        checked([*install, "--no-deps", *alone])
    (place / ".complete").touch()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ee-runner"


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Hold the environment while it is made, against other test sessions."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
