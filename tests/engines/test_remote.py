"""A worker that runs its jobs in containers, for requesters of either side, and one of ansible-runner for ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from tests.engines.conftest import ENGINES, placed
from tests.engines.place import Place
from tests.engines.projects import private_data_dir
from tests.support import images, venvs
from tests.support.remote import OURS, REQUIREMENTS, THEIRS, Ends

PLAYBOOK = """\
- hosts: one
  gather_facts: false
  tasks:
    - debug:
        msg: "{{ lookup('pipe', 'test -e /run/.containerenv -o -e /.dockerenv && echo in a container') }}"
"""
EVENTS = ["playbook_on_start", "playbook_on_play_start", "playbook_on_task_start"]
EVENTS += ["runner_on_start", "runner_on_ok", "playbook_on_stats"]


@pytest.fixture(params=[engine for engine in ("podman", "docker") if engine in ENGINES])
def place(request: pytest.FixtureRequest, prepared: dict[str, images.ImageSet]) -> Iterator[Place]:
    with placed(request, prepared) as here:
        yield here


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> venvs.Venv:
    return venvs.ensure(*REQUIREMENTS, scratch=tmp_path_factory.mktemp("checkout"))


@pytest.mark.parametrize("mix", [(OURS, OURS, OURS), (THEIRS, OURS, THEIRS), (OURS, THEIRS, OURS)], ids="|".join)
def test_a_remote_job_runs_in_a_container(place: Place, peer: venvs.Venv, mix: tuple[str, str, str]) -> None:
    assert place.images is not None
    ends = Ends(peer, place.root)
    source = place.write(private_data_dir({"project/site.yml": PLAYBOOK}), under="source")
    keywords = {
        "private_data_dir": str(source),
        "playbook": "site.yml",
        "ident": "job",
        "process_isolation": True,
        "process_isolation_executable": place.engine,
        "container_image": place.images.default,
    }
    request = ends.library(mix[0], "transmit", place.root / "transmit", keywords)
    shutil.rmtree(source)
    result = ends.command(mix[1], "worker", stdin=request.output)
    done = ends.command(mix[2], "process", place.root / "process", "-i", "job", stdin=result.output)
    assert (request.errors, result.errors, result.rc, done.errors, done.rc) == ("", "", 0, "", 0)
    artifacts = place.root / "process/artifacts/job"
    assert [(artifacts / name).read_text() for name in ("status", "rc")] == ["successful", "0"]
    events = [json.loads(path.read_text()) for path in (artifacts / "job_events").iterdir()]
    events.sort(key=lambda event: int(event["counter"]))
    assert [event["event"] for event in events] == EVENTS
    assert events[4]["event_data"]["res"]["msg"] == "in a container"
    assert b"in a container" in done.output
