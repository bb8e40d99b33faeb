"""Unpacking what honest ends send: ours, and older ones that pack with Python's zipfile."""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
import random
import socket
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ee_runner.errors import ArtifactError, BadFrame, StreamError, TruncatedStream, UnsafeArchive
from ee_runner.stream.archive import pack
from ee_runner.stream.archive.unpack import Unpacker
from ee_runner.stream.cache import BlobStore
from tests.support.hostile import DIRECTORY, FILE, Made, archive, directory, file, own, own_link

NS = 1_700_000_000_123_456_789
Make = Callable[[Path], None]


def unpack(target: Path, *archives: bytes, piece: int = 1 << 30, **options: Any) -> Unpacker:
    with Unpacker(target, **options) as unpacker:
        for each in archives:
            for at in range(0, len(each), piece):
                unpacker.feed(each[at : at + piece])
            unpacker.close_one()
        unpacker.close()
    return unpacker


def older(source: Path) -> bytes:
    """Pack as older ends do: deflated, links as entries of their own, sizes in the local headers."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as packed:
        for path in sorted(source.rglob("*")):
            name = path.relative_to(source)
            if path.is_symlink():
                entry = zipfile.ZipInfo(f"./{name}" if name.parent == Path() else str(name))
                entry.create_system = 3
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
                packed.writestr(entry, str(path.readlink()))
            else:
                packed.write(path, str(name))
    return made.getvalue()


def ours(source: Path) -> tuple[bytes, ...]:
    return (b"".join(pack.stream(source).chunks),)


def batches(source: Path) -> tuple[bytes, ...]:
    return tuple(b"".join(each.chunks) for each in pack.batches(source, batch_size=2000))


def tree(directory: Path, *, precise: bool = True) -> dict[str, tuple[Any, ...]]:
    """What a directory holds: modes, times (of links only where they are sent), contents."""
    found = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        content: Any = None
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        when = status.st_mtime_ns if precise else None
        if not precise and path.is_file() and not path.is_symlink():
            when = status.st_mtime_ns // 10**9 // 2
        found[str(path.relative_to(directory))] = (status.st_mode, when, content)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "project" / "roles" / "empty").mkdir(parents=True)
    (root / "project" / "site.yml").write_text("- hosts: all\n" * 100)
    (root / "project" / "run.sh").write_text("#!/bin/sh\n")
    (root / "project" / "run.sh").chmod(0o750)
    (root / "project" / "secret").write_bytes(b"")
    (root / "project" / "secret").chmod(0o600)
    (root / "project" / "data").write_bytes(random.Random(1).randbytes(20_000))
    (root / "project" / "roles" / "\u00fcber").write_text("\u00e9")
    (root / "project" / "link").symlink_to("roles/\u00fcber")
    (root / "project" / "up").symlink_to("../top")
    (root / "top").symlink_to("project")
    (root / "project" / "roles").chmod(0o2755)
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(NS + number, NS + number * 7 * 10**9), follow_symlinks=False)
    (root / "project" / "roles").chmod(0o755)
    return root


@pytest.mark.parametrize("piece", [1, 1000, 1 << 30])
@pytest.mark.parametrize("packed", [ours, batches])
def test_what_our_own_end_sends_is_the_same_to_the_nanosecond(
    source: Path, tmp_path: Path, packed: Callable[[Path], tuple[bytes, ...]], piece: int
) -> None:
    done = unpack(tmp_path / "target", *packed(source), piece=piece)
    assert tree(tmp_path / "target") == tree(source)
    assert done.entries == len(tree(source))


@pytest.mark.parametrize("piece", [1, 1000, 1 << 30])
def test_what_an_older_end_sends_is_the_same(source: Path, tmp_path: Path, piece: int) -> None:
    unpack(tmp_path / "target", older(source), piece=piece)
    assert tree(tmp_path / "target", precise=False) == tree(source, precise=False)


def test_zip64_and_streams_of_pythons_zipfile_are_read(tmp_path: Path) -> None:
    class Unseekable(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += data
            return len(data)

    stream, wide = Unseekable(), io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a", b"streamed " * 100)
        packed.writestr("b", b"")
    with zipfile.ZipFile(wide, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("c", "w", force_zip64=True) as entry:
        entry.write(b"wide " * 100)
    unpack(tmp_path, bytes(stream.data), wide.getvalue(), piece=1)
    assert [(tmp_path / name).read_bytes() for name in "abc"] == [b"streamed " * 100, b"", b"wide " * 100]


def test_more_entries_than_a_short_count_can_tell(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        for number in range(66_000):
            packed.writestr(f"{number % 50}/{number}", b"")
    done = unpack(tmp_path, made.getvalue(), keep=lambda name: name == "7/57")
    assert done.entries == 66_000
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["7", "7/57"]


def test_without_unix_modes_everything_is_private(tmp_path: Path) -> None:
    entries = (file(b"a", mode=0), Made(name=b"d/", mode=0), file(b"dos", central={"system": 0}))
    unpack(tmp_path, archive(*entries))
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        "a": 0o600,
        "d": 0o700,
        "dos": 0o600,
    }


def test_a_link_of_an_older_end_that_has_no_time_gets_the_present_one(tmp_path: Path) -> None:
    link = Made(name=b"link", content=b"nowhere", mode=stat.S_IFLNK | 0o777)
    before = time.time()
    unpack(tmp_path, archive(link))
    assert (tmp_path / "link").lstat().st_mtime >= int(before)


def test_special_permission_bits_are_dropped_but_for_the_sticky_one_of_directories(tmp_path: Path) -> None:
    modes = {b"a": FILE | 0o7755, b"own": stat.S_IFREG | 0o6711, b"d/": DIRECTORY | 0o7777, b"none": stat.S_IFREG}
    entries = [Made(name=name, mode=mode, extra=own(mode) if name == b"own" else b"") for name, mode in modes.items()]
    unpack(tmp_path, archive(*entries))
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert found == {"a": 0o755, "own": 0o711, "d": 0o1777, "none": 0}


def test_names_that_are_no_text_come_back(tmp_path: Path) -> None:
    entry = file(b"odd", extra=own(FILE, size=8, raw_name=b"\xff\xfe"))
    unpack(tmp_path, archive(entry))
    assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [b"\xff\xfe"]


# What was there before


def test_a_file_replaces_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(tmp_path / "socket"))
    names = [b"file", b"link", b"dangling", b"fifo", b"socket"]
    unpack(tmp_path, archive(*(file(name, name) for name in names)))
    assert {path.name: (path.is_symlink(), path.read_text()) for path in tmp_path.iterdir()} == {
        name.decode(): (False, name.decode()) for name in names
    }


def test_a_link_replaces_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("nowhere")
    unpack(tmp_path, archive(file(b"x"), own_link(b"file", b"x"), own_link(b"link", b"x")))
    assert [str((tmp_path / name).readlink()) for name in ("file", "link")] == ["x", "x"]


def test_a_directory_that_is_there_stays_and_gets_the_mode(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "d").mkdir(parents=True, mode=0o777)
    target.chmod(0o751)
    (target / "d" / "mine").write_text("mine")
    unpack(target, archive(directory(b"d/"), file(b"d/theirs")))
    assert sorted(path.name for path in (target / "d").iterdir()) == ["mine", "theirs"]
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o755
    assert stat.S_IMODE(target.stat().st_mode) == 0o751


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    data = archive(file(b"a", b"new" * 1000))
    with Unpacker(tmp_path) as unpacker:
        for at in range(len(data)):
            unpacker.feed(data[at : at + 1])
            assert (tmp_path / "a").read_text() in ("old", "new" * 1000)


def test_what_was_begun_is_removed_when_it_is_given_up(tmp_path: Path) -> None:
    target = tmp_path / "target"
    data = archive(file(b"whole"), file(b"begun", b"x" * 1000))
    with Unpacker(target) as unpacker:
        unpacker.feed(data[: len(data) // 2])
        assert len(list(target.iterdir())) == 2
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_the_target_is_made_private(tmp_path: Path) -> None:
    unpack(tmp_path / "new" / "target", archive(file(b"a")))
    assert stat.S_IMODE((tmp_path / "new" / "target").stat().st_mode) == 0o700
    assert not stat.S_IMODE((tmp_path / "new").stat().st_mode) & 0o077


# Directories that nobody may write to


def as_nobody(work: Callable[[Path], None], place: Path) -> None:
    """Run in a process without privileges, so that modes mean something."""

    def run() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        work(place)

    if os.geteuid() == 0:
        os.chown(place, 65534, 65534)
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == 0


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can get to."""
    with tempfile.TemporaryDirectory(prefix="ee-tests-unpack-") as name:
        yield Path(name)


def test_directories_that_are_read_only_are_unpacked_and_unpacked_again(place: Path) -> None:
    modes = {b"a/": 0o000, b"a/b/": 0o111, b"a/b/c/": 0o000, b"d/": 0o555}
    modes |= {b"a/%d/%d/" % (n, m): 0o555 for n in range(20) for m in range(5)}  # more than are kept open
    kinds = {name: stat.S_IFDIR | mode for name, mode in modes.items()}
    first = archive(*(Made(name=name, mode=kind, extra=own(kind, mtime_ns=NS)) for name, kind in kinds.items()))
    second = archive(*(file(name + b"file") for name in modes))
    third = archive(file(b"d/another"))

    def work(target: Path) -> None:
        unpack(target, first, second)
        found = {}
        for name in modes:  # those above come first
            path = target / name.decode()
            found[name] = (stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime_ns)
            path.chmod(0o700)
        assert found == {name: (mode, NS) for name, mode in modes.items()}
        assert all((target / name.decode() / "file").is_file() for name in modes)
        (target / "d").chmod(0o555)
        unpack(target, third)
        assert stat.S_IMODE((target / "d").stat().st_mode) == 0o555

    as_nobody(work, place)


def test_a_directory_that_had_to_be_opened_up_is_closed_again_after_an_error(place: Path) -> None:
    def work(target: Path) -> None:
        (target / "d").mkdir()
        (target / "d").chmod(0o555)
        with pytest.raises(TruncatedStream):
            unpack(target, archive(file(b"d/file"))[:60])
        assert stat.S_IMODE((target / "d").stat().st_mode) == 0o555

    as_nobody(work, place)


def test_what_the_system_refuses_is_explained(place: Path) -> None:
    def work(target: Path) -> None:
        (target / "d").mkdir()
        (target / "d").chmod(0o333)
        with pytest.raises(ArtifactError, match=r"'d/file' can not be unpacked into .*: permission denied"):
            unpack(target, archive(file(b"d/file")))

    as_nobody(work, place)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_is_named_with_the_file_and_a_remedy(small_disk: Path) -> None:
    data = archive(file(b"small"), file(b"large", random.Random(1).randbytes(2 << 20)))
    with pytest.raises(ArtifactError, match=r"'large' can not be unpacked into .*: the disk is full\. Free space"):
        unpack(small_disk, data)
    assert [path.name for path in small_disk.iterdir()] == ["small"]


# What is wanted of it


def test_what_is_not_wanted_is_verified_and_thrown_away(tmp_path: Path) -> None:
    entries = [directory(b"a/"), file(b"a/b"), file(b"c", b"x" * 5000, method=8), own_link(b"l", b"c"), file(b"d/e/f")]
    done = unpack(tmp_path, archive(*entries), keep=lambda name: name in ("d/e/f",))
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["d", "d/e", "d/e/f"]
    assert done.entries == 5
    with pytest.raises(UnsafeArchive, match="checksum"):
        unpack(tmp_path, archive(file(b"a", local={"crc": 1}, central={"crc": 1})), keep=lambda _: False)


def test_names_are_asked_for_without_the_slash_of_a_directory(tmp_path: Path) -> None:
    asked = set()

    def keep(name: str) -> bool:
        asked.add(name)
        return True

    unpack(tmp_path, archive(directory(b"a/"), file("a/\u00fc".encode()), own_link(b"a/l", b".")), keep=keep)
    assert asked == {"a", "a/\u00fc", "a/l"}


def test_holes_stay_holes(tmp_path: Path) -> None:
    sparse = tmp_path / "source" / "sparse"
    sparse.parent.mkdir()
    with sparse.open("wb") as writing:
        for at in (0, 10 << 20, 40 << 20):
            writing.seek(at)
            writing.write(b"x" * 5000)
        writing.truncate(64 << 20)
    for number, archives in enumerate((ours(sparse.parent), batches(sparse.parent), (older(sparse.parent),))):
        made = tmp_path / str(number) / "sparse"
        unpack(made.parent, *archives, piece=100_000)
        assert made.read_bytes() == sparse.read_bytes()
        assert made.stat().st_blocks * 512 < 1 << 20


# The cache


def known(content: bytes, *, absent: bool = False, name: bytes = b"file") -> Made:
    extra = own(FILE, size=len(content), digest=hashlib.sha256(content).digest(), absent=absent)
    return file(name, b"" if absent else content, extra=extra)


def test_contents_go_to_the_cache_and_come_from_it(tmp_path: Path) -> None:
    cache = BlobStore(tmp_path / "cache")
    unpack(tmp_path / "one", archive(known(b"text"), known(b"", name=b"empty")), cache=cache)
    assert hashlib.sha256(b"text").digest() in cache
    absent = archive(known(b"text", absent=True), known(b"", absent=True, name=b"empty"))
    done = unpack(tmp_path / "two", absent, cache=cache)
    assert (tmp_path / "two" / "file").read_bytes() == b"text"
    assert (tmp_path / "two" / "empty").read_bytes() == b""
    assert stat.S_IMODE((tmp_path / "two" / "file").stat().st_mode) == 0o644
    assert done.bytes == 4


def test_what_the_cache_lacks_is_counted(tmp_path: Path) -> None:
    absent = archive(*(known(b"%d" % n, absent=True, name=b"f%d" % n) for n in range(3)), file(b"there"))
    with pytest.raises(StreamError, match=r"lacks 3 files that the sender left out, 'f0' first.*without --cache"):
        unpack(tmp_path / "target", absent, cache=BlobStore(tmp_path / "cache"))
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["there"]


def test_a_blob_that_was_damaged_is_as_good_as_none(tmp_path: Path) -> None:
    cache = BlobStore(tmp_path / "cache")
    unpack(tmp_path / "one", archive(known(b"text")), cache=cache)
    digest = hashlib.sha256(b"text").hexdigest()
    (tmp_path / "cache" / digest[:2] / digest).write_text("evil")
    with pytest.raises(StreamError, match="lacks 1 files"):
        unpack(tmp_path / "two", archive(known(b"text", absent=True)), cache=cache)
    assert not list((tmp_path / "two").iterdir())


def test_a_content_that_is_not_that_of_its_digest_stays_out_of_the_cache(tmp_path: Path) -> None:
    cache = BlobStore(tmp_path / "cache")
    wrong = file(b"file", b"evil", extra=own(FILE, size=4, digest=hashlib.sha256(b"text").digest()))
    with pytest.raises(BadFrame, match="SHA-256"):
        unpack(tmp_path / "target", archive(wrong), cache=cache)
    assert hashlib.sha256(b"text").digest() not in cache
    assert not list((tmp_path / "target").iterdir())


def test_nothing_is_left_in_the_cache_of_an_archive_that_was_cut(tmp_path: Path) -> None:
    cache = BlobStore(tmp_path / "cache")
    with Unpacker(tmp_path / "target", cache=cache) as unpacker:
        unpacker.feed(archive(known(b"text" * 100))[:200])
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != "name"]
    assert not list((tmp_path / "target").iterdir())


# Its ends


def test_a_job_without_archives_ends_well(tmp_path: Path) -> None:
    with Unpacker(tmp_path / "target") as unpacker:
        unpacker.close()
    assert list((tmp_path / "target").iterdir()) == []


def test_an_empty_archive_is_one(tmp_path: Path) -> None:
    assert unpack(tmp_path, archive()).entries == 0


def test_an_archive_without_a_byte_is_cut(tmp_path: Path) -> None:
    with Unpacker(tmp_path) as unpacker, pytest.raises(TruncatedStream, match="before its first byte"):
        unpacker.close_one()


def test_after_its_end_or_an_error_nothing_can_be_fed(tmp_path: Path) -> None:
    with Unpacker(tmp_path) as unpacker:
        unpacker.feed(archive())
        unpacker.close()
        with pytest.raises(StreamError, match="any more"):
            unpacker.feed(archive())
    with Unpacker(tmp_path) as unpacker:
        with pytest.raises(BadFrame):
            unpacker.feed(b"PK but no zip")
        with pytest.raises(StreamError, match="any more"):
            unpacker.feed(archive())


def test_no_descriptor_is_left_open(source: Path, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    unpack(tmp_path / "target", *batches(source))
    with pytest.raises(TruncatedStream):
        unpack(tmp_path / "target", older(source)[:-1])
    with pytest.raises(TruncatedStream):
        unpack(tmp_path / "target", older(source)[:1000], cache=BlobStore(tmp_path / "cache"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Its size

MEMORY = """
import os, sys
from pathlib import Path
from ee_runner.stream.archive.unpack import Unpacker
from ee_runner.workspace import places

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

baseline = peak()
with Unpacker(Path(sys.argv[1])) as unpacker:
    while data := os.read(0, 1 << 18):
        unpacker.feed(data)
    unpacker.close()
print(peak() - baseline, unpacker.entries, unpacker.bytes)
"""
BLOCK = bytes(range(256)) * 4096
BLOCKS = 300


def large_and_many(source: Path) -> Iterator[bytes]:
    """Give an archive of a large file and of twenty thousand small ones."""
    source.mkdir()
    with (source / "large").open("wb") as writing:
        for _ in range(BLOCKS):
            writing.write(BLOCK)
    yield from pack.stream(source, extra={f"role-{n % 100}/file-{n}": b"%d" % n for n in range(20_000)}).chunks


@pytest.fixture
def fast_place() -> Iterator[Path]:
    """A directory in memory, where there is such a place."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="ee-tests-unpack-", dir=shared if shared.is_dir() else None) as name:
        yield Path(name)


def test_memory_stays_small_whatever_comes(fast_place: Path) -> None:
    command = [sys.executable, "-c", MEMORY, str(fast_place / "target")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        with child.stdin:
            for chunk in large_and_many(fast_place / "source"):
                child.stdin.write(chunk)
        kilobytes, entries, size = map(int, child.stdout.read().split())
    assert kilobytes < 40 * 1024
    assert entries == 20_101
    assert size > 300 * 1024 * 1024
    assert (fast_place / "target" / "large").stat().st_size == len(BLOCK) * BLOCKS
