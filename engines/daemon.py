"""Questions that the daemon of docker answers at its socket in a millisecond, where its client takes thirty."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DEFAULT = "unix:///var/run/docker.sock"
_IMAGE = r"[A-Za-z0-9][A-Za-z0-9_.:@-]*(/[A-Za-z0-9][A-Za-z0-9_.:@-]*)*"
_PATIENCE = 5.0


def endpoint(environ: Mapping[str, str]) -> str | None:
    """Return the URL that the client would call, as its environment and its settings say it; None when in doubt."""
    host, context = environ.get("DOCKER_HOST"), environ.get("DOCKER_CONTEXT")
    if host is not None:
        return host if host and not context else None
    directory = Path(environ.get("DOCKER_CONFIG") or f"{environ.get('HOME') or '/nonexistent'}/.docker")
    try:
        name = context or _json(directory / "config.json").get("currentContext") or "default"
        return _DEFAULT if name == "default" else _of_context(directory, name)
    except FileNotFoundError:
        return _DEFAULT
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def image(url: str | None, name: str) -> dict[str, Any] | None:
    """Return what the daemon knows of an image; None when it has none of that name, or can not be asked so."""
    entry = ask(url, f"/images/{name}/json") if re.fullmatch(_IMAGE, name) else None
    return entry if entry is not None and entry.get("Id") else None


def ask(url: str | None, path: str) -> dict[str, Any] | None:
    """Return the daemon's answer to a GET; None when it is no success, or there is no daemon at a local socket.

    The client is asked then: it finds the daemon in more ways, and says what is wrong.
    """
    if url is None or not url.startswith("unix://"):
        return None
    try:
        head, _, body = _get(url.removeprefix("unix://"), path).partition(b"\r\n\r\n")
        answer = json.loads(body) if head.split(b" ", 2)[1:2] == [b"200"] else None
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def _get(socket_path: str, path: str) -> bytes:
    """Ask in HTTP/1.0: the answer ends with the connection."""
    import socket

    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(socket_path)
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode("ascii"))
        return b"".join(iter(lambda: connection.recv(65536), b""))


def _of_context(directory: Path, name: str) -> str | None:
    for file in (directory / "contexts" / "meta").glob("*/meta.json"):
        known = _json(file)
        if known["Name"] == name:
            host = known["Endpoints"]["docker"]["Host"]
            return host if isinstance(host, str) else None
    return None


def _json(path: Path) -> dict[str, Any]:
    loaded = json.loads(path.read_bytes())
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} holds no object")
    return loaded
