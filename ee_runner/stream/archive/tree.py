"""Writes below one directory, through open directories alone: no link in it leads a write elsewhere."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from ee_runner.artifacts import describe
from ee_runner.errors import ArtifactError, UnsafeArchive

OPEN_DIRECTORIES = 64
"""How many directories are kept open at a time."""

SPARSE_FROM = 1 << 20
"""Files larger than this many bytes get holes where they hold zeros."""

BLOCK = 1 << 16
"""The piece of a file that is looked at for zeros, and becomes a hole."""

_SMALLEST_HOLE = 1 << 12
_ZEROS = bytes(BLOCK)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def shown(name: bytes) -> str:
    """Return a name as an error message can show it: printable, and of bounded length."""
    return ascii(name[:200].decode("utf-8", "replace") + ("..." if len(name) > 200 else ""))


class Tree:
    """The directory that an archive is unpacked into; missing, it is made, 0700 as all that is made in it.

    Names are relative paths in bytes, and have been checked for "..", "." and empty parts. Every step of a path is a
    real directory, opened without following links. Raises UnsafeArchive where something of the directory or of the
    archive stands in the way, ArtifactError naming the file when the system refuses. Close the tree, or use it as a
    context manager: the file that is being written goes, and directories that had to be opened up are as before.
    """

    def __init__(self, target: Path) -> None:
        from ee_runner.workspace.places import private_directory

        private_directory(target)
        self.target = target
        with self._explained(b""):
            self._root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._opened_up: dict[bytes, int] = {}
        self._partial = b".ee_runner-" + os.urandom(8).hex().encode() + b".partial"
        self._file: NewFile | None = None

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        return self._root < 0

    def close(self) -> None:
        """Remove what is half written, give back the modes that were changed, close all directories."""
        if self.closed:
            return
        if self._file is not None:
            self._file.discard()
        for path, mode in sorted(self._opened_up.items(), reverse=True):
            with contextlib.suppress(ArtifactError, UnsafeArchive):
                self.settle_directory(path, mode=mode, mtime_ns=None)
        for descriptor in (*self._open.values(), self._root):
            os.close(descriptor)
        self._open.clear()
        self._root = -1

    def make_directory(self, path: bytes) -> None:
        """Make a directory and those above it, unless they are there."""
        with self._explained(path):
            self._directory(path)

    def create(self, name: bytes, *, size: int | None) -> NewFile:
        """Begin a file beside its place; `size` decides on holes. The one begun before must have ended."""
        try:
            parent = self._directory(_parent(name))
            descriptor = os.open(self._partial, _NEW, 0o600, dir_fd=parent)
        except OSError as error:
            raise self._failure(name, error) from error
        sparse = size is None or size > SPARSE_FROM
        self._file = NewFile(self, name, descriptor=descriptor, place=parent, sparse=sparse)
        return self._file

    def link(self, name: bytes, target: bytes, *, mtime_ns: int | None) -> None:
        """Make a symbolic link, in one step, in the place of what is no directory."""
        with self._explained(name):
            parent = self._directory(_parent(name))
            os.symlink(target, self._partial, dir_fd=parent)
            try:
                if mtime_ns is not None:
                    os.utime(self._partial, ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)
                self._into_place(name, parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(self._partial, dir_fd=parent)
                raise

    def settle_file(self, name: bytes, *, mode: int, mtime_ns: int) -> None:
        """Give a file that was written here its permission bits and time."""
        with self._explained(name), self._reading(name) as descriptor:
            os.fchmod(descriptor, mode)
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))

    def settle_directory(self, path: bytes, *, mode: int | None, mtime_ns: int | None) -> None:
        """Give a directory its permission bits and time, if it belongs to this user."""
        with self._explained(path):
            descriptor = self._directory(path)
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid():
                return
            self._opened_up.pop(path, None)
            if mtime_ns is not None:
                os.utime(descriptor, ns=(mtime_ns, mtime_ns))
            if mode is not None:
                os.fchmod(descriptor, mode)

    def content(self, name: bytes, limit: int) -> bytes:
        """Return the beginning of a file that was written here."""
        with self._explained(name), self._reading(name) as descriptor:
            return os.read(descriptor, limit)

    def mode_of(self, name: bytes) -> int:
        """Return type and permission bits of what is there, following no link; 0 when nothing is."""
        with contextlib.suppress(OSError), self._looking_at(name) as (parent, part):
            return os.lstat(part, dir_fd=parent).st_mode
        return 0

    def link_target(self, name: bytes) -> bytes | None:
        """Return where a symbolic link that is there leads, None when none is there."""
        with contextlib.suppress(OSError), self._looking_at(name) as (parent, part):
            return os.readlink(part, dir_fd=parent)
        return None

    @contextlib.contextmanager
    def _looking_at(self, name: bytes) -> Iterator[tuple[int, bytes]]:
        """Open the directory that a name is in, and no link on the way, without making or keeping any."""
        above, descriptor = self._nearest_open(name)
        *parts, last = name[len(above) :].lstrip(b"/").split(b"/")
        descriptor = os.dup(descriptor)
        try:
            for part in parts:
                below = os.open(part, _DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor, last
        finally:
            os.close(descriptor)

    def _directory(self, path: bytes) -> int:
        """Return a directory, open; it stays so until as many others were asked for as are kept open."""
        if not path:
            return self._root
        found = self._open.get(path)
        if found is not None:
            self._open.move_to_end(path)
            return found
        above, descriptor = self._nearest_open(path)
        for part in path[len(above) :].lstrip(b"/").split(b"/"):
            above = above + b"/" + part if above else part
            descriptor = self._enter(descriptor, part, above)
        return descriptor

    def _nearest_open(self, path: bytes) -> tuple[bytes, int]:
        above = _parent(path)
        while above and above not in self._open:
            above = _parent(above)
        return above, self._open.get(above, self._root)

    def _enter(self, parent: int, part: bytes, path: bytes) -> int:
        try:
            descriptor = _opened_or_made(parent, part)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise self._in_the_way(parent, part, path) from None
            raise
        self._open[path] = descriptor
        self._open_up(descriptor, path)
        if len(self._open) > OPEN_DIRECTORIES:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def _open_up(self, descriptor: int, path: bytes) -> None:
        """Make a directory writable for as long as the archive is unpacked, if it is this user's."""
        found = os.fstat(descriptor)
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o700 != 0o700 and found.st_uid == os.geteuid():
            os.fchmod(descriptor, mode | 0o700)
            self._opened_up[path] = mode

    def _in_the_way(self, parent: int, part: bytes, path: bytes) -> UnsafeArchive:
        what = "something that is no directory"
        with contextlib.suppress(OSError):
            if stat.S_ISLNK(os.lstat(part, dir_fd=parent).st_mode):
                what = "a symbolic link, which is not followed,"
        return UnsafeArchive(
            f"The archive has the directory {shown(path)}, and {what} stands in its place in {self.target}. "
            "Move it away."
        )

    def _into_place(self, name: bytes, parent: int) -> None:
        try:
            os.rename(self._partial, name.rpartition(b"/")[2], src_dir_fd=parent, dst_dir_fd=parent)
        except (IsADirectoryError, FileExistsError):
            raise UnsafeArchive(
                f"The archive has the file {shown(name)}, and a directory stands in its place in {self.target}. "
                "Move it away."
            ) from None

    @contextlib.contextmanager
    def _reading(self, name: bytes) -> Iterator[int]:
        descriptor = os.open(name.rpartition(b"/")[2], _OLD, dir_fd=self._directory(_parent(name)))
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnsafeArchive(f"{shown(name)} in {self.target} was replaced while the archive was unpacked.")
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _explained(self, name: bytes) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failure(name, error) from error

    def _failure(self, name: bytes, error: OSError) -> ArtifactError:
        what = f"{shown(name)} can not be unpacked into {self.target}" if name else f"{self.target} can not be opened"
        return ArtifactError(f"{what}: {describe(error, option='')}")


class NewFile:
    """A file on its way: written beside its place under a private name, 0600, and put there when it is whole.

    `place` is the open directory that it is in, which stays open as long as the file. `size` counts its bytes, `taken`
    those that are no hole.
    """

    def __init__(self, tree: Tree, name: bytes, *, descriptor: int, place: int, sparse: bool) -> None:
        self.size = 0
        self.taken = 0
        self._tree = tree
        self._name = name
        self._descriptor = descriptor
        self._place = place
        self._sparse = sparse

    def write(self, data: bytes | memoryview) -> None:
        """Append to the file."""
        try:
            if self._sparse:
                self._write_with_holes(memoryview(data))
            else:
                self._write(memoryview(data), at=self.size)
        except OSError as error:
            raise self._tree._failure(self._name, error) from error
        self.size += len(data)

    def commit(self, *, mode: int | None = None, mtime_ns: int | None = None) -> None:
        """Put the file into its place, where what was there before goes; it keeps 0600 and its time unless told."""
        try:
            if self._sparse:
                os.ftruncate(self._descriptor, self.size)
            if mode is not None:
                os.fchmod(self._descriptor, mode)
            if mtime_ns is not None:
                os.utime(self._descriptor, ns=(mtime_ns, mtime_ns))
            self._tree._into_place(self._name, self._place)
        except BaseException as error:
            self.discard()
            if isinstance(error, OSError):
                raise self._tree._failure(self._name, error) from error
            raise
        self._close()

    def discard(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            os.unlink(self._tree._partial, dir_fd=self._place)
        self._close()

    def _close(self) -> None:
        self._tree._file = None
        os.close(self._descriptor)

    def _write_with_holes(self, data: memoryview) -> None:
        begin = at = 0
        while at < len(data):
            end = min(len(data), at + BLOCK - (self.size + at) % BLOCK)
            if _is_hole(data[at:end]):
                self._write(data[begin:at], at=self.size + begin)
                begin = end
            at = end
        self._write(data[begin:], at=self.size + begin)

    def _write(self, data: memoryview, *, at: int) -> None:
        self.taken += len(data)
        while data:
            written = os.pwrite(self._descriptor, data, at)
            data, at = data[written:], at + written


def _opened_or_made(parent: int, part: bytes) -> int:
    try:
        return os.open(part, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        os.mkdir(part, 0o700, dir_fd=parent)
    return os.open(part, _DIRECTORY, dir_fd=parent)


def _is_hole(data: memoryview) -> bool:
    if len(data) < _SMALLEST_HOLE or data[0] or data[-1]:
        return False
    return data.tobytes() == _ZEROS[: len(data)]


def _parent(name: bytes) -> bytes:
    return name.rpartition(b"/")[0]
