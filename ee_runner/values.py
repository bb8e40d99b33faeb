"""Values at rest: the standard library's frozen dataclasses with slots, made without compiling methods for each class.

`dataclass`, `field` and `replace` stand in for those of `dataclasses`, as far as this library uses them; a type checker
sees the real ones. A class costs a twentieth at import, and `dataclasses` itself, which loads `inspect`, is not needed.
Its functions (`fields`, `asdict`, `replace`, `is_dataclass`) work with these classes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Literal, NoReturn, TypeAlias

    Setters: TypeAlias = Mapping[str, Callable[[object, object], None]]

_MISSING: Any = object()


class _Field:
    """What `field` says of one field."""

    __slots__ = ("default", "default_factory", "metadata", "repr")

    def __init__(self, default: Any, default_factory: Any, repr: bool, metadata: Mapping[str, Any] | None) -> None:
        self.default = default
        self.default_factory = default_factory
        self.repr = repr
        self.metadata = metadata


def _field(
    *,
    default: Any = _MISSING,
    default_factory: Any = _MISSING,
    repr: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """Describe one field: its default or what makes it, and whether it shows in the repr."""
    return _Field(default, default_factory, repr, metadata)


def _dataclass(
    *, frozen: Literal[True], slots: Literal[True], kw_only: bool = False
) -> Callable[[type[Any]], type[Any]]:
    """Make a class with annotated fields one of frozen values.

    Inherited fields, ClassVar, InitVar and __post_init__ are not understood. Raises TypeError for classes that are not
    frozen, or have no slots: the standard library's decorator is for those.
    """
    if not (frozen and slots):
        raise TypeError("values are frozen and have slots; for anything else there is dataclasses.dataclass")
    return lambda cls: _made(cls, kw_only=kw_only)


def _replace(obj: Any, /, **changes: Any) -> Any:
    """Return a copy of a value with other values in these fields; raises TypeError for a field that it has not."""
    return type(obj)(**{name: getattr(obj, name) for name in obj.__slots__} | changes)


def _made(cls: type[Any], *, kw_only: bool) -> type[Any]:
    """Return the class once more, with slots: they can not be added to one that exists."""
    namespace = {name: value for name, value in cls.__dict__.items() if name not in ("__dict__", "__weakref__")}
    names = tuple(getattr(cls, "__annotations__", ()))
    described = {name: _described(namespace.pop(name, _MISSING)) for name in names}
    namespace.update(_METHODS)
    namespace["__slots__"] = names
    namespace["__qualname__"] = cls.__qualname__
    namespace["__match_args__"] = () if kw_only else names
    namespace["__repr__"] = _representation([name for name in names if described[name].repr])
    namespace["__dataclass_fields__"] = _Fields(described, kw_only=kw_only)
    metaclass: Any = type(cls)
    made: type[Any] = metaclass(cls.__name__, cls.__bases__, namespace)
    setters = {name: getattr(made, name).__set__ for name in names}
    made.__init__ = _constructor(described, setters, kw_only=kw_only)
    made.__setstate__ = _filler(setters)
    return made


def _described(value: Any) -> _Field:
    return value if isinstance(value, _Field) else _Field(value, _MISSING, True, None)


def _constructor(described: Mapping[str, _Field], setters: Setters, *, kw_only: bool) -> Callable[..., None]:
    fields = described.keys()
    positional = () if kw_only else tuple(fields)
    defaults = {name: each.default for name, each in described.items() if each.default is not _MISSING}
    made = {name: each.default_factory for name, each in described.items() if each.default_factory is not _MISSING}
    put = tuple(setters.items())

    def construct(self: object, *arguments: object, **keywords: object) -> None:
        given = dict(zip(positional, arguments, strict=False), **keywords)
        values = {**defaults, **given}
        for name, make in made.items():
            if name not in values:
                values[name] = make()
        if values.keys() != fields or len(given) != len(arguments) + len(keywords):
            raise TypeError(_wrong(type(self).__name__, fields, values, arguments, keywords))
        for name, setter in put:
            setter(self, values[name])

    return construct


def _wrong(
    cls: str,
    fields: Iterable[str],
    values: Mapping[str, object],
    arguments: tuple[object, ...],
    keywords: Mapping[str, object],
) -> str:
    """Say what is wrong with the arguments of a constructor."""
    unknown = [name for name in keywords if name not in fields]
    missing = [name for name in fields if name not in values]
    if unknown or missing:
        return f"{cls}: there is no field {unknown[0]!r}" if unknown else f"{cls}: {', '.join(missing)} must be given"
    return f"{cls}: a value too many, or two for one field: {len(arguments)} by place, and {', '.join(keywords)}"


def _filler(setters: Setters) -> Callable[[object, tuple[object, ...]], None]:
    def fill(self: object, state: tuple[object, ...]) -> None:
        for setter, value in zip(setters.values(), state, strict=True):
            setter(self, value)

    return fill


def _representation(shown: Iterable[str]) -> Callable[[object], str]:
    def represent(self: object) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    return represent


def _values(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in self.__slots__])


def _equal(self: Any, other: Any) -> bool:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hashed(self: Any) -> int:
    return hash(_values(self))


def _refuse(self: object, name: str, *_value: object) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"{type(self).__name__}.{name} can not be set or deleted: the value is frozen")


_METHODS = {
    "__eq__": _equal,
    "__hash__": _hashed,
    "__setattr__": _refuse,
    "__delattr__": _refuse,
    "__getstate__": _values,
    "__replace__": _replace,
}


class _Fields:
    """Gives the standard library's description of a class when one of its functions looks for it."""

    __slots__ = ("_described", "_kw_only")

    def __init__(self, described: Mapping[str, _Field], *, kw_only: bool) -> None:
        self._described = described
        self._kw_only = kw_only

    def __get__(self, _instance: object, owner: Any) -> Any:
        import dataclasses

        namespace = {key: owner.__dict__[key] for key in ("__annotations__", "__module__")}
        namespace["__doc__"] = owner.__doc__ or owner.__name__  # without one, dataclasses makes it by inspection
        for name, each in self._described.items():
            known = {key: getattr(each, key) for key in _Field.__slots__ if getattr(each, key) is not _MISSING}
            namespace[name] = dataclasses.field(**known)
        decorate = dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=self._kw_only)
        template: Any = decorate(type(owner.__name__, (), namespace))
        owner.__dataclass_fields__ = template.__dataclass_fields__
        return template.__dataclass_fields__


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
else:
    dataclass, field, replace = _dataclass, _field, _replace
