"""What a file costs on its way through an archive: counts, where a time would be noise."""

from __future__ import annotations

import os
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ee_runner.stream.archive import pack
from ee_runner.stream.archive.unpack import Unpacker
from ee_runner.stream.frames import FrameEncoder

FILES = 200


class Calls:
    """The calls that a block of code makes: of the system by name, and all of them."""

    def __init__(self) -> None:
        self.system: Counter[str] = Counter()
        self.all = 0

    def _note(self, _frame: FrameType, event: str, called: Any) -> None:
        self.all += event in ("call", "c_call")
        if event == "c_call" and called.__module__ == "posix" and called.__name__ != "fspath":
            self.system[called.__name__] += 1

    def __enter__(self) -> Calls:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(None)


def per_file(work: Callable[[int], object]) -> tuple[dict[str, float], float]:
    """Return what one file more costs: calls of the system, and calls in all."""
    made = []
    for count in (0, FILES):
        with Calls() as calls:
            work(count)
        made.append(calls)
    few, many = made
    system = {name: (many.system[name] - few.system[name]) / FILES for name in many.system}
    return {name: number for name, number in system.items() if number > 0.1}, (many.all - few.all) / FILES


@pytest.fixture
def places(tmp_path: Path) -> dict[int, Path]:
    found = {}
    for count in (0, FILES):
        found[count] = tmp_path / str(count)
        (found[count] / "files").mkdir(parents=True)
        for number in range(count):
            (found[count] / "files" / f"{number:04}").write_bytes(os.urandom(2000))
    return found


def test_a_small_file_is_opened_looked_at_read_and_closed_and_nothing_else(places: dict[int, Path]) -> None:
    system, calls = per_file(lambda count: list(pack.stream(places[count]).chunks))
    assert system == {"open": 1, "fstat": 1, "pread": 1, "close": 1}
    assert calls < 130


def test_a_small_file_is_written_beside_its_place_and_put_there_with_six_calls(
    places: dict[int, Path], tmp_path: Path
) -> None:
    archives = {count: b"".join(pack.stream(place).chunks) for count, place in places.items()}

    def unpack(count: int) -> None:
        with Unpacker(tmp_path / "target" / str(count)) as unpacker:
            unpacker.feed(archives[count])
            unpacker.close()

    system, calls = per_file(unpack)
    assert system == {"open": 1, "pwrite": 1, "fchmod": 1, "utime": 1, "rename": 1, "close": 1}
    assert calls < 220


def test_memory_for_a_large_file_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(64 << 20))

    def faults() -> int:
        encoder, before = FrameEncoder(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        encoder.archive(None)
        for chunk in pack.stream(tmp_path).chunks:
            encoder.content(chunk)
        encoder.archive_end()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    pages = (64 << 20) // resource.getpagesize()
    assert faults() < pages / 8
