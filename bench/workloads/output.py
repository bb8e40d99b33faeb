"""What the output of a command costs: 100 MB through `run_command`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench.figures import Figure, Goal, Stage, Workload, median
from bench.measuring import Command, Cost, rounds

MEGABYTE = 1_000_000
_LINE = b"ok: [host-0042] => a line of output as a command may write it, 80 bytes long...\n"
_COLOURED = b"\x1b[0;32mok: [host-0042]\x1b[0m => \x1b[1;33;40mchanged\x1b[0m: \x1b[38;5;208mmany\x1b[0m colours\n"
_PEER_SHARE = 200  # ansible-runner gets that part of the bytes, since it takes minutes for all


def output(stage: Stage) -> Iterator[Figure]:
    full = stage.size(100 * MEGABYTE)
    for title, (make, size) in _kinds(full).items():
        commands = {
            name: _flood(stage, name, make, size // (_PEER_SHARE if name == "peer" else 1)) for name in stage.runners
        }
        seen = rounds(commands, stage.rounds(3), warm=False)
        speeds = {name: seen.values(name, _speed) for name in commands}
        peer = median(speeds["peer"]) if "peer" in speeds else None
        yield Figure(title, Goal(50, "MB/s", at_least=True), speeds["ours"], peer)
    yield from _growth(stage, full)


def _growth(stage: Stage, full: int) -> Iterator[Figure]:
    """Compare all of the bytes with a tenth of them."""
    small = full // 10
    commands = {
        "small": _flood(stage, "ours", _plain, small),
        "full": _flood(stage, "ours", _plain, full),
        "small, passed on": _flood(stage, "ours", _plain, small, "passed on"),
        "full, passed on": _flood(stage, "ours", _plain, full, "passed on"),
    }
    seen = rounds(commands, stage.rounds(3), warm=False)
    slower = seen.paired("small", "full", _speed, lambda one, two: one / two)
    yield Figure("time per byte of plain lines", Goal(1.25, "times that of a tenth of them"), slower)
    grown = seen.differences("full, passed on", "small, passed on", _peak)
    yield Figure("memory, the output passed on", Goal(8, "MiB more than with a tenth"), grown)
    more = (full - small) / 2**20
    shares = tuple(each / more for each in seen.differences("full", "small", _peak))
    yield Figure("memory, the output returned", Goal(2.1, "bytes more for each returned"), shares)


def _kinds(full: int) -> Mapping[str, tuple[Callable[[int], bytes], int]]:
    return {
        "plain lines": (_plain, full),
        "full of colour codes": (_coloured, full),
        "one line": (_one_line, full // 2),
        "binary": (_binary, full),
    }


def _plain(size: int) -> bytes:
    return _LINE * (size // len(_LINE))


def _coloured(size: int) -> bytes:
    return _COLOURED * (size // len(_COLOURED))


def _one_line(size: int) -> bytes:
    return b"x" * size


def _binary(size: int) -> bytes:
    block = random.Random(7).randbytes(MEGABYTE)  # noqa: S311 - the same bytes each time
    return block * (size // MEGABYTE) + block[: size % MEGABYTE]


def _flood(stage: Stage, name: str, make: Callable[[int], bytes], size: int, how: str = "returned") -> Command:
    path: Path = stage.directory("flood") / "bytes"
    path.write_bytes(make(size))
    return stage.program(name, "flood", path, how)


def _speed(cost: Cost) -> float:
    return float(cost.told["size"]) / MEGABYTE / float(cost.told["seconds"])


def _peak(cost: Cost) -> float:
    return float(cost.told["peak"]) / 1024


WORKLOADS = (Workload("output", "`run_command` of 100 MB of output", output),)
