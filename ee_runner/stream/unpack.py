"""Unpacks archives as they come in: no temporary file, constant memory, nothing outside the target directory."""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from ee_runner.errors import BadFrame, StreamError, TruncatedStream, UnsafeArchive
from ee_runner.stream import zipformat
from ee_runner.stream.tree import Links, NewFile, Tree, shown
from ee_runner.stream.zipformat import Entry

_T = TypeVar("_T")
_Steps = Generator[None, None, _T]
"""A step of the archive: it yields whenever it needs more bytes, and then all that came is used up."""

_PIECE = 1 << 18
_PART_MAX = 255
_LINK_MAX = 4095
_COST = 200
"""What one directory or link that is kept until the end takes in memory, besides its names."""


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


class BlobWriter(Protocol):
    def write(self, data: bytes | memoryview, /) -> None: ...


class Blobs(Protocol):
    """A cache of contents by their SHA-256: `ee_runner.stream.cache.BlobStore`."""

    def open(self, digest: bytes, /) -> int:
        """Return a descriptor that the caller closes, or raise KeyError."""
        ...

    def add(self, digest: bytes, /) -> AbstractContextManager[BlobWriter]:
        """Take a content, and raise BadFrame at the end of the block if it is not that of the digest."""
        ...


class Unpacker:
    """Unpacks the archives of one job, one after another, into a directory.

    `keep` is asked, perhaps again, with each entry's name without the '/' that ends a directory's: what it does not
    want is verified, and thrown away; a directory above something wanted is made all the same. `links` says whether
    symbolic links may lead out of the directory. With a `cache`, contents that come with their digest are added to it,
    and those that the sender left out are taken from it.

    Files are written beside their place and put there whole, over a file, link, fifo or socket; directories that are
    there stay. Links are made, and directories get their modes and times, in `close`, when every archive is verified:
    until then no link of theirs exists. Special permission bits are dropped, except for the sticky bit of a directory.
    `entries` and `bytes` count what was unpacked.

    Raises UnsafeArchive or BadFrame for what must not be unpacked, TruncatedStream for an early end, and ArtifactError
    when the disk is full or refuses. After an error the file that was being written is gone, what was whole stays;
    nothing more can be fed. Use it as a context manager, or call `release`.
    """

    def __init__(
        self,
        target: Path,
        *,
        limits: Limits = DEFAULT,
        links: Literal["inside", "any"] = "inside",
        cache: Blobs | None = None,
        keep: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.entries = 0
        self.bytes = 0
        self._limits = limits
        self._lead_out = links == "any"
        self._cache = cache
        self._keep = keep
        self._names = _Names(limits)
        self._links: dict[bytes, tuple[bytes, int | None]] = {}
        self._directories: dict[bytes, tuple[int, int]] = {}
        self._held = 0
        self._packed = self._taken = 0
        self._missing: list[bytes] = []
        self._tree = Tree(target)
        self._archive: _Archive | None = None

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Let go of the directory; what was only begun is removed."""
        if self._archive is not None:
            self._archive.stop()
        self._tree.close()

    def feed(self, data: bytes | memoryview) -> None:
        """Unpack the next bytes of the archive, however they are cut."""
        if self._tree.closed:
            raise StreamError("Nothing can be unpacked any more: the archives have ended, or one of them was refused.")
        if self._archive is None:
            self._archive = _Archive(self)
        try:
            self._archive.feed(data)
        except BaseException:
            self.release()
            raise

    def close_one(self) -> None:
        """End one archive; another may follow. TruncatedStream unless it is complete."""
        if self._archive is None or not self._archive.complete:
            position = "before its first byte" if self._archive is None else self._archive.position
            self.release()
            raise TruncatedStream(f"The archive ends too early, {position}: its sender was cut off. Send it again.")
        self._archive = None

    def close(self) -> None:
        """End the last archive, unless that was done, and make the tree what the archives say."""
        if self._archive is not None:
            self.close_one()
        with self._tree:
            if self._missing:
                raise StreamError(
                    f"The cache lacks {len(self._missing)} files that the sender left out, {shown(self._missing[0])} "
                    "first. Send the job again, without --cache unless 'process --cache' tells the sender."
                )
            if not self._lead_out:
                targets = {name: target for name, (target, _) in self._links.items()}
                Links(self._tree, targets, steps=self._limits.link_steps).check()
            for name, (target, mtime_ns) in self._links.items():
                self._tree.link(name, target, mtime_ns=mtime_ns)
            for name in sorted(self._directories, reverse=True):  # what is in a directory before it
                mode, mtime_ns = self._directories[name]
                self._tree.settle_directory(name, mode=mode, mtime_ns=mtime_ns)

    # What an archive asks of its job

    def admit(self, entry: Entry) -> Sink:
        """Take an entry as its local header has it: judge it, and return where its content goes."""
        path = self._names.admit(entry.name)
        kind = stat.S_IFMT(entry.mode) if entry.own else 0
        if kind not in (0, stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR):
            raise _refused(entry, "is a device, a fifo or a socket, which are not unpacked")
        if entry.directory and (entry.size or entry.packed or entry.absent):
            raise _refused(entry, "is a directory with content")
        if entry.streamed and entry.method == zipformat.STORED and not entry.own:
            raise _refused(entry, "is stored without its size, so that its end can not be found")
        self._expect(entry, entry.size)
        self.entries += 1
        sink = Sink(self, entry, path, wanted=self._keep(os.fsdecode(path)))
        sink.open(self._tree, self._cache)
        return sink

    def count(self, entry: Entry, *, size: int, packed: int, taken: int) -> None:
        """Count a piece of content, and hold it against the limits; `taken` is what it takes on the disk."""
        self._expect(entry, size)
        self.bytes += size
        if entry.method == zipformat.STORED:
            return
        self._packed += packed
        self._taken += taken
        if self._taken > max(self._limits.inflated, self._limits.ratio * self._packed):
            raise _refused(
                entry,
                f"inflates beyond all measure: {self._taken} bytes on the disk out of {self._packed} packed ones",
                "Send such files by an end of this project, or leave them out.",
            )

    def lacks(self, path: bytes) -> None:
        """Note that the content of a file is not in the cache."""
        self._missing.append(path[:_LINK_MAX])
        self._hold(path)

    def settle(self, entry: Entry, *, kept_link: bytes | None) -> None:
        """Take an entry as the central directory has it; `kept_link` is the content of a link of our own end."""
        path = entry.name.rstrip(b"/")
        if not self._keep(os.fsdecode(path)):
            return
        kind, mode = _kind_and_mode(entry)
        if kind == stat.S_IFDIR:
            self._hold(path)
            self._directories[path] = (mode, entry.mtime_ns)
        elif kind == stat.S_IFLNK:
            content = self._tree.content(path, _LINK_MAX + 1) if kept_link is None else kept_link
            target = entry.target(content)
            _check_link(entry, target)
            self._hold(path, target)
            self._links[path] = (target, entry.mtime_ns if entry.own else None)  # ansible-runner gives links no time
        elif not entry.own:
            self._tree.settle_file(path, mode=mode, mtime_ns=entry.mtime_ns)

    def _hold(self, *names: bytes) -> None:
        self._held += _COST + sum(map(len, names))
        if self._held > self._limits.held:
            raise UnsafeArchive(
                f"The archive has more directories and symbolic links than can be held in memory ({shown(names[0])} "
                f"is one too many; the limit is {self._limits.held} bytes). Send fewer of them."
            )

    def _expect(self, entry: Entry, size: int) -> None:
        if self.bytes + size > self._limits.total:
            raise _refused(entry, f"goes beyond the limit of {self._limits.total} bytes in all", "Send less.")


class _Names:
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
            raise _refused(name, "is there twice, or is a directory and something else", "Send it once.")
        self._tally(name)
        (self._others if path is name else self._directories).add(hashed)
        return path

    def _check(self, name: bytes, path: bytes) -> None:
        parts = path.split(b"/")
        if name.startswith(b"/"):
            raise _refused(name, "has an absolute name")
        if b".." in parts:
            raise _refused(name, "has a name with '..' in it, which leads out")
        if b"" in parts or b"." in parts or b"\0" in name:
            raise _refused(name, "has a name with an empty part, a '.' or a zero byte in it")
        if len(path) > self._limits.name or max(map(len, parts)) > _PART_MAX:
            raise _refused(name, f"has a name of more than {self._limits.name} bytes, or {_PART_MAX} in a part")
        if len(parts) > self._limits.depth + 1:
            raise _refused(name, f"lies deeper than {self._limits.depth} directories")

    def _enter(self, name: bytes, above: bytes) -> None:
        parts = above.split(b"/") if above else []
        for depth in range(1, len(parts) + 1):
            directory = b"/".join(parts[:depth])
            hashed = self._hash(directory)
            if hashed in self._others:
                raise _refused(name, f"lies below {shown(directory)}, which is no directory")
            if hashed not in self._directories:
                self._tally(name)
                self._directories.add(hashed)

    def _tally(self, name: bytes) -> None:
        self._count += 1
        if self._count > self._limits.entries:
            raise _refused(name, f"goes beyond the limit of {self._limits.entries} entries", "Send fewer files.")

    def _hash(self, path: bytes) -> bytes:
        return hashlib.blake2b(path, digest_size=8, key=self._key).digest()


class Sink:
    """Where the content of one entry goes: a file, memory for a link, the cache besides, or nowhere; it is verified."""

    def __init__(self, job: Unpacker, entry: Entry, path: bytes, *, wanted: bool) -> None:
        self.size = 0
        self.crc = 0
        self.link: bytes | None = b"" if entry.own and stat.S_ISLNK(entry.mode) else None
        self._job = job
        self._entry = entry
        self._path = path
        self._wanted = wanted
        self._file: NewFile | None = None
        self._blob: BlobWriter | None = None
        self._sum = hashlib.sha256() if entry.digest is not None else None
        self._stack = ExitStack()

    def open(self, tree: Tree, cache: Blobs | None) -> None:
        """Make the directory, or begin the file; take an absent content from the cache."""
        if self._entry.directory:
            if self._wanted:
                tree.make_directory(self._path)
        elif self.link is None and self._wanted:
            self._file = tree.create(self._path, size=None if _unknown(self._entry) else self._entry.size)
        if self._entry.absent:
            self._take_from(cache)
        elif cache is not None and self._entry.digest is not None and self._wanted:
            self._blob = self._stack.enter_context(cache.add(self._entry.digest))
            self._sum = None  # the cache does it

    def write(self, data: bytes | memoryview, *, packed: int = 0) -> None:
        """Take a piece of the content, which came out of `packed` bytes."""
        self.size += len(data)
        if self.size > self._entry.size and not _unknown(self._entry):
            raise _refused(self._entry, f"has more content than the {self._entry.size} bytes that it announces")
        self._put(data, packed)
        self.crc = zlib.crc32(data, self.crc)

    def end(self) -> None:
        """Verify the content, and put the file into its place."""
        if self.size != self._entry.size and not _unknown(self._entry) and not self._entry.absent:
            raise _refused(self._entry, f"has {self.size} bytes of content instead of {self._entry.size}")
        if self.crc != self._entry.crc and not self._entry.streamed:
            raise _damaged(self._entry)
        if self._sum is not None and self._sum.digest() != self._entry.digest and not self._entry.absent:
            raise _damaged(self._entry)
        self._stack.close()  # the cache verifies what it was given
        if self._file is not None:
            known = self._entry.own
            mode = _kind_and_mode(self._entry)[1] if known else None
            self._file.commit(mode=mode, mtime_ns=self._entry.mtime_ns if known else None)

    def abort(self) -> None:
        """Let go of the cache; the tree removes the file."""
        error = StreamError("The archive was given up.")
        self._stack.__exit__(StreamError, error, None)

    def _put(self, data: bytes | memoryview, packed: int) -> None:
        taken = len(data)
        if self._file is not None:
            before = self._file.taken
            self._file.write(data)
            taken = self._file.taken - before
        elif self.link is not None:
            self.link += bytes(data)
            if len(self.link) > _LINK_MAX:
                raise _refused(self._entry, f"is a symbolic link of more than {_LINK_MAX} bytes")
        if self._blob is not None:
            self._blob.write(data)
        if self._sum is not None:
            self._sum.update(data)
        self._job.count(self._entry, size=len(data), packed=packed, taken=taken)

    def _take_from(self, cache: Blobs | None) -> None:
        if not self._wanted:
            return
        if cache is None:
            raise _refused(
                self._entry, "comes without its content, for a cache to give it", "Start this end with --cache."
            )
        try:
            blob = cache.open(self._entry.digest or b"")
        except KeyError:
            self._give_up()
            return
        try:
            while data := os.read(blob, _PIECE):
                self.size += len(data)
                self._put(data, 0)
        finally:
            os.close(blob)
        if self._sum is None or self._sum.digest() != self._entry.digest or self.size != self._entry.size:
            self._give_up()

    def _give_up(self) -> None:
        """Do without a content that the cache does not have, or has damaged."""
        self._job.lacks(self._path)
        if self._file is not None:
            self._file.discard()
            self._file = None


class _Archive:
    """One archive on its way in: reads its records in their order, and checks each against the others."""

    def __init__(self, job: Unpacker) -> None:
        self.complete = False
        self.position = "before its first entry"
        self._job = job
        self._data = memoryview(b"")
        self._place = 0
        self._before = 0
        self._sink: Sink | None = None
        self._key = os.urandom(16)
        self._told = bytearray()  # a hash of each entry, for the central directory to be held against
        self._links: dict[int, bytes] = {}
        self._steps = self._read()

    def feed(self, data: bytes | memoryview) -> None:
        self._before += len(self._data)
        self._data = memoryview(data).cast("B")
        self._place = 0
        if data and self.complete:
            raise BadFrame(_FOLLOWED)
        next(self._steps, None)

    def stop(self) -> None:
        self._steps.close()
        if self._sink is not None:
            self._sink.abort()
            self._sink = None

    @property
    def _offset(self) -> int:
        return self._before + self._place

    def _some(self, most: int) -> memoryview:
        """Return up to so many bytes of those that are there, perhaps none."""
        piece = self._data[self._place : self._place + most]
        self._place += len(piece)
        return piece

    def _take(self, size: int) -> _Steps[bytes]:
        taken = bytearray()
        while len(taken) < size:
            piece = self._some(size - len(taken))
            if not piece:
                yield
            taken += piece
        return bytes(taken)

    def _read(self) -> _Steps[None]:
        count = 0
        while (signature := (yield from self._take(zipformat.SIGNATURE_SIZE))) == zipformat.LOCAL:
            yield from self._read_entry(signature, count)
            count += 1
        self.position = "in its central directory"
        begin = self._offset - len(signature)
        for number in range(count):
            if signature != zipformat.CENTRAL:
                raise BadFrame(_unexpected(signature, f"the central directory's entry {number + 1} of {count}"))
            yield from self._read_central(signature, number)
            signature = yield from self._take(zipformat.SIGNATURE_SIZE)
        end = self._offset - len(signature)
        yield from self._read_end(signature, zipformat.End(count, end - begin, begin))
        self.complete = True
        if len(self._data) > self._place:
            raise BadFrame(_FOLLOWED)

    def _read_entry(self, signature: bytes, number: int) -> _Steps[None]:
        offset = self._offset - len(signature)
        head = signature + (yield from self._take(zipformat.LOCAL_SIZE - len(signature)))
        head += yield from self._take(zipformat.local_length(head) - len(head))
        entry = zipformat.parse_local(head)
        self.position = f"in the entry {shown(entry.name)}"
        self._sink = sink = self._job.admit(entry)
        packed = 0
        if not entry.absent:
            packed = yield from (self._inflated if entry.method == zipformat.DEFLATED else self._stored)(entry, sink)
        if entry.streamed:
            data = yield from self._take(zipformat.descriptor_length(entry))
            if zipformat.parse_descriptor(data, wide=entry.wide) != (sink.crc, packed, sink.size):
                raise _damaged(entry)
        sink.end()
        self._sink = None
        self.position = f"after the entry {shown(entry.name)}"
        if sink.link is not None:
            self._links[number] = sink.link
        size = entry.size if entry.absent else sink.size
        self._told += self._hash(entry, offset=offset, crc=sink.crc, size=size, packed=packed)

    def _stored(self, entry: Entry, sink: Sink) -> _Steps[int]:
        left = entry.size
        while left:
            piece = self._some(min(left, _PIECE * 4))
            if not piece:
                yield
                continue
            left -= len(piece)
            sink.write(piece, packed=len(piece))
        return entry.size

    def _inflated(self, entry: Entry, sink: Sink) -> _Steps[int]:
        packed = 0
        inflater = zlib.decompressobj(-15)
        while not inflater.eof and (entry.streamed or packed < entry.packed):
            piece = self._some(_PIECE if entry.streamed else min(_PIECE, entry.packed - packed))
            if not piece:
                yield
                continue
            packed += len(piece)
            _inflate(inflater, piece, entry, sink)
        unused = len(inflater.unused_data)
        if not inflater.eof or (not entry.streamed and (unused or packed != entry.packed)):
            raise _refused(entry, "is not compressed into the bytes that it announces")
        self._place -= unused
        return packed - unused

    def _read_central(self, signature: bytes, number: int) -> _Steps[None]:
        head = signature + (yield from self._take(zipformat.CENTRAL_SIZE - len(signature)))
        head += yield from self._take(zipformat.central_length(head) - len(head))
        entry = zipformat.parse_central(head)
        told = self._hash(entry, offset=entry.offset, crc=entry.crc, size=entry.size, packed=entry.packed)
        if told != self._told[number * len(told) : (number + 1) * len(told)]:
            raise _refused(entry, "is not the same in the central directory as before its content", _AGAIN)
        self._job.settle(entry, kept_link=self._links.get(number))

    def _read_end(self, signature: bytes, actual: zipformat.End) -> _Steps[None]:
        wide = signature == zipformat.END64
        if wide:
            data = signature + (yield from self._take(zipformat.END64_SIZE - len(signature)))
            self._check_end(zipformat.parse_end64(data), actual)
            locator = yield from self._take(zipformat.LOCATOR_SIZE)
            if zipformat.parse_locator(locator) != actual.offset + actual.size:
                raise BadFrame(f"The archive's end is elsewhere than its locator says. {_AGAIN}")
            signature = yield from self._take(zipformat.SIGNATURE_SIZE)
        if signature != zipformat.END:
            raise BadFrame(_unexpected(signature, "an entry or the end of the archive"))
        end = zipformat.parse_end(signature + (yield from self._take(zipformat.END_SIZE - len(signature))))
        if end.comment:
            raise UnsafeArchive(f"The archive ends with a comment of {end.comment} bytes, which no sender writes.")
        self._check_end(end, actual, wide=wide)

    def _check_end(self, said: zipformat.End, actual: zipformat.End, *, wide: bool = False) -> None:
        pairs = ((said.count, actual.count, 0xFFFF), (said.size, actual.size, -1), (said.offset, actual.offset, -1))
        for number, true, mark in pairs:
            if number != true and not (wide and number == (mark & 0xFFFFFFFF)):
                raise BadFrame(f"The archive's end says {number} of what is {true} in its directory. {_AGAIN}")

    def _hash(self, entry: Entry, *, offset: int, crc: int, size: int, packed: int) -> bytes:
        """Hash what the local header and the central directory must both say, and what was found."""
        own = (entry.mode, entry.digest, entry.absent, entry.link) if entry.own else None
        said = (entry.zip_name, entry.name, entry.flags, entry.method, entry.mtime_ns, own, offset, crc, size, packed)
        return hashlib.blake2b(repr(said).encode(), digest_size=8, key=self._key).digest()


_FOLLOWED = "More bytes follow the end of the archive. Send it again."
_AGAIN = "Send it again; if it stays so, its sender is to blame."


def _inflate(inflater: zlib._Decompress, piece: memoryview, entry: Entry, sink: Sink) -> None:
    """Give the sink what a piece of a compressed content inflates to, in small pieces."""
    data: bytes | memoryview = piece
    inflated = bytes(_PIECE)
    while not inflater.eof and (data or len(inflated) == _PIECE):
        try:
            inflated = inflater.decompress(data, _PIECE)
        except zlib.error:
            raise _refused(entry, "can not be decompressed") from None
        rest = inflater.unconsumed_tail
        sink.write(inflated, packed=len(data) - len(rest) - len(inflater.unused_data))
        data = rest


def _unknown(entry: Entry) -> bool:
    """Say whether the size of a content is known at its end alone."""
    return entry.streamed and not entry.own


def _kind_and_mode(entry: Entry) -> tuple[int, int]:
    """Return the type of an entry and its permission bits, private where the archive has none."""
    kind = stat.S_IFMT(entry.mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR):
        raise _refused(entry, "is a device, a fifo or a socket, which are not unpacked")
    if entry.directory != (kind == stat.S_IFDIR) and (kind or not entry.directory):
        raise _refused(entry, "is a directory by its name or by its mode, and not by the other")
    if entry.directory:
        return stat.S_IFDIR, entry.mode & 0o1777 if entry.mode else 0o700
    return kind or stat.S_IFREG, entry.mode & 0o777 if entry.mode else 0o600


def _check_link(entry: Entry, target: bytes) -> None:
    if not target or len(target) > _LINK_MAX or b"\0" in target:
        raise _refused(entry, f"is a symbolic link to nothing, or to a name with a zero byte or over {_LINK_MAX} bytes")


def _refused(entry: Entry | bytes, reason: str, remedy: str = "") -> UnsafeArchive:
    name = entry if isinstance(entry, bytes) else entry.name
    return UnsafeArchive(f"The archive's entry {shown(name)} {reason}. {remedy}".rstrip())


def _damaged(entry: Entry) -> UnsafeArchive:
    return _refused(entry, "has another checksum than it announces: it was damaged on the way", "Send it again.")


def _unexpected(signature: bytes, wanted: str) -> str:
    return f"The archive has {signature!r} where {wanted} should begin. {_AGAIN}"
