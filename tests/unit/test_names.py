"""Container names: documented form, safe characters, no collisions."""

from __future__ import annotations

import itertools
import re

import pytest

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
