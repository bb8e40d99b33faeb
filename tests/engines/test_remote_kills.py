"""A remote job in a container whose worker, or whose reader, is killed: the container goes, and nothing else stays."""

from __future__ import annotations

import signal

import pytest

from tests.engines.conftest import ENGINES
from tests.support.chain import Setting, chained
from tests.support.images import ImageSet
from tests.support.processes import wait_until

BOUND = 60.0


@pytest.fixture(params=[engine for engine in ENGINES if engine in ("podman", "docker")])
def setting(request: pytest.FixtureRequest, prepared: dict[str, ImageSet]) -> Setting:
    engine: str = request.param
    isolated = ("--process-isolation", "--process-isolation-executable", engine)
    return Setting((*isolated, "--container-image", prepared[engine].default, "--pull", "never"), client=engine)


@pytest.mark.parametrize(
    ("victim", "codes", "status"),
    [
        ("working", {"transmit": 0, "worker": 137, "process": 76}, "error"),
        ("process", {"transmit": 0, "worker": 76, "process": -9}, "running"),
    ],
)
def test_a_container_goes_with_its_worker_and_with_its_reader(
    setting: Setting, victim: str, codes: dict[str, int], status: str
) -> None:
    with chained("deaf", setting=setting) as chain:
        wait_until(
            lambda: any("trap ''" in words for words in chain.running().values()), bound=BOUND, what="the task inside"
        )
        assert len(setting.containers(chain.mark)) == 1
        chain.send(victim, signal.SIGKILL)
        assert chain.until_nothing_is_left(BOUND) == []
        assert {name: chain.rc(name) for name in chain.ends} == codes
        assert chain.status == status
