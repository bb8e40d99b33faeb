"""What is in a directory, for the archives that are made of it; see `pack` for what is sent, and how."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Union

from ee_runner.errors import StreamError
from ee_runner.stream.archive import zipformat
from ee_runner.stream.archive.found import Explained, Found, GoneError, Open, changed, explained, where
from ee_runner.values import dataclass

MAX_DEPTH = 256
MAX_NAME = 4096

_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE, _DIRECTORY, _LINK = stat.S_IFREG | 0o600, stat.S_IFDIR | 0o700, stat.S_IFLNK | 0o777
_OTHERS = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a named pipe", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}

Exclude = Callable[[str], bool]
"""Is asked for every relative name, a directory's without a '/' at its end; what is in an excluded one is not sent."""

Skipped = Callable[[str, str], None]
"""Is told the name of what is left out, and the reason."""


_Extra = dict[bytes, Union[bytes, "_Extra"]]


@dataclass(frozen=True, slots=True)
class _Level:
    """A directory on the way: its descriptor, or None when it is made for the extra files.

    `names` are those still to do, and whether each was a regular file when the directory was listed.
    """

    directory: int | None
    prefix: bytes
    names: Iterator[tuple[bytes, bool]]
    extra: _Extra

    def close(self) -> None:
        if self.directory is not None:
            os.close(self.directory)


class Tree:
    """A directory, with the extra files laid over it; every walk gives the same unless the directory changes."""

    def __init__(self, source: Path, *, exclude: Exclude, extra: Mapping[str, bytes], skipped: Skipped) -> None:
        self.source = source
        self.skipped = skipped
        self._exclude = exclude
        self._extra = _nested(extra)
        self._now = time.time_ns()
        self._roots = {os.fsencode(path(source)) for path in (os.path.abspath, os.path.realpath)}

    def walk(self) -> Iterator[Found]:
        with Explained(self.source):
            top = os.open(self.source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        levels = [_Level(top, b"", self._names(top, b"", self._extra), self._extra)]
        try:
            while levels:
                following = next(levels[-1].names, None)
                if following is None:
                    levels.pop().close()
                elif (found := self._look(levels, *following)) is not None:
                    try:
                        yield found
                    finally:
                        if found.file:
                            found.file.close()
        finally:
            for level in levels:
                level.close()

    def _names(self, directory: int | None, prefix: bytes, extra: _Extra) -> Iterator[tuple[bytes, bool]]:
        """Give the names of one level; the directory is read when the first one is asked for."""
        names = dict.fromkeys(extra, False)
        if directory is not None:
            with Explained(self.source, prefix), os.scandir(directory) as listed:
                names = {os.fsencode(entry.name): entry.is_file(follow_symlinks=False) for entry in listed} | names
        for name in sorted(names):
            yield name, names[name]

    def _look(self, levels: list[_Level], base: bytes, is_file: bool) -> Found | None:
        """Return what is under a name, opened; None when it is left out. A directory becomes the next level."""
        level = levels[-1]
        name, more = level.prefix + base, level.extra.get(base)
        try:
            if is_file:
                return self._listed(level, name)
            status = self._status(level, name)
            if status or more is not None:
                self._limit(name)
            if isinstance(more, bytes):
                return self._given(name, more, status)
            if more is not None or (status and stat.S_ISDIR(status.st_mode)):
                return self._enter(levels, name, status, more or {})
            return self._on_disk(level, name, status) if status else None
        except GoneError:
            if more is not None:
                raise
            self.skipped(os.fsdecode(name), "it was removed meanwhile")
            return None

    def _listed(self, level: _Level, name: bytes) -> Found | None:
        """Return what was a file when its directory was listed, without asking a second time what it is."""
        if self._exclude(os.fsdecode(name)):
            return None
        self._limit(name)
        return self._file(level, name)

    def _limit(self, name: bytes) -> None:
        if len(name) >= MAX_NAME or name.count(b"/") >= MAX_DEPTH:
            limits = f"deeper than {MAX_DEPTH} directories, or its name longer than {MAX_NAME} bytes. Move it away."
            raise StreamError(f"{where(self.source, name)} can not be sent: it is {limits}")

    def _status(self, level: _Level, name: bytes) -> os.stat_result | None:
        """Return what is on disk under a name, or None when nothing is, or it is excluded."""
        if level.directory is None or self._exclude(os.fsdecode(name)):
            return None
        try:
            with Explained(self.source, name):
                return os.stat(_base(name), dir_fd=level.directory, follow_symlinks=False)
        except GoneError:
            if _base(name) in level.extra:
                return None
            raise

    def _on_disk(self, level: _Level, name: bytes, status: os.stat_result) -> Found | None:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            return self._file(level, name)
        if kind == stat.S_IFLNK:
            return self._link(level, name, status)
        self.skipped(os.fsdecode(name), f"it is {_OTHERS.get(kind, 'of an unknown kind')}")
        return None

    def _file(self, level: _Level, name: bytes) -> Found:
        descriptor, status = self._open(level, name, os.O_NONBLOCK)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise changed(self.source, name)
        mtime, size = status.st_mtime_ns, status.st_size
        return Found(self.source, name, status.st_mode, mtime, size=size, file=Open(descriptor), status=status)

    def _link(self, level: _Level, name: bytes, status: os.stat_result) -> Found:
        with Explained(self.source, name):
            target = self._inward(os.readlink(_base(name), dir_fd=level.directory), name)
        text = zipformat.resembling(target)
        link = None if text == target else target
        return Found(self.source, name, _LINK, status.st_mtime_ns, size=len(text), data=text, link=link)

    def _given(self, name: bytes, data: bytes, status: os.stat_result | None) -> Found:
        if status is not None and stat.S_ISDIR(status.st_mode):
            place = where(self.source, name)
            raise StreamError(f"{place} is a directory, and a file is to be sent in its place. Move it away.")
        return Found(self.source, name, _FILE, self._now, size=len(data), data=data)

    def _enter(self, levels: list[_Level], name: bytes, status: os.stat_result | None, extra: _Extra) -> Found:
        """Return a directory that is there, or is made for the extra files, as the next level."""
        prefix, directory = name + b"/", None
        if status is not None and not stat.S_ISDIR(status.st_mode):
            place = where(self.source, name)
            raise StreamError(f"{place} is no directory, and a file is to be sent in it. Make it a directory.")
        if status is not None:
            directory, status = self._open(levels[-1], name, os.O_DIRECTORY)
        levels.append(_Level(directory, prefix, self._names(directory, prefix, extra), extra))
        if status is None:
            return Found(self.source, prefix, _DIRECTORY, self._now)
        return Found(self.source, prefix, status.st_mode, status.st_mtime_ns)

    def _open(self, level: _Level, name: bytes, flags: int) -> tuple[int, os.stat_result]:
        try:
            file = os.open(_base(name), _READING | flags, dir_fd=level.directory)
            return file, os.fstat(file)
        except OSError as error:
            raise explained(error, self.source, name) from error

    def _inward(self, target: bytes, name: bytes) -> bytes:
        """Return a link's target, relative if it is an absolute one into the directory."""
        for root in self._roots:
            if target == root or target.startswith(root.rstrip(b"/") + b"/"):
                return _relative(target[len(root) :], name) or target
        return target


def _base(name: bytes) -> bytes:
    return name.rpartition(b"/")[2]


def _relative(inside: bytes, name: bytes) -> bytes | None:
    """Return how a link reaches what is `inside` the directory, or None when that climbs out of it."""
    parts = [part for part in inside.split(b"/") if part not in (b"", b".")]
    depth = 0
    for part in parts:
        depth += -1 if part == b".." else 1
        if depth < 0:
            return None
    parents = name.split(b"/")[:-1]
    while parents and parts and parents[0] == parts[0]:
        del parents[0], parts[0]
    return b"/".join([b".."] * len(parents) + parts) or b"."


def _nested(extra: Mapping[str, bytes]) -> _Extra:
    """Return the extra files as directories of directories; raises ValueError for a name that is none."""
    tree: _Extra = {}
    for name, data in extra.items():
        *parents, base = parts = os.fsencode(name).split(b"/")
        level = tree
        for parent in parents:
            inner = level.setdefault(parent, {})
            if isinstance(inner, bytes):
                raise ValueError(f"{name!r} is to be sent in a file")
            level = inner
        if base in level or {b"", b".", b".."} & {*parts} or "\0" in name:
            raise ValueError(f"{name!r} can not be sent under this name")
        level[base] = data
    return tree
