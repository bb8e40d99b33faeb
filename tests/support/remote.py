"""Remote jobs in tests: ends of ansible-runner and of this package as processes, and what can be compared of them."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from .processes import REPO
from .venvs import Venv

OURS, THEIRS = "ours", "theirs"
SIDES = (OURS, THEIRS)
REQUIREMENTS = ("ansible-runner==2.4.3", "ansible-core<2.20")
Mix = tuple[str, str, str]
"""Whose transmit, worker and process."""

MIXES: tuple[Mix, ...] = tuple(product(SIDES, SIDES, SIDES))

_PROGRAM = REPO / "tests/support/remote_end.py"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?")
_DURATION = re.compile(r"0:00:\d\d\.\d{6}")
_VOLATILE = ("pid", "duration")


@dataclass(frozen=True, slots=True)
class Done:
    """An end that came to its end: what it wrote, its exit code, and what its program was told."""

    rc: int
    output: bytes
    errors: str
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ends:
    """Starts the ends of both sides; all find the Ansible that stands beside ansible-runner."""

    peer: Venv
    home: Path

    def command(self, side: str, *arguments: str | Path, stdin: bytes = b"") -> Done:
        """Run a subcommand."""
        return self._done(side, ["-m", "ansible_runner", *map(str, arguments)], stdin)

    def library(self, side: str, streamer: str, report: Path, keywords: Mapping[str, Any], stdin: bytes = b"") -> Done:
        """Run a program that calls `run` with these keywords."""
        done = self._done(side, [str(_PROGRAM), streamer, json.dumps(keywords), str(report)], stdin)
        return Done(done.rc, done.output, done.errors, json.loads(report.read_text()) if report.exists() else {})

    def _done(self, side: str, arguments: Sequence[str], stdin: bytes) -> Done:
        python = sys.executable if side == OURS else str(self.peer.bin / "python")
        environment = self.peer.environment(self.home)
        if side == THEIRS:
            del environment["PYTHONPATH"]
        done = subprocess.run(
            [python, *arguments],
            input=stdin,
            cwd=self.home,
            env=environment,
            capture_output=True,
            check=False,
            timeout=120,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


class Comparable:
    """Replaces paths, UUIDs, times and process ids; a UUID by a number, so that what belongs together still does."""

    def __init__(self, **paths: Path) -> None:
        self._paths = {str(path): f"<{name}>" for name, path in paths.items()}
        self._uuids: dict[str, str] = {}

    def of(self, value: Any, key: str = "") -> Any:
        if key in _VOLATILE:
            return type(value).__name__
        if isinstance(value, dict):
            return {self.text(name): self.of(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [self.of(item) for item in value]
        return self.text(value) if isinstance(value, str) else value

    def text(self, text: str) -> str:
        for path, name in self._paths.items():
            text = text.replace(path, name)
        text = _UUID.sub(lambda found: self._uuids.setdefault(found[0], f"<uuid {len(self._uuids) + 1}>"), text)
        return _DURATION.sub("<duration>", _MOMENT.sub("<moment>", text))


def tree(directory: Path) -> dict[str, str]:
    """Return what is below a directory by name: the kind, the permissions, and the content or the target."""
    found: dict[str, str] = {}
    for above, directories, files in os.walk(directory):
        for name in (*directories, *files):
            path = Path(above, name)
            found[os.fsencode(path.relative_to(directory)).decode("utf-8", "backslashreplace")] = _described(path)
    return dict(sorted(found.items()))


def _described(path: Path) -> str:
    status = path.lstat()
    mode = f"{stat.S_IMODE(status.st_mode):o}"
    if stat.S_ISLNK(status.st_mode):
        return f"link to {path.readlink()}"
    if stat.S_ISDIR(status.st_mode):
        return f"directory {mode}"
    return f"file {mode} {path.read_bytes().decode(errors='backslashreplace')}"
