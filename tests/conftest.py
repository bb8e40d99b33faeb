"""Nothing is left behind: every session ends with a look for stray processes and files of jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support import machine


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    session = machine.start_session()
    yield
    deadline = time.monotonic() + 5  # a companion that was asked to end may need a moment
    while (left := machine.leftovers(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, f"the tests left behind: {left}"
