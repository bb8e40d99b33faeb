"""How an engine is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ee_runner.engines import registry
from ee_runner.engines.base import EngineInfo
from ee_runner.engines.bwrap import BwrapEngine
from ee_runner.engines.docker import DockerEngine
from ee_runner.engines.local import LocalEngine
from ee_runner.engines.podman import PodmanEngine
from ee_runner.errors import ConfigurationError, EngineUnavailable

REPO = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("podman", PodmanEngine), ("docker", DockerEngine), ("bwrap", BwrapEngine), ("local", LocalEngine)],
)
def test_built_in_engines(name: str, kind: type) -> None:
    assert type(registry.get(name)) is kind
    assert registry.get(name).name == name


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/usr/bin/podman", PodmanEngine),
        ("/opt/podman-remote", PodmanEngine),
        ("/opt/docker", DockerEngine),
        ("/opt/bwrap", BwrapEngine),
        ("/opt/my-sandbox", BwrapEngine),
        ("./docker.io", DockerEngine),
    ],
)
def test_an_executable_picks_its_driver(path: str, kind: type) -> None:
    assert type(registry.get(path)) is kind


def test_a_program_on_path_is_driven_like_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sandboxer").write_text("#!/bin/sh\n")
    (tmp_path / "sandboxer").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    engine = registry.get("sandboxer")
    assert isinstance(engine, BwrapEngine)
    assert engine.executable == tmp_path / "sandboxer"


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"'podmann'; did you mean 'podman'\?"):
        registry.get("podmann")


def test_a_missing_program_is_unavailable_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EngineUnavailable, match=r"podman is not installed.*Install podman"):
        registry.get("podman").check()
    with pytest.raises(EngineUnavailable, match="/opt/nowhere/bwrap is not installed"):
        registry.get("/opt/nowhere/bwrap").check()


def test_detection_tells_why_it_passed_engines_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    engine, lines = registry.detect(want_images=False)
    assert engine.name == "local"
    assert [line.partition(":")[0] for line in lines] == ["podman", "docker", "bwrap", "local"]
    assert "not installed" in lines[0]
    with pytest.raises(EngineUnavailable, match=r"podman is not installed.*docker is not installed"):
        registry.detect(want_images=True)


def test_auto_ends_at_the_host_and_says_that_nothing_is_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    engine, lines = registry.choose("auto")
    assert engine.name == "local"
    assert [line.partition(":")[0] for line in lines] == ["podman", "docker", "bwrap", "local"]
    assert "without isolation" in lines[-1]


def test_auto_for_isolation_never_ends_at_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EngineUnavailable, match=r"No engine that isolates.*podman is not.*local: it does not isolate"):
        registry.choose("auto-isolating")


def test_auto_takes_a_sandbox_where_no_container_engine_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    info = EngineInfo("bwrap", Path("/usr/bin/bwrap"), "1", rootless=True)
    monkeypatch.setattr(BwrapEngine, "check", lambda _: info)
    engine, lines = registry.choose("auto")
    assert engine.name == "bwrap"
    assert "without isolation" not in lines[-1]


def test_auto_for_an_image_never_runs_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EngineUnavailable, match=r"podman is not installed.*docker is not installed.*bwrap: it runs no"):
        registry.choose("auto-images")


def test_detection_takes_the_first_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def down(_: PodmanEngine) -> EngineInfo:
        raise EngineUnavailable("out of order")

    monkeypatch.setattr(PodmanEngine, "check", down)
    info = EngineInfo("docker", Path("/usr/bin/docker"), "99", rootless=False)
    monkeypatch.setattr(DockerEngine, "check", lambda _: info)
    engine, lines = registry.detect(want_images=True)
    assert engine.name == "docker"
    assert lines == ["podman: out of order", "docker: chosen, version 99 at /usr/bin/docker"]


def test_another_distribution_adds_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "third_engine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-engine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[ee_runner.engines]\nthird = third_engine:Third\nbroken = third_engine:Absent\nodd = third_engine:odd\n"
    )
    (tmp_path / "third_engine.py").write_text(
        "from ee_runner.engines.local import LocalEngine\nclass Third(LocalEngine):\n    name = 'third'\nodd = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.get("third").name == "third"
    assert "third" in registry.names()
    with pytest.raises(ConfigurationError, match=r"'broken' of third-engine can not be loaded"):
        registry.get("broken")
    with pytest.raises(ConfigurationError, match="is no ContainerEngine"):
        registry.get("odd")


def python(code: str, *, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=path, capture_output=True, text=True, check=False)


def test_engines_are_not_imported_under_another_name() -> None:
    done = python("import sys; sys.path.insert(0, '.'); import engines", path=REPO)
    assert "Import ee_runner.engines instead of engines" in done.stderr


def test_no_sdk_and_no_metadata_for_a_built_in_engine() -> None:
    code = (
        "import sys; from ee_runner.engines import registry\n"
        "for name in ('podman', 'docker', 'bwrap', 'local'): registry.get(name)\n"
        "bad = {'podman', 'docker', 'requests', 'pexpect', 'rich', 'argparse'} & set(sys.modules)\n"
        "print(sorted(bad))"
    )
    done = python(code, path=REPO)
    assert done.stdout.strip() == "[]", done.stderr
