"""Playbooks and inventories whose names no file can have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ee_runner.errors import ConfigurationError
from ee_runner.job import JobSpec
from ee_runner.options import Given
from ee_runner.settings import job_spec, resolve

HOSTS = ",".join(f"web{number:02}.example.com" for number in range(20))


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    (tmp_path / "demo" / "project").mkdir(parents=True)
    (tmp_path / "demo" / "project" / "test.yml").write_text("[]")
    return tmp_path / "demo"


def spec(demo: Path, **options: Any) -> JobSpec:
    return job_spec(resolve({"private_data_dir": demo, "playbook": "test.yml", **options}, environ={}))


def refusal(demo: Path, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as error:
        spec(demo, **options)
    return str(error.value)


@pytest.mark.parametrize("given", [HOSTS, Given(HOSTS, "--inventory")])
def test_a_list_of_many_hosts_is_an_inventory(demo: Path, given: object) -> None:
    assert len(HOSTS) > 255
    assert spec(demo, inventory=given).inventory == (HOSTS,)
    assert spec(demo, inventory=[HOSTS]).inventory == (HOSTS,)


def test_hosts_with_long_names_are_an_inventory(demo: Path) -> None:
    assert spec(demo, inventory="a" * 300 + ",b").inventory == ("a" * 300 + ",b",)


def test_an_inventory_of_a_name_too_long_is_not_there(demo: Path) -> None:
    assert "there is no inventory" in refusal(demo, inventory=Given("a" * 300, "--inventory"))


def test_a_playbook_of_a_name_too_long_is_not_there(demo: Path) -> None:
    assert "there is no playbook" in refusal(demo, playbook="a" * 300 + ".yml")


def test_role_variables_in_a_file_of_a_name_too_long_can_not_be_read(demo: Path) -> None:
    assert "can not be read" in refusal(demo, playbook=None, role="x", role_vars="@" + "a" * 300)


@pytest.mark.parametrize("given", ["~nosuch/x", ["~nosuch/x"], "~nosuch/x,~nosuch/y"])
def test_an_inventory_of_a_user_without_a_home_names_the_option(demo: Path, given: object) -> None:
    assert refusal(demo, inventory=given).startswith("inventory: ~nosuch/x")
    assert "--inventory" in refusal(demo, inventory=Given(given, "--inventory"))


def test_role_variables_in_the_home_of_nobody_name_the_option(demo: Path) -> None:
    assert refusal(demo, playbook=None, role="x", role_vars="@~nosuch/x").startswith("role_vars: ~nosuch/x: the home")


@pytest.mark.parametrize("option", ["playbook", "inventory"])
@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_a_name_that_the_system_does_not_take_is_refused(demo: Path, option: str, text: str) -> None:
    assert refusal(demo, **{option: text}).startswith(f"{option}: ")
    assert refusal(demo, **{option: [text]}).startswith(f"{option}: ")


@pytest.mark.skipif(os.getuid() == 0, reason="root may enter everything")
def test_an_inventory_in_a_directory_that_may_not_be_entered_is_not_there(demo: Path) -> None:
    (demo / "closed").mkdir(mode=0)
    assert "there is no inventory" in refusal(demo, inventory=Given(str(demo / "closed" / "hosts"), "-i"))
