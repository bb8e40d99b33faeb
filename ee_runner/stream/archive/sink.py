"""Where the content of an archive's entry goes."""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from ee_runner.errors import StreamError
from ee_runner.stream.archive.admission import LINK_MAX, damaged, has_unknown_size, kind_and_mode, refused
from ee_runner.stream.archive.tree import NewFile, Tree
from ee_runner.stream.archive.zipformat import Entry

_PIECE = 1 << 18


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


class Job(Protocol):
    """The unpacking that a content belongs to; `modes` are the permission bits that it gives."""

    modes: int

    def count(self, entry: Entry, *, size: int, packed: int, taken: int) -> None: ...

    def lacks(self, path: bytes) -> None: ...


class Sink:
    """Where the content of one entry goes: a file, memory for a link, the cache besides, or nowhere; it is verified."""

    def __init__(self, job: Job, entry: Entry, path: bytes, *, wanted: bool) -> None:
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
        self._stack: ExitStack | None = None

    def open(self, tree: Tree, cache: Blobs | None) -> None:
        """Make the directory, or begin the file; take an absent content from the cache."""
        if self._entry.directory:
            if self._wanted:
                tree.make_directory(self._path)
        elif self.link is None and self._wanted:
            self._file = tree.create(self._path, size=None if has_unknown_size(self._entry) else self._entry.size)
        if self._entry.absent:
            self._take_from(cache)
        elif cache is not None and self._entry.digest is not None and self._wanted:
            self._stack = ExitStack()
            self._blob = self._stack.enter_context(cache.add(self._entry.digest))
            self._sum = None  # the cache does it

    def write(self, data: bytes | memoryview, *, packed: int = 0) -> None:
        """Take a piece of the content, which came out of `packed` bytes."""
        self.size += len(data)
        if self.size > self._entry.size and not has_unknown_size(self._entry):
            raise refused(self._entry, f"has more content than the {self._entry.size} bytes that it announces")
        self._put(data, packed)
        self.crc = zlib.crc32(data, self.crc)

    def end(self) -> None:
        """Verify the content, and put the file into its place."""
        if self.size != self._entry.size and not has_unknown_size(self._entry) and not self._entry.absent:
            raise refused(self._entry, f"has {self.size} bytes of content instead of {self._entry.size}")
        if self.crc != self._entry.crc and not self._entry.streamed:
            raise damaged(self._entry)
        if self._sum is not None and self._sum.digest() != self._entry.digest and not self._entry.absent:
            raise damaged(self._entry)
        if self._stack is not None:
            self._stack.close()  # the cache verifies what it was given
        if self._file is not None:
            known = self._entry.own
            mode = kind_and_mode(self._entry)[1] & self._job.modes if known else None
            self._file.commit(mode=mode, mtime_ns=self._entry.mtime_ns if known else None)

    def abort(self) -> None:
        """Let go of the cache; the tree removes the file."""
        if self._stack is not None:
            self._stack.__exit__(StreamError, StreamError("The archive was given up."), None)

    def _put(self, data: bytes | memoryview, packed: int) -> None:
        taken = len(data)
        if self._file is not None:
            before = self._file.taken
            self._file.write(data)
            taken = self._file.taken - before
        elif self.link is not None:
            self.link += bytes(data)
            if len(self.link) > LINK_MAX:
                raise refused(self._entry, f"is a symbolic link of more than {LINK_MAX} bytes")
        if self._blob is not None:
            self._blob.write(data)
        if self._sum is not None:
            self._sum.update(data)
        self._job.count(self._entry, size=len(data), packed=packed, taken=taken)

    def _take_from(self, cache: Blobs | None) -> None:
        if not self._wanted:
            return
        if cache is None:
            raise refused(
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
