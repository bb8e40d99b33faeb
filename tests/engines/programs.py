"""Small Python programs that use the library, run as a place's user with the place's engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.engines.place import Place

PRELUDE = """\
import json, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import ee_runner
from ee_runner import run, run_async, run_command, run_command_async
given = json.loads(sys.argv[1])
engine, ident = given.pop("engine"), given.pop("ident")
def answer(**values):
    print(json.dumps(values))
"""


def engine_keywords(place: Place) -> dict[str, Any]:
    """Return the keywords that choose the place's engine; the local one is what the library uses without any."""
    if place.name == "local":
        return {}
    keywords: dict[str, Any] = {"process_isolation": True, "process_isolation_executable": place.engine}
    if place.images is not None:
        keywords |= {"container_image": place.images.default, "container_pull": "never"}
    return keywords


def start(
    place: Place,
    program: str,
    *,
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    terminal: int | None = None,
    **given: Any,
) -> subprocess.Popen[bytes]:
    """Start a program; it finds the place's keywords in ``engine``, an ident in ``ident``, the rest in ``given``."""
    file = place.root / "program.py"
    place.write({file.name: PRELUDE + textwrap.dedent(program)})
    words = [str(file), json.dumps({"engine": engine_keywords(place), "ident": ident_of(place), **given})]
    streams: dict[str, Any] = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if terminal is not None:
        streams = dict.fromkeys(streams, terminal)
    if place.user is not None:
        return place.user.popen([place.user.python, *words], env=env, cwd=place.root, **streams)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8", "TERM": "xterm", **(env or {})}
    return subprocess.Popen([sys.executable, *words], env=environ, cwd=place.root, start_new_session=True, **streams)


def ask(place: Place, program: str, *, text: str | None = None, **given: Any) -> dict[str, Any]:
    """Return what a program answers; nothing else may be printed, and no container of its jobs be left."""
    child = start(place, program, stdin=subprocess.DEVNULL if text is None else subprocess.PIPE, **given)
    try:
        out, err = child.communicate(None if text is None else text.encode(), timeout=120)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    assert (child.returncode, err) == (0, b""), f"{err.decode(errors='replace')}\n{out.decode(errors='replace')}"
    assert containers(place) == []
    answered: dict[str, Any] = json.loads(out)
    return answered


def ident_of(place: Place) -> str:
    """Return an ident of this test's alone: the suite may run twice at a time on a machine."""
    return f"library-{zlib.crc32(bytes(place.root)):08x}"


def containers(place: Place) -> list[str]:
    """Remove the containers of this test, running or not, and return their names."""
    if not place.contained:
        return []
    listing = [place.engine, "ps", "-a", "--filter", f"name={ident_of(place)}", "--format", "{{.Names}}"]
    left = place.command(listing).stdout.split()
    if left:
        place.command([place.engine, "rm", "-f", *left])
    return left


def processes() -> str:
    return subprocess.run(["ps", "-eo", "args"], text=True, capture_output=True, check=True).stdout
