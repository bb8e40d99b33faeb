"""run_command with much output: all of it comes back, in little more memory than its own, and as events when asked."""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest

import ee_runner
from ee_runner import console
from tests.support.processes import checked

Mode: TypeAlias = Literal["pexpect", "subprocess"]
MODES: tuple[Mode, ...] = ("pexpect", "subprocess")
SIZE = 2_000_000
KINDS: dict[str, bytes] = {
    "plain lines": b"a line of output as a command may write it\n" * (SIZE // 43),
    "colours": b"\x1b[0;32mok: [one]\x1b[0m => \x1b[1;33;40mchanged\x1b[0m\n" * (SIZE // 45),
    "one line": b"x" * SIZE,
    "binary": random.Random(7).randbytes(SIZE),
    "other scripts": "größer: 日本語 😀\n".encode() * (SIZE // 26),
}
PEAK = """
import json, resource, sys
import ee_runner
ee_runner.run_command("true", private_data_dir=sys.argv[1], runner_mode=sys.argv[3])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out, _, rc = ee_runner.run_command("cat", [sys.argv[2]], private_data_dir=sys.argv[1], runner_mode=sys.argv[3])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"rc": rc, "length": len(out), "grown": (peak - before) * 1024}))
"""


def read(data: bytes) -> str:
    with io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="replace") as file:
        return file.read()


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], str]:
    def write(data: bytes) -> str:
        (tmp_path / "bytes").write_bytes(data)
        return str(tmp_path / "bytes")

    return write


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_all_is_returned_as_text_and_kept_as_it_came(
    kind: str, mode: Literal["pexpect", "subprocess"], written: Callable[[bytes], str], tmp_path: Path
) -> None:
    path = written(KINDS[kind])
    out, err, rc = ee_runner.run_command("cat", [path], private_data_dir=str(tmp_path), runner_mode=mode, ident="1")
    came = KINDS[kind].replace(b"\n", b"\r\n") if mode == "pexpect" else KINDS[kind]
    assert (out == read(came), err, rc) == (True, "", 0)
    assert (tmp_path / "artifacts/1/stdout").read_bytes() == came


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("line", [b"a line\n", b"x", "日本語\n".encode()], ids=["lines", "one line", "wide letters"])
def test_the_memory_is_that_of_the_text_and_an_eighth_more(
    line: bytes, mode: str, written: Callable[[bytes], str], tmp_path: Path
) -> None:
    data = line * (40_000_000 // len(line))
    told = json.loads(checked([sys.executable, "-c", PEAK, tmp_path, written(data), mode]))
    text = data.decode()
    assert (told["rc"], told["length"]) == (0, len(text))
    assert told["grown"] < sys.getsizeof(text) * 9 / 8 + 8_000_000


def test_a_text_takes_time_linear_in_its_size_however_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lengthening may copy what is there: the copies together are a few times the text."""
    copied = 0
    lengthen = console._Growing._lengthen

    def counted(growing: Any, more: str) -> None:
        nonlocal copied
        copied += len(growing._text)
        lengthen(growing, more)

    monkeypatch.setattr(console._Growing, "_lengthen", counted)
    captured = console.Captured()
    for _ in range(5000):
        captured.stdout(b"x" * 4096)
    assert len(captured.out) == 5000 * 4096
    assert copied < 20 * len(captured.out)


@pytest.mark.parametrize("mode", MODES)
def test_a_command_makes_no_events_when_nobody_can_see_them(mode: Mode, tmp_path: Path) -> None:
    ee_runner.run_command("seq", ["3"], private_data_dir=str(tmp_path), runner_mode=mode, ident="1")
    assert not list((tmp_path / "artifacts/1").rglob("*.json*"))


@pytest.mark.parametrize("mode", MODES)
def test_a_handler_gets_the_lines_as_events_and_their_files_are_kept(mode: Mode, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    out, _, _ = ee_runner.run_command(
        "seq", ["3"], private_data_dir=str(tmp_path), runner_mode=mode, ident="1", event_handler=seen.append
    )
    assert out == "1\n2\n3\n"
    assert [(event["event"], event["stdout"]) for event in seen] == [("verbose", str(number)) for number in (1, 2, 3)]
    assert len(list((tmp_path / "artifacts/1/job_events").iterdir())) == 3


def test_json_mode_returns_the_lines_as_events(tmp_path: Path) -> None:
    out, _, _ = ee_runner.run_command("seq", ["3"], private_data_dir=str(tmp_path), json_mode=True)
    assert [json.loads(line)["stdout"] for line in out.splitlines()] == ["1", "2", "3"]


def test_a_runner_has_the_lines_as_events(tmp_path: Path) -> None:
    thread, runner = ee_runner.run_command_async("seq", ["3"], private_data_dir=str(tmp_path))
    followed = [event["stdout"] for event in runner.events]
    thread.join()
    assert followed == [event["stdout"] for event in runner.events] == ["1", "2", "3"]


def test_the_events_of_an_ansible_command_are_kept_whoever_sees_them(demo: Path) -> None:
    ee_runner.run_command(
        "ansible", ["localhost", "-c", "local", "-m", "ping"], private_data_dir=str(demo), ident="1", quiet=True
    )
    kept = [json.loads(path.read_text())["event"] for path in (demo / "artifacts/1/job_events").iterdir()]
    assert "runner_on_ok" in kept
