"""Looks for secrets by their bytes: in files, in what processes have open, and in what they show of themselves.

A secret is recognised by a core that nobody could guess, of letters and digits: so quoting and escaping (JSON, URLs,
shells) leave it as it is, and what is left are encodings.
"""

from __future__ import annotations

import base64
import functools
import os
import stat
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 1 << 20


def core() -> str:
    """Return what a secret of a test holds, and nothing else does."""
    return uuid.uuid4().hex


@functools.lru_cache
def forms(text: str) -> dict[bytes, str]:
    """Return the text in the encodings in which it is looked for, each with its name."""
    plain = text.encode()
    found = {
        plain: "as it is",
        plain.hex().encode(): "in hexadecimal",
        plain.hex().upper().encode(): "in hexadecimal",
        text.encode("utf-16-le"): "in UTF-16",
        text.encode("utf-16-be"): "in UTF-16",
        plain[::-1]: "backwards",
    }
    for before in range(3):
        # The letters that depend on what stands before and behind are left out.
        whole = base64.b64encode(bytes(before) + plain)
        inner = whole[-(-before * 4 // 3) : (before + len(plain)) * 8 // 6]
        found |= {inner: "in base64", inner.translate(bytes.maketrans(b"+/", b"-_")): "in base64"}
    return found


@dataclass(frozen=True, slots=True)
class Searcher:
    """Looks for all of these secrets, which have names, in what has changed since a moment."""

    secrets: Mapping[str, str]
    since: float = 0.0
    """Seconds since the epoch; files whose inode has not changed since then are passed over."""

    def in_bytes(self, data: bytes) -> list[str]:
        """Return which secrets are in the data, and how they are written; broken over lines too."""
        joined = data.translate(None, b"\r\n")
        return [
            f"{name} {form}"
            for name, secret in self.secrets.items()
            for needle, form in forms(secret).items()
            if needle in data or needle in joined
        ]

    def in_file(self, path: Path) -> list[str]:
        overlap = 4 * max(map(len, self.secrets.values()), default=0)
        found: dict[str, None] = {}
        with suppress(OSError), path.open("rb") as file:
            before = b""
            while block := file.read(_BLOCK):
                found |= dict.fromkeys(self.in_bytes(before + block))
                before = block[-overlap:]
        return list(found)

    def in_trees(self, roots: Iterable[Path], *, apart: Collection[Path] = ()) -> list[str]:
        """Search all files below these directories, their names and what links lead to; not what lies in `apart`."""
        return [f"{path}: {what}" for path in _files(roots, self.since, set(apart)) for what in self._at(path)]

    def _at(self, path: Path) -> list[str]:
        found = self.in_bytes(os.fsencode(path))
        with suppress(OSError):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                found += self.in_bytes(os.fsencode(path.readlink()))
            elif stat.S_ISREG(mode):
                found += self.in_file(path)
        return found

    def in_command_lines(self) -> list[str]:
        """Search the arguments and names of all processes."""
        return [f"{entry}: {what}" for entry in _processes("cmdline", "comm") for what in self.in_bytes(_read(entry))]

    def in_environments(self) -> dict[int, list[str]]:
        """Return the processes in whose environment secrets are, with what was found there."""
        found = {int(entry.parts[2]): self.in_bytes(_read(entry)) for entry in _processes("environ")}
        return {pid: what for pid, what in found.items() if what}

    def in_open_files(self, pids: Iterable[int], *, apart: Collection[Path] = ()) -> list[str]:
        """Search the files that these processes have open, those without a name too (unlinked, memfd)."""
        found = []
        for pid in pids:
            for entry in _list(Path(f"/proc/{pid}/fd")):
                with suppress(OSError):
                    if stat.S_ISREG(entry.stat().st_mode) and entry.readlink() not in apart:
                        found += [f"{entry} ({entry.readlink()}): {what}" for what in self.in_file(entry)]
        return found


def _files(roots: Iterable[Path], since: float, apart: set[Path]) -> Iterator[Path]:
    for root in roots:
        for entry in _list(root):
            if entry in apart:
                continue
            with suppress(OSError):
                found = entry.lstat()
                if found.st_ctime >= since:
                    yield entry
                if stat.S_ISDIR(found.st_mode):
                    yield from _files([entry], since, apart)


def _list(directory: Path) -> list[Path]:
    with suppress(OSError):
        return list(directory.iterdir())
    return []


def _processes(*names: str) -> Iterator[Path]:
    for entry in _list(Path("/proc")):
        if entry.name.isdigit():
            yield from (entry / name for name in names)


def _read(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""
