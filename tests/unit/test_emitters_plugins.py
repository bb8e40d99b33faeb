"""Plugins: distributions that are really installed, and the registry that programs change."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from operator import methodcaller
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ee_runner.emitters import of_job
from ee_runner.emitters.plugins import Plugins, plugins
from ee_runner.errors import CallbackError, ConfigurationError
from tests.support.receivers import http_receiver

REPO = Path(__file__).parents[2]
CONFIG = SimpleNamespace(settings={}, env={}, ident="X")
HANDLERS = """
seen = []
def status_handler(runner_config, data): seen.append((runner_config, data))
def event_handler(runner_config, data): seen.append((runner_config, data))
"""


@pytest.fixture
def registry() -> Iterator[Plugins]:
    """The one registry, empty, and afterwards as it was."""
    before = dict(plugins)
    plugins.clear()
    yield plugins
    plugins.clear()
    plugins.update(before)


def install(place: Path, *, distribution: str, name: str, module: str, source: str = HANDLERS) -> None:
    """Lay out a distribution as an installer does."""
    (place / f"{module}.py").write_text(source)
    info = place / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ansible_runner.plugins]\n{name} = {module}\n")


def python(code: str, *, place: Path) -> str:
    """Run a program in a process of its own, with what is installed at `place`."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(place), str(REPO)))}
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, env=env, cwd=place, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def plugin(**functions: Any) -> ModuleType:
    module = ModuleType("my_plugin")
    vars(module).update(
        {"status_handler": lambda *_: None, "event_handler": lambda *_: None, "__name__": "my_plugin"} | functions
    )
    return module


def test_an_installed_plugin_is_called_with_the_configuration_and_the_data(tmp_path: Path) -> None:
    install(tmp_path, distribution="my-dist", name="mine", module="mine_plugin")
    code = """if True:
        import ee_runner.emitters, sys
        assert "mine_plugin" not in sys.modules
        config = object()
        (emitter,) = ee_runner.emitters.of_job(config, {})
        emitter.status({"status": "running", "runner_ident": "X"})
        emitter.event({"counter": 1})
        import mine_plugin
        assert all(given is config for given, _ in mine_plugin.seen)
        print(emitter.name, [data for _, data in mine_plugin.seen], emitter.close())"""
    assert python(code, place=tmp_path) == (
        "plugin:mine [{'status': 'running', 'runner_ident': 'X'}, {'counter': 1}] 0\n"
    )


def test_nothing_heavy_is_imported_and_nothing_is_looked_up_before_a_job(tmp_path: Path) -> None:
    code = """if True:
        import sys, ee_runner.emitters.plugins
        print([name for name in ("importlib.metadata", "httpx", "zmq") if name in sys.modules])"""
    assert python(code, place=tmp_path) == "[]\n"


def test_the_registry_stands_in_for_a_module(tmp_path: Path) -> None:
    install(tmp_path, distribution="my-dist", name="mine", module="mine_plugin")
    package = tmp_path / "ansible_runner"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "plugins.py").write_text(
        "import sys\nfrom ee_runner.emitters.plugins import plugins\nsys.modules[__name__] = plugins\n"
    )
    code = """if True:
        import importlib, inspect, sys
        from ansible_runner import plugins
        import ansible_runner.plugins
        import ansible_runner.plugins as again
        assert plugins is ansible_runner.plugins is again is sys.modules["ansible_runner.plugins"]
        assert plugins is importlib.import_module("ansible_runner.plugins")
        assert isinstance(plugins, dict) and hash(plugins) is not None
        ansible_runner.plugins["x"] = sys
        from ee_runner.emitters.plugins import plugins as known
        assert known is plugins
        print(sorted(known), plugins.__name__, importlib.util.find_spec("ansible_runner.plugins") is not None)
        try:
            import ansible_runner.plugins.nothing
        except ModuleNotFoundError as error:
            print(error)"""
    assert python(code, place=tmp_path).splitlines() == [
        "['mine', 'x'] ansible_runner.plugins True",
        "No module named 'ansible_runner.plugins.nothing'",
    ]


@pytest.mark.parametrize(
    "look",
    [
        lambda found: found["mine"],
        lambda found: found.get("mine"),
        lambda found: dict(found)["mine"],
        lambda found: {**found}["mine"],
        lambda found: found.pop("mine"),
        lambda found: next(iter(found.values())),
        lambda found: len(found) and "mine" in found and found.copy()["mine"],
        lambda found: found.setdefault("mine", None),
    ],
)
def test_each_look_finds_what_is_installed(look: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, distribution="my-dist", name="mine", module="mine_plugin_of_looks")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_plugin_of_looks", raising=False)
    assert look(Plugins()).__name__ == "mine_plugin_of_looks"


def test_a_program_s_own_entry_wins_and_clear_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, distribution="my-dist", name="mine", module="mine_plugin_of_changes")
    monkeypatch.syspath_prepend(tmp_path)
    found, own = Plugins(), plugin()
    found["mine"] = own
    assert found == {"mine": own}
    found.clear()
    assert found == {}


def test_a_plugin_that_can_not_be_loaded_names_its_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, distribution="broken-dist", name="mine", module="broken_plugin", source="import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = Plugins()
    with pytest.raises(ConfigurationError) as caught:
        len(found)
    assert str(caught.value) == (
        "The plugin 'mine' of broken-dist can not be loaded: ModuleNotFoundError: No module named 'no_such_module'. "
        "Repair the installation of broken-dist, or uninstall it."
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    found.clear()
    assert not found


def test_a_name_that_two_distributions_take_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, distribution="dist-a", name="mine", module="plugin_a")
    install(tmp_path, distribution="dist-b", name="mine", module="plugin_b")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=r"'mine' is taken by dist-[ab] and by dist-[ab]\. Uninstall one"):
        Plugins().keys()


def test_a_plugin_that_looks_at_the_registry_while_it_is_loaded_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"import curious_holder\nfound = list(curious_holder.registry)\n{HANDLERS}"
    install(tmp_path, distribution="my-dist", name="mine", module="curious_plugin", source=source)
    monkeypatch.syspath_prepend(tmp_path)
    holder = ModuleType("curious_holder")
    holder.registry = Plugins()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "curious_holder", holder)
    assert holder.registry["mine"].found == []


@pytest.mark.parametrize("function", ["status_handler", "event_handler"])
def test_a_plugin_that_lacks_a_function_is_refused(function: str, registry: Plugins) -> None:
    registry["mine"] = plugin(**{function: None})
    with pytest.raises(ConfigurationError, match=rf"The plugin 'mine' \(my_plugin\) has no function {function}\("):
        of_job(CONFIG, {})


def test_what_a_plugin_raises_is_raised_at_once_and_it_is_not_asked_again(registry: Plugins) -> None:
    calls = []

    def fail(_: object, data: dict[str, Any]) -> None:
        calls.append(data)
        raise ValueError("no room")

    registry["mine"] = plugin(event_handler=fail)
    (emitter,) = of_job(CONFIG, {})
    emitter.status({"status": "running"})
    with pytest.raises(CallbackError) as caught:
        emitter.event({"counter": 1})
    assert str(caught.value) == "The plugin 'mine' (my_plugin) raised ValueError: no room"
    assert isinstance(caught.value.__cause__, ValueError)
    emitter.event({"counter": 2})
    assert calls == [{"counter": 1}]
    assert emitter.close() == 2


def test_what_a_plugin_changes_is_its_own(registry: Plugins) -> None:
    def change(_: object, data: dict[str, Any]) -> None:
        data["event_data"]["res"]["items"].append("more")
        data.clear()

    registry["first"] = plugin(event_handler=change)
    seen: list[Any] = []
    registry["second"] = plugin(event_handler=lambda _, data: seen.append(data))
    event = {"counter": 1, "event_data": {"res": {"items": [1]}}}
    for emitter in of_job(CONFIG, {}):
        emitter.event(event)
    assert seen == [event] == [{"counter": 1, "event_data": {"res": {"items": [1]}}}]


@pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")
def test_a_refused_job_leaves_no_emitter_open(registry: Plugins) -> None:
    registry["mine"] = ModuleType("empty")
    with pytest.raises(ConfigurationError):
        of_job(CONFIG, {"runner_zmq_url": "tcp://127.0.0.1:9"})
    gc.collect()


URL = "http://127.0.0.1:9/"


@pytest.mark.parametrize(
    ("settings", "variable", "names"),
    [
        ({"runner_http_url": URL}, "", ["plugin:http"]),
        ({}, URL, ["plugin:http"]),
        ({}, "", ["http", "plugin:http"]),
        ({"runner_http_url": "http://127.0.0.1:10/"}, "", ["http", "plugin:http"]),
    ],
)
def test_the_built_in_http_emitter_leaves_to_the_plugin_what_that_delivers(
    settings: dict[str, str], variable: str, names: list[str], registry: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry["http"] = plugin(__name__="ansible_runner_http")
    monkeypatch.setenv("RUNNER_HTTP_URL", variable)
    emitters = of_job(SimpleNamespace(settings=settings), {"runner_http_url": URL})
    assert [emitter.name for emitter in emitters] == names
    assert [emitter.close() for emitter in emitters] == [0] * len(names)


def test_what_a_plugin_raises_keeps_nothing_from_the_built_in_emitters(registry: Plugins) -> None:
    registry["mine"] = plugin(status_handler=lambda *_: 1 / 0)
    with http_receiver() as receiver:
        emitters = of_job(CONFIG, {"runner_http_url": receiver.url, "runner_emitter_close_timeout": 30})
        with pytest.raises(CallbackError):
            list(map(methodcaller("status", {"status": "running"}), emitters))
        assert {emitter.name: emitter.close() for emitter in emitters} == {"http": 0, "plugin:mine": 1}
    assert receiver.bodies == [{"status": "running"}]
