"""Removes private data directories that no job uses, with the containers and the credentials that belong to them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ee_runner import locks
from ee_runner.cleanup import Say, patterns, trees, usage
from ee_runner.cleanup.patterns import Match
from ee_runner.errors import ConfigurationError, EngineError

REGISTRY_AUTH_PREFIX = "ansible_runner_registry_"
"""How ansible-runner names its directories of registry credentials; the ident and a random word follow."""

_RANDOM_WORDS = (r"[a-z0-9_]{8}", r"[^_]+")
"""The word that mkdtemp makes, and what others may put in its place."""


def sweep(
    pattern: str, *, exclude_strings: Iterable[object], grace_period: float, executable: str, say: Say
) -> tuple[int, tuple[str, ...]]:
    """Do what `ee_runner.cleanup.remove_directories` promises."""
    if grace_period < 0:
        raise ConfigurationError(f"grace_period: 0 or more minutes are expected, not {grace_period}")
    words = [word for text in exclude_strings for word in str(text).split()]
    newest = time.time() - grace_period * 60 if grace_period else None
    found = [match for match in patterns.matches(pattern) if not any(word in match.path for word in words)]
    broom = _Broom(usage.Usage(executable), say)
    for match in found:
        broom.take(match, newest=newest)
    broom.remove_credentials()
    return broom.removed, tuple(broom.failed)


@dataclass(slots=True)
class _Broom:
    """Goes over the directories of one pattern, and counts."""

    usage: usage.Usage
    say: Say
    removed: int = 0
    failed: list[str] = field(default_factory=list)
    idents: set[str] = field(default_factory=set)

    def take(self, match: Match, *, newest: float | None) -> None:
        """Remove a directory unless it is in use, or was changed since `newest`."""
        try:
            entry = match.real.lstat()
            if stat.S_ISLNK(entry.st_mode):
                self.say(f"Excluding the symbolic link {match.shown} from cleanup")
            elif stat.S_ISDIR(entry.st_mode) and (newest is None or entry.st_mtime <= newest):
                self._take_directory(match)
        except FileNotFoundError:  # someone else was faster
            return
        except OSError as error:
            self._fail(match, [f"{match.real}: {(error.strerror or str(error)).lower()}"])

    def _take_directory(self, match: Match) -> None:
        """Look and remove while the directory is held: a worker that starts now does not start in it."""
        with trees.opened(match.real) as directory:
            if _moved(directory, match.real):
                return
            held = locks.take(directory)
            if not held or usage.has_running_job(directory) or self._is_used(match.real):
                self.say(f"Excluding running project {match.shown} from cleanup")
                return
            doubt = self._doubt(match.real)
            if doubt:
                self.say(f"Excluding project {match.shown} from cleanup: {doubt}")
                return
            idents = usage.idents(directory)
            failures = _removed(directory, match.real)
        if failures:
            self._fail(match, failures)
            return
        self.removed += 1
        self.idents.update(idents)

    def _is_used(self, real: Path) -> bool:
        return self.usage.by_process(real) or self.usage.by_container(real)

    def _doubt(self, real: Path) -> str:
        """Say why a directory must stay although nothing is seen to use it; its abandoned containers go."""
        if self.usage.by_mount(real):
            return "something is mounted in it"
        if self.usage.doubts:
            return " ".join(self.usage.doubts)
        try:
            self.usage.remove_abandoned(real)
        except EngineError as error:
            return str(error)
        return ""

    def _fail(self, match: Match, reasons: list[str]) -> None:
        more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        self.say(f"Could not remove {match.shown}: {patterns.plain(reasons[0])}{more}")
        self.failed.append(match.shown)

    def remove_credentials(self) -> None:
        """Remove the registry credentials that ansible-runner kept for jobs whose directories are gone."""
        if not self.idents:
            return
        for path in sorted(Path(tempfile.gettempdir()).glob(f"{REGISTRY_AUTH_PREFIX}*")):
            if _ident_of(path.name) in self.idents and _is_own_directory(path):
                self._remove_credentials_in(path)

    def _remove_credentials_in(self, path: Path) -> None:
        if self.usage.by_process(path.parent.resolve() / path.name):
            return
        try:
            with trees.opened(path) as directory:
                failures = trees.remove(directory, path)
        except OSError as error:
            failures = [f"{path}: {(error.strerror or str(error)).lower()}"]
        if failures:
            self._fail(Match(str(path), path), failures)
        else:
            self.say(f"Removed associated registry auth dir {patterns.plain(str(path))}")


def _moved(directory: int, real: Path) -> bool:
    """Say whether what was opened is not what was looked at: someone put a link into the path meanwhile."""
    with suppress(FileNotFoundError):  # no /proc
        return Path(f"/proc/self/fd/{directory}").readlink() != real
    return False


def _ident_of(name: str) -> str | None:
    """Return the ident in the name of a directory of registry credentials; idents have underscores too."""
    for word in _RANDOM_WORDS:
        named = re.fullmatch(rf"{REGISTRY_AUTH_PREFIX}(.+)_{word}", name, re.DOTALL)
        if named:
            return named[1]
    return None


def _is_own_directory(path: Path) -> bool:
    with suppress(OSError):
        found = path.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return False


def _removed(directory: int, real: Path) -> list[str]:
    """Remove a directory and return what could not be: files of a rootless container's users take podman."""
    failures = trees.remove(directory, real)
    podman = shutil.which("podman") if failures and os.geteuid() != 0 else None
    if podman is None:
        return failures
    from ee_runner.executor import capture

    with suppress(EngineError):
        capture((podman, "unshare", "rm", "-rf", "--one-file-system", "--", str(real)), timeout=600)
    return failures if os.path.lexists(real) else []
