"""Nothing is left behind: every session ends with a look for stray processes and files of jobs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import machine

_hypothesis = tempfile.TemporaryDirectory(prefix="ee-tests-hypothesis-")  # removed when the interpreter ends
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", _hypothesis.name)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Jobs have private files below XDG_RUNTIME_DIR and records below XDG_STATE_HOME: this session's own show them."""
    session = machine.start_session()
    with (
        tempfile.TemporaryDirectory(prefix="ee-tests-runtime-") as runtime,
        tempfile.TemporaryDirectory(prefix="ee-tests-state-") as state,
    ):
        os.environ.update({"XDG_RUNTIME_DIR": runtime, "XDG_STATE_HOME": state})
        yield
        deadline = time.monotonic() + 5  # a companion that was asked to end may need a moment
        while (processes := machine.leftovers(session).processes) and time.monotonic() < deadline:
            time.sleep(0.1)
        files = [path.name for path in Path(runtime).iterdir() if path.name.startswith("ee_runner")]
        files += [path.name for path in Path(state).glob("ansible-runner/jobs/*")]
    assert not processes, f"processes left behind: {processes}"
    assert not files, f"files left behind: {files}"
