"""A small disk that can be full, or break down: an ext4 file system in a file."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .processes import checked, require_root, wait_until

_SIZE = 8 << 20
_PIECE = 1024


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that is mounted on a directory, as a file `image`."""

    directory: Path
    image: Path

    def mount(self) -> None:
        checked(["mount", "-o", "loop,errors=remount-ro", self.image, self.directory])

    def unmount(self) -> None:
        checked(["umount", self.directory])

    @contextmanager
    def full(self) -> Iterator[None]:
        """Leave no room on the disk for the length of the block."""
        filler = self.directory / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(_PIECE))
        try:
            yield
        finally:
            filler.unlink()

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Have the kernel find an error, which makes the disk read-only at once, whoever writes to it; then mend it.

        What was written before is on the disk.
        """
        checked(["sync", "--file-system", self.directory])
        device = Path(checked(["findmnt", "--noheadings", "--output", "SOURCE", self.directory]).strip())
        Path("/sys/fs/ext4", device.name, "trigger_fs_error").write_text("1")
        try:
            yield
        finally:
            self._mend()
            wait_until(self._mended, bound=30, what=f"{self.directory}, writable again")

    def _mended(self) -> bool:
        """Say whether the disk can be written to; while some container still has it mounted, it is the broken one."""
        if not os.statvfs(self.directory).f_flag & os.ST_RDONLY:
            return True
        self._mend()
        return False

    def _mend(self) -> None:
        self.unmount()
        subprocess.run(["e2fsck", "-p", "-f", self.image], capture_output=True, check=False)  # 1: it was mended
        self.mount()


@contextmanager
def mounted(directory: Path, *, image: Path, uid: int) -> Iterator[Disk]:
    """Mount a new disk of 8 MB of this user's on a directory for the length of the block."""
    require_root("mounting a file system")
    with image.open("wb") as file:
        file.truncate(_SIZE)
    checked(["mkfs.ext4", "-q", "-F", "-m", "0", "-b", str(_PIECE), image])
    disk = Disk(directory, image)
    disk.mount()
    try:
        os.chown(directory, uid, -1)
        yield disk
    finally:
        disk.unmount()
        image.unlink()
