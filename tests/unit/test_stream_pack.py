"""A directory becomes archives that Python's zipfile, unzip, an older end and our own parsers read alike."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ee_runner.errors import StreamError, UnsafeArchive
from ee_runner.stream.archive import found, pack, walk, zipformat
from ee_runner.stream.archive.zipformat import Entry
from tests.support import venvs
from tests.support.processes import REPO

MODES = ("batches", "single", "stream")
REQUIREMENTS = ("ansible-runner==2.4.3", "ansible-core<2.20")

ODD_NAMES = (
    b"back\\slash",
    b"trailing space ",
    b"new\nline",
    b"-rf",
    "caf\u00e9".encode(),
    "cafe\u0301".encode(),
    "\u65e5\u672c\u8a9e".encode(),
    b"latin-\xe9\xff",
    b"\xff" * 200,
    b"\x01\x1b[31m",
    b"n" * 255,
    b"~",
)


# Reading archives


@dataclass(frozen=True)
class Content:
    """An entry as our parsers see it, and its content, inflated."""

    entry: Entry
    data: bytes


def taken(packing: pack.Packing) -> bytes:
    """The bytes of an archive; as many as were announced."""
    data = b"".join(packing.chunks)
    assert packing.size in (None, len(data))
    return data


def packed(mode: str, source: Path, **more: Any) -> list[bytes]:
    if mode == "batches":
        return [taken(packing) for packing in pack.batches(source, **more)]
    return [taken(getattr(pack, mode)(source, **more))]


def entries(data: bytes) -> dict[bytes, Content]:
    """Read an archive from front to back, and hold the central directory against it."""
    found: list[Content] = []
    place = 0
    while data[place : place + 4] == zipformat.LOCAL:
        length = zipformat.local_length(data[place : place + zipformat.LOCAL_SIZE])
        local = zipformat.parse_local(data[place : place + length])
        start = place + length
        size = local.size if local.streamed else local.packed
        content = data[start : start + size]
        place = start + size
        crc = local.crc
        if local.streamed:
            width = zipformat.descriptor_length(local)
            crc, *sizes = zipformat.parse_descriptor(data[place : place + width], wide=local.wide)
            assert sizes == [size, size]
            place += width
        content = zlib.decompress(content, -15) if local.method == zipformat.DEFLATED else content
        assert zlib.crc32(content) == crc
        assert local.absent or len(content) == local.size
        found.append(Content(local, content))
    directory = place
    for content_of in found:
        length = zipformat.central_length(data[place : place + zipformat.CENTRAL_SIZE])
        central = zipformat.parse_central(data[place : place + length])
        seen = ("name", "zip_name", "mode", "mtime_ns", "size", "method", "flags", "digest", "absent", "link")
        assert all(getattr(central, name) == getattr(content_of.entry, name) for name in seen)
        assert central.crc == zlib.crc32(content_of.data)
        place += length
    assert_end(data, place, zipformat.End(len(found), place - directory, directory))
    assert len({each.entry.name for each in found}) == len(found)
    return {each.entry.name: each for each in found}


def assert_end(data: bytes, place: int, expected: zipformat.End) -> None:
    end = zipformat.parse_end(data[-zipformat.END_SIZE :])
    if end.wide:
        locator = len(data) - zipformat.END_SIZE - zipformat.LOCATOR_SIZE
        assert zipformat.parse_locator(data[locator : locator + zipformat.LOCATOR_SIZE]) == place
        end = zipformat.parse_end64(data[place : place + zipformat.END64_SIZE])
        place = locator + zipformat.LOCATOR_SIZE
    assert place == len(data) - zipformat.END_SIZE
    assert end == expected


def all_entries(archives: Iterable[bytes]) -> dict[bytes, Content]:
    found: dict[bytes, Content] = {}
    for data in archives:
        more = entries(data)
        assert not found.keys() & more.keys()
        found.update(more)
    return found


def on_disk(source: Path) -> dict[bytes, tuple[int, int | None, bytes]]:
    """What is below a directory: name -> mode, mtime in ns (of files), content or target."""
    found: dict[bytes, tuple[int, int | None, bytes]] = {}
    for path in source.rglob("*"):
        status = path.lstat()
        name = os.fsencode(path.relative_to(source))
        if stat.S_ISDIR(status.st_mode):
            found[name + b"/"] = (status.st_mode, None, b"")
        elif stat.S_ISLNK(status.st_mode):
            found[name] = (status.st_mode, None, os.fsencode(path.readlink()))
        else:
            found[name] = (status.st_mode, status.st_mtime_ns, path.read_bytes())
    return found


def in_archives(archives: Iterable[bytes]) -> dict[bytes, tuple[int, int | None, bytes]]:
    """The same of what our parsers read."""
    return {name: _seen(each.entry, each.data) for name, each in all_entries(archives).items()}


def _seen(entry: Entry, data: bytes) -> tuple[int, int | None, bytes]:
    if stat.S_ISLNK(entry.mode):
        return entry.mode, None, entry.target(data)
    return entry.mode, None if entry.directory else entry.mtime_ns, data


def others_accept(data: bytes, scratch: Path) -> None:
    """Python's zipfile finds every checksum right, and so do the programs that are here."""
    place = scratch / "archive.zip"
    place.write_bytes(data)
    with zipfile.ZipFile(place) as archive:
        assert archive.testzip() is None
    for command in ("unzip", "-tqq"), ("zipinfo",), ("bsdtar", "-xOf"):
        if shutil.which(command[0]):
            done = subprocess.run([*command, place], capture_output=True, check=False, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr


# Trees


def write(
    path: Path, data: bytes = b"content", *, mode: int = 0o644, mtime_ns: int = 1_700_000_001_123_456_789
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "source"
    place.mkdir()
    return place


@pytest.fixture
def project(source: Path) -> Path:
    """A tree with something of every kind that is sent."""
    write(source / "project/site.yml", b"- hosts: all\n" * 400)
    write(source / "project/run.sh", b"#!/bin/sh\n", mode=0o755)
    write(source / "inventory/hosts", b"localhost\n", mode=0o600)
    write(source / "project/empty", b"")
    write(source / "project/large.bin", os.urandom(pack.BATCH + 12345), mode=0o640)
    (source / "project/void/within").mkdir(parents=True)
    (source / "project/void").chmod(0o2750)
    (source / "artifacts").mkdir(mode=0o700)
    (source / "project/link").symlink_to("site.yml")
    (source / "project/up").symlink_to("../inventory")
    (source / "dangling").symlink_to("nowhere/at all")
    (source / "out").symlink_to("/etc/hostname")
    with (source / "project/sparse.img").open("wb") as file:
        file.truncate(pack.BATCH * 3)
        file.seek(pack.BATCH)
        file.write(b"something")
    return source


@contextlib.contextmanager
def ordinary_user(place: Path) -> Iterator[Path]:
    """A directory outside the private one of the tests, and the rights of a user whom modes bind."""
    with tempfile.TemporaryDirectory(prefix="ee-tests-pack-") as scratch:
        target = Path(scratch) / "source"
        shutil.copytree(place, target)
        Path(scratch).chmod(0o755)
        before = os.geteuid()
        if before == 0:
            os.seteuid(65534)
        try:
            yield target
        finally:
            os.seteuid(before)


@contextlib.contextmanager
def constants(**values: int) -> Iterator[None]:
    """The sizes at which the form of an archive changes, made small."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(
                next(module for module in (zipformat, found, walk, pack) if name in vars(module)), name, value
            )
        yield


# What arrives


@pytest.mark.parametrize("mode", MODES)
def test_everything_in_the_directory_is_in_the_archive_as_it_is(mode: str, project: Path) -> None:
    assert in_archives(packed(mode, project)) == on_disk(project)


@pytest.mark.parametrize("mode", MODES)
def test_other_programs_find_the_archive_sound(mode: str, project: Path, tmp_path: Path) -> None:
    for data in packed(mode, project):
        others_accept(data, tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_names_of_every_kind_arrive_exactly(mode: str, source: Path) -> None:
    for name in ODD_NAMES:
        write(source / os.fsdecode(name), name)
        if len(name) < 250:
            write(source / os.fsdecode(name + b"-d") / "file", name)
    assert in_archives(packed(mode, source)) == on_disk(source)


@pytest.mark.parametrize("mode", MODES)
def test_python_extracts_every_name_and_those_in_utf_8_exactly(mode: str, source: Path, tmp_path: Path) -> None:
    for name in ODD_NAMES:
        write(source / os.fsdecode(name), name)
    for data in packed(mode, source):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(tmp_path / "target")
        others_accept(data, tmp_path)
    arrived = {os.fsencode(path.name): path.read_bytes() for path in (tmp_path / "target").iterdir()}
    assert sorted(arrived.values()) == sorted(ODD_NAMES)
    utf8 = [name for name in ODD_NAMES if name.decode("utf-8", "replace").encode() == name]
    assert len(utf8) == 10
    assert all(arrived[name] == name for name in utf8)


def test_a_link_whose_target_is_no_utf_8_can_be_read_as_text_and_arrives_exactly(source: Path) -> None:
    (source / "link").symlink_to(os.fsdecode(b"to-\xe9"))
    (data,) = packed("single", source)
    content = entries(data)[b"link"]
    assert content.entry.target(content.data) == b"to-\xe9"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("link").decode() == "to-\u0398"


@pytest.mark.parametrize("mode", MODES)
def test_older_ends_are_told_modes_kinds_and_local_times(mode: str, project: Path) -> None:
    expected = on_disk(project)
    for data in packed(mode, project):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                kind, mtime_ns, _ = expected[info.filename.encode()]
                assert info.external_attr >> 16 == kind
                assert info.create_system == 3
                if mtime_ns is not None:
                    seconds = time.mktime((*info.date_time, 0, 0, -1))
                    assert 0 <= mtime_ns / 1e9 - seconds < 2


@pytest.mark.parametrize(
    ("mtime", "year"),
    [(0, 1980), (-(10**9), 1980), (4_354_819_200, 2107), (5_000_000_000, 2107), (9_000_000_000, 2107)],
)
def test_times_that_zip_does_not_know_are_exact_for_us_and_near_for_others(mtime: int, year: int, source: Path) -> None:
    path = write(source / "file", mtime_ns=mtime * 10**9 + 7)
    if path.stat().st_mtime_ns != mtime * 10**9 + 7:
        pytest.skip("the file system does not keep such a time")
    (data,) = packed("stream", source)
    assert entries(data)[b"file"].entry.mtime_ns == mtime * 10**9 + 7
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.infolist()[0].date_time[0] == year


def test_directories_come_before_what_is_in_them_and_names_in_order(project: Path) -> None:
    (data,) = packed("stream", project)
    names = list(entries(data))
    assert names == sorted(names, key=lambda name: name.rstrip(b"/").split(b"/"))
    assert names[0] == b"artifacts/"


def test_the_links_of_a_file_are_files_of_their_own(source: Path) -> None:
    write(source / "one", b"shared")
    os.link(source / "one", source / "two")
    assert {name: each.data for name, each in all_entries(packed("batches", source)).items()} == {
        b"one": b"shared",
        b"two": b"shared",
    }


@pytest.mark.parametrize(
    ("name", "target", "sent"),
    [
        ("link", "project/site.yml", "project/site.yml"),
        ("project/roles/link", "project/site.yml", "../site.yml"),
        ("project/link", "inventory/hosts", "../inventory/hosts"),
        ("project/link", "project/a/../b", "a/../b"),
        ("project/link", "", ".."),
        ("link", "", "."),
    ],
)
def test_an_absolute_link_into_the_directory_becomes_relative(name: str, target: str, sent: str, source: Path) -> None:
    alias = source.parent / "alias"
    alias.symlink_to(source)
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    for root in (source, alias):
        (source / name).unlink(missing_ok=True)
        (source / name).symlink_to(f"{root}/{target}".rstrip("/"))
        (data,) = packed("single", alias)
        assert entries(data)[name.encode()].data == sent.encode()


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "{source}/../outside", "{source}-of-another/file"])
def test_a_link_that_leads_out_is_sent_as_it_is(target: str, source: Path) -> None:
    (source / "link").symlink_to(target.format(source=source))
    (data,) = packed("single", source)
    assert entries(data)[b"link"].data == target.format(source=source).encode()


def test_a_directory_behind_a_link_is_not_entered(source: Path) -> None:
    write(source / "real/file")
    (source / "again").symlink_to("real")
    (data,) = packed("stream", source)
    assert list(entries(data)) == [b"again", b"real/", b"real/file"]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_no_file_is_left_out_and_named(mode: str, source: Path) -> None:
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(source / "socket"))
    write(source / "file")
    told: list[tuple[str, str]] = []
    found = all_entries(packed(mode, source, skipped=lambda name, reason: told.append((name, reason))))
    assert list(found) == [b"file"]
    assert told == [("pipe", "it is a named pipe"), ("socket", "it is a socket")]


@pytest.mark.parametrize("mode", MODES)
def test_an_excluded_directory_goes_with_everything_in_it(mode: str, project: Path) -> None:
    asked: list[str] = []

    def exclude(name: str) -> bool:
        asked.append(name)
        return name in ("project/void", "artifacts", "project/link")

    found = all_entries(packed(mode, project, exclude=exclude))
    assert not {b"artifacts/", b"project/void/", b"project/void/within/", b"project/link"} & found.keys()
    assert b"project/site.yml" in found
    assert "project/void/within" not in asked


@pytest.mark.parametrize("mode", MODES)
def test_extra_files_are_laid_over_the_directory(mode: str, project: Path) -> None:
    os.mkfifo(project / "project/key")
    extra = {"env/envvars": b"A: 1\n", "project/site.yml": b"new", "project/key": b"secret", "deep/er/file": b""}
    found = all_entries(packed(mode, project, extra=extra, exclude=lambda name: name == "artifacts"))
    assert {name: found[name.encode()].data for name in extra} == extra
    assert all(found[name.encode()].entry.mode == stat.S_IFREG | 0o600 for name in extra)
    assert all(stat.S_ISDIR(found[name].entry.mode) for name in (b"env/", b"deep/", b"deep/er/"))
    assert b"project/run.sh" in found


def test_an_extra_file_in_an_excluded_directory_brings_nothing_else_with_it(source: Path) -> None:
    write(source / "env/secret")
    (data,) = packed("single", source, exclude=lambda name: name == "env", extra={"env/settings": b"x"})
    assert list(entries(data)) == [b"env/", b"env/settings"]


@pytest.mark.parametrize("extra", ["../up", "/etc/x", "a//b", "", "a/./b", "a\0b"])
def test_an_extra_file_needs_a_name_inside(extra: str, source: Path) -> None:
    with pytest.raises(ValueError, match="can not be sent"):
        pack.single(source, extra={extra: b""})


def test_an_extra_file_can_not_replace_a_directory_or_lie_below_a_file(source: Path) -> None:
    write(source / "env/settings")
    with pytest.raises(StreamError, match="/env is a directory, and a file is to be sent in its place"):
        pack.single(source, extra={"env": b""})
    with pytest.raises(StreamError, match="/env/settings is no directory"):
        pack.single(source, extra={"env/settings/x": b""})


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_directory_is_one_empty_archive(mode: str, source: Path) -> None:
    (data,) = packed(mode, source)
    assert entries(data) == {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == []


# Sizes


_part = st.binary(min_size=1, max_size=6).map(lambda raw: raw.replace(b"\0", b"0").replace(b"/", b"_"))
_names = st.lists(_part.filter(lambda part: part not in (b".", b"..")), min_size=1, max_size=4).map(b"/".join)
_content = st.one_of(
    st.binary(max_size=60), st.integers(0, 3000).map(bytes), st.sampled_from([None, b"link", b"\xff\xfe"])
)


@settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(tree=st.dictionaries(_names, _content, max_size=8), limit=st.sampled_from([40, 500, 1 << 40]))
def test_any_tree_is_announced_with_its_size_and_arrives(tree: dict[bytes, bytes | None], limit: int) -> None:
    with tempfile.TemporaryDirectory() as scratch, constants(SMALL=100, BLOCK=64, BATCH=1000, ZIP64_LIMIT=limit):
        for name, data in tree.items():
            _plant(Path(scratch) / os.fsdecode(name), data)
        expected = on_disk(Path(scratch))
        for mode, more in (("batches", {"batch_size": 1000}), ("single", {}), ("stream", {})):
            assert in_archives(packed(mode, Path(scratch), **more)) == expected


def _plant(path: Path, data: bytes | None) -> None:
    """Make a directory, a link or a file, unless another stands in the way."""
    with contextlib.suppress(FileExistsError, NotADirectoryError, FileNotFoundError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            path.mkdir()
        elif data in (b"link", b"\xff\xfe"):
            path.symlink_to(os.fsdecode(data))
        elif not path.is_dir():
            path.write_bytes(data)


def test_small_files_are_gathered_and_a_large_one_goes_alone(source: Path) -> None:
    for number in range(40):
        write(source / f"{number:03}", b"x" * 1000)
    write(source / "020-large", os.urandom(20_000))
    archives = [list(entries(data)) for data in packed("batches", source, batch_size=10_000)]
    assert [b"020-large"] in archives
    assert 5 < len(archives) < 12
    assert [name for archive in archives for name in archive] == sorted(on_disk(source))


def test_a_sparse_file_is_sent_in_little_room(source: Path) -> None:
    with (source / "disk.img").open("wb") as file:
        file.truncate(300_000_000)
        file.seek(100_000_000)
        file.write(os.urandom(100_000))
    (batch,) = pack.batches(source)
    single = pack.single(source)
    assert batch.size == single.size
    assert batch.size
    assert batch.size < 2_000_000


@pytest.mark.parametrize("mode", MODES)
def test_beyond_the_limits_of_zip_others_find_the_archive_sound(mode: str, source: Path, tmp_path: Path) -> None:
    for number in range(5):
        write(source / f"file-{number}", os.urandom(3000))
    write(source / "zeros", bytes(9000))
    with constants(ZIP64_LIMIT=2000, COUNT_LIMIT=3, SMALL=2500, BATCH=5000):
        more = {"batch_size": 100_000} if mode == "batches" else {}
        (data,) = packed(mode, source, **more)
        assert in_archives([data]) == on_disk(source)
    others_accept(data, tmp_path)


def test_a_file_of_more_than_four_gigabytes_is_read_by_others(source: Path, tmp_path: Path) -> None:
    size = (4 << 30) + 5
    with (source / "big").open("wb") as file:
        file.truncate(size)
        file.seek(0)
        file.write(b"first")
        file.seek(size - 4)
        file.write(b"last")
    target, zeros = tmp_path / "archive.zip", bytes(found.BLOCK)
    with target.open("wb") as file:
        for chunk in pack.stream(source).chunks:
            if chunk == zeros:
                file.seek(len(chunk), os.SEEK_CUR)
            else:
                file.write(chunk)
    with zipfile.ZipFile(target) as archive, archive.open("big") as content:
        (info,) = archive.infolist()
        assert (info.file_size, info.compress_size) == (size, size)
        assert content.read(5) == b"first"
    with target.open("rb") as file:
        head = file.read(zipformat.LOCAL_SIZE)
        rest = file.read(zipformat.local_length(head) - len(head))
        local = zipformat.parse_local(head + rest)
        assert (local.size, local.streamed, local.wide) == (size, True, True)
        file.seek(size - 4, os.SEEK_CUR)
        assert file.read(4) == b"last"
        width = zipformat.descriptor_length(local)
        assert zipformat.parse_descriptor(file.read(width), wide=True) == (info.CRC, size, size)
    if shutil.which("zipinfo"):
        shown = subprocess.run(["zipinfo", "-l", target], capture_output=True, text=True, check=True, timeout=60).stdout
        assert str(size) in shown


def test_many_files_and_a_large_one_need_little_memory(source: Path) -> None:
    for number in range(20_000):
        if number % 1000 == 0:
            (source / f"{number:05}").mkdir()
        (source / f"{number // 1000 * 1000:05}" / f"file-{number}").write_bytes(b"some text of a small file\n" * 8)
    with (source / "large").open("wb") as file:
        file.truncate(300_000_000)
    program = """
import re, sys
from pathlib import Path
from ee_runner.stream.archive import pack
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
mode, source, before, count = sys.argv[1], Path(sys.argv[2]), peak(), 0
made = pack.batches(source) if mode == "batches" else [getattr(pack, mode)(source)]
for packing in made:
    for chunk in packing.chunks:
        count += len(chunk)
print(count, peak() - before)
"""
    for mode in MODES:
        command = [sys.executable, "-c", program, mode, str(source)]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True, timeout=120)
        count, kilobytes = map(int, done.stdout.split())
        assert count > 1_000_000
        assert kilobytes < 40_000, mode


# Digests


def _digest(name: str, file: int, status: os.stat_result) -> bytes:
    assert name
    return hashlib.sha256(os.pread(file, status.st_size, 0)).digest()


def test_what_the_other_side_has_goes_without_its_content(project: Path) -> None:
    site = (project / "project/site.yml").read_bytes()
    large = (project / "project/large.bin").read_bytes()
    known = {hashlib.sha256(site).digest(), hashlib.sha256(large).digest()}
    (data,) = packed("stream", project, known=known, digests=_digest)
    assert len(data) < len(large) * 4
    found = entries(data)
    for name, content in ((b"project/site.yml", site), (b"project/large.bin", large)):
        entry = found[name].entry
        assert (entry.absent, entry.size, entry.packed, found[name].data) == (True, len(content), 0, b"")
        assert entry.digest == hashlib.sha256(content).digest()
    assert not found[b"project/run.sh"].entry.absent
    assert found[b"project/run.sh"].entry.digest == hashlib.sha256(b"#!/bin/sh\n").digest()
    assert found[b"project/link"].entry.digest is None


def test_a_file_without_digest_goes_with_its_content(source: Path) -> None:
    write(source / "file", b"x")
    (data,) = packed(
        "stream", source, known={hashlib.sha256(b"x").digest()}, digests=lambda _name, _file, _status: None
    )
    assert (entries(data)[b"file"].entry.digest, entries(data)[b"file"].data) == (None, b"x")


def test_a_file_that_is_written_to_after_its_digest_is_an_error(source: Path) -> None:
    path = write(source / "file", b"before")

    def digest(name: str, file: int, status: os.stat_result) -> bytes:
        found = _digest(name, file, status)
        write(path, b"after!")
        return found

    with pytest.raises(StreamError, match="/file changed while it was sent"):
        packed("stream", source, digests=digest)


# Changes and errors


def _grown(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.truncate(size)


@pytest.mark.parametrize("size", [0, pack.BATCH + 1])
def test_of_a_file_that_grows_the_announced_bytes_are_sent(size: int, source: Path) -> None:
    path = write(source / "log", b"line\n" * (pack.BATCH // 4))
    before = path.read_bytes()
    packing = pack.single(source, extra={"more": bytes(size)})
    _grown(path, len(before) * 2)
    assert entries(taken(packing))[b"log"].data == before
    for batch in pack.batches(source):
        _grown(path, len(before) * 3)
        assert len(entries(taken(batch))[b"log"].data) == len(before) * 2


@pytest.mark.parametrize("mode", ["batches", "single"])
def test_a_file_that_becomes_shorter_is_an_error_that_names_it(mode: str, source: Path) -> None:
    path = write(source / "log", os.urandom(pack.BATCH + 1))
    made = pack.batches(source) if mode == "batches" else iter([pack.single(source)])
    packing = next(made)
    os.truncate(path, 1000)
    with pytest.raises(StreamError, match=r"/source/log changed while it was sent\. Send again"):
        taken(packing)


def test_a_sparse_file_that_changes_between_its_two_readings_is_an_error(source: Path) -> None:
    _grown(source / "disk", pack.BATCH * 2)
    made = pack.batches(source)
    packing = next(made)
    with (source / "disk").open("r+b") as file:
        file.write(os.urandom(100_000))
    with pytest.raises(StreamError, match="/source/disk changed while it was sent"):
        taken(packing)


def test_a_sparse_file_that_becomes_shorter_is_an_error(source: Path) -> None:
    _grown(source / "disk", pack.BATCH * 2)
    chunks = pack.stream(source).chunks
    next(chunks)
    os.truncate(source / "disk", pack.BATCH)
    with pytest.raises(StreamError, match="/source/disk changed while it was sent"):
        list(chunks)


@pytest.mark.parametrize("change", ["new", "gone", "renamed", "link", "end"])
def test_a_directory_that_changes_after_its_size_was_announced_is_an_error(change: str, source: Path) -> None:
    write(source / "middle/large", os.urandom(pack.BATCH + 1))
    (source / "middle/link").symlink_to("large")
    write(source / "z")
    packing = pack.single(source)
    if change == "new":
        write(source / "middle/another")
    elif change == "gone":
        (source / "middle/link").unlink()
    elif change == "renamed":
        (source / "z").rename(source / "y")
    elif change == "end":
        (source / "z").unlink()
    else:
        (source / "middle/link").unlink()
        (source / "middle/link").symlink_to("LARGE")
    with pytest.raises(StreamError, match="changed while it was sent"):
        taken(packing)


def test_what_disappears_before_its_turn_is_left_out_and_named(source: Path) -> None:
    write(source / "a")
    write(source / "b")
    told: list[tuple[str, str]] = []

    def exclude(name: str) -> bool:
        if name == "b":
            (source / "b").unlink()
        return False

    (data,) = packed("stream", source, exclude=exclude, skipped=lambda name, reason: told.append((name, reason)))
    assert list(entries(data)) == [b"a"]
    assert told == [("b", "it was removed meanwhile")]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("pipe", "/file changed while it was sent"),
        ("directory", "/file changed while it was sent"),
        ("link", "/file can not be sent: a link was put in its place"),
    ],
)
def test_what_is_put_in_the_place_of_a_file_is_neither_waited_for_nor_followed(
    what: str, said: str, source: Path
) -> None:
    write(source / "file")

    def swap(name: str) -> bool:
        (source / name).unlink()
        if what == "pipe":
            os.mkfifo(source / name)
        elif what == "directory":
            (source / name).mkdir()
        else:
            (source / name).symlink_to("/etc/passwd")
        return False

    with pytest.raises(StreamError, match=said):
        packed("stream", source, exclude=swap)


def test_a_pipe_put_in_the_place_of_a_directory_does_not_hang(source: Path) -> None:
    write(source / "place/file")

    def swap(name: str) -> bool:
        if name == "place":
            (source / "place/file").unlink()
            (source / "place").rmdir()
            os.mkfifo(source / "place")
        return False

    assert not entries(packed("stream", source, exclude=swap)[0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["secret", "closed"])
def test_what_can_not_be_read_is_named_with_the_remedy(mode: str, name: str, source: Path) -> None:
    write(source / "secret")
    write(source / "closed/file")
    with ordinary_user(source) as place:
        before = os.geteuid()
        os.seteuid(os.getuid())
        (place / name).chmod(0)
        os.seteuid(before)
        with pytest.raises(StreamError, match=f"source/{name} can not be sent: permission denied. Make it readable"):
            packed(mode, place)


@pytest.mark.parametrize("mode", MODES)
def test_a_source_that_is_not_there_or_no_directory_is_named(mode: str, source: Path) -> None:
    with pytest.raises(StreamError, match="/none can not be sent: it does not exist"):
        packed(mode, source / "none")
    with pytest.raises(StreamError, match="/file can not be sent: it is no directory"):
        packed(mode, write(source / "file"))


def test_a_bottomless_directory_is_an_error(source: Path) -> None:
    here = os.open(source, os.O_RDONLY)
    for _ in range(walk.MAX_DEPTH + 2):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    with pytest.raises(StreamError, match="deeper than 256 directories"):
        packed("stream", source)


@pytest.mark.parametrize("mode", MODES)
def test_no_descriptor_stays_open(mode: str, project: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    packed(mode, project)
    made: Iterator[pack.Packing] = pack.batches(project) if mode == "batches" else iter([getattr(pack, mode)(project)])
    packing = next(made)
    next(packing.chunks)
    del packing, made
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# The parsers


ENTRY = Entry(name=b"a/\xff", mode=stat.S_IFREG | 0o644, mtime_ns=10**18, size=7, packed=7, crc=9, digest=b"d" * 32)


@settings(max_examples=300, deadline=None, database=None)
@given(data=st.data())
def test_a_damaged_record_is_refused_or_read_but_nothing_else(data: st.DataObject) -> None:
    record, parse = data.draw(
        st.sampled_from(
            [
                (zipformat.local_header(ENTRY), zipformat.parse_local),
                (zipformat.central_entry(ENTRY), zipformat.parse_central),
                (zipformat.end_records(zipformat.End(70_000, 1, 2))[: zipformat.END64_SIZE], zipformat.parse_end64),
                (zipformat.end_records(zipformat.End(1, 2, 3)), zipformat.parse_end),
            ]
        )
    )
    damaged = bytearray(record)
    for place in data.draw(st.lists(st.integers(0, len(record) - 1), max_size=3)):
        damaged[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnsafeArchive):
        parse(bytes(damaged[: data.draw(st.integers(len(record) - 2, len(record)))]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-1], "cut"),
        (lambda data: b"PK\x01\x02" + data[4:], "should begin with"),
        (lambda data: data[:6] + b"\x01\x00" + data[8:], "encrypted"),
        (lambda data: data[:8] + b"\x63\x00" + data[10:], "method 99"),
        (lambda data: data[:18] + b"\x08" + data[19:], "two sizes"),
        (lambda data: data.replace(b"a/\xff", b"a\x00\xff"), "zero byte"),
    ],
)
def test_a_malformed_local_header_is_refused_with_the_reason(change: Any, reason: str) -> None:
    with pytest.raises(UnsafeArchive, match=reason):
        zipformat.parse_local(change(zipformat.local_header(ENTRY)))


# The older end

UNPACK = """
import json, sys
from ansible_runner.utils.streaming import unstream_dir
while line := sys.stdin.buffer.readline():
    unstream_dir(sys.stdin.buffer, json.loads(line)["zipfile"], sys.argv[1])
"""


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> venvs.Venv:
    return venvs.ensure(*REQUIREMENTS, scratch=tmp_path_factory.mktemp("checkout"))


@pytest.mark.parametrize("mode", ["batches", "single"])
@pytest.mark.timeout(300)
def test_an_older_end_unpacks_the_same_tree(mode: str, project: Path, peer: venvs.Venv, tmp_path: Path) -> None:
    for name in ODD_NAMES:
        write(project / "odd" / os.fsdecode(name), name)
    write(project / "inventory/old", mtime_ns=10**9)
    (project / "odd/link").symlink_to(os.fsdecode(b"to-\xe9"))
    target = tmp_path / "target"
    target.mkdir()
    archives = packed(mode, project, extra={"env/settings": b"{}"})
    lines = b"".join(b'{"zipfile": %d}\n' % len(data) + base64.b64encode(data) for data in archives)
    environment = peer.environment(tmp_path)
    del environment["PYTHONPATH"]
    command = (peer.bin / "python", "-c", UNPACK, target)
    done = subprocess.run(
        command, input=lines, cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr.decode()
    assert_same_to_an_older_end(on_disk(project), on_disk(target))


def assert_same_to_an_older_end(
    sent: dict[bytes, tuple[int, int | None, bytes]], arrived: dict[bytes, tuple[int, int | None, bytes]]
) -> None:
    """Compare what was sent with what an older end made of it: odd names are odd, times are full seconds."""
    odd = [name for name in sent if name.startswith(b"odd/") and zipformat.resembling(name) != name]
    assert len(odd) == 2
    sent |= {b"env/": (stat.S_IFDIR | 0o700, None, b""), b"env/settings": (stat.S_IFREG | 0o600, None, b"{}")}
    expected = {zipformat.resembling(name): what for name, what in sent.items()}
    expected[b"odd/link"] = (expected[b"odd/link"][0], None, "to-\u0398".encode())
    assert sorted(arrived) == sorted(expected)
    for name, (mode, mtime_ns, data) in expected.items():
        assert arrived[name][0] == mode, name
        assert arrived[name][2] == data, name
        if mtime_ns is not None and name != b"inventory/old":
            assert abs((arrived[name][1] or 0) - mtime_ns) < 2 * 10**9, name
