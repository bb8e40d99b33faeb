"""Receivers of status and events: real HTTP servers on TCP and unix sockets, and real ZeroMQ subscribers."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

GENEROUS = 30.0
"""Seconds to wait for what takes far less on a machine at rest."""


@dataclass(frozen=True, slots=True)
class Post:
    """One request; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class HttpReceiver:
    """What a server was asked, and how it answers a body; requests that hang are let go at the end."""

    url: str = ""
    answer: Callable[[Any], int] = lambda _: 200
    hangs: bool = False
    posts: list[Post] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    @property
    def bodies(self) -> list[Any]:
        return [post.body for post in self.posts]

    def take(self, post: Post) -> int:
        with self.arrived:
            self.posts.append(post)
            self.arrived.notify_all()
        if self.hangs:
            self.release.wait()
        return self.answer(post.body)

    def wait_for(self, count: int) -> list[Any]:
        """Return the bodies when there are that many."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.posts) >= count, GENEROUS), self.bodies
            return self.bodies


@contextlib.contextmanager
def http_receiver(
    *,
    path: Path | None = None,
    certificate: Path | None = None,
    port: int = 0,
    answer: Callable[[Any], int] = lambda _: 200,
    hangs: bool = False,
) -> Iterator[HttpReceiver]:
    """Serve on a loopback port, over TLS with a certificate, or on a unix socket at `path`."""
    receiver = HttpReceiver(answer=answer, hangs=hangs)
    handler = type("Handler", (_Handler,), {"receiver": receiver})
    server = _UnixServer(str(path), handler) if path else _TcpServer(("127.0.0.1", port), handler)
    receiver.url = str(path) if path else f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[index]
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        receiver.url = receiver.url.replace("http:", "https:")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.release.set()
        server.shutdown()
        thread.join()
        server.end_connections()
        server.server_close()


def certificate(directory: Path) -> Path:
    """Return a new certificate for 127.0.0.1, signed by itself, with its key in the same file."""
    path = directory / "receiver.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", f"{path}.crt"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def dead_port() -> int:
    """Return a loopback port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _Handler(http.server.BaseHTTPRequestHandler):
    receiver: HttpReceiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        status = self.receiver.take(Post("POST", self.path, headers, body))
        with contextlib.suppress(OSError):  # the client may have given up
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def address_string(self) -> str:
        return "client"

    def log_message(self, *_: object) -> None:
        pass


class _Connections(socketserver.ThreadingMixIn):
    """Threads that are waited for: connections are kept open by clients, and ended here."""

    daemon_threads = False

    def __init__(self, *arguments: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)  # type: ignore[misc]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves in the middle is what some tests are about."""

    def end_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _TcpServer(_Connections, socketserver.TCPServer):
    allow_reuse_address = True


class _UnixServer(_Connections, socketserver.UnixStreamServer):
    pass


class Subscriber:
    """A SUB socket in a thread of its own that binds an address, or connects to one; use it as a context manager."""

    def __init__(self, url: str = "tcp://127.0.0.1:*", *, connect: bool = False, topics: Sequence[bytes] = (b"",)):
        self.url = url
        self.messages: list[tuple[bytes, Any]] = []
        self._connect = connect
        self._topics = topics
        self._arrived = threading.Condition()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._end, self._ended = socket.socketpair()

    def __enter__(self) -> Subscriber:
        self._thread.start()
        assert self._ready.wait(GENEROUS)
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.send(b"\0")
        self._thread.join()
        self._end.close()
        self._ended.close()

    def wait_for(self, count: int) -> list[tuple[bytes, Any]]:
        """Return the messages, topic and data, when there are that many."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.messages) >= count, GENEROUS), self.messages
            return list(self.messages)

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as sub:
            sub.setsockopt(zmq.LINGER, 0)
            for topic in self._topics:
                sub.subscribe(topic)
            (sub.connect if self._connect else sub.bind)(self.url)
            self.url = sub.getsockopt_string(zmq.LAST_ENDPOINT)
            self._ready.set()
            poller = zmq.Poller()
            poller.register(sub, zmq.POLLIN)
            poller.register(self._ended.fileno(), zmq.POLLIN)
            while self._ended.fileno() not in (ready := dict(poller.poll())):
                if sub in ready:
                    self._take(sub.recv_multipart())

    def _take(self, parts: list[bytes]) -> None:
        topic, body = parts
        with self._arrived:
            self.messages.append((topic, json.loads(body)))
            self._arrived.notify_all()
