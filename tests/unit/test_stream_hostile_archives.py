"""Archives of an enemy: each is refused with its reason, and nothing outside the directory changes."""

from __future__ import annotations

import os
import random
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ee_runner.errors import BadFrame, StreamError, TruncatedStream, UnsafeArchive
from ee_runner.stream.archive.admission import Limits
from ee_runner.stream.archive.unpack import Unpacker
from tests.support import hostile
from tests.support.hostile import Case, Made, archive, deflated, directory, file, link, own, own_link

CORPUS = {case.id: case for case in hostile.corpus()}


@contextmanager
def surroundings() -> Iterator[Path]:
    """Give a target beside a directory of somebody else's; nothing but the target may change in the block."""
    with tempfile.TemporaryDirectory(prefix="ee-tests-unpack-") as name:
        place = Path(name)
        (place / "outside" / "deep").mkdir(parents=True)
        (place / "outside" / "secret").write_text("of somebody else")
        (place / "outside" / "deep" / "link").symlink_to("../secret")
        target = place / "target"
        target.mkdir()
        before = hostile.seen(place, apart_from=target)
        yield target
        assert hostile.seen(place, apart_from=target) == before


def unpack(
    target: Path, *archives: bytes, piece: int = 1 << 30, outside: bool = False, limits: Limits | None = None
) -> None:
    unpacker = Unpacker(target, links="any" if outside else "inside", limits=limits or Limits())
    with unpacker:
        for each in archives:
            for at in range(0, len(each), piece):
                unpacker.feed(each[at : at + piece])
            unpacker.close_one()
        unpacker.close()


def words_about(target: Path, *archives: bytes, piece: int = 1 << 30, outside: bool = False) -> str:
    """Unpack, and return the words of refusal, none for what was unpacked."""
    try:
        unpack(target, *archives, piece=piece, outside=outside)
    except StreamError as error:
        return str(error)
    return ""


def at(target: Path, name: bytes) -> bytes:
    """Return where a link leads, exactly as it was made."""
    return os.readlink(os.fsencode(target) + b"/" + name)  # noqa: PTH115 - a Path would tidy it up


def partial_files(target: Path) -> list[Path]:
    return [path for path in target.rglob("*") if path.name.startswith(".ee_runner")]


def test_every_case_has_its_own_name() -> None:
    assert len(CORPUS) == len(hostile.corpus()) > 150


@pytest.mark.parametrize("piece", [1, 1 << 30], ids=["bytewise", "at once"])
@pytest.mark.parametrize("case", CORPUS.values(), ids=CORPUS)
def test_it_is_refused_and_nothing_outside_changes(case: Case, piece: int) -> None:
    with surroundings() as target:
        case.prepare(target)
        links = {path: path.readlink() for path in target.rglob("*") if path.is_symlink()}
        with pytest.raises((UnsafeArchive, BadFrame), match=case.says) as refused:
            unpack(target, *case.archives, piece=piece)
        assert {path: path.readlink() for path in target.rglob("*") if path.is_symlink()} == links
        assert not partial_files(target)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 1000


def test_an_existing_file_is_as_it_was_when_what_should_replace_it_is_refused() -> None:
    damaged = archive(file(b"a", b"new" * 100_000, local={"crc": 5}, central={"crc": 5}))
    with surroundings() as target:
        (target / "a").write_text("old")
        with pytest.raises(UnsafeArchive, match=r"'a'.*checksum"):
            unpack(target, damaged)
        assert (target / "a").read_text() == "old"


@pytest.mark.parametrize(
    "case", [case for name, case in CORPUS.items() if re.match("link: (abs|up$|up alone|to the|dots)", name)]
)
def test_links_that_lead_out_are_made_as_they_are_where_that_is_allowed(case: Case) -> None:
    with surroundings() as target:
        unpack(target, *case.archives, outside=True)
        assert (target / "evil").is_symlink()


def test_even_where_links_may_lead_out_nothing_is_written_through_one() -> None:
    job = (archive(own_link(b"way", b"../outside")), archive(file(b"way/evil")))
    with surroundings() as target:
        with pytest.raises(UnsafeArchive, match="lies below 'way'"):
            unpack(target, *job, outside=True)
        unpack(target, job[0], outside=True)
        with pytest.raises(UnsafeArchive, match="not followed"):
            unpack(target, job[1], outside=True)
        unpack(target, archive(file(b"way", b"instead of the link")), outside=True)
        assert (target / "way").read_text() == "instead of the link"


def test_backslashes_and_drive_letters_are_part_of_a_name() -> None:
    with surroundings() as target:
        unpack(target, archive(file(rb"..\outside\evil"), file(rb"C:\evil")))
        assert sorted(path.name for path in target.iterdir()) == ["..\\outside\\evil", "C:\\evil"]


def test_links_that_stay_inside_are_made() -> None:
    said = {
        b"d/up": b"..",
        b"d/e/two": b"../../d/file",
        b"same": b"./d//e/.",
        b"through": b"d/up/d/up/d/file",
        b"loop": b"loop",
        b"missing": b"nowhere/at/all",
        b"back": b"d/e/../file",
        b"here": b".",
    }
    entries = (directory(b"d/"), directory(b"d/e/"), file(b"d/file"))
    with surroundings() as target:
        unpack(target, archive(*entries, *(link(name, to) for name, to in said.items())))
        assert {name: at(target, name) for name in said} == said
        assert (target / "through").read_text() == "hostile\n"


# Limits


@pytest.mark.parametrize(
    ("limits", "entries", "says"),
    [
        (Limits(entries=3), [file(b"%d" % n) for n in range(4)], "limit of 3 entries"),
        (Limits(entries=3), [file(b"a/b/c/d")], "limit of 3 entries"),
        (Limits(total=20), [file(b"a"), file(b"b"), file(b"c")], "'c'.*limit of 20 bytes"),
        (Limits(total=20), [file(b"a", bytes(21), method=8)], "'a'.*limit of 20 bytes"),
        (Limits(name=9), [file(b"0123/56789")], "9 bytes"),
        (Limits(depth=2), [file(b"1/2/3/4")], "deeper than 2"),
        (Limits(held=1000), [directory(b"%d/" % n) for n in range(5)], "held in memory"),
        (Limits(held=1000), [own_link(b"a", b"x" * 900)], "held in memory"),
        (Limits(link_steps=50), [link(b"a%d" % n, b"a%d/a%d" % (n + 1, n + 1)) for n in range(9)], "without end"),
    ],
    ids=["entries", "implied", "total", "deflated", "name", "depth", "directories", "links", "steps"],
)
def test_a_limit_is_kept(limits: Limits, entries: list[Made], says: str) -> None:
    with surroundings() as target, pytest.raises(UnsafeArchive, match=says):
        unpack(target, archive(*entries), limits=limits)


def test_limits_hold_for_all_archives_of_a_job_together() -> None:
    with surroundings() as target, pytest.raises(UnsafeArchive, match="limit of 2 entries"):
        unpack(target, *(archive(file(b"%d" % n)) for n in range(3)), limits=Limits(entries=2))


def test_what_inflates_beyond_measure_is_refused() -> None:
    bomb = archive(file(b"bomb", b"boom" * (8 << 20), method=8))
    with surroundings() as target:
        with pytest.raises(UnsafeArchive, match="'bomb' inflates beyond all measure"):
            unpack(target, bomb, limits=Limits(inflated=1 << 20))
        unpack(target, bomb)
        assert (target / "bomb").stat().st_size == 32 << 20


def test_zeros_that_become_holes_are_no_bomb() -> None:
    with surroundings() as target:
        unpack(target, archive(file(b"sparse", bytes(64 << 20), method=8)), limits=Limits(inflated=1 << 20))
        assert (target / "sparse").stat().st_size == 64 << 20
        assert (target / "sparse").stat().st_blocks * 512 < 1 << 20


def test_a_streamed_entry_of_unknown_size_is_held_to_the_limits() -> None:
    content = b"boom" * (1 << 20)
    packed = deflated(content)
    entry = file(b"bomb", content, method=8, flags=8, descriptor=hostile.descriptor(content, packed=len(packed)))
    with surroundings() as target:
        with pytest.raises(UnsafeArchive, match="limit of 1000000 bytes"):
            unpack(target, archive(entry), limits=Limits(total=1_000_000))
        unpack(target, archive(entry))
        assert (target / "bomb").read_bytes() == content


# Whatever comes

PARTS = st.sampled_from(
    [b"a", b"b", b"c", b"way", b"..", b".", b"", b"outside", b"secret", b"\xff", "\u00e9".encode(), b"x\0"]
)
HARMLESS = st.sampled_from([b"a", b"b", b"c", b"d"])
MODES = st.sampled_from([0, 0o644, 0o755, 0o000, 0o6777, *(kind | 0o777 for kind in range(0, 0o200000, 0o10000))])


@st.composite
def entries(draw: st.DrawFn) -> Made:
    name = b"/".join(draw(st.lists(PARTS, max_size=4))) + draw(st.sampled_from([b"", b"/"]))
    mode = draw(MODES)
    content = draw(st.one_of(st.lists(PARTS, max_size=5).map(b"/".join), st.binary(max_size=20)))
    entry = Made(name=name, content=content, mode=mode, method=draw(st.sampled_from([0, 8])))
    if draw(st.booleans()):
        raw_name = draw(st.none() | st.lists(PARTS, max_size=3).map(b"/".join))
        extra = own(mode, size=len(content), raw_name=raw_name, link=draw(st.none() | st.just(b"../outside")))
        entry = Made(name=name, content=content, mode=mode, method=entry.method, extra=extra)
    return entry


def furnish(target: Path) -> None:
    """Put links that lead out where archives will write."""
    (target / "way").symlink_to("../outside")
    (target / "c").symlink_to("../outside/secret")
    (target / "b").mkdir()
    (target / "b" / "a").symlink_to("../../outside/deep")
    os.mkfifo(target / "b" / "c")


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(st.lists(entries(), max_size=6), min_size=1, max_size=3), st.booleans(), st.sampled_from([1, 7, 1000]))
def test_no_archive_touches_anything_outside(job: list[list[Made]], outside: bool, piece: int) -> None:
    with surroundings() as target:
        furnish(target)
        words = words_about(target, *(archive(*each) for each in job), outside=outside, piece=piece)
        assert words == "" or words.isprintable()
        assert not partial_files(target)


@st.composite
def trees(draw: st.DrawFn) -> bytes:
    """An archive of directories, and of links between them that climb about."""
    names = st.lists(HARMLESS, min_size=1, max_size=3).map(b"/".join)
    steps = st.lists(st.sampled_from([b"a", b"b", b"c", b"..", b".."]), min_size=1, max_size=6).map(b"/".join)
    made = draw(st.dictionaries(names, st.none() | steps, min_size=1, max_size=6))
    return archive(*(directory(name + b"/") if to is None else link(name, to) for name, to in made.items()))


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(trees(), min_size=1, max_size=4))
def test_no_link_leads_out_whatever_the_jobs_before_have_left(jobs: list[bytes]) -> None:
    with surroundings() as target:
        for job in jobs:
            try:
                unpack(target, job)
            except UnsafeArchive:
                continue
            for path in target.rglob("*"):
                assert Path(os.path.realpath(path)).is_relative_to(target), path


GOOD = archive(
    directory(b"d/"),
    file(b"d/text", b"some text " * 50, method=8),
    file(b"d/own", b"content", extra=own(hostile.FILE, size=7)),
    file(b"streamed", b"x" * 30, flags=8, extra=own(hostile.FILE, size=30), descriptor=hostile.descriptor(b"x" * 30)),
    link(b"link", b"d/text"),
    own_link(b"d/link", b"text"),
)


def test_an_archive_that_is_cut_anywhere_says_so() -> None:
    with surroundings() as target:
        for size in range(len(GOOD)):
            with pytest.raises(TruncatedStream, match=r"too early, .*Send it again"):
                unpack(target, GOOD[:size])
        unpack(target, GOOD)


@settings(max_examples=150, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_archive_is_refused_in_words_or_harmless(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    with surroundings() as target:
        words = words_about(target, bytes(data))
        assert words == "" or words.isprintable()
        assert not partial_files(target)


@settings(max_examples=60, deadline=None, database=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with surroundings() as target, pytest.raises(StreamError):
        unpack(target, data)


def test_pieces_of_archives_shuffled_are_refused_in_words_or_harmless() -> None:
    chance = random.Random(4)
    records = re.split(rb"(?=PK)", GOOD)
    for _ in range(200):
        chance.shuffle(records)
        with surroundings() as target:
            words_about(target, b"".join(records))
            assert not partial_files(target)
