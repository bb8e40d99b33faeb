"""Where podman keeps its images and reads its settings: its answers hold as long as these files are the same."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ee_runner.engines import kept
from ee_runner.engines.images import ImageInfo, read_info

_IMAGES = "podman"
_VERSIONS = "podman-version"
_FILES = ("CONTAINERS_CONF", "CONTAINERS_CONF_OVERRIDE", "CONTAINERS_REGISTRIES_CONF", "CONTAINERS_STORAGE_CONF")
_STEERING = (
    *("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "STORAGE_DRIVER", "STORAGE_OPTS", *_FILES),
    *("CONTAINERS_REGISTRIES_CONF_DIR", "REGISTRIES_CONFIG_PATH", "_CONTAINERS_USERNS_CONFIGURED"),
)
_MORE_STORES = r"""(?m)^\s*additionalimagestores\s*=\s*\[[^\]]*["']"""
"""A setting with which an image may lie elsewhere than in the one list that is looked at."""


class PodmanMemory:
    """What podman has said of an image: the same until its list of images, a setting or the program changes.

    Nothing is kept of a program that is a script, and so may ask a podman elsewhere, nor of one with further stores.
    """

    def __init__(self, executable: Path) -> None:
        self._executable = executable.resolve()

    def look(self, image: str) -> ImageInfo | None:
        answer = kept.recall(_IMAGES, self._context(image))
        try:
            return None if answer is None else ImageInfo(**answer)
        except TypeError:
            return None

    def learn(self, image: str, entry: Mapping[str, Any], *, began: int) -> None:
        listed = _list_of_images(entry) if "HOME" in os.environ else None
        if listed is None or kept.is_script(self._executable) or _has_more_stores():
            return
        info = read_info(entry)
        answer = {"id": info.id, "user": info.user, "home": info.home}
        depends = (self._executable, listed, *_settings())
        kept.keep(_IMAGES, self._context(image), answer, depends=depends, began=began)

    def version(self, ask: Callable[[], str]) -> str:
        """Return the program's version, as it says it when it is asked for the first time."""
        context = (str(self._executable),)
        known = kept.recall(_VERSIONS, context)
        if isinstance(known, str):
            return known
        began = time.time_ns()
        said = ask()
        if said and not kept.is_script(self._executable):
            kept.keep(_VERSIONS, context, said, depends=(self._executable,), began=began)
        return said

    def _context(self, image: str) -> tuple[str, ...]:
        steering = (f"{name}={os.environ[name]}" for name in _STEERING if name in os.environ)
        return (image, str(self._executable), str(os.geteuid()), *steering)


def _list_of_images(entry: Mapping[str, Any]) -> Path | None:
    """Return the list that the image stands in: it is replaced by another file when any image comes, goes or is named.

    None where the image does not tell where it lies.
    """
    data = (entry.get("GraphDriver") or {}).get("Data") or {}
    layers = Path(data.get("UpperDir") or "/").parent.parent
    listed = layers.with_name("overlay-images") / "images.json" if layers.name == "overlay" else None
    return listed if listed is not None and listed.is_file() else None


def _settings() -> Iterator[Path]:
    """Yield the files that podman reads, and the directories in which more may appear."""
    for place in (Path("/usr/share/containers"), Path("/etc/containers"), _own_settings()):
        yield place
        yield from (place / name for name in ("containers.conf", "storage.conf", "registries.conf"))
        for drop_ins in (place / name for name in ("containers.conf.d", "storage.conf.d", "registries.conf.d")):
            yield drop_ins
            if drop_ins.is_dir():
                yield from sorted(drop_ins.iterdir())
    yield from (Path(os.environ[name]) for name in _FILES if os.environ.get(name))


def _own_settings() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or f"{os.environ['HOME']}/.config") / "containers"


def _has_more_stores() -> bool:
    if "imagestore" in os.environ.get("STORAGE_OPTS", ""):
        return True
    return any(re.search(_MORE_STORES, _text(path)) for path in _settings() if path.suffix == ".conf")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
