"""What is kept of a program's answer is forgotten as soon as it may not hold any more."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ee_runner.engines import kept

CONTEXT = ("an/image:1", "HOME=/home/me")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ee-runner"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a file, both old enough to be relied on."""
    directory = tmp_path / "depends"
    directory.mkdir()
    (directory / "list").write_text("one")
    return directory


def keep(place: Path, *, began: int | None = None) -> None:
    paths = (place, place / "list", place / "absent")
    later = time.time_ns() + 1_000_000_000  # as if it had been asked a second after the files were made
    kept.keep("kind", CONTEXT, {"user": "me"}, depends=paths, began=later if began is None else began)


def test_an_answer_comes_back(place: Path) -> None:
    assert kept.recall("kind", CONTEXT) is None
    keep(place)
    assert kept.recall("kind", CONTEXT) == {"user": "me"}


def test_it_is_private_and_alone(place: Path, cache: Path) -> None:
    keep(place)
    (file,) = (cache / "kind").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("context", [("an/image:2", CONTEXT[1]), (CONTEXT[0], "HOME=/home/you"), CONTEXT[:1]])
def test_another_question_is_not_answered_by_it(place: Path, context: tuple[str, ...]) -> None:
    keep(place)
    assert kept.recall("kind", context) is None


def test_names_that_look_alike_in_a_file_name_are_told_apart(place: Path) -> None:
    keep(place)
    assert kept.recall("kind", ("an_image:1", CONTEXT[1])) is None


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("one")
    other.replace(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda place: (place / "list").write_text("two"),
        lambda place: (place / "list").unlink(),
        lambda place: (place / "list").chmod(0o640),
        lambda place: _replace(place / "list"),
        lambda place: (place / "absent").touch(),
        lambda place: (place / "another").touch(),
        lambda place: os.utime(place / "list", ns=(0, 0)),
    ],
)
def test_any_change_of_what_it_depends_on_makes_it_void(place: Path, change: Callable[[Path], object]) -> None:
    keep(place)
    assert kept.recall("kind", CONTEXT) is not None
    change(place)
    assert kept.recall("kind", CONTEXT) is None


def test_what_changed_while_it_was_asked_is_not_relied_on(place: Path) -> None:
    began = time.time_ns()
    (place / "list").write_text("two")
    keep(place, began=began)
    assert kept.recall("kind", CONTEXT) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"context": []}', '{"context": %s, "depends": []}'])
def test_a_damaged_file_is_as_none(place: Path, cache: Path, text: str) -> None:
    keep(place)
    (file,) = (cache / "kind").iterdir()
    file.write_text(text.replace("%s", json.dumps(CONTEXT)))
    assert kept.recall("kind", CONTEXT) is None


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_is_not_believed(place: Path, cache: Path, mode: int) -> None:
    keep(place)
    (file,) = (cache / "kind").iterdir()
    file.chmod(mode)
    assert kept.recall("kind", CONTEXT) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_is_not_believed(place: Path, cache: Path) -> None:
    keep(place)
    (file,) = (cache / "kind").iterdir()
    os.chown(file, 12345, 12345)
    assert kept.recall("kind", CONTEXT) is None


def test_without_a_place_to_keep_it_nothing_happens(place: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("in the way")
    keep(place)
    assert kept.recall("kind", CONTEXT) is None


def test_a_script_is_told_from_a_program(tmp_path: Path) -> None:
    script = tmp_path / "podman"
    script.write_text('#!/bin/sh\nexec ssh elsewhere podman "$@"\n')
    assert kept.is_script(script)
    assert kept.is_script(tmp_path / "absent")
    assert not kept.is_script(Path("/bin/sh"))
