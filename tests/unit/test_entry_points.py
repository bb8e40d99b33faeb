"""Entry points are found as importlib.metadata finds them, which is asked only when there may be some."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from ee_runner import entry_points

GROUP = "ee_runner.test_group"
TEXT = f"[{GROUP}]\nname = module:attribute\n"
METADATA = "Metadata-Version: 2.1\nName: found\nVersion: 1\n"


def dist_info(place: Path) -> Path:
    directory = place / "found-1.dist-info"
    directory.mkdir(parents=True)
    (directory / "METADATA").write_text(METADATA)
    (directory / "entry_points.txt").write_text(TEXT)
    return place


def egg_info(place: Path) -> Path:
    directory = place / "Found.EGG-INFO"
    directory.mkdir(parents=True)
    (directory / "PKG-INFO").write_text(METADATA)
    (directory / "entry_points.txt").write_text(TEXT)
    return place


def egg(place: Path) -> Path:
    directory = place / "found-1.egg" / "EGG-INFO"
    directory.mkdir(parents=True)
    (directory / "PKG-INFO").write_text(METADATA)
    (directory / "entry_points.txt").write_text(TEXT)
    return directory.parent


def archive(place: Path) -> Path:
    path = place / "found.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("found-1.dist-info/METADATA", METADATA)
        file.writestr("found-1.dist-info/entry_points.txt", TEXT)
    return path


@pytest.mark.parametrize("install", [dist_info, egg_info, egg, archive])
def test_what_is_installed_in_any_form_is_found(
    install: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path))
    found = list(entry_points.of_group(GROUP))
    assert [entry.value for entry in found] == ["module:attribute"]
    assert found == list(metadata.entry_points(group=GROUP))


def test_of_a_group_that_nobody_names_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dist_info(tmp_path)
    (tmp_path / "bare-1.dist-info").mkdir()
    (tmp_path / "file.egg-info").write_text(METADATA)
    for path in (tmp_path, tmp_path / "absent"):
        monkeypatch.syspath_prepend(path)
    assert list(entry_points.of_group(f"{GROUP}.other")) == []


def test_a_finder_of_distributions_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = dist_info(tmp_path)

    class Finder:
        @staticmethod
        def find_spec(*_: object) -> None:
            return None

        @staticmethod
        def find_distributions(_context: object = None) -> list[metadata.Distribution]:
            return [metadata.PathDistribution(place / "found-1.dist-info")]

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert [entry.value for entry in entry_points.of_group(GROUP)] == ["module:attribute"]


def test_nothing_is_loaded_to_learn_that_there_are_none() -> None:
    code = (
        "import sys; from ee_runner import entry_points\n"
        f"assert not list(entry_points.of_group('{GROUP}'))\n"
        "print('importlib.metadata' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
