"""The tests' search for secrets finds what is there: else it would prove nothing."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bytesearch import Searcher, core

WAYS: dict[str, Callable[[str], bytes]] = {
    "as it is": str.encode,
    "json": lambda text: json.dumps({"a": text}).encode(),
    "url": lambda text: urllib.parse.quote_plus(text).encode(),
    "base64": lambda text: base64.b64encode(text.encode()),
    "base64 in lines": lambda text: base64.encodebytes((text * 3).encode()),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()),
    "hexadecimal": lambda text: text.encode().hex().upper().encode(),
    "utf-16": lambda text: text.encode("utf-16"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("around", ["", "a", "ab", "abc", 'ä"\n'])
def test_a_secret_is_found_however_it_is_written(way: str, around: str) -> None:
    secret = core()
    written = b"before " + WAYS[way](f"{around}{secret}{around}") + b" behind"
    assert Searcher({"it": secret}).in_bytes(written)
    assert not Searcher({"it": core()}).in_bytes(written)


def test_it_is_found_in_files_names_links_and_across_blocks(tmp_path: Path) -> None:
    secret, since = core(), time.time() - 5
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"x" * ((1 << 20) - 10) + secret.encode())
    (tmp_path / f"name-{secret}").touch()
    (tmp_path / "link").symlink_to(f"/nowhere/{secret}")
    os.mkfifo(tmp_path / "pipe")
    found = Searcher({"it": secret}, since).in_trees([tmp_path])
    assert [line.partition(": ")[0].removeprefix(f"{tmp_path}/") for line in sorted(found)] == [
        "deep/file", "link", f"name-{secret}",
    ]  # fmt: skip
    assert Searcher({"it": secret}, since + 3600).in_trees([tmp_path]) == []


def test_it_is_found_in_what_a_process_shows_and_has_open(tmp_path: Path) -> None:
    secret = core()
    program = (
        "import os, sys\nf = open(sys.argv[1], 'w+'); f.write(os.environ['IT']); f.flush(); os.unlink(sys.argv[1])\n"
    )
    program += "print(flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", program, str(tmp_path / "file"), secret]
    environ = {**os.environ, "IT": secret}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        searcher = Searcher({"it": secret})
        assert list(searcher.in_environments()) == [child.pid]
        assert any(f"/proc/{child.pid}/cmdline" in line for line in searcher.in_command_lines())
        assert len(searcher.in_open_files([child.pid])) == 1
        child.communicate()
