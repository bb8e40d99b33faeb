"""The reference image, built once for all tests of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import reference
from tests.support.processes import REPO


@pytest.fixture(scope="session", params=reference.ENGINES)
def image(request: pytest.FixtureRequest) -> Iterator[reference.ReferenceImage]:
    """In each engine in turn."""
    with reference.built(request.param) as there:
        yield there


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy of the demo that every user may write to."""
    copy = tmp_path / "demo"
    shutil.copytree(REPO / "demo", copy, ignore=shutil.ignore_patterns("artifacts"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    return copy
