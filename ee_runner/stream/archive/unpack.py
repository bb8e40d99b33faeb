"""Unpacks archives as they come in: no temporary file, constant memory, nothing outside the target directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ee_runner.errors import StreamError, TruncatedStream, UnsafeArchive
from ee_runner.stream.archive import zipformat
from ee_runner.stream.archive.admission import DEFAULT, LINK_MAX, Limits, Names, check_link, kind_and_mode, refused
from ee_runner.stream.archive.links import Links
from ee_runner.stream.archive.reading import ArchiveReader
from ee_runner.stream.archive.sink import Blobs, Sink
from ee_runner.stream.archive.tree import Tree, shown
from ee_runner.stream.archive.zipformat import Entry

_COST = 200
"""What one directory or link that is kept until the end takes in memory, besides its names."""


class Unpacker:
    """Unpacks the archives of one job, one after another, into a directory.

    `keep` is asked, perhaps again, with each entry's name without the '/' that ends a directory's: what it does not
    want is verified, and thrown away; a directory above something wanted is made all the same. `links` says whether
    symbolic links may lead out of the directory. With a `cache`, contents that come with their digest are added to it,
    and those that the sender left out are taken from it.

    Files are written beside their place and put there whole, over a file, link, fifo or socket; directories that are
    there stay. Links are made, and directories get their modes and times, in `close`, when every archive is verified:
    until then no link of theirs exists. Special permission bits are dropped, except for the sticky bit of a directory.
    With `private` group and others get no access, whatever the archive says. `entries` and `bytes` count what was
    unpacked.

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
        private: bool = False,
    ) -> None:
        self.entries = 0
        self.bytes = 0
        self.modes = 0o700 if private else 0o7777
        self._limits = limits
        self._lead_out = links == "any"
        self._cache = cache
        self._keep = keep
        self._names = Names(limits)
        self._links: dict[bytes, tuple[bytes, int | None]] = {}
        self._directories: dict[bytes, tuple[int, int]] = {}
        self._held = 0
        self._packed = self._taken = 0
        self._missing: list[bytes] = []
        self._tree = Tree(target)
        self._archive: ArchiveReader | None = None

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
            self._archive = ArchiveReader(self)
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
            raise refused(entry, "is a device, a fifo or a socket, which are not unpacked")
        if entry.directory and (entry.size or entry.packed or entry.absent):
            raise refused(entry, "is a directory with content")
        if entry.streamed and entry.method == zipformat.STORED and not entry.own:
            raise refused(entry, "is stored without its size, so that its end can not be found")
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
            raise refused(
                entry,
                f"inflates beyond all measure: {self._taken} bytes on the disk out of {self._packed} packed ones",
                "Send such files by an end of this project, or leave them out.",
            )

    def lacks(self, path: bytes) -> None:
        """Note that the content of a file is not in the cache."""
        self._missing.append(path[:LINK_MAX])
        self._hold(path)

    def settle(self, entry: Entry, *, kept_link: bytes | None) -> None:
        """Take an entry as the central directory has it; `kept_link` is the content of a link of our own end."""
        path = entry.name.rstrip(b"/")
        if not self._keep(os.fsdecode(path)):
            return
        kind, mode = kind_and_mode(entry)
        if kind == stat.S_IFDIR:
            self._hold(path)
            self._directories[path] = (mode & self.modes, entry.mtime_ns)
        elif kind == stat.S_IFLNK:
            content = self._tree.content(path, LINK_MAX + 1) if kept_link is None else kept_link
            target = entry.target(content)
            check_link(entry, target)
            self._hold(path, target)
            self._links[path] = (target, entry.mtime_ns if entry.own else None)  # ansible-runner gives links no time
        elif not entry.own:
            self._tree.settle_file(path, mode=mode & self.modes, mtime_ns=entry.mtime_ns)

    def _hold(self, *names: bytes) -> None:
        self._held += _COST + sum(map(len, names))
        if self._held > self._limits.held:
            raise UnsafeArchive(
                f"The archive has more directories and symbolic links than can be held in memory ({shown(names[0])} "
                f"is one too many; the limit is {self._limits.held} bytes). Send fewer of them."
            )

    def _expect(self, entry: Entry, size: int) -> None:
        if self.bytes + size > self._limits.total:
            raise refused(entry, f"goes beyond the limit of {self._limits.total} bytes in all", "Send less.")
