"""What a pattern for private data directories matches, and what it must not match."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ee_runner.errors import ConfigurationError

_SYSTEM = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sbin", "/sys", "/usr")
"""Not these, and nothing below them; shared memory apart."""

_HOLDERS = ("/home", "/run", "/run/user", "/var", "/var/cache", "/var/lib", "/var/log", "/var/spool")
"""Not these, and not what is directly in them."""

_OTHERS = ("/", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp")  # noqa: S108 - named to be left alone
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - jobs have directories in it
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Match:
    """A path as the pattern gave it, and without symbolic links above its last part."""

    path: str
    real: Path

    @property
    def shown(self) -> str:
        """The path on one line of plain text, whatever its name."""
        return plain(self.path)


def matches(pattern: str) -> list[Match]:
    """Return what matches, sorted; raises ConfigurationError when that is more than private data directories."""
    found = [Match(path, real(path)) for path in sorted(glob.glob(pattern))]  # noqa: PTH207 - paths as they are typed
    bad = [match.shown for match in found if is_precious(match.real)]
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise ConfigurationError(
            f"The pattern {plain(pattern)} matches {' '.join(bad[:_SHOWN])}{more}, which no job made: a directory of "
            "the system, a home directory, or one that holds such. Nothing was removed. Give a pattern that private "
            f"data directories alone match, such as {tempfile.gettempdir()}/.ansible-runner-*."
        )
    return found


def plain(text: str) -> str:
    """Return text with question marks for what does not print, such as a line break that would forge a line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def real(path: str) -> Path:
    """Resolve all but the last part of a path: what is removed is the entry itself, a link and not what it leads to."""
    above, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        return Path(path).resolve()
    return Path(above or ".").resolve() / name


def is_precious(path: Path, others: Iterable[Path] = ()) -> bool:
    """Say whether a path, as `real` gives it, is no job's: of the system, a home, one of `others`, or holds such."""
    if path in _kept(others) or path.parent in frozenset(_resolved(_HOLDERS)):
        return True
    if _SHARED_MEMORY in path.parents:
        return False
    return any(Path(top) in path.parents for top in _SYSTEM)


def _kept(others: Iterable[Path]) -> frozenset[Path]:
    """Return the directories that must stay as they are, and with them all that hold them."""
    named = {Path(name) for name in (*_OTHERS, *_SYSTEM, *_HOLDERS, tempfile.gettempdir())} | {_SHARED_MEMORY, *others}
    with suppress(RuntimeError):
        named.add(Path.home())
    named |= {Path(runtime) for runtime in (os.environ.get("XDG_RUNTIME_DIR"),) if runtime}
    kept = named | {path.resolve() for path in named}
    return frozenset(kept | {above for path in kept for above in path.parents})


def _resolved(names: tuple[str, ...]) -> Iterator[Path]:
    for name in names:
        yield Path(name)
        yield Path(name).resolve()
