"""The plugins of other distributions: found by entry points, called for each status and event (seed, section 3.4)."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

from ee_runner import entry_points
from ee_runner.errors import CallbackError, ConfigurationError
from ee_runner.secrets import redact_words

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "ansible_runner.plugins"


class Plugins(dict[str, Any]):
    """Every plugin by the name of its entry point; programs add to it and remove from it.

    What is installed is looked up once a process, when the mapping is first looked at, which raises ConfigurationError
    for a plugin that can not be loaded. It can stand in `sys.modules` as the module `ansible_runner.plugins`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.__name__ = self.__package__ = GROUP
        self.__path__: list[str] = []
        self.__file__ = None
        self.__loader__ = None
        self.__spec__ = ModuleSpec(GROUP, None, is_package=True)
        self._lock = threading.RLock()
        self._is_complete = False
        self._is_loading = False

    def __hash__(self) -> int:  # type: ignore[override]
        """Modules can be hashed, and reloaders do it."""
        return id(self)

    def clear(self) -> None:
        """Leave out every plugin, without loading what is installed."""
        with self._lock:
            self._is_complete = True
            super().clear()

    def complete(self) -> None:
        """Load what is installed, unless that was done; a plugin that looks here while it is loaded finds the rest."""
        if self._is_complete:
            return
        with self._lock:
            if self._is_complete or self._is_loading:
                return
            self._is_loading = True
            try:
                super().update(_load_installed())
                self._is_complete = True
            finally:
                self._is_loading = False


def _when_complete(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Plugins, *arguments: Any, **named: Any) -> Any:
        self.complete()
        return method(self, *arguments, **named)

    return call


for _name in (
    *("__contains__", "__delitem__", "__eq__", "__getitem__", "__ior__", "__iter__", "__len__", "__ne__", "__or__"),
    *("__repr__", "__reversed__", "__ror__", "__setitem__", "copy", "get", "items", "keys", "pop", "popitem"),
    *("setdefault", "update", "values"),
):
    setattr(Plugins, _name, _when_complete(getattr(dict, _name)))

plugins = Plugins()
"""The one registry of the process."""


class PluginEmitter:
    """Hands each status and event to a plugin, in the caller's thread; the data is the plugin's own to change.

    What it raises is raised as CallbackError, and it is not called again while the job is brought to its end.
    """

    def __init__(self, name: str, module: Any, config: Any) -> None:
        self.name = f"plugin:{name}"
        self.fault = ""
        self._plugin = f"The plugin {name!r} ({getattr(module, '__name__', module)})"
        self._config = config
        self._on_status = self._handler(module, "status_handler")
        self._on_event = self._handler(module, "event_handler")
        self._missed = 0

    def status(self, data: Mapping[str, Any]) -> None:
        self._call(self._on_status, data)

    def event(self, event: Mapping[str, Any]) -> None:
        self._call(self._on_event, event)

    def close(self) -> int:
        return self._missed

    def _handler(self, module: Any, function: str) -> Callable[[Any, dict[str, Any]], object]:
        handler = getattr(module, function, None)
        if not callable(handler):
            raise ConfigurationError(
                f"{self._plugin} has no function {function}(runner_config, data). A plugin needs status_handler and "
                "event_handler; repair or uninstall it."
            )
        return handler  # type: ignore[no-any-return]

    def _call(self, handler: Callable[[Any, dict[str, Any]], object], data: Mapping[str, Any]) -> None:
        if self.fault:
            self._missed += 1
            return
        try:
            handler(self._config, _copied(dict(data)))
        except Exception as error:
            self._missed += 1
            self.fault = redact_words((f"{self._plugin} raised {type(error).__name__}: {error}",))[0]
            raise CallbackError(self.fault) from error


def _copied(value: Any) -> Any:
    """Return a copy of data as JSON knows it; copy.deepcopy takes several times as long."""
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    if type(value) is list:
        return [_copied(item) for item in value]
    return value


def _load_installed() -> dict[str, Any]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points.of_group(GROUP):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise ConfigurationError(
                f"The plugin name {entry.name!r} is taken by {_origin(other)} and by {_origin(entry)}. "
                "Uninstall one of them."
            )
    return {name: _load(entry) for name, entry in found.items()}


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:
        origin = _origin(entry)
        raise ConfigurationError(
            f"The plugin {entry.name!r} of {origin} can not be loaded: {type(error).__name__}: {error}. "
            f"Repair the installation of {origin}, or uninstall it."
        ) from error


def _origin(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value
