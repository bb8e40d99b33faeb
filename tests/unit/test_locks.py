"""A lock is had by one alone, is let go of by whoever dies, and is not needed where there can be none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ee_runner import locks
from tests.support.processes import locked


@pytest.fixture
def place(tmp_path: Path) -> Iterator[int]:
    """A directory, open."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[int]:
    """The same directory, opened by somebody else."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    with suppress(OSError):
        os.close(descriptor)


def test_a_lock_is_taken_by_one_alone(place: int, other: int) -> None:
    assert locks.take(place)
    assert not locks.take(other)
    assert not locks.take(other, shared=True)


def test_a_shared_lock_keeps_out_those_who_share_none(place: int, other: int) -> None:
    assert locks.take(place, shared=True)
    assert locks.take(other, shared=True)
    assert not locks.take(place)


def test_a_lock_that_others_let_go_of_is_waited_for(place: int, tmp_path: Path) -> None:
    assert locks.take(place)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        mine = os.open(tmp_path, os.O_RDONLY)
        os.write(writing, b"x" if not locks.take(mine) else b"y")
        os._exit(0 if locks.take(mine, wait=True) else 1)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    with locks.taken(place):
        pass  # let go of at the end, although the child has it open as well
    assert os.waitpid(child, 0)[1] == 0


def test_a_lock_for_a_block_ends_with_it(place: int, other: int, tmp_path: Path) -> None:
    with locks.taken(place) as free, locks.taken(other) as free_too:
        assert (free, free_too) == (True, False)
    assert not locked(tmp_path)


def test_where_there_are_no_locks_all_is_free(tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_PATH)  # which can not be locked, as on some network file systems
    try:
        with locks.taken(handle) as free:
            assert free
        assert locks.take(handle, wait=True)
        with pytest.raises(OSError, match="Bad file descriptor"):
            locks.hold(handle)
    finally:
        os.close(handle)


@pytest.mark.parametrize("way", ["hold", "take and keep"])
def test_a_lock_that_is_kept_is_no_forks(way: str, other: int, tmp_path: Path) -> None:
    mine = os.open(tmp_path, os.O_RDONLY)
    if way == "hold":
        locks.hold(mine)
    else:
        assert locks.take(mine)
        locks.keep(mine)
    told, telling = os.pipe()
    waiting, ending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ending)
        os.write(telling, b"x")
        os.read(waiting, 1)
        os._exit(0)
    assert os.read(told, 1) == b"x"
    os.close(mine)  # as a death does; the child that lives on has it no more
    locks._held.discard(mine)
    try:
        assert locks.take(other)
    finally:
        for descriptor in (told, telling, waiting, ending):
            os.close(descriptor)
        assert os.waitpid(child, 0)[1] == 0
