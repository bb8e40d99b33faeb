"""The option table: declared once, consistent, and convertible from every source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ee_runner import kinds
from ee_runner.job import RegistryAuth
from ee_runner.options import BY_FLAG, BY_NAME, OPTIONS, SETTINGS_KEYS, Style, default_of
from ee_runner.secrets import Secret

DOCUMENTED_FLAGS = """
    --process-isolation --process-isolation-executable --process-isolation-path --process-isolation-hide-paths
    --process-isolation-show-paths --process-isolation-ro-paths --directory-isolation-base-path --debug --logfile
    -b --binary -i --ident --rotate-artifacts --artifact-dir --project-dir --inventory -j --json --omit-event-data
    --only-failed-event-data --omit-env-files -q -v -p --playbook -m --module -r --role --limit --cmdline --hosts
    --forks --roles-path --role-vars --role-skip-facts -a --args --container-image --container-volume-mount
    --container-option
"""

DOCUMENTED_SETTINGS = """
    idle_timeout job_timeout pexpect_timeout pexpect_use_poll suppress_ansible_output fact_cache fact_cache_type
    process_isolation process_isolation_executable process_isolation_path process_isolation_hide_paths
    process_isolation_show_paths process_isolation_ro_paths resource_profiling resource_profiling_base_cgroup
    resource_profiling_cpu_poll_interval resource_profiling_memory_poll_interval
    resource_profiling_pid_poll_interval resource_profiling_results_dir runner_http_url runner_http_headers
    container_image container_options container_volume_mounts container_auth_data container_workdir
    subprocess_timeout suppress_output_file suppress_env_files directory_isolation_base_path runner_http_path
"""


def test_names_and_flags_are_declared_once() -> None:
    assert len(BY_NAME) == len(OPTIONS)
    assert len(BY_FLAG) == sum(len(option.flags) for option in OPTIONS)


@pytest.mark.parametrize("flag", DOCUMENTED_FLAGS.split())
def test_every_documented_flag_is_there(flag: str) -> None:
    assert "run" in BY_FLAG[flag].commands


@pytest.mark.parametrize("key", DOCUMENTED_SETTINGS.split())
def test_every_documented_setting_is_there(key: str) -> None:
    assert key in SETTINGS_KEYS


def test_defaults_are_values_of_their_own_kind() -> None:
    for option in OPTIONS:
        default = default_of(option, "run")
        if default is not None:
            assert option.kind.convert(default) == default


def test_flags_with_values_name_them_in_the_help() -> None:
    for option in OPTIONS:
        takes_value = option.flags and option.style not in (Style.SWITCH, Style.COUNT)
        assert bool(option.metavar) == bool(takes_value), option.name


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (kinds.FLAG, "Yes", True),
        (kinds.FLAG, "0", False),
        (kinds.COUNT, "12", 12),
        (kinds.SECONDS, "1.5", 1.5),
        (kinds.SECONDS, "30", 30),
        (kinds.CPUS, "1.5", 1.5),
        (kinds.CPUS, "0", 0),
        (kinds.PATH, "a/b", Path("a/b")),
        (kinds.SEARCH_PATH, "/a:/b", ("/a", "/b")),
        (kinds.ARGUMENTS, "--tags 'a b' -v", ("--tags", "a b", "-v")),
        (kinds.PLAYBOOK, "site.yml", ["site.yml"]),
        (kinds.choice("always", "never"), "never", "never"),
    ],
)
def test_texts_are_converted(kind: kinds.Kind, text: str, value: Any) -> None:
    assert kind.from_text(text) == value
    assert kind.convert(value) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (kinds.FLAG, "maybe"),
        (kinds.COUNT, "-1"),
        (kinds.COUNT, "many"),
        (kinds.SECONDS, "nan"),
        (kinds.SECONDS, "inf"),
        (kinds.ARGUMENTS, "'open"),
        (kinds.WORD, " "),
        (kinds.choice("always", "never"), "sometimes"),
    ],
)
def test_texts_that_mean_nothing_are_refused(kind: kinds.Kind, text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the place words it
        kind.from_text(text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (kinds.FLAG, 1),
        (kinds.COUNT, True),
        (kinds.COUNT, 1.5),
        (kinds.SECONDS, "600"),
        (kinds.PATH, 5),
        (kinds.PATHS, {"a": 1}),
        (kinds.TEXT, None),
        (kinds.MAPPING, ["a"]),
        (kinds.ENVIRONMENT, {"A=B": "c"}),
        (kinds.ENVIRONMENT, {"A": ["b"]}),
        (kinds.PLAYBOOK, []),
        (kinds.PLAYBOOK, ["a.yml", {"hosts": "all"}]),
        (kinds.REGISTRY_AUTH, {"username": "me"}),
        (kinds.REGISTRY_AUTH, {"host": "r", "pasword": "x"}),
        (kinds.IDENT, ["x"]),
    ],
)
def test_values_of_another_type_are_refused(kind: kinds.Kind, value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the place words it
        kind.convert(value)


def test_registry_credentials_hide_the_password() -> None:
    auth = kinds.REGISTRY_AUTH.convert({"host": "r.example", "username": "me", "password": "s3cret"})
    assert auth == RegistryAuth("r.example", "me", Secret("s3cret"), True)
    assert "s3cret" not in repr(auth)


def test_environment_values_are_texts() -> None:
    given = {"A": 1, "B": True, "C": None, "D": "x"}
    assert kinds.ENVIRONMENT.convert(given) == {"A": "1", "B": "True", "C": "", "D": "x"}
    assert given["A"] == 1


def test_one_play_is_a_playbook() -> None:
    assert kinds.PLAYBOOK.convert({"hosts": "all"}) == [{"hosts": "all"}]


def test_the_emulating_subcommands_are_isolated_by_default() -> None:
    isolation = BY_NAME["process_isolation"]
    assert default_of(isolation, "playbook") is True
    assert default_of(isolation, "run") is False
