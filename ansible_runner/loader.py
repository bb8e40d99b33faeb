"""Reads input files of a private data directory, each of them once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ee_runner.errors import ConfigurationError
from ee_runner.workspace import inputs


class ArtifactLoader:
    """Files below `base_path`, by relative or absolute path; each is kept, for a pipe gives its content once."""

    def __init__(self, base_path: str) -> None:
        self.base_path = base_path
        self._contents: dict[Path, bytes] = {}

    def abspath(self, path: str) -> str:
        """Return the path below the base path, or an absolute one as it is."""
        return str(Path(self.base_path) / path)

    def isfile(self, path: str) -> bool:
        """Say whether a plain file stands at the path."""
        return Path(self.abspath(path)).is_file()

    def load_file(self, path: str, objtype: type | None = None, encoding: str | None = "utf-8") -> Any:
        """Return what a file holds.

        With `objtype` ``str`` that is its bytes in this encoding, or its text when that is None. Else it is the value
        of its JSON or YAML, None when it is empty. Raises ConfigurationError for a file that is absent or can not be
        read, and with `objtype` ``dict`` or ``Mapping`` for one that holds another value.
        """
        place = Path(self.abspath(path))
        text = inputs.decode(self._read(place), place)
        if objtype is str:
            return text if encoding is None else text.encode(encoding)
        value = inputs.parse_value(text, str(place))
        if objtype in (dict, Mapping) and not isinstance(value, Mapping):
            raise ConfigurationError(f"{place}: a mapping (KEY: VALUE) is expected")
        return value

    def _read(self, place: Path) -> bytes:
        if place not in self._contents:
            data = inputs.read_bytes(place)
            if data is None:
                raise ConfigurationError(f"{place}: there is no such file")
            self._contents[place] = data
        return self._contents[place]
