"""One input file of the private data directory: a plain file or a named pipe, read exactly once.

The one place that knows YAML. Every error is a ConfigurationError with the file, the line and what was expected.
"""

from __future__ import annotations

import json
import os
import re
import select
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ee_runner.errors import ConfigurationError
from ee_runner.secrets import MASK
from ee_runner.values import dataclass, field

if TYPE_CHECKING:
    from yaml.nodes import Node

    from ee_runner.executor import Cancellation

_NULL = "tag:yaml.org,2002:null"
_SURROGATE = r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "timestamp", "null", "value", "merge")
)

_KNOWN_TAGS = ("!vault", "!vault-encrypted", "!unsafe")
_QUOTATION = r"""(['"])(?!<)(?:\\.|(?!\1)[^\\]){2,}\1"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A mapping read from a file, and the line that each key stands in."""

    path: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)

    def place(self, key: str) -> str:
        """Return ``path:line`` of a key."""
        return f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)


def read_bytes(path: Path, *, cancel: Cancellation | None = None) -> bytes | None:
    """Return the content of a plain file or a named pipe, None when there is none.

    A pipe's writer is waited for until `cancel` asks for the stop; there is nothing then.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ConfigurationError(f"{path}: is a directory; a file or a named pipe is expected here")
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise ConfigurationError(f"{path}: is a socket or a device; a file or a named pipe is expected here")
        if stat.S_ISFIFO(mode) and cancel is not None and sys.platform == "linux":
            return _read_pipe(path, cancel)
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise ConfigurationError(f"{path}: is a symbolic link to a file that does not exist") from None
        return None
    except OSError as error:
        raise ConfigurationError(f"{path}: can not be read: {(error.strerror or str(error)).lower()}") from error


def _read_pipe(path: Path, cancel: Cancellation) -> bytes | None:
    """Wait in poll(2), which on Linux says nothing of a pipe that has had no writer yet."""
    pieces = []
    with ExitStack() as stack:
        pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, pipe)
        asked, ask = os.pipe()
        for descriptor in (asked, ask):
            stack.callback(os.close, descriptor)

        def wake() -> None:
            if cancel.requested:
                os.write(ask, b"\0")

        stack.enter_context(cancel.waking(wake))
        poll = select.poll()
        for descriptor in (asked, pipe):
            poll.register(descriptor, select.POLLIN)
        while not cancel.requested:
            if pipe in dict(poll.poll()):
                pieces.append(os.read(pipe, 65536))
                if not pieces[-1]:
                    return b"".join(pieces)
    return None


def mode_of(path: Path) -> int:
    """Return the type and mode bits of what stands at a path; 0 when that can not be told, or no path is named so."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def decode(data: bytes, path: Path) -> str:
    """Return the bytes as text; a file that is not UTF-8, or that holds NUL bytes, is refused."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}:{line}: UTF-8 text is expected; byte {error.start} is not") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigurationError(f"{path}:{line}: text is expected; there is a NUL byte")
    return text


def read_text(path: Path, *, cancel: Cancellation | None = None) -> str | None:
    """Return the text of an input file, or None when there is none; `cancel` as for `read_bytes`."""
    data = read_bytes(path, cancel=cancel)
    return None if data is None else decode(data, path)


def read_mapping(path: Path) -> Loaded:
    """Read a YAML or JSON file's mapping with its values constructed; an absent or empty file is an empty one."""
    text = read_text(path)
    if not text or not text.strip():
        return Loaded(path)
    decoded = _json(text)
    if decoded is not None:
        return Loaded(path, decoded, _json_lines(text, path))
    with _yaml_errors(path) as loader:
        parser = loader(text)
        pairs = list(_pairs(parser.get_single_node(), path))
        values = {key: _construct(parser, node) for key, _, node in pairs}
    return Loaded(path, values, {key: line for key, line, _ in pairs})


def read_scalars(path: Path, *, of: str, cancel: Cancellation | None = None) -> Loaded:
    """Read a mapping whose values are single ones, as text and as they were written; null is the empty text.

    `of` names a value in messages; `cancel` as for `read_bytes`.
    """
    text = read_text(path, cancel=cancel)
    if not text or not text.strip():
        return Loaded(path)
    decoded = _json(text, number=str)
    if decoded is not None:
        loaded = Loaded(path, decoded, _json_lines(text, path))
        values = {key: _json_scalar(key, value, loaded.place(key), of) for key, value in decoded.items()}
        return Loaded(path, values, loaded.lines)
    with _yaml_errors(path) as loader:
        pairs = list(_pairs(loader(text).get_single_node(), path))
    values = {key: _scalar(key, node, f"{path}:{line}", of) for key, line, node in pairs}
    return Loaded(path, values, {key: line for key, line, _ in pairs})


def is_mapping(text: str, path: Path) -> bool:
    """Say whether the text holds anything, after checking that it is one mapping; tags are not interpreted."""
    if _json(text) is not None:
        return True
    with _yaml_errors(path) as loader:
        node = loader(text).get_single_node()
        return any(True for _ in _pairs(node, path))


def parse_value(text: str, name: str) -> Any:
    """Return the value of a YAML or JSON text that was given as the option `name`."""
    decoded = _json(text)
    if decoded is not None:
        return decoded
    with _yaml_errors(Path(name)) as loader:
        return loader(text).get_single_data()


def json_text(value: Any, described: str) -> str:
    """Return a value as the text of a file that Ansible reads, or raise ConfigurationError: JSON can not say it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()  # Ansible reads no half of a surrogate pair
        return json.dumps(value, indent=1) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{described}: values that JSON knows are expected: {error}") from error


def check_pattern(pattern: str, place: str) -> None:
    """Raise ConfigurationError naming the place when a prompt's pattern is no regular expression."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigurationError(f"{place}: a regular expression is expected, found {pattern!r}: {error}") from error


def _scalar(key: str, node: Node, place: str, of: str) -> str:
    from yaml.nodes import ScalarNode

    if not isinstance(node, ScalarNode) or node.tag not in _PLAIN_TAGS:
        found = _describe(node) if not isinstance(node, ScalarNode) else _described_tag(node.tag)
        raise ConfigurationError(f"{place}: {key!r}: {of} is expected, found {found}")
    return "" if node.tag == _NULL else str(node.value)


def _described_tag(tag: str) -> str:
    """Name a tag that is known; another may be a secret that lacks its quotes."""
    return f"the tag {tag}" if tag in _KNOWN_TAGS else "a tag; put quotes around a value that begins with '!'"


def _json_scalar(key: str, value: Any, place: str, of: str) -> str:
    if isinstance(value, dict | list):
        found = "a list" if isinstance(value, list) else "a mapping"
        raise ConfigurationError(f"{place}: {key!r}: {of} is expected, found {found}")
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _pairs(node: Node | None, path: Path) -> Iterator[tuple[str, int, Node]]:
    """Yield key, line and value of a mapping's entries; of a key that is repeated, the last counts."""
    from yaml.nodes import MappingNode, ScalarNode

    if node is None or (isinstance(node, ScalarNode) and node.tag == _NULL):
        return
    if not isinstance(node, MappingNode):
        line = node.start_mark.line + 1
        raise ConfigurationError(f"{path}:{line}: a mapping (KEY: VALUE) is expected, found {_describe(node)}")
    for key, value in _merged(node):
        line = key.start_mark.line + 1
        if not isinstance(key, ScalarNode):
            raise ConfigurationError(f"{path}:{line}: a key must be text, found {_describe(key)}")
        yield str(key.value), line, value


def _merged(node: Any) -> Iterator[tuple[Node, Node]]:
    """Yield a mapping's entries with those of its merge keys (<<) first, so that its own win."""
    own = []
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            for source in value.value if value.id == "sequence" else [value]:
                if source.id == "mapping":
                    yield from _merged(source)
        else:
            own.append((key, value))
    yield from own


def _construct(parser: Any, node: Node) -> Any:
    from yaml.constructor import ConstructorError

    try:
        return parser.construct_document(node)
    except (ValueError, OverflowError) as error:
        raise ConstructorError(None, None, str(error), node.start_mark) from error


def _describe(node: Any) -> str:
    """Say what a node is, never what it holds: it may be a secret."""
    return {"sequence": "a list", "mapping": "a mapping"}.get(node.id, "text")


def _json(text: str, *, number: Callable[[str], Any] | None = None) -> dict[str, Any] | None:
    """Return the object of a JSON text, None when the text is not JSON: it may be YAML in braces."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text, parse_int=number, parse_float=number)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _json_lines(text: str, path: Path) -> dict[str, int]:
    """Return the lines of a JSON object's keys, without those that only JSON can write.

    YAML includes JSON but for tabs as indentation, which JSON allows nowhere else, and surrogate pairs.
    """
    with suppress(ConfigurationError), _yaml_errors(path) as loader:
        node = loader(re.sub(_SURROGATE, "______", text.replace("\t", " "))).get_single_node()
        return {key: line for key, line, _ in _pairs(node, path)}
    return {}


class _yaml_errors:  # noqa: N801 - reads as a phrase in a with statement
    """Import YAML, give its fastest safe loader, and turn its errors into ConfigurationError with file and line.

    The cause is left out: YAML's own words quote the text, which may be a secret, and a traceback would show them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        import yaml

        return getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        import yaml

        if isinstance(error, RecursionError):
            raise ConfigurationError(f"{self._path}: YAML or JSON is expected; this is nested too deeply") from None
        if isinstance(error, yaml.MarkedYAMLError):
            mark = error.problem_mark or error.context_mark
            where = f"{self._path}:{mark.line + 1}" if mark else str(self._path)
            what = re.sub(_QUOTATION, MASK, ", ".join(part for part in (error.problem, error.context) if part))
            if error.context and error.context_mark:
                what += f" in line {error.context_mark.line + 1}"
            raise ConfigurationError(f"{where}: valid YAML or JSON is expected: {what}") from None
        if isinstance(error, yaml.YAMLError):
            what = re.sub(_QUOTATION, MASK, " ".join(str(error).split()))
            raise ConfigurationError(f"{self._path}: valid YAML or JSON is expected: {what}") from None
