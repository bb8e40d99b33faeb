"""Streams of a remote job made by hand: the lines of an older end, and what one of ours says."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

from ee_runner.stream import records
from ee_runner.stream.frames import FrameEncoder
from ee_runner.stream.lines import LineEncoder
from ee_runner.stream.records import Encoder, Hello, Kind

STARTING = {"status": "starting", "command": ["ansible-playbook", "x.yml"], "env": {"A": "b"}, "cwd": "/there"}
RUNNING = {"status": "running"}


def event(counter: int, **more: Any) -> dict[str, Any]:
    """An event as a worker sends it."""
    return {
        "uuid": f"00000000-0000-4000-8000-{counter:012}",
        "counter": counter,
        "stdout": f"line {counter}",
        "start_line": counter - 1,
        "end_line": counter,
        "event": "verbose",
        **more,
    }


def archive(files: Mapping[str, str | bytes]) -> bytes:
    """A zip as Python's own module makes it."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return made.getvalue()


def line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def older(*parts: Mapping[str, Any] | bytes) -> bytes:
    """The stream of an older end: records as lines, archives as the bytes of a zip."""
    return b"".join(
        line({"zipfile": len(part)}) + base64.b64encode(part) if isinstance(part, bytes) else line(part)
        for part in parts
    )


def own(*parts: Mapping[str, Any] | bytes, frames: bool = False, **hello: Any) -> bytes:
    """The stream of one of our own ends, sealed or in frames."""
    encoder: Encoder = FrameEncoder() if frames else LineEncoder(sealed=True)
    said = [records.hello_line(Hello(**{"stream": "stream-1", **hello, "frames": frames}))]
    for part in parts:
        if isinstance(part, bytes):
            said += [encoder.archive(len(part)), encoder.content(part), encoder.archive_end()]
        else:
            said.append(encoder.message(kind_of(part), part))
    return b"".join(said)


def kind_of(record: Mapping[str, Any]) -> Kind:
    keys = {"kwargs": Kind.REQUEST, "status": Kind.STATUS, "eof": Kind.END}
    return next((kind for key, kind in keys.items() if key in record), Kind.EVENT)


def results(*, rc: int = 0, status: str = "successful", events: int = 3) -> list[Mapping[str, Any] | bytes]:
    """The records of one job's results."""
    files = {"rc": str(rc), "status": status, "stdout": "all of it\n", "stderr": "", "fact_cache/host": "{}"}
    return [
        STARTING,
        RUNNING,
        *(event(counter) for counter in range(1, events + 1)),
        {"status": status},
        archive(files),
        {"eof": True},
    ]
