"""Finds engines: the built-in ones by a table, others by the entry points ``ee_runner.engines``."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ee_runner import entry_points
from ee_runner.engines.base import ContainerEngine, EngineInfo
from ee_runner.errors import ConfigurationError, EngineError, EngineUnavailable, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "ee_runner.engines"
AUTO = "auto"
"""The first of all engines that answers."""

AUTO_ISOLATING = "auto-isolating"
"""The first that answers among those that isolate."""

AUTO_IMAGES = "auto-images"
"""The first that answers among those that run images."""

DETECTED = frozenset({AUTO, AUTO_ISOLATING, AUTO_IMAGES})

_BUILT_IN = {
    "podman": "ee_runner.engines.podman:PodmanEngine",
    "docker": "ee_runner.engines.docker:DockerEngine",
    "bwrap": "ee_runner.engines.bwrap:BwrapEngine",
    "local": "ee_runner.engines.local:LocalEngine",
}
"""In the order in which `detect` tries them. Known without metadata, for a checkout that is not installed."""


def names() -> tuple[str, ...]:
    """Return the names of all engines that are registered."""
    return tuple(dict.fromkeys((*_BUILT_IN, *(entry.name for entry in entry_points.of_group(GROUP)))))


def get(name: str) -> ContainerEngine:
    """Return the engine of that name, or the driver for an executable.

    A path, or another program on PATH, is driven as podman or docker when its name begins so, else as one that
    understands bubblewrap's options (seed, section 1.8.1). Raises ConfigurationError for anything else.
    """
    reference = _BUILT_IN.get(name)
    if reference is not None:
        return _load(reference)()
    for entry in entry_points.of_group(GROUP):
        if entry.name == name:
            return _engine_of(entry)
    if "/" not in name and shutil.which(name) is None:
        raise ConfigurationError(
            f"There is no engine, and no program on PATH, named {name!r}{nearest(name, names()) or '.'} "
            f"Engines are {', '.join(names())}."
        )
    base = Path(name).name
    family = next((known for known in ("podman", "docker") if base.startswith(known)), "bwrap")
    return _load(_BUILT_IN[family])(name)


def detect(*, want_images: bool, want_isolation: bool = False) -> tuple[ContainerEngine, list[str]]:
    """Return the first engine that answers, and a line for each that was passed over saying why.

    The local engine always answers; its line says that nothing is isolated. Raises EngineUnavailable with all those
    reasons when images or isolation are wanted and no engine that gives them answers.
    """
    passed_over: list[str] = []
    for name in _BUILT_IN:
        engine = get(name)
        if want_images and not engine.capabilities.images:
            passed_over.append(f"{name}: it runs no images")
            continue
        if want_isolation and not engine.capabilities.isolates:
            passed_over.append(f"{name}: it does not isolate")
            continue
        try:
            info = engine.check()
        except EngineError as error:
            passed_over.append(f"{name}: {error}")
            continue
        return engine, [*passed_over, _chosen(engine, info)]
    wanted = "runs images" if want_images else "isolates"
    raise EngineUnavailable(f"No engine that {wanted} can be used here. {' '.join(passed_over)}")


def choose(name: str) -> tuple[ContainerEngine, list[str]]:
    """Return the engine of that name with the reasons for it; those that begin with ``auto`` try what there is."""
    if name in (AUTO, AUTO_ISOLATING, AUTO_IMAGES):
        return detect(want_images=name == AUTO_IMAGES, want_isolation=name == AUTO_ISOLATING)
    return get(name), [f"{name}: asked for"]


def _chosen(engine: ContainerEngine, info: EngineInfo) -> str:
    if not engine.capabilities.isolates:
        return f"{engine.name}: chosen, without isolation: the job runs on the host itself and sees all of it"
    return f"{engine.name}: chosen, version {info.version} at {info.executable}"


def _load(reference: str) -> type[ContainerEngine]:
    module, _, attribute = reference.partition(":")
    loaded: type[ContainerEngine] = getattr(importlib.import_module(module), attribute)
    return loaded


def _engine_of(entry: EntryPoint) -> ContainerEngine:
    origin = entry.dist.name if entry.dist is not None else entry.value
    try:
        loaded = entry.load()
    except Exception as error:
        raise ConfigurationError(f"The engine {entry.name!r} of {origin} can not be loaded: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, ContainerEngine)):
        raise ConfigurationError(f"The engine {entry.name!r} of {origin} is no ContainerEngine.")
    return loaded()
