"""Sends status and events to other systems (seed, chapter 3): HTTP, ZeroMQ, and installed plugins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from ee_runner.emitters import plugins

_HTTP_PLUGIN = "ansible_runner_http"


class Emitter(Protocol):
    """Takes what a job says of itself; `name` is its key in `Runner.undelivered`.

    `status` and `event` return at once and do not keep or change what they are given; those of a plugin run the
    plugin, and raise CallbackError with what it raised.
    """

    name: str

    @property
    def fault(self) -> str:
        """Why a message was last not delivered, without secrets; empty when each went well."""

    def status(self, data: Mapping[str, Any]) -> None: ...

    def event(self, event: Mapping[str, Any]) -> None: ...

    def close(self) -> int:
        """End delivery within a bounded time, and return how many messages were never delivered."""


def of_job(config: Any, values: Mapping[str, Any]) -> list[Emitter]:
    """Return the emitters of one job, which the caller closes.

    `config` is what plugins get as their first argument; `values` are the resolved options. Raises ConfigurationError
    for a plugin that can not be used, a URL that is none, and a library that is not installed. The plugins come last:
    what one of them raises keeps nothing from the others.
    """
    made: list[Emitter] = []
    try:
        for emitter in _emitters(config, values):
            made.append(emitter)
    except BaseException:
        for emitter in made:
            emitter.close()
        raise
    return made


def closed(emitters: Iterable[Emitter]) -> dict[str, int]:
    """Close the emitters and return, by name, how many messages were not delivered, where there are any."""
    lost = {emitter.name: emitter.close() for emitter in emitters}
    return {name: count for name, count in lost.items() if count}


def _emitters(config: Any, values: Mapping[str, Any]) -> Iterator[Emitter]:
    closing = values.get("runner_emitter_close_timeout")
    if values.get("runner_http_url") and not _is_posted_by_plugin(config, values["runner_http_url"]):
        from ee_runner.emitters import http

        yield http.emitter(
            values["runner_http_url"],
            headers=values.get("runner_http_headers") or {},
            path=values.get("runner_http_path") or "/",
            closing=closing,
        )
    if values.get("runner_zmq_url"):
        from ee_runner.emitters import zmq

        yield zmq.emitter(values["runner_zmq_url"], bind=bool(values.get("runner_zmq_bind")), closing=closing)
    for name, module in plugins.plugins.items():
        yield plugins.PluginEmitter(name, module, config)


def _is_posted_by_plugin(config: Any, url: str) -> bool:
    """Say whether the plugin ansible-runner-http is there and finds this URL where it looks for one."""
    if not any(getattr(module, "__name__", None) == _HTTP_PLUGIN for module in plugins.plugins.values()):
        return False
    return url in (config.settings.get("runner_http_url"), os.environ.get("RUNNER_HTTP_URL"))
