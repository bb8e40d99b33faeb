"""What an engine is asked besides running the job: nothing, as long as nothing has changed since the last time."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ee_runner.engines import needs, oci, registry
from ee_runner.errors import ImageError
from ee_runner.executor import Completed, control
from tests.engines.conftest import ENGINES
from tests.engines.test_engine_direct import OCI, Bench, bench_of
from tests.support.images import ImageSet


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The commands that are started besides the job; they are executed all the same."""
    seen: list[Sequence[str]] = []

    def noting(argv: Sequence[str], **others: Any) -> Completed:
        seen.append(argv)
        return control.capture(argv, **others)

    monkeypatch.setattr(oci, "capture", noting)
    monkeypatch.setattr(needs, "capture", noting)
    return seen


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=OCI)
def here(request: pytest.FixtureRequest, prepared: dict[str, ImageSet]) -> Iterator[Bench]:
    with bench_of(request.param, prepared) as bench:
        yield bench


@contextlib.contextmanager
def named(here: Bench, of: str) -> Iterator[str]:
    """Give the image another name for a while, which nobody else uses."""
    name = f"localhost/ee-runner-named-{os.urandom(4).hex()}:latest"
    tag(here, of, name)
    yield name
    tool(here, "image", "rm", "--force", name, check=False)


def tag(here: Bench, image: str, name: str) -> None:
    tool(here, "tag", image, name)


def tool(here: Bench, *words: str, check: bool = True) -> None:
    subprocess.run([here.engine.name, *words], check=check, capture_output=True, stdin=subprocess.DEVNULL)


def run_anew(here: Bench, *argv: str) -> list[str]:
    """Run a job as another process would: with an engine that has asked nothing yet."""
    fresh = replace(here, engine=registry.get(here.engine.name))
    outcome, output = fresh.run(*argv)
    assert outcome.rc == 0, (outcome, output.out)
    return output.lines


def test_one_process_of_the_engine_runs_a_job(here: Bench, calls: list[Sequence[str]]) -> None:
    run_anew(here, "true")
    calls.clear()
    assert run_anew(here, "echo", "there") == ["there"]
    assert calls == []


def test_an_image_of_that_name_but_another_user_is_seen(here: Bench, prepared: dict[str, ImageSet]) -> None:
    images = prepared[here.engine.name]
    with named(here, images.default) as name:
        renamed = replace(here, image=name)
        assert run_anew(renamed, "id", "-u") == ["0"]
        assert run_anew(renamed, "id", "-u") == ["0"]
        tag(here, images.user, name)
        assert run_anew(renamed, "sh", "-c", "id -u; echo $HOME") == ["0", "/root"], "the caller's uid, not the image's"


def test_an_image_that_was_removed_is_missed(here: Bench) -> None:
    with named(here, str(here.image)) as name:
        renamed = replace(here, image=name)
        run_anew(renamed, "true")
        tool(here, "image", "rm", name)
        with pytest.raises(ImageError, match=r"not in \w+'s store .*Pull or build it first") as raised:
            run_anew(renamed, "true")
    assert (raised.value.cause, raised.value.image) == ("missing", name)


def test_an_image_that_goes_while_the_job_is_made_ready_is_missed_in_the_same_words(here: Bench) -> None:
    with named(here, str(here.image)) as name:
        renamed = replace(here, image=name)
        renamed.engine.ensure_image(renamed.plan("true").container)
        tool(here, "image", "rm", name)
        renamed.engine.ensure_image = lambda *_, **__: None  # type: ignore[method-assign]
        with pytest.raises(ImageError, match=r"not in \w+'s store .*Pull or build it first"):
            renamed.run("true")


def test_a_fresh_container_finds_ansible_compiled(here: Bench) -> None:
    """Else each job would compile three hundred modules, and leave them in a layer that goes with the container."""
    look = "find / -xdev -name '*.pyc' -newer /tmp/mark"
    assert here.sh(f"touch /tmp/mark; sleep 0.1; ansible-playbook --version >/tmp/said; {look}") == []


def test_the_sandboxs_interpreter_is_asked_once(prepared: dict[str, ImageSet], calls: list[Sequence[str]]) -> None:
    if "bwrap" not in ENGINES:
        pytest.skip("bwrap is left out of ENGINES")
    with bench_of("bwrap", prepared) as here:
        needed = [run_anew(here, "ansible-playbook", "--version") for _ in range(2)]
    assert needed[0] == needed[1]
    assert len(calls) == 1
