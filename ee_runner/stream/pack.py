"""A directory as zip archives that are made while they are sent: constant memory, no temporary file.

What is sent: regular files, directories (empty ones too) and symbolic links, with modes and times; directories before
what is in them, names sorted. A file with several hard links is sent for each of them. Sockets, named pipes and devices
are left out, and so is what disappears before its turn. An absolute link into the directory becomes a relative one.

Everything raises StreamError, naming the file, for what can not be read or has become shorter; of a file that has grown
as many bytes are sent as were announced.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import time
import zlib
from array import array
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Union

from ee_runner.errors import StreamError
from ee_runner.stream import zipformat
from ee_runner.stream.zipformat import Entry

BLOCK = 512 * 1024
"""How much of a file is read at once."""

SMALL = 1024 * 1024
"""Up to this size a file is read as a whole, so that its checksum can stand before it."""

BATCH = 4 * 1024 * 1024
"""Up to this size files are gathered in memory, and compressed there."""

MAX_DEPTH = 256
MAX_NAME = 4096

LEVEL = 1
"""How hard deflate tries: 4 and 6 take a quarter to nearly twice as much time again, for about a tenth less.

Zeros shrink to a 227th then, far from what a receiver takes for a bomb.
"""

_OVERHEAD = 256  # about what an entry needs beside its content and its name
_JOINED = 256 * 1024
_FILE, _DIRECTORY, _LINK = stat.S_IFREG | 0o600, stat.S_IFDIR | 0o700, stat.S_IFLNK | 0o777
_OTHERS = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a named pipe", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}
_ZEROS = bytes(BLOCK)

Exclude = Callable[[str], bool]
"""Is asked for every relative name, a directory's without a '/' at its end; what is in an excluded one is not sent."""

Skipped = Callable[[str, str], None]
"""Is told the name of what is left out, and the reason."""

Digests = Callable[[int, os.stat_result], bytes | None]
"""Gives the SHA-256 of an open file, or None; may move its offset."""


@dataclass(frozen=True, slots=True)
class Packing:
    """One archive: its size in bytes where that is known ahead, and its bytes, to be taken once."""

    size: int | None
    chunks: Iterator[bytes]


def batches(
    source: Path,
    *,
    exclude: Exclude = lambda _name: False,
    extra: Mapping[str, bytes] | None = None,
    skipped: Skipped = lambda _name, _reason: None,
    batch_size: int = BATCH,
) -> Iterator[Packing]:
    """Give the directory as several archives, at least one; take the chunks of each before asking for the next.

    What is small is gathered up to `batch_size` and compressed. A larger file is an archive of its own: stored, or
    compressed when it is sparse. The files of `extra`, name to content, are sent with mode 0600, in place of those of
    the directory that have their name.
    """
    batch, made = _Batch(), False
    for found in _Tree(source, exclude=exclude, extra=extra or {}, skipped=skipped).walk():
        if batch.count and batch.raw + found.weight > batch_size:
            yield batch.packing()
            batch, made = _Batch(), True
        if found.size > batch_size:
            yield _alone(found)
            made = True
        else:
            batch.add(found)
    if batch.count or not made:
        yield batch.packing()


def single(
    source: Path,
    *,
    exclude: Exclude = lambda _name: False,
    extra: Mapping[str, bytes] | None = None,
    skipped: Skipped = lambda _name, _reason: None,
) -> Packing:
    """Give the directory as one archive of known size; see `batches` for what comes in.

    The directory is walked here, and again when it is sent, so that a large one needs no memory: a change of what is in
    it between the two raises StreamError then. A small one is compressed; in a large one only sparse files are.
    """
    tree = _Tree(source, exclude=exclude, extra=extra or {}, skipped=skipped)
    plan = _Plan(tree.walk())
    tree.skipped = lambda _name, _reason: None
    if plan.raw > BATCH:
        return Packing(plan.size, _joined(plan.send(tree)))
    batch = _Batch()
    for found in plan.same(tree):
        batch.add(found)
    return batch.packing()


def stream(
    source: Path,
    *,
    exclude: Exclude = lambda _name: False,
    extra: Mapping[str, bytes] | None = None,
    skipped: Skipped = lambda _name, _reason: None,
    known: Container[bytes] = (),
    digests: Digests | None = None,
) -> Packing:
    """Give the directory as one archive of unknown size in which nothing is compressed; see `batches` for the rest.

    A file whose digest is `known` goes without its content. A file that has a digest must not change at all while it is
    sent.
    """
    tree = _Tree(source, exclude=exclude, extra=extra or {}, skipped=skipped)
    return Packing(None, _joined(_streamed(tree, known=known, digests=digests)))


def _streamed(tree: _Tree, *, known: Container[bytes], digests: Digests | None) -> Iterator[bytes]:
    writer = _Writer()
    for found in tree.walk():
        digest = found.digest(digests) if digests else None
        entry = found.entry(digest=digest, absent=digest is not None and digest in known)
        yield from writer.send(entry, found)
        if digest is not None:
            found.verify()
    yield from writer.end()


# What is in the directory


@dataclass(frozen=True, slots=True)
class _Found:
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
        return digests(self.file.fileno(), self.status) if self.file and self.status else None

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
                block = _ZEROS[:width] if hole else os.pread(self.file.fileno(), width, place)
            if not block:
                raise _changed(self.source, self.name)
            place += len(block)
            yield block
        if sparse and os.fstat(self.file.fileno()).st_size < self.size:
            raise _changed(self.source, self.name)

    def verify(self) -> None:
        """Raise StreamError when the file has been written to since it was opened."""
        if self.file is None or self.status is None:
            return
        with _Explained(self.source, self.name):
            now = os.fstat(self.file.fileno())
        if _written(now) != _written(self.status):
            raise _changed(self.source, self.name)


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


class _Tree:
    """A directory, with the extra files laid over it; every walk gives the same unless the directory changes."""

    def __init__(self, source: Path, *, exclude: Exclude, extra: Mapping[str, bytes], skipped: Skipped) -> None:
        self.source = source
        self.skipped = skipped
        self._exclude = exclude
        self._extra = _nested(extra)
        self._now = time.time_ns()
        self._roots = {os.fsencode(path(source)) for path in (os.path.abspath, os.path.realpath)}

    def walk(self) -> Iterator[_Found]:
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

    def _look(self, levels: list[_Level], base: bytes) -> _Found | None:
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

    def _on_disk(self, level: _Level, name: bytes, status: os.stat_result) -> _Found | None:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            return self._file(level, name)
        if kind == stat.S_IFLNK:
            return self._link(level, name, status)
        self.skipped(os.fsdecode(name), f"it is {_OTHERS.get(kind, 'of an unknown kind')}")
        return None

    def _file(self, level: _Level, name: bytes) -> _Found:
        descriptor, status = self._open(level, name, os.O_NONBLOCK)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise _changed(self.source, name)
        file = io.FileIO(descriptor)  # knows that it is closed, which a number does not
        mtime, size = status.st_mtime_ns, status.st_size
        return _Found(self.source, name, status.st_mode, mtime, size=size, file=file, status=status)

    def _link(self, level: _Level, name: bytes, status: os.stat_result) -> _Found:
        with _Explained(self.source, name):
            target = self._inward(os.readlink(_base(name), dir_fd=level.directory), name)
        text = zipformat.resembling(target)
        link = None if text == target else target
        return _Found(self.source, name, _LINK, status.st_mtime_ns, size=len(text), data=text, link=link)

    def _given(self, name: bytes, data: bytes, status: os.stat_result | None) -> _Found:
        if status is not None and stat.S_ISDIR(status.st_mode):
            place = _shown(self.source, name)
            raise StreamError(f"{place} is a directory, and a file is to be sent in its place. Move it away.")
        return _Found(self.source, name, _FILE, self._now, size=len(data), data=data)

    def _enter(self, levels: list[_Level], name: bytes, status: os.stat_result | None, extra: _Extra) -> _Found:
        """Return a directory that is there, or is made for the extra files, as the next level."""
        prefix, directory = name + b"/", None
        if status is not None and not stat.S_ISDIR(status.st_mode):
            place = _shown(self.source, name)
            raise StreamError(f"{place} is no directory, and a file is to be sent in it. Make it a directory.")
        if status is not None:
            directory, status = self._open(levels[-1], name, os.O_DIRECTORY)
        levels.append(_Level(directory, prefix, self._names(directory, prefix, extra), extra))
        if status is None:
            return _Found(self.source, prefix, _DIRECTORY, self._now)
        return _Found(self.source, prefix, status.st_mode, status.st_mtime_ns)

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


# Archives


class _Writer:
    """Writes one archive; what is to stand in its central directory is kept compressed until the end."""

    def __init__(self) -> None:
        self.count = 0
        self.position = 0
        self._size = 0
        self._packer = zlib.compressobj(1)
        self._records: list[bytes] = []

    def send(self, entry: Entry, found: _Found) -> Iterator[bytes]:
        """Give an entry with its content, as the entry says: streamed, compressed with known size, or small."""
        entry = replace(entry, offset=self.position)
        if entry.streamed:
            yield self._out(zipformat.local_header(entry))
            checked = _Checked(found.blocks())
            yield from map(self._out, checked)
            entry = replace(entry, crc=checked.crc)
            yield self._out(zipformat.descriptor(entry))
        elif entry.method == zipformat.DEFLATED:
            yield self._out(zipformat.local_header(entry))
            yield from map(self._out, _as_counted(entry, found))
        else:
            data = b"" if entry.absent else found.whole()
            entry = replace(entry, crc=zlib.crc32(data))
            yield self._out(zipformat.local_header(entry))
            yield self._out(data)
        self._note(entry)

    def squeeze(self, found: _Found) -> Iterator[bytes]:
        """Give an entry whose content is in memory as a whole, compressed where that helps."""
        data = found.whole()
        entry = replace(found.entry(), crc=zlib.crc32(data), flags=0, offset=self.position)
        packed = _squeezed(data) if len(data) > 32 and found.link is None else data
        if len(packed) < len(data):
            entry, data = replace(entry, method=zipformat.DEFLATED, packed=len(packed)), packed
        yield self._out(zipformat.local_header(entry))
        yield self._out(data)
        self._note(entry)

    def end(self) -> Iterator[bytes]:
        """Give the central directory, and what follows it."""
        unpacker = zlib.decompressobj()
        self._records.append(self._packer.flush())
        yield from map(unpacker.decompress, self._records)
        yield unpacker.flush() + zipformat.end_records(zipformat.End(self.count, self._size, self.position))

    def _out(self, piece: bytes) -> bytes:
        self.position += len(piece)
        return piece

    def _note(self, entry: Entry) -> None:
        record = zipformat.central_entry(entry)
        self.count += 1
        self._size += len(record)
        if packed := self._packer.compress(record):
            self._records.append(packed)


class _Batch:
    """An archive in memory."""

    def __init__(self) -> None:
        self.raw = 0
        self._writer = _Writer()
        self._pieces: list[bytes] = []

    @property
    def count(self) -> int:
        return self._writer.count

    def add(self, found: _Found) -> None:
        self.raw += found.weight
        self._pieces.extend(self._writer.squeeze(found))

    def packing(self) -> Packing:
        pieces = [*self._pieces, *self._writer.end()]
        return Packing(sum(map(len, pieces)), _joined(pieces))


class _Plan:
    """What one walk has found, in a few bytes for each entry, and how large an archive of it is."""

    def __init__(self, things: Iterable[_Found]) -> None:
        self.raw = 0
        self._marks, self._sizes = array("I"), array("Q")
        self._packed: dict[int, Entry] = {}
        offset = central = 0
        for index, found in enumerate(things):
            entry = found.entry()
            if found.sparse:
                entry = self._packed[index] = _counted(found)
            offset, central = _placed(entry, offset=offset, central=central)
            self._marks.append(_mark(found))
            self._sizes.append(found.size)
            self.raw += found.weight
        self.size = offset + central + len(zipformat.end_records(zipformat.End(len(self._sizes), central, offset)))

    def send(self, tree: _Tree) -> Iterator[bytes]:
        """Give the archive."""
        writer = _Writer()
        for index, found in enumerate(self.same(tree)):
            yield from writer.send(self._packed.get(index) or found.entry(), found)
        yield from writer.end()

    def same(self, tree: _Tree) -> Iterator[_Found]:
        """Walk again, and give everything as large as it was; raises StreamError where it is something else."""
        index = -1
        for index, found in enumerate(tree.walk()):
            if index >= len(self._sizes) or self._marks[index] != _mark(found) or found.size < self._sizes[index]:
                raise _changed(found.source, found.name)
            yield found if found.size == self._sizes[index] else replace(found, size=self._sizes[index])
        if index + 1 != len(self._sizes):
            raise _changed(tree.source)


def _alone(found: _Found) -> Packing:
    """Return the archive of one large file."""
    entry = _counted(found) if found.sparse else found.entry()
    offset, central = _placed(entry, offset=0, central=0)
    size = offset + central + len(zipformat.end_records(zipformat.End(1, central, offset)))
    writer = _Writer()

    def chunks() -> Iterator[bytes]:
        yield from writer.send(entry, found)
        yield from writer.end()

    return Packing(size, _joined(chunks()))


def _placed(entry: Entry, *, offset: int, central: int) -> tuple[int, int]:
    """Return how long the archive and its central directory are with one more entry."""
    central += len(zipformat.central_entry(replace(entry, offset=offset)))
    offset += len(zipformat.local_header(entry)) + entry.packed
    return offset + (len(zipformat.descriptor(entry)) if entry.streamed else 0), central


class _Checked:
    """Gives blocks again; `crc` is the checksum of those that were given."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.crc = 0
        self._blocks = blocks

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            self.crc = zlib.crc32(block, self.crc)
            yield block


def _counted(found: _Found) -> Entry:
    """Compress a file once to learn how much that gives, and its checksum."""
    checked = _Checked(found.blocks())
    packed = sum(map(len, _deflated(checked)))
    return replace(found.entry(), method=zipformat.DEFLATED, packed=packed, crc=checked.crc, flags=0)


def _as_counted(entry: Entry, found: _Found) -> Iterator[bytes]:
    """Compress a file for the second time; raises StreamError when that gives something else."""
    checked, left = _Checked(found.blocks()), entry.packed
    for piece in _deflated(checked):
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left or checked.crc != entry.crc:
        raise _changed(found.source, found.name)


def _deflated(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Compress; what a block of zeros becomes between two full flushes is known."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -15)
    model = zlib.compressobj(LEVEL, zlib.DEFLATED, -15)
    nothing = model.compress(_ZEROS) + model.flush(zlib.Z_FULL_FLUSH)
    for block in blocks:
        if block == _ZEROS:
            yield packer.flush(zlib.Z_FULL_FLUSH) + nothing
        else:
            yield packer.compress(block)
    yield packer.flush()


def _squeezed(data: bytes) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Give the pieces again, small ones together."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _JOINED:
            yield held[0] if len(held) == 1 else b"".join(held)
            held, size = [], 0
    if size:
        yield b"".join(held)


def _mark(found: _Found) -> int:
    """Return a number that tells things apart by their name and kind, and links by their target."""
    kind = stat.S_IFMT(found.mode).to_bytes(4, "little")
    return zlib.crc32(found.name + b"\0" + (found.link or found.data), zlib.crc32(kind))


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


def _changed(source: Path, name: bytes = b"") -> StreamError:
    return StreamError(f"{_shown(source, name)} changed while it was sent. Send again when nothing changes it.")


def _shown(source: Path, name: bytes = b"") -> str:
    return zipformat.shown(os.path.join(os.fsencode(source), name) if name else os.fsencode(source))  # noqa: PTH118


def _written(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
