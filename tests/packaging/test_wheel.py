"""The distributions hold the whole project, and work where only they are installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
# engines/ reaches the wheel through a symbolic link, which an archiver may lose.
PARTS = (
    "ansible_runner/__init__.py",
    "ansible_runner/config/runner.py",
    "ansible_runner/plugins.py",
    "ansible_runner/py.typed",
    "ansible_runner/utils/capacity.py",
    "ee_runner/__init__.py",
    "ee_runner/callback/ee_events.py",
    "ee_runner/engines/__init__.py",
    "ee_runner/engines/bwrap.py",
    "ee_runner/engines/docker.py",
    "ee_runner/engines/local.py",
    "ee_runner/engines/podman.py",
    "ee_runner/py.typed",
)


@dataclass(frozen=True, slots=True)
class Distributions:
    sdist: Path
    wheel: Path
    wheel_from_sdist: Path


def run(*argv: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [*map(str, argv)], cwd=cwd, stdin=subprocess.DEVNULL, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    both, direct = tmp_path_factory.mktemp("both"), tmp_path_factory.mktemp("direct")
    # Without further options, build makes the wheel from the sdist.
    run(sys.executable, "-m", "build", "--outdir", both, REPO, cwd=both)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", direct, REPO, cwd=direct)
    (sdist,), (wheel,), (from_sdist,) = both.glob("*.tar.gz"), direct.glob("*.whl"), both.glob("*.whl")
    return Distributions(sdist=sdist, wheel=wheel, wheel_from_sdist=from_sdist)


@pytest.fixture(scope="module")
def installed(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of a virtual environment that holds the wheel and ansible-core, and nothing of the checkout."""
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", venv, cwd=venv)
    run(venv / "bin" / "pip", "install", "--quiet", f"{distributions.wheel}[ansible]", cwd=venv)
    return venv / "bin"


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_part(distributions: Distributions) -> None:
    assert set(PARTS) <= names(distributions.wheel)


def test_the_wheel_holds_nothing_but_the_two_packages(distributions: Distributions) -> None:
    tops = {name.partition("/")[0] for name in names(distributions.wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ansible_runner", "ee_runner"}


def test_the_wheel_holds_the_licence(distributions: Distributions) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names(distributions.wheel))


def test_a_wheel_from_the_sdist_holds_the_same_files(distributions: Distributions) -> None:
    assert names(distributions.wheel_from_sdist) == names(distributions.wheel)


def test_the_sdist_leaves_out_what_only_ci_needs(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert "pyproject.toml" in inside
    assert not {name for name in inside if name.startswith(".ci")}


def test_the_installed_command_tells_its_version(installed: Path, tmp_path: Path) -> None:
    version = run(installed / "python", "-c", "import ee_runner; print(ee_runner.__version__)", cwd=tmp_path)
    assert version.strip() in run(installed / "ansible-runner", "--version", cwd=tmp_path)


def test_every_name_of_the_drop_in_is_there(installed: Path, tmp_path: Path) -> None:
    code = "import ansible_runner as a; print(*[name for name in a.__all__ if getattr(a, name) is None], a.plugins)"
    assert run(installed / "python", "-c", code, cwd=tmp_path).strip() == "{}"


def test_the_installed_command_plays_the_demo(installed: Path, tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    shutil.copytree(REPO / "demo", demo, ignore=shutil.ignore_patterns("artifacts"))
    printed = run(installed / "ansible-runner", "run", demo, "-p", "test.yml", "--ident", "wheel", cwd=tmp_path)
    assert "ok: [localhost]" in printed
    assert "Test!" in printed
    assert (demo / "artifacts" / "wheel" / "status").read_text() == "successful"
