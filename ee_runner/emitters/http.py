"""The HTTP emitter (seed, section 3.2): a POST of JSON for each status and event, to a URL or a unix socket."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import re
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ee_runner.emitters.delivery import Message, QueuedEmitter, Undelivered, limits
from ee_runner.errors import ConfigurationError
from ee_runner.secrets import Secret, redact_words
from ee_runner.values import dataclass

if TYPE_CHECKING:
    import httpx

CONNECTING = 3.0
"""Seconds to connect: less than the time at close, because nothing wakes a thread that connects."""

ANSWERING = 10.0
"""Seconds that the receiver may take to read or to answer."""

_PASSING = frozenset({408, 425, 429})
"""Refusals that ask for another attempt."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNFIT_IN_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to post; `shown` is for messages, `authorization` and `socket_path` are empty where there is none."""

    url: str
    shown: str
    authorization: str = ""
    socket_path: str = ""


def emitter(url: str, *, headers: Mapping[str, Any], path: str, closing: float | None) -> QueuedEmitter:
    """Return the emitter for a URL, or for the path of a unix socket, to which `path` is asked for.

    Raises ConfigurationError, without secrets, for a URL or headers that can not be sent, and when httpx is missing.
    """
    if importlib.util.find_spec("httpx") is None:
        raise ConfigurationError("runner_http_url needs httpx, which is not installed: pip install ee-runner[http]")
    address = _socket_address(url, path) if url.startswith("/") else _tcp_address(url)
    return QueuedEmitter("http", HttpTransport(address, _headers(address, headers)), limits(closing))


class HttpTransport:
    """Posts over one connection that is kept; httpx is imported by the first message, in the delivery's thread."""

    def __init__(self, address: Address, headers: Mapping[str, str]) -> None:
        self._address = address
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._way: httpx.HTTPTransport | None = None
        self._connection: socket.socket | None = None
        self._is_aborted = False

    def send(self, message: Message, within: float) -> None:
        if self._way is None:
            self._way = self._opened()
        status = self._post(self._way, message.body, max(within, 0.01))
        if not 200 <= status < 300:
            is_final = status < 500 and status not in _PASSING
            raise Undelivered(f"{self._address.shown} answered {status}.", final=is_final)

    def abort(self) -> None:
        self._is_aborted = True
        self._shut()

    def close(self, within: float) -> None:  # noqa: ARG002 - nothing is buffered
        if self._way is not None:
            self._way.close()

    def _opened(self) -> httpx.HTTPTransport:
        try:
            import httpx

            return httpx.HTTPTransport(uds=self._address.socket_path or None, proxy=_proxy(self._address))
        except Exception as error:  # a proxy's address, a certificate file, a broken installation: each has its own
            raise Undelivered(f"The HTTP client can not be set up: {_shown(error)}", final=True) from error

    def _post(self, way: httpx.HTTPTransport, body: bytes, within: float) -> int:
        """Post without httpx.Client, which would log each address, secrets and all."""
        import httpx

        timeout = httpx.Timeout(min(ANSWERING, within), connect=min(CONNECTING, within)).as_dict()
        extensions = {"timeout": timeout, "trace": self._on_progress}
        try:
            request = httpx.Request(
                "POST", self._address.url, headers=self._headers, content=body, extensions=extensions
            )
            response = way.handle_request(request)
            try:
                response.read()  # the connection can be used again
            finally:
                response.close()
        except (httpx.HTTPError, OSError) as error:
            raise Undelivered(f"{self._address.shown}: {_shown(error)}") from error
        except (httpx.InvalidURL, ValueError) as error:
            raise Undelivered(f"{self._address.shown}: {_shown(error)}", final=True) from error
        return response.status_code

    def _on_progress(self, step: str, details: Mapping[str, Any]) -> None:
        """Keep the socket in use (httpcore's extension ``trace``): shutting it down is what wakes a send."""
        if step.endswith(("connect_tcp.complete", "connect_unix_socket.complete", "start_tls.complete")):
            self._connection = details["return_value"].get_extra_info("socket")
            if self._is_aborted:
                self._shut()

    def _shut(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                # SSLSocket's own shutdown takes TLS away first: the other thread could send in the clear
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)


def _tcp_address(url: str) -> Address:
    try:
        parts = urlsplit(url)
        is_fit = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isprintable()
    except ValueError:
        is_fit = False
    if not is_fit or " " in url:
        raise ConfigurationError(
            f"runner_http_url: an http or https URL, or the absolute path of a unix socket, is expected, "
            f"found {_redacted(url)!r}."
        )
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    userinfo = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    basic = f"Basic {base64.b64encode(userinfo.encode()).decode()}" if parts.username or parts.password else ""
    return Address(bare, _redacted(url), basic)


def _socket_address(text: str, path: str) -> Address:
    try:
        is_socket = stat.S_ISSOCK(Path(text).stat().st_mode)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"runner_http_url: the unix socket {text} can not be used: {_shown(error)}") from None
    if not is_socket:
        raise ConfigurationError(f"runner_http_url: {text} is no unix socket.")
    return Address(f"http://localhost/{path.removeprefix('/')}", f"The unix socket {text}", socket_path=text)


def _proxy(address: Address) -> str | None:
    """Return the proxy that the environment names for this address."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(address.url)
    if address.socket_path or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _headers(address: Address, given: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers to send, the user's over ours; a message names the header, and never shows its value."""
    headers = {"content-type": "application/json"}
    if address.authorization:
        headers["authorization"] = address.authorization
    for name, value in given.items():
        text = (value.reveal() if isinstance(value, Secret) else str(value)).strip()
        if not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError(f"runner_http_headers: {name!r} is no name of a header.")
        if isinstance(value, Mapping | list | tuple | None) or _UNFIT_IN_HEADER.search(text):
            raise ConfigurationError(f"runner_http_headers: {name}: one line of text is expected.")
        headers[name.lower()] = text
    return headers


def _redacted(text: str) -> str:
    return redact_words((text,))[0]


def _shown(error: Exception) -> str:
    return f"{_redacted(getattr(error, 'strerror', None) or str(error) or type(error).__name__)}."
