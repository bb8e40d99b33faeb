"""Records read from the spool by their places."""

from __future__ import annotations

from pathlib import Path

from ee_runner.spool import Spool


def added(path: Path, record: bytes) -> tuple[int, int]:
    """Append a record as the observer does, and return its place."""
    with path.open("ab") as file:
        offset = file.tell()
        file.write(record + b"\n")
    return offset, len(record)


def test_records_are_read_wherever_they_are_and_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    records = [str(number).encode() * (1 + number * 7 % 5000) for number in range(300)]
    places = [added(path, record) for record in records]
    with Spool(path) as spool:
        assert [spool.read(*place) for place in places] == records
        assert [spool.read(*place) for place in reversed(places)] == records[::-1]


def test_a_record_that_came_after_the_last_look_is_read(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    first = added(path, b"first")
    with Spool(path) as spool:
        assert spool.read(*first) == b"first"
        second = added(path, b"second")
        assert spool.read(*second) == b"second"
        assert spool.left == 0


def test_a_large_record_is_read_whole_and_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    large, small = added(path, b"x" * 5_000_000), added(path, b"small")
    with Spool(path) as spool:
        assert spool.read(*large) == b"x" * 5_000_000
        assert spool.read(*small) == b"small"
        assert spool.left == 0


def test_a_place_beyond_the_end_gives_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    added(path, b"record")
    with Spool(path) as spool:
        assert spool.read(3, 1000) == b"ord\n"
        assert spool.read(1000, 5) == b""


def test_records_that_no_mark_named_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    first, second = added(path, b"first"), added(path, b"second")
    with Spool(path) as spool:
        assert spool.read(*first) == b"first"
        assert spool.left == second[1] + 1
