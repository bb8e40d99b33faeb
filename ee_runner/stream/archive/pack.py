"""A directory as zip archives that are made while they are sent: constant memory, no temporary file.

What is sent: regular files, directories (empty ones too) and symbolic links, with modes and times; directories before
what is in them, names sorted. A file with several hard links is sent for each of them. Sockets, named pipes and devices
are left out, and so is what disappears before its turn. An absolute link into the directory becomes a relative one.

Everything raises StreamError, naming the file, for what can not be read or has become shorter; of a file that has grown
as many bytes are sent as were announced.
"""

from __future__ import annotations

import stat
import zlib
from array import array
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

from ee_runner.stream.archive import zipformat
from ee_runner.stream.archive.found import ZEROS, Digests, Found, changed
from ee_runner.stream.archive.walk import Exclude, Skipped, Tree
from ee_runner.stream.archive.zipformat import Entry
from ee_runner.values import dataclass

BATCH = 4 * 1024 * 1024
"""Up to this size files are gathered in memory, and compressed there."""

LEVEL = 1
"""How hard deflate tries: 4 and 6 take a quarter to nearly twice as much time again, for about a tenth less.

Zeros shrink to a 227th then, far from what a receiver takes for a bomb.
"""

_JOINED = 64 * 1024


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
    for found in Tree(source, exclude=exclude, extra=extra or {}, skipped=skipped).walk():
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
    tree = Tree(source, exclude=exclude, extra=extra or {}, skipped=skipped)
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
    tree = Tree(source, exclude=exclude, extra=extra or {}, skipped=skipped)
    return Packing(None, _joined(_streamed(tree, known=known, digests=digests)))


def _streamed(tree: Tree, *, known: Container[bytes], digests: Digests | None) -> Iterator[bytes]:
    writer = _Writer()
    for found in tree.walk():
        digest = found.digest(digests) if digests else None
        entry = found.entry(digest=digest, absent=digest is not None and digest in known)
        yield from writer.send(entry, found)
        if digest is not None:
            found.verify()
    yield from writer.end()


class _Writer:
    """Writes one archive; what is to stand in its central directory is kept compressed until the end."""

    def __init__(self) -> None:
        self.count = 0
        self.position = 0
        self._size = 0
        self._packer = zlib.compressobj(1)
        self._records: list[bytes] = []

    def send(self, entry: Entry, found: Found) -> Iterator[bytes]:
        """Give an entry with its content, as the entry says: streamed, compressed with known size, or small."""
        entry = entry._replace(offset=self.position)
        if not entry.streamed and entry.method == zipformat.STORED:
            data = b"" if entry.absent else found.whole()
            yield from self._small(entry._replace(crc=zlib.crc32(data)), data)
            return
        local = zipformat.local_header(entry)
        yield self._out(local)
        if entry.streamed:
            checked = _Checked(found.blocks())
            yield from map(self._out, checked)
            entry = entry._replace(crc=checked.crc)
            yield self._out(zipformat.descriptor(entry))
        else:
            yield from map(self._out, _as_counted(entry, found))
        self._note(entry, local)

    def squeeze(self, found: Found) -> Iterator[bytes]:
        """Give an entry whose content is in memory as a whole, compressed where that helps."""
        data = found.whole()
        entry = found.entry()._replace(crc=zlib.crc32(data), flags=0, offset=self.position)
        packed = _squeezed(data) if len(data) > 32 and found.link is None else data
        if len(packed) < len(data):
            entry, data = entry._replace(method=zipformat.DEFLATED, packed=len(packed)), packed
        yield from self._small(entry, data)

    def _small(self, entry: Entry, data: bytes) -> Iterator[bytes]:
        local = zipformat.local_header(entry)
        yield self._out(local)
        yield self._out(data)
        self._note(entry, local)

    def end(self) -> Iterator[bytes]:
        """Give the central directory, and what follows it."""
        unpacker = zlib.decompressobj()
        self._records.append(self._packer.flush())
        yield from map(unpacker.decompress, self._records)
        yield unpacker.flush() + zipformat.end_records(zipformat.End(self.count, self._size, self.position))

    def _out(self, piece: bytes) -> bytes:
        self.position += len(piece)
        return piece

    def _note(self, entry: Entry, local: bytes) -> None:
        record = zipformat.central_entry(entry, local=local)
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

    def add(self, found: Found) -> None:
        self.raw += found.weight
        self._pieces.extend(self._writer.squeeze(found))

    def packing(self) -> Packing:
        pieces = [*self._pieces, *self._writer.end()]
        return Packing(sum(map(len, pieces)), _joined(pieces))


class _Plan:
    """What one walk has found, in a few bytes for each entry, and how large an archive of it is."""

    def __init__(self, things: Iterable[Found]) -> None:
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

    def send(self, tree: Tree) -> Iterator[bytes]:
        """Give the archive."""
        writer = _Writer()
        for index, found in enumerate(self.same(tree)):
            yield from writer.send(self._packed.get(index) or found.entry(), found)
        yield from writer.end()

    def same(self, tree: Tree) -> Iterator[Found]:
        """Walk again, and give everything as large as it was; raises StreamError where it is something else."""
        index = -1
        for index, found in enumerate(tree.walk()):
            if index >= len(self._sizes) or self._marks[index] != _mark(found) or found.size < self._sizes[index]:
                raise changed(found.source, found.name)
            yield found if found.size == self._sizes[index] else found._replace(size=self._sizes[index])
        if index + 1 != len(self._sizes):
            raise changed(tree.source)


def _alone(found: Found) -> Packing:
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
    central += len(zipformat.central_entry(entry._replace(offset=offset)))
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


def _counted(found: Found) -> Entry:
    """Compress a file once to learn how much that gives, and its checksum."""
    checked = _Checked(found.blocks())
    packed = sum(map(len, _deflated(checked)))
    return found.entry()._replace(method=zipformat.DEFLATED, packed=packed, crc=checked.crc, flags=0)


def _as_counted(entry: Entry, found: Found) -> Iterator[bytes]:
    """Compress a file for the second time; raises StreamError when that gives something else."""
    checked, left = _Checked(found.blocks()), entry.packed
    for piece in _deflated(checked):
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left or checked.crc != entry.crc:
        raise changed(found.source, found.name)


def _deflated(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Compress; what a block of zeros becomes between two full flushes is known."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -15)
    model = zlib.compressobj(LEVEL, zlib.DEFLATED, -15)
    nothing = model.compress(ZEROS) + model.flush(zlib.Z_FULL_FLUSH)
    for block in blocks:
        if block == ZEROS:
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


def _mark(found: Found) -> int:
    """Return a number that tells things apart by their name and kind, and links by their target."""
    kind = stat.S_IFMT(found.mode).to_bytes(4, "little")
    return zlib.crc32(found.name + b"\0" + (found.link or found.data), zlib.crc32(kind))
