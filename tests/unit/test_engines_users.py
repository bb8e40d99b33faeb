"""Which user a job is, for every kind of engine and image."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from ee_runner.engines.base import Caller, ImageInfo
from ee_runner.engines.users import Identity, Mapping, chosen_by_caller, identify

PASSWD = "root:x:0:0:root:/root:/bin/bash\nrunner:x:1000:1001::/home/runner:/bin/sh"
ROOT = Caller(0, 0, "root", Path("/root"))
ME = Caller(1500, 1600, "me", Path("/home/me"))


def who(image: ImageInfo, caller: Caller, how: Mapping, *options: str) -> Identity:
    return identify(image, caller=caller, mapping=lambda: how, options=options, passwd=lambda: PASSWD)


def image(user: str = "", home: str | None = None) -> ImageInfo:
    return ImageInfo("sha256:1", user, home)


@pytest.mark.parametrize("user", ["", "0", "root", "0:0", "root:root"])
def test_root_inside_is_the_caller(user: str) -> None:
    plain = Identity(home=PurePosixPath("/root"))
    assert who(image(user), ME, Mapping.KEEP_ANY) == plain
    assert who(image(user), ROOT, Mapping.ROOTFUL) == plain


def test_podman_maps_the_caller_onto_the_images_user() -> None:
    identity = who(image("runner"), ME, Mapping.KEEP_ANY)
    assert identity.options == ("--userns=keep-id:uid=1000,gid=1001", "--user", "1000:1001", "--group-add", "0")
    assert (identity.home, identity.passwd, identity.makes_home) == (PurePosixPath("/home/runner"), None, False)
    assert who(image("1000:7"), ME, Mapping.KEEP_ANY).options[0] == "--userns=keep-id:uid=1000,gid=7"


def test_a_numeric_user_without_an_entry_gets_one_and_a_home() -> None:
    identity = who(image("12345"), ME, Mapping.KEEP_ANY)
    assert identity.options[:3] == ("--userns=keep-id:uid=12345,gid=12345", "--user", "12345:12345")
    assert identity.passwd == f"{PASSWD}\nme:x:12345:12345:ee_runner:/home/me:/bin/sh\n"
    assert identity.makes_home


def test_older_podman_keeps_the_callers_own_uid() -> None:
    identity = who(image("runner"), ME, Mapping.KEEP_SAME)
    assert identity.options == ("--userns=keep-id", "--user", "1500:1600", "--group-add", "0")
    assert identity.passwd is not None


def test_rootless_docker_runs_as_root() -> None:
    assert who(image("runner"), ME, Mapping.ROOT_ONLY).options == ("--user", "0:0")


def test_rootful_runs_as_the_caller() -> None:
    identity = who(image(), ME, Mapping.ROOTFUL)
    assert identity.options == ("--user", "1500:1600", "--group-add", "0")
    assert identity.home == PurePosixPath("/home/me")
    assert who(image("runner"), ROOT, Mapping.ROOTFUL).options == ("--user", "0:0")


def test_a_uid_that_the_image_knows_keeps_its_home() -> None:
    known = Caller(1000, 1000, "somebody", Path("/home/somebody"))
    identity = who(image(), known, Mapping.ROOTFUL)
    assert (identity.home, identity.passwd) == (PurePosixPath("/home/runner"), None)


def test_a_name_that_the_image_gave_away_is_changed() -> None:
    same = Caller(1500, 1600, "runner", Path("/home/runner"))
    identity = who(image(), same, Mapping.ROOTFUL)
    assert identity.passwd is not None
    assert identity.passwd.endswith("\nrunner_1500:x:1500:1600:ee_runner:/home/runner_1500:/bin/sh\n")


def test_a_home_that_the_image_states_is_kept() -> None:
    identity = who(image("1000", "/runner"), ME, Mapping.ROOTFUL)
    assert (identity.home, identity.makes_home) == (PurePosixPath("/runner"), False)


@pytest.mark.parametrize(
    "options",
    [
        ("--user", "5"),
        ("--user=5",),
        ("-u", "5"),
        ("-u5:6",),
        ("--userns=host",),
        ("--userns", "keep-id"),
        ("--uidmap=0:1:2",),
    ],
)
def test_the_callers_choice_stays(options: tuple[str, ...]) -> None:
    assert who(image("runner"), ME, Mapping.ROOTFUL, *options) == Identity(home=PurePosixPath("/home/runner"))


def test_other_options_are_no_choice() -> None:
    assert not chosen_by_caller(["--ulimit", "nofile=1", "--uts=host", "--network=host"])


def test_the_image_is_not_opened_when_root_will_do() -> None:
    def fail() -> str:
        raise AssertionError("the passwd file was read")

    identify(image(), caller=ME, mapping=lambda: Mapping.KEEP_ANY, options=(), passwd=fail)
    identify(image("runner"), caller=ROOT, mapping=lambda: Mapping.ROOTFUL, options=(), passwd=fail)
