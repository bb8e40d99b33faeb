"""RunnerConfig: options as keywords and attributes, what is shown of them, and what it leaves behind."""

from __future__ import annotations

import copy
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from ee_runner.config import RunnerConfig
from ee_runner.errors import ConfigurationError
from ee_runner.runner import Runner


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private data directory with a playbook; the runtime directory of the jobs lies beside it, empty."""
    place = tmp_path / "private"
    (place / "project").mkdir(parents=True)
    (place / "project/site.yml").write_text("- hosts: localhost\n")
    (tmp_path / "runtime").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    return place


def shell(place: Path, script: str, **options: Any) -> RunnerConfig:
    return RunnerConfig(place, executable_cmd="sh", cmdline_args=["-c", script], ident="1", **options)


def said(runner: Runner) -> list[str]:
    with runner.stdout as stdout:
        return stdout.read().splitlines()


def runtime(place: Path) -> list[Path]:
    return [*(place.parent / "runtime").iterdir()]


def test_an_unknown_option_names_the_nearest(place: Path) -> None:
    for wrong, nearest in (
        ("container_imge", "container_image"),
        ("event_handlr", "event_handler"),
        ("idnet", "ident"),
    ):
        misspelt: dict[str, Any] = {wrong: 1}
        with pytest.raises(ConfigurationError, match=f"{wrong}: there is no such argument; did you mean '{nearest}'"):
            RunnerConfig(place, **misspelt)


def test_before_it_is_prepared_options_are_as_given_or_their_defaults(place: Path) -> None:
    config = RunnerConfig(place, playbook="site.yml", forks=3)
    assert (config.playbook, config.forks, config.limit, config.process_isolation) == ("site.yml", 3, None, False)
    assert (config.command, config.cwd, config.env) == ([], "", {})
    assert len(config.ident) == 36
    assert config.is_prepared is False
    for hidden in ("spec", "values"):
        with pytest.raises(ConfigurationError, match=r"call prepare\(\) first"):
            getattr(config, hidden)
    assert [*place.iterdir()] == [place / "project"]


def test_options_may_be_set_until_it_is_prepared(place: Path) -> None:
    config = RunnerConfig()
    config.private_data_dir, config.playbook, config.limit, config.ident = place, "site.yml", "localhost", 7
    config.prepare()
    assert config.command == ["ansible-playbook", "--limit", "localhost", "site.yml"]
    assert config.ident == "7"
    with pytest.raises(ConfigurationError, match="limit can not be changed any more"):
        config.limit = "all"
    assert config.limit == "localhost"


def test_what_is_no_option_is_an_attribute_like_any_other(place: Path) -> None:
    config = RunnerConfig(place)
    with pytest.raises(AttributeError, match="RunnerConfig has no attribute 'of_mine'"):
        config.of_mine  # noqa: B018
    config.of_mine = 5
    assert config.of_mine == 5
    assert copy.copy(config).of_mine == 5


def test_a_subclass_may_set_options_before_it_is_initialized(place: Path) -> None:
    class Own(RunnerConfig):
        def __init__(self) -> None:
            with pytest.raises(AttributeError):
                self.command_line  # noqa: B018
            super().__init__(place, playbook="site.yml")
            self.limit = "localhost"

    config = Own()
    config.prepare()
    assert "--limit" in config.command


def test_once_prepared_it_shows_what_was_resolved_from_all_sources(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_PLAYBOOK", "site.yml")
    monkeypatch.chdir(place.parent)
    (place / "env").mkdir()
    (place / "env/settings").write_text("job_timeout: 7\nrunner_own: [1]\n")
    config = RunnerConfig(place.name, ident=5, settings={"idle_timeout": 3, "runner_http_headers": {"a": "b"}})
    config.prepare()
    texts = ("ident", "private_data_dir", "project_dir", "artifact_dir", "fact_cache", "cwd")
    assert {name: type(getattr(config, name)) for name in texts} == dict.fromkeys(texts, str)
    assert config.ident == "5"
    assert config.private_data_dir == str(place)
    assert config.cwd == config.project_dir == f"{place}/project"
    assert config.artifact_dir == f"{place}/artifacts/5"
    assert config.fact_cache == f"{place}/artifacts/5/fact_cache"
    assert config.playbook == "site.yml"
    assert (config.job_timeout, config.idle_timeout) == (7, 3)
    assert dict(config.settings) == {
        "job_timeout": 7,
        "runner_own": [1],
        "idle_timeout": 3,
        "runner_http_headers": {"a": "b"},
    }
    assert (config.containerized, config.sandboxed, config.container_name) == (False, False, None)
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in config.env.items())
    assert config.env["PATH"].startswith(os.environ["PATH"])


def test_the_callers_objects_are_not_changed(place: Path) -> None:
    given: dict[str, Any] = {
        "playbook": [{"hosts": "localhost", "tasks": [{"debug": {"msg": "x"}}]}],
        "inventory": {"all": {"hosts": {"localhost": {"a": 1}}}},
        "extravars": {"deep": {"list": [1]}},
        "envvars": {"A": 1, "B": None},
        "settings": {"runner_http_headers": {"a": "b"}},
        "passwords": {"x": 1},
        "roles_path": ["a", "b"],
        "cmdline": ["-v"],
    }
    before = copy.deepcopy(given)
    config = RunnerConfig(place, **given)
    config.prepare()
    config.env["A"] = "changed"
    assert given == before


def test_one_that_never_runs_leaves_nothing_when_it_is_collected(place: Path) -> None:
    config = RunnerConfig(place, playbook=[{"hosts": "all"}], extravars={"a": 1}, inventory={"all": {}}, ident="1")
    config.prepare()
    assert runtime(place) != []
    assert len([*(place / "project").iterdir()]) == 2
    del config
    gc.collect()
    assert runtime(place) == []
    assert [*(place / "project").iterdir()] == [place / "project/site.yml"]
    assert not (place / "artifacts/1/.events").exists()


def test_one_that_can_not_be_prepared_leaves_nothing(place: Path) -> None:
    with pytest.raises(ConfigurationError, match="ansible_password"):
        RunnerConfig(place, playbook="site.yml", extravars={"ansible_password": object()}).prepare()
    with pytest.raises(ConfigurationError, match="there is no playbook"):
        Runner(RunnerConfig(place, playbook="sit.yml"))
    gc.collect()
    assert runtime(place) == []


def test_it_may_be_prepared_again(place: Path) -> None:
    config = shell(place, "echo a")
    config.prepare()
    config.prepare()
    assert len(runtime(place)) == 1
    assert Runner(config).run() == ("successful", 0)
    assert runtime(place) == []


def test_a_runner_prepares_what_is_not_prepared(place: Path) -> None:
    config = shell(place, "echo a")
    runner = Runner(config)
    assert config.is_prepared
    assert (runner.status, runner.rc) == ("unstarted", None)
    assert runner.run() == ("successful", 0)
    assert not config.is_prepared


def test_the_environment_of_the_job_is_exactly_what_the_config_says(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAYS", "1")
    monkeypatch.setenv("GOES", "1")
    config = shell(place, "env | sort", envvars={"GIVEN": "1", "CHANGED": "1"})
    config.prepare()
    assert config.env["STAYS"] == config.env["GOES"] == "1"
    del config.env["GOES"]
    config.env["CHANGED"], config.env["ADDED"] = "2", "x y"
    monkeypatch.setenv("LATER", "1")
    runner = Runner(config)
    runner.run()
    expected = {**config.env, "PWD": config.cwd}
    seen = dict(line.split("=", 1) for line in said(runner) if line[0].isalpha())
    assert seen.pop("EE_RUNNER_RUN"), "by which the job's processes are found when all that watched over them is killed"
    assert {name: value for name, value in seen.items() if name not in ("SHLVL", "_", "OLDPWD")} == {
        name: value for name, value in expected.items() if name not in ("SHLVL", "_", "OLDPWD")
    }
    assert {"GOES", "LATER"}.isdisjoint(seen)


def test_command_and_directory_may_be_changed_until_it_runs(place: Path) -> None:
    config = shell(place, "echo never")
    config.prepare()
    config.command[2] = "echo instead; pwd"
    config.cwd = str(place / "project")
    runner = Runner(config)
    runner.run()
    assert said(runner) == ["instead", str(place / "project")]


def test_a_second_run_starts_anew(place: Path) -> None:
    runner = Runner(
        shell(place, "test -e ran || { echo first; touch ran; exit 3; }; echo second"), cancel_callback=None
    )
    runner.config.cwd = str(place)
    assert runner.run() == ("failed", 3)
    assert said(runner) == ["first"]
    runner.config.prepare()
    runner.config.cwd = str(place)
    assert runner.run() == ("successful", 0)
    assert said(runner) == ["second"]
    assert [event["stdout"] for event in runner.events] == ["second"]


def test_a_run_after_one_that_was_cancelled_is_not(place: Path) -> None:
    runner = Runner(shell(place, "echo a"))
    runner.cancel()
    assert runner.run() == ("canceled", 254)
    assert runner.run() == ("successful", 0)
    assert (runner.reason, runner.canceled) == ("exited", False)


def test_a_misspelt_attribute_is_refused_and_one_of_its_own_is_not(place: Path) -> None:
    config = RunnerConfig(place, playbook="site.yml", ident="x")
    with pytest.raises(ConfigurationError, match="limt: there is no such argument; did you mean 'limit'"):
        config.limt = "web"
    config.something_else = 1
    assert config.something_else == 1
    config.extra_vars = {"a": 1}
    assert config.extravars == {"a": 1}


def test_it_shows_which_job_it_is_and_no_secret(place: Path) -> None:
    config = RunnerConfig(place, playbook="site.yml", ident="x", passwords={"Password:": "open sesame"})
    assert repr(config) == f"RunnerConfig(private_data_dir={str(place)!r}, ident='x')"


def test_a_job_that_reads_no_file_needs_no_private_data_directory() -> None:
    config = RunnerConfig(module="ping", host_pattern="localhost")
    config.prepare()
    temporary = Path(config.private_data_dir)
    assert temporary.is_dir()
    del config
    assert not temporary.exists()
    with pytest.raises(ConfigurationError, match="private_data_dir is missing"):
        RunnerConfig(playbook="site.yml").prepare()
