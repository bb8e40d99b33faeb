"""Which faults are inflicted, and where, and the table that is made of what came of them.

pytest tests/faults                     the faults of every test run
pytest tests/faults --thorough          each fault on each engine
pytest tests/faults --write-fault-table as --thorough, and writes docs/faults.md when the tests passed
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import pytest

from tests.engines.conftest import ENGINES, make_place, prepared, rootless
from tests.engines.place import Place
from tests.faults import matrix
from tests.faults.scene import Scene, staged
from tests.support import sshd
from tests.support.images import ImageSet

__all__ = ["prepared", "rootless"]

_MEASURED: dict[tuple[str, str], float] = {}
_TOOK = pytest.StashKey[dict[tuple[str, str], float]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--thorough", action="store_true", help="inflict each fault on each engine")
    group.addoption("--write-fault-table", action="store_true", help="as --thorough, and write docs/faults.md")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(name, engine): verifies this row of the table of faults")
    config.addinivalue_line("markers", "thorough: has its turn with --thorough alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _asked(config, "--thorough") or _asked(config, "--write-fault-table"):
        return
    left_out = [item for item in items if item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.passed:
        measured: dict[tuple[str, str], float] = item.stash.get(_TOOK, {})
        _MEASURED.update(measured)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _asked(session.config, "--write-fault-table"):
        known = matrix.measurements_of(matrix.MANUAL.read_text()) if matrix.MANUAL.exists() else {}
        matrix.MANUAL.write_text(matrix.manual({**known, **_MEASURED}))


def _asked(config: pytest.Config, option: str) -> bool:
    """Say whether an option was given; it is not known when pytest was called on another directory."""
    return bool(config.getoption(option, default=False))


@pytest.fixture(scope="session")
def server() -> Iterator[sshd.SshServer]:
    with sshd.serve() as serving:
        yield serving


@pytest.fixture(params=ENGINES)
def place(request: pytest.FixtureRequest, prepared: dict[str, ImageSet]) -> Iterator[Place]:
    """Each engine in turn; what jobs leave is their scene's to see."""
    user = request.getfixturevalue("rootless") if request.param == "podman-rootless" else None
    here = make_place(request.param, prepared, user)
    yield here
    here.clear()


@pytest.fixture
def scene(place: Place) -> Iterator[Scene]:
    with staged(place) as here:
        yield here


@pytest.fixture
def took(request: pytest.FixtureRequest) -> Callable[[float], None]:
    """Note the seconds that the table of faults shows."""
    node: pytest.Item = request.node
    marker = node.get_closest_marker("fault")
    assert marker is not None
    fault, engine = marker.args
    measured = node.stash.setdefault(_TOOK, {})
    return lambda seconds: measured.update({(fault, engine): seconds})
