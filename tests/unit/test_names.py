"""Names: of containers in the documented form, safe and without collisions; own files are known by theirs."""

from __future__ import annotations

import itertools
import os
import re

import pytest

from ee_runner import names
from ee_runner.names import container_name, ident_problem, new_ident


@pytest.mark.parametrize("ident", ["1", "job-42", "a.b_c", "9933b07e-2d7c-426f-aeb6-7f52257639a7"])
def test_a_safe_ident_is_kept_as_it_is(ident: str) -> None:
    assert container_name(ident) == f"ansible_runner_{ident}"


def test_unsafe_characters_become_underscores() -> None:
    assert re.fullmatch(r"ansible_runner_job_1_2_[0-9a-f]{12}", container_name("job 1:2"))


def test_no_two_idents_share_a_name() -> None:
    alphabet = ["a", " ", ":", "_", "é", "\udc80"]
    idents = ["".join(letters) for n in range(1, 5) for letters in itertools.product(alphabet, repeat=n)]
    idents += ["x" * n for n in range(95, 205)]
    idents += [container_name(ident).removeprefix("ansible_runner_") for ident in idents]
    names = {container_name(ident) for ident in set(idents)}
    assert len(names) == len(set(idents))


def test_every_name_is_one_that_engines_take() -> None:
    for ident in ("x" * 500, "ü", "a/b", "\n", "-"):
        assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,150}", container_name(ident))


@pytest.mark.parametrize("ident", ["", ".", "..", "a/b", "../up", "nul\0", "x" * 201, "\udce9"])
def test_an_ident_that_names_no_directory_is_refused(ident: str) -> None:
    assert ident_problem(ident)


def test_new_idents_are_fine() -> None:
    assert ident_problem(new_ident()) is None
    assert new_ident() != new_ident()


def test_the_directories_of_a_process_are_known_by_their_names() -> None:
    name = f"{names.run_prefix()}x"
    assert names.maker_of(name) == os.getpid()
    assert names.is_own(name)
    assert names.is_run_prefix(names.run_prefix())
    assert not names.is_run_prefix(name)


@pytest.mark.parametrize("name", ["ee_runner_", "ee_runner_x_", "x_ee_runner_1_", "ee_runner_1", ".ee_runner_1_x"])
def test_a_name_of_another_kind_has_no_maker(name: str) -> None:
    assert names.maker_of(name) is None
    assert not names.is_own(name)
    assert not names.is_run_prefix(name)


@pytest.mark.parametrize("name", [".ansible-runner-x", f".ee_runner_{'0a' * 8}.yml", "ee_runner_1_0123abcd_\n"])
def test_what_this_library_makes_has_a_name_of_its_own(name: str) -> None:
    assert names.is_own(name)
