"""Frozen values are those of the standard library's dataclasses, made without compiling anything."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ee_runner import values


def made_by(decorator: Any, field: Any) -> Any:
    @decorator(frozen=True, slots=True)
    class Point:
        """A point."""

        x: int
        y: int = 2
        tags: tuple[str, ...] = ()
        more: dict[str, int] = field(default_factory=dict, repr=False)
        note: str | None = field(default=None, metadata={"unit": "text"})

        @property
        def length(self) -> int:
            return self.x + self.y

    return Point


OURS = made_by(values.dataclass, values.field)
THEIRS = made_by(dataclasses.dataclass, dataclasses.field)


@values.dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    one: int
    two: int = 0


@values.dataclass(frozen=True, slots=True)
class Kept:
    one: int
    two: tuple[str, ...] = ("a",)


@pytest.mark.parametrize(
    "look",
    [
        repr,
        dataclasses.asdict,
        dataclasses.astuple,
        lambda value: [(f.name, f.type, f.repr, f.kw_only, dict(f.metadata)) for f in dataclasses.fields(value)],
        lambda value: [(f.default, f.default_factory) for f in dataclasses.fields(value)],
        lambda value: dataclasses.asdict(dataclasses.replace(value, y=5, note="n")),
        lambda value: type(value).__match_args__,
        lambda value: (
            type(value).__slots__,
            hasattr(value, "__dict__"),
            type(value).__doc__,
            type(value).__qualname__,
        ),
        lambda value: value.length,
        lambda value: dataclasses.is_dataclass(value),
    ],
)
@pytest.mark.parametrize("arguments", [(1,), (1, 3), (1, 3, ("t",), {"k": 1}, "n")])
def test_a_value_looks_as_the_standard_librarys_does(look: Callable[[Any], Any], arguments: tuple[Any, ...]) -> None:
    assert look(OURS(*arguments)) == look(THEIRS(*arguments))


def test_values_are_equal_by_what_they_hold_and_by_their_class() -> None:
    assert Kept(1) == Kept(one=1, two=("a",))
    assert Kept(1) != Kept(2)
    other: object = Named(one=1)
    assert Kept(1) != other
    assert hash(Kept(1)) == hash(Kept(1))
    assert len({Kept(1), Kept(1), Kept(2)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(OURS(1))


def test_each_value_gets_a_default_of_its_own() -> None:
    assert OURS(1).more is not OURS(1).more


@pytest.mark.parametrize(
    "make",
    [
        lambda cls: cls(),
        lambda cls: cls(1, z=3),
        lambda cls: cls(1, x=1),
        lambda cls: cls(1, 2, (), {}, "n", "one too many"),
        lambda cls: dataclasses.replace(cls(1), z=3),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[Any], Any]) -> None:
    for cls in (OURS, THEIRS):
        with pytest.raises(TypeError):
            make(cls)


def test_a_complaint_names_the_field() -> None:
    with pytest.raises(TypeError, match=r"Kept: one must be given"):
        Kept()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Kept: there is no field 'three'"):
        Kept(1, three=3)  # type: ignore[call-arg]


def test_fields_that_are_given_by_name_alone_take_no_place() -> None:
    assert Named(one=1).two == 0
    with pytest.raises(TypeError):
        Named(1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "change", [lambda v: setattr(v, "one", 2), lambda v: delattr(v, "one"), lambda v: setattr(v, "new", 2)]
)
def test_nothing_changes_a_value(change: Callable[[Any], None]) -> None:
    value = Kept(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        change(value)
    assert value == Kept(1)


def test_a_value_can_be_copied_pickled_and_matched() -> None:
    value = Kept(3, ("b",))
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.copy(value) == copy.deepcopy(value) == value
    match value:
        case Kept(one, two):
            assert (one, two) == (3, ("b",))


def test_replace_gives_another_value() -> None:
    value = OURS(1, tags=("t",))
    assert values.replace(value, y=9) == OURS(1, 9, ("t",))
    assert value.y == 2
    with pytest.raises(TypeError):
        values.replace(value, z=1)


def test_what_is_not_frozen_is_refused() -> None:
    with pytest.raises(TypeError, match="frozen"):
        values.dataclass(frozen=False, slots=True)


def test_a_class_is_made_without_dataclasses() -> None:
    code = "import sys, ee_runner.job; print([m for m in ('dataclasses', 'inspect') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
