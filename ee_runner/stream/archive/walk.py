"""What is in a directory, for the archives that are made of it; see `pack` for what is sent, and how."""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from ee_runner.errors import StreamError
from ee_runner.stream.archive import zipformat
from ee_runner.stream.archive.zipformat import Entry

BLOCK = 512 * 1024
"""How much of a file is read at once."""

SMALL = 1024 * 1024
"""Up to this size a file is read as a whole, so that its checksum can stand before it."""

MAX_DEPTH = 256
MAX_NAME = 4096

_OVERHEAD = 256  # about what an entry needs beside its content and its name
_FILE, _DIRECTORY, _LINK = stat.S_IFREG | 0o600, stat.S_IFDIR | 0o700, stat.S_IFLNK | 0o777
_OTHERS = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a named pipe", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}
ZEROS = bytes(BLOCK)

Exclude = Callable[[str], bool]
"""Is asked for every relative name, a directory's without a '/' at its end; what is in an excluded one is not sent."""

Skipped = Callable[[str, str], None]
"""Is told the name of what is left out, and the reason."""

Digests = Callable[[str, int, os.stat_result], bytes | None]
"""Gives the SHA-256 of an open file of this name, or None; may move its offset."""


@dataclass(frozen=True, slots=True)
class Found:
    """Something to send; `file` is open until the next is asked for, `data` the content of what is no open file."""

    source: Path
    name: bytes
    mode: int
    mtime_ns: int
    size: int = 0
    data: bytes = b""
    file: io.FileIO | None = None
    status: os.stat_result | None = None
    link: bytes | None = None

    @property
    def weight(self) -> int:
        """About what it takes in an archive."""
        return self.size + len(self.name) + _OVERHEAD

    @property
    def sparse(self) -> bool:
        return self.status is not None and self.size > SMALL and self.status.st_blocks * 512 < self.size // 2

    def entry(self, *, digest: bytes | None = None, absent: bool = False) -> Entry:
        """Return its entry, to be stored, without checksum and offset."""
        return Entry(
            name=self.name,
            mode=self.mode,
            mtime_ns=max(-(1 << 63), min(self.mtime_ns, (1 << 63) - 1)),
            size=self.size,
            packed=0 if absent else self.size,
            flags=zipformat.STREAMED if self.size > SMALL and not absent else 0,
            digest=digest,
            absent=absent,
            link=self.link,
        )

    def digest(self, digests: Digests) -> bytes | None:
        if self.file is None or self.status is None:
            return None
        return digests(os.fsdecode(self.name), self.file.fileno(), self.status)

    def whole(self) -> bytes:
        return b"".join(self.blocks())

    def blocks(self) -> Iterator[bytes]:
        """Give the content, as much of it as was announced; the holes of a sparse file are not read."""
        if self.file is None:
            yield self.data
            return
        place, sparse = 0, self.sparse
        while place < self.size:
            width = min(BLOCK, self.size - place)
            with _Explained(self.source, self.name):
                hole = sparse and _hole(self.file.fileno(), place, width)
                block = ZEROS[:width] if hole else os.pread(self.file.fileno(), width, place)
            if not block:
                raise changed(self.source, self.name)
            place += len(block)
            yield block
        if sparse and os.fstat(self.file.fileno()).st_size < self.size:
            raise changed(self.source, self.name)

    def verify(self) -> None:
        """Raise StreamError when the file has been written to since it was opened."""
        if self.file is None or self.status is None:
            return
        with _Explained(self.source, self.name):
            now = os.fstat(self.file.fileno())
        if _written(now) != _written(self.status):
            raise changed(self.source, self.name)


_Extra = dict[bytes, Union[bytes, "_Extra"]]


@dataclass(frozen=True, slots=True)
class _Level:
    """A directory on the way: its descriptor, or None when it is made for the extra files; the names still to do."""

    directory: int | None
    prefix: bytes
    names: Iterator[bytes]
    extra: _Extra

    def close(self) -> None:
        if self.directory is not None:
            os.close(self.directory)


def _hole(file: int, place: int, width: int) -> bool:
    try:
        return os.lseek(file, place, os.SEEK_DATA) >= place + width
    except OSError as error:
        return error.errno == errno.ENXIO  # no data behind this place; whatever else it is, reading tells


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
        with _Explained(self.source):
            top = os.open(self.source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        levels = [_Level(top, b"", self._names(top, b"", self._extra), self._extra)]
        try:
            while levels:
                base = next(levels[-1].names, None)
                if base is None:
                    levels.pop().close()
                elif (found := self._look(levels, base)) is not None:
                    try:
                        yield found
                    finally:
                        if found.file:
                            found.file.close()
        finally:
            for level in levels:
                level.close()

    def _names(self, directory: int | None, prefix: bytes, extra: _Extra) -> Iterator[bytes]:
        """Give the names of one level; the directory is read when the first one is asked for."""
        with _Explained(self.source, prefix):
            listed = [] if directory is None else os.listdir(directory)  # noqa: PTH208
        yield from sorted({*map(os.fsencode, listed), *extra})

    def _look(self, levels: list[_Level], base: bytes) -> Found | None:
        """Return what is under a name, opened; None when it is left out. A directory becomes the next level."""
        level = levels[-1]
        name, more = level.prefix + base, level.extra.get(base)
        try:
            status = self._status(level, name)
            if status or more is not None:
                self._limit(name)
            if isinstance(more, bytes):
                return self._given(name, more, status)
            if more is not None or (status and stat.S_ISDIR(status.st_mode)):
                return self._enter(levels, name, status, more or {})
            return self._on_disk(level, name, status) if status else None
        except _GoneError:
            if more is not None:
                raise
            self.skipped(os.fsdecode(name), "it was removed meanwhile")
            return None

    def _limit(self, name: bytes) -> None:
        if len(name) >= MAX_NAME or name.count(b"/") >= MAX_DEPTH:
            limits = f"deeper than {MAX_DEPTH} directories, or its name longer than {MAX_NAME} bytes. Move it away."
            raise StreamError(f"{_shown(self.source, name)} can not be sent: it is {limits}")

    def _status(self, level: _Level, name: bytes) -> os.stat_result | None:
        """Return what is on disk under a name, or None when nothing is, or it is excluded."""
        if level.directory is None or self._exclude(os.fsdecode(name)):
            return None
        try:
            with _Explained(self.source, name):
                return os.stat(_base(name), dir_fd=level.directory, follow_symlinks=False)
        except _GoneError:
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
        file = io.FileIO(descriptor)  # knows that it is closed, which a number does not
        mtime, size = status.st_mtime_ns, status.st_size
        return Found(self.source, name, status.st_mode, mtime, size=size, file=file, status=status)

    def _link(self, level: _Level, name: bytes, status: os.stat_result) -> Found:
        with _Explained(self.source, name):
            target = self._inward(os.readlink(_base(name), dir_fd=level.directory), name)
        text = zipformat.resembling(target)
        link = None if text == target else target
        return Found(self.source, name, _LINK, status.st_mtime_ns, size=len(text), data=text, link=link)

    def _given(self, name: bytes, data: bytes, status: os.stat_result | None) -> Found:
        if status is not None and stat.S_ISDIR(status.st_mode):
            place = _shown(self.source, name)
            raise StreamError(f"{place} is a directory, and a file is to be sent in its place. Move it away.")
        return Found(self.source, name, _FILE, self._now, size=len(data), data=data)

    def _enter(self, levels: list[_Level], name: bytes, status: os.stat_result | None, extra: _Extra) -> Found:
        """Return a directory that is there, or is made for the extra files, as the next level."""
        prefix, directory = name + b"/", None
        if status is not None and not stat.S_ISDIR(status.st_mode):
            place = _shown(self.source, name)
            raise StreamError(f"{place} is no directory, and a file is to be sent in it. Make it a directory.")
        if status is not None:
            directory, status = self._open(levels[-1], name, os.O_DIRECTORY)
        levels.append(_Level(directory, prefix, self._names(directory, prefix, extra), extra))
        if status is None:
            return Found(self.source, prefix, _DIRECTORY, self._now)
        return Found(self.source, prefix, status.st_mode, status.st_mtime_ns)

    def _open(self, level: _Level, name: bytes, flags: int) -> tuple[int, os.stat_result]:
        with _Explained(self.source, name):
            file = os.open(_base(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=level.directory)
            return file, os.fstat(file)

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


# Errors


class _GoneError(StreamError):
    """What was listed is not there any more."""


@dataclass(frozen=True, slots=True)
class _Explained:
    """Turns an error of the operating system into one that says which file it is, and what to do."""

    source: Path
    name: bytes = b""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            kind = _GoneError if error.errno == errno.ENOENT else StreamError
            raise kind(f"{_shown(self.source, self.name)} can not be sent: {_remedy(error)}") from error


def _remedy(error: OSError) -> str:
    remedies = {
        errno.EACCES: "permission denied. Make it readable for the user who sends it, or move it away.",
        errno.EPERM: "permission denied. Make it readable for the user who sends it, or move it away.",
        errno.ENOENT: "it does not exist.",
        errno.ENOTDIR: "it is no directory.",
        errno.ELOOP: "a link was put in its place while it was sent. Send again when nothing changes it.",
        errno.EMFILE: "too many files are open. Raise the limit, see ulimit -n.",
    }
    return remedies.get(error.errno or 0, f"{error.strerror or error}.")


def changed(source: Path, name: bytes = b"") -> StreamError:
    return StreamError(f"{_shown(source, name)} changed while it was sent. Send again when nothing changes it.")


def _shown(source: Path, name: bytes = b"") -> str:
    return zipformat.shown(os.path.join(os.fsencode(source), name) if name else os.fsencode(source))  # noqa: PTH118


def _written(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
