"""What may be in an archive, and under which names."""

from __future__ import annotations

import hashlib
import os
import stat

from ee_runner.errors import UnsafeArchive
from ee_runner.stream.archive.tree import shown
from ee_runner.stream.archive.zipformat import Entry
from ee_runner.values import dataclass

LINK_MAX = 4095
"""Bytes of a symbolic link's target, as many as the system takes."""

_PART_MAX = 255


@dataclass(frozen=True, slots=True)
class Limits:
    """What the archives of one job may hold; the defaults are far beyond any project, and stop what is none.

    `entries` counts entries and the directories that they imply, `total` the bytes of all content, holes included.
    `inflated` bytes may come out of compressed entries whatever they were packed in; beyond, `ratio` times what came
    in (repetitive logs reach 200; zeros that become holes take no place, and are not counted). `name` is the length
    of a path in bytes, `depth` the number of directories above it. `held` bounds the bytes of memory for what waits for
    the end: directories and symbolic links. `link_steps` bounds the work of finding out where the links lead.
    """

    entries: int = 500_000
    total: int = 1 << 40
    inflated: int = 1 << 30
    ratio: int = 200
    name: int = 4096
    depth: int = 256
    held: int = 64 << 20
    link_steps: int = 2_000_000


DEFAULT = Limits()


class Names:
    """The names that the archives of one job have had; as keyed hashes, for there may be half a million."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._key = os.urandom(16)
        self._directories: set[bytes] = set()
        self._others: set[bytes] = set()
        self._count = 0
        self._above = b""

    def admit(self, name: bytes) -> bytes:
        """Return the path without the '/' of a directory; UnsafeArchive for one that is not to be, or was before."""
        path = name[:-1] if name.endswith(b"/") else name
        self._check(name, path)
        above = path.rpartition(b"/")[0]
        if above != self._above:
            self._enter(name, above)
            self._above = above
        hashed = self._hash(path)
        if hashed in self._others or (path is name and hashed in self._directories):
            raise refused(name, "is there twice, or is a directory and something else", "Send it once.")
        self._tally(name)
        (self._others if path is name else self._directories).add(hashed)
        return path

    def _check(self, name: bytes, path: bytes) -> None:
        parts = path.split(b"/")
        if name.startswith(b"/"):
            raise refused(name, "has an absolute name")
        if b".." in parts:
            raise refused(name, "has a name with '..' in it, which leads out")
        if b"" in parts or b"." in parts or b"\0" in name:
            raise refused(name, "has a name with an empty part, a '.' or a zero byte in it")
        if len(path) > self._limits.name or max(map(len, parts)) > _PART_MAX:
            raise refused(name, f"has a name of more than {self._limits.name} bytes, or {_PART_MAX} in a part")
        if len(parts) > self._limits.depth + 1:
            raise refused(name, f"lies deeper than {self._limits.depth} directories")

    def _enter(self, name: bytes, above: bytes) -> None:
        parts = above.split(b"/") if above else []
        for depth in range(1, len(parts) + 1):
            directory = b"/".join(parts[:depth])
            hashed = self._hash(directory)
            if hashed in self._others:
                raise refused(name, f"lies below {shown(directory)}, which is no directory")
            if hashed not in self._directories:
                self._tally(name)
                self._directories.add(hashed)

    def _tally(self, name: bytes) -> None:
        self._count += 1
        if self._count > self._limits.entries:
            raise refused(name, f"goes beyond the limit of {self._limits.entries} entries", "Send fewer files.")

    def _hash(self, path: bytes) -> bytes:
        return hashlib.blake2b(path, digest_size=8, key=self._key).digest()


def kind_and_mode(entry: Entry) -> tuple[int, int]:
    """Return the type of an entry and its permission bits, private where the archive has none."""
    kind = stat.S_IFMT(entry.mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR):
        raise refused(entry, "is a device, a fifo or a socket, which are not unpacked")
    if entry.directory != (kind == stat.S_IFDIR) and (kind or not entry.directory):
        raise refused(entry, "is a directory by its name or by its mode, and not by the other")
    if entry.directory:
        return stat.S_IFDIR, entry.mode & 0o1777 if entry.mode else 0o700
    return kind or stat.S_IFREG, entry.mode & 0o777 if entry.mode else 0o600


def check_link(entry: Entry, target: bytes) -> None:
    if not target or len(target) > LINK_MAX or b"\0" in target:
        raise refused(entry, f"is a symbolic link to nothing, or to a name with a zero byte or over {LINK_MAX} bytes")


def has_unknown_size(entry: Entry) -> bool:
    """Say whether the size of a content is known at its end alone."""
    return entry.streamed and not entry.own


def refused(entry: Entry | bytes, reason: str, remedy: str = "") -> UnsafeArchive:
    name = entry if isinstance(entry, bytes) else entry.name
    return UnsafeArchive(f"The archive's entry {shown(name)} {reason}. {remedy}".rstrip())


def damaged(entry: Entry) -> UnsafeArchive:
    return refused(entry, "has another checksum than it announces: it was damaged on the way", "Send it again.")
