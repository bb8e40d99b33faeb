"""The fact cache of a job: what Ansible's jsonfile plugin wrote for a host, and what it shall find there.

ansible-core up to 2.18 writes the facts as they are to a file named after the host. From 2.19 on the file is
`s1_<host>` and holds one key, whose value is JSON text in which values carry tags; 2.21 shortens names that are unsafe
as file names to a part of their SHA-256. Which ansible-core a job will have is not known here: all forms are written,
and the newest one is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ee_runner.artifacts import describe
from ee_runner.errors import ArtifactError, ConfigurationError
from ee_runner.values import dataclass

_SCHEMA = "s1_"
_UNSAFE_IN_NAMES = ("/", "..", "<", ">", "|")
_PAYLOAD = "__payload__"
_TYPE = "__ansible_type"
_VAULT = "__ansible_vault"
_UNSAFE = "__ansible_unsafe"
_ENCRYPTED = "EncryptedString"
_RESERVED = frozenset({_PAYLOAD, _TYPE, _VAULT, _UNSAFE})


@dataclass(frozen=True, slots=True)
class _Form:
    """One of the names under which a host's facts may lie, and whether they are wrapped and tagged there."""

    name: str
    wrapped: bool


@dataclass(frozen=True, slots=True)
class _File:
    """What was found under one of the names; one that ends with a newline was written here, not by Ansible."""

    path: Path
    wrapped: bool
    changed: int
    own: bool
    data: bytes


def read_facts(directory: Path, host: str, *, prefix: str = "") -> dict[str, Any]:
    """Return the cached facts of a host as plain data, {} when there are none (seed, section 5.17).

    Dates and times are ISO 8601 text, a value that is still encrypted is ``{"__ansible_vault": <ciphertext>}``, with
    every ansible-core alike. `prefix` is the job's ANSIBLE_CACHE_PLUGIN_PREFIX. Raises ConfigurationError for a host
    name that leads out of the directory, ArtifactError for a file that can not be read.
    """
    forms = _forms(host, prefix=prefix)
    files = _files(directory, forms)
    for file in sorted(files, key=_age):
        facts = _decoded(file)
        if facts is not None:
            # Ansible clears one form only; the others that were written with it must not bring the facts back.
            return {} if file.own and len(files) < len(forms) else facts
    return {}


def write_facts(directory: Path, host: str, data: Mapping[str, Any], *, prefix: str = "") -> None:
    """Make `data` the cached facts of a host, which a job sees with whatever ansible-core it has (seed, section 5.17).

    The files are 0600 and replaced in one step each; a missing directory is made, 0700. Takes what JSON knows, dates
    and times, and encrypted values as `read_facts` returns them; ansible-core 2.19 and newer never decrypts what comes
    from a cache, and shows the ciphertext. Text is never a template to Ansible. Raises ConfigurationError for another
    value, a key that is Ansible's own or a host name that leads out of the directory, ArtifactError when a file can
    not be written.
    """
    forms = _forms(host, prefix=prefix)
    plain = _dumped(data, host=host)
    wrapped = json.dumps({_PAYLOAD: json.dumps(json.loads(plain, object_hook=_sealed))})
    _make(directory)
    with _opened(directory) as home:
        for form in forms:
            if not _belongs_to_another(directory, form, home=home):
                _replace(directory / form.name, f"{wrapped if form.wrapped else plain}\n".encode(), home=home)


def _age(file: _File) -> tuple[bool, int, bool]:
    """Order files from the newest on: what Ansible wrote came after what was written here, to every form."""
    return file.own, -file.changed, not file.wrapped


def _forms(host: str, *, prefix: str) -> tuple[_Form, ...]:
    """Return the names for a host; one with a slash has a safe name with ansible-core 2.21 and newer only."""
    if not host or "\0" in host or not {".", ".."}.isdisjoint(host.split("/")):
        raise ConfigurationError(f"{host!r} can not be the host of a fact cache: as a path it leads out of it.")
    if "/" in prefix or "\0" in prefix:
        raise ConfigurationError(f"ANSIBLE_CACHE_PLUGIN_PREFIX: {prefix!r} leads out of the fact cache.")
    key = _SCHEMA + host
    names = {} if "/" in host else {host: False, key: True}
    if any(part in key for part in _UNSAFE_IN_NAMES):
        import hashlib

        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        names[digest[: max(len(key), 12)]] = True
    return tuple(_Form(prefix + name, wrapped) for name, wrapped in names.items())


def _files(directory: Path, forms: tuple[_Form, ...]) -> list[_File]:
    if not os.path.lexists(directory):
        return []
    with _opened(directory) as home:
        return [file for form in forms if (file := _found(directory, form, home=home))]


def _found(directory: Path, form: _Form, *, home: int) -> _File | None:
    """Read a file if it is there; what a job may have put in its place is neither followed nor waited for."""
    path = directory / form.name
    try:
        descriptor = os.open(form.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=home)
        try:
            return _content(path, descriptor, wrapped=form.wrapped)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise _unreadable(path, "permission denied. Make it readable to this user, or remove it.") from error
    except OSError as error:
        raise _unreadable(path, describe(error)) from error


def _content(path: Path, descriptor: int, *, wrapped: bool) -> _File:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise _unreadable(path, "it is not a regular file. Remove it.")
    with open(descriptor, "rb", closefd=False) as file:
        data = file.read()
    return _File(path, wrapped, found.st_mtime_ns, data.endswith(b"\n"), data)


def _decoded(file: _File) -> dict[str, Any] | None:
    """Return the facts in a file, or None when its form is the other one: then they are another host's."""
    content = _loaded(file, file.data, hook=_without_unsafe)
    if (content.keys() == {_PAYLOAD}) != file.wrapped:
        return None
    return _loaded(file, content[_PAYLOAD], hook=_untagged) if file.wrapped else content


def _loaded(file: _File, text: object, *, hook: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    try:
        content = json.loads(text if isinstance(text, (str, bytes)) else b"", object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise _unreadable(file.path, f"{error}. Remove it.") from error
    if not isinstance(content, dict):
        raise _unreadable(file.path, "it holds no facts. Remove it.")
    return content


def _without_unsafe(pairs: dict[str, Any]) -> object:
    return pairs[_UNSAFE] if pairs.keys() == {_UNSAFE} else pairs


def _untagged(pairs: dict[str, Any]) -> object:
    """Return the value without what ansible-core 2.19 and newer say about it: its type, its origin, its trust."""
    kind = str(pairs.get(_TYPE))
    if kind == _ENCRYPTED and "value" in pairs:
        return {_VAULT: pairs["value"]}
    if kind.startswith("_AnsibleTagged") and "value" in pairs:
        return pairs["value"]
    if kind.startswith("AnsibleSerializable") and "iso8601" in pairs:
        return pairs["iso8601"]
    return pairs


def _sealed(pairs: dict[str, Any]) -> dict[str, Any]:
    return {"value": pairs[_VAULT], "tags": [], _TYPE: _ENCRYPTED} if _VAULT in pairs else pairs


def _dumped(data: Mapping[str, Any], *, host: str) -> str:
    try:
        return json.dumps(_storable(data, place=f"The facts of {host!r}"), indent=1)
    except RecursionError as error:
        raise ConfigurationError(f"The facts of {host!r} are nested too deeply, or hold themselves.") from error


def _storable(value: object, *, place: str) -> object:
    """Return a value as JSON knows it; ConfigurationError names the place of one that Ansible could not read back."""
    if isinstance(value, Mapping):
        return _mapping(value, place=place)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_storable(item, place=f"{place}[{number}]") for number, item in enumerate(value)]
    import datetime

    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, str):
        return _text(value, place=place)
    if value is None or isinstance(value, (int, float)):
        return value
    raise ConfigurationError(f"{place}: a {type(value).__name__} can not be a fact; give what JSON knows.")


def _mapping(value: Mapping[Any, Any], *, place: str) -> dict[str, object]:
    if value.keys() == {_VAULT} and isinstance(value[_VAULT], str):
        return {_VAULT: _text(value[_VAULT], place=place)}
    stored = {}
    for key, item in value.items():
        if not isinstance(key, (str, int, float)) and key is not None:
            raise ConfigurationError(f"{place}: a {type(key).__name__} can not be a key; give text.")
        name = _text(key, place=place) if isinstance(key, str) else json.dumps(key)
        if name in _RESERVED:
            raise ConfigurationError(f"{place}: the key {name} is Ansible's own; choose another.")
        stored[name] = _storable(item, place=f"{place}.{name}")
    return stored


def _text(value: str, *, place: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{place}: {value!r} is not Unicode text, which Ansible refuses to read.") from error
    return value


def _belongs_to_another(directory: Path, form: _Form, *, home: int) -> bool:
    """Tell whether the plain file of a host ``s1_x`` is in truth the wrapped one of a host ``x``."""
    if form.wrapped or _SCHEMA not in form.name:
        return False
    with contextlib.suppress(ArtifactError):  # what can not be read is replaced
        file = _found(directory, form, home=home)
        return file is not None and _decoded(file) is None
    return False


def _make(directory: Path) -> None:
    """Make a directory and those above it that are missing, each 0700."""
    try:
        if not directory.parent.exists():
            _make(directory.parent)
        if not directory.is_dir():
            directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unwritable(directory, error) from error


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ArtifactError(f"The fact cache {directory} can not be opened: {describe(error)}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _replace(path: Path, data: bytes, *, home: int) -> None:
    """Write a file in one step; Ansible passes over names that begin with a dot."""
    partial = f".{os.urandom(8).hex()}.partial"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(partial, flags, 0o600, dir_fd=home), "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(data)
        os.rename(partial, path.name, src_dir_fd=home, dst_dir_fd=home)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(partial, dir_fd=home)
        raise _unwritable(path, error) from error


def _unreadable(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(f"The fact cache {path} can not be read: {reason}")


def _unwritable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"The fact cache {path} can not be written: {describe(error)}")
