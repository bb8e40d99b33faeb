"""What other distributions register: their entry points, looked for without `importlib.metadata` while there are none.

Loading that module and asking it costs as much as starting Python; most installations have no plugins.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint

_METADATA = (".dist-info", ".egg-info")


def of_group(group: str) -> Iterable[EntryPoint]:
    """Return the entry points of a group, as `importlib.metadata.entry_points` does."""
    if not _may_have(group):
        return ()
    from importlib import metadata

    return metadata.entry_points(group=group)


def _may_have(group: str) -> bool:
    """Say whether the group may have entry points: its name is in some distribution's, or not all can be seen so."""
    if any(hasattr(finder, "find_distributions") for finder in sys.meta_path if not _is_of_import_system(finder)):
        return True
    return any(_directory_has(str(path) or ".", group.encode()) for path in sys.path)


def _is_of_import_system(finder: object) -> bool:
    return getattr(finder, "__module__", "") in ("_frozen_importlib", "_frozen_importlib_external")


def _directory_has(path: str, group: bytes) -> bool:
    """Say whether a distribution in a directory of `sys.path` names the group; archives are not looked into."""
    try:
        names = os.listdir(path)  # noqa: PTH208 - nor this many names
    except FileNotFoundError:
        return False
    except OSError:
        return True
    own = ("egg-info",) if path.endswith(".egg") else ()
    return any(
        _file_has(f"{path}/{name}/entry_points.txt", group)
        for name in names
        if name.lower().endswith(_METADATA) or name.lower() in own
    )


def _file_has(path: str, group: bytes) -> bool:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a hundred paths need no objects
            return group in file.read()
    except OSError:  # there is none; importlib.metadata, too, passes over what can not be read
        return False
