"""Where docker's daemon listens, and what it answers without its client."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ee_runner.engines import daemon

DEFAULT = "unix:///var/run/docker.sock"


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    """The environment of a client whose settings name the context ``mine``."""
    meta = tmp_path / "contexts" / "meta" / "1f2e"
    meta.mkdir(parents=True)
    known = {"Name": "mine", "Metadata": {}, "Endpoints": {"docker": {"Host": "unix:///run/user/1/docker.sock"}}}
    (meta / "meta.json").write_text(json.dumps(known))
    (tmp_path / "config.json").write_text('{"auths": {}, "currentContext": "mine"}')
    return {"DOCKER_CONFIG": str(tmp_path)}


# Where


def test_the_default_is_the_daemon_of_the_machine(tmp_path: Path) -> None:
    assert daemon.endpoint({}) == DEFAULT
    assert daemon.endpoint({"HOME": str(tmp_path)}) == DEFAULT
    (tmp_path / "config.json").write_text('{"auths": {}}')
    assert daemon.endpoint({"DOCKER_CONFIG": str(tmp_path)}) == DEFAULT


@pytest.mark.parametrize("url", ["unix:///x/docker.sock", "tcp://there:2376", "ssh://me@there"])
def test_the_environment_comes_first(settings: dict[str, str], url: str) -> None:
    assert daemon.endpoint({**settings, "DOCKER_HOST": url}) == url


def test_a_context_says_where_its_daemon_is(settings: dict[str, str]) -> None:
    assert daemon.endpoint(settings) == "unix:///run/user/1/docker.sock"
    assert daemon.endpoint({**settings, "DOCKER_CONTEXT": "default"}) == DEFAULT


def test_what_is_in_doubt_is_left_to_the_client(settings: dict[str, str]) -> None:
    assert daemon.endpoint({**settings, "DOCKER_CONTEXT": "unknown"}) is None
    assert daemon.endpoint({**settings, "DOCKER_HOST": "unix:///x", "DOCKER_CONTEXT": "mine"}) is None
    assert daemon.endpoint({"DOCKER_HOST": ""}) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"currentContext": 5}'])
def test_settings_that_can_not_be_read_are_left_to_the_client(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert daemon.endpoint({"DOCKER_CONFIG": str(tmp_path)}) is None


# What


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        yield server


def answering(server: socket.socket, answer: bytes) -> tuple[str, list[bytes]]:
    """Have the server give one answer; returns its URL, and a list that gets the request."""
    asked: list[bytes] = []

    def serve() -> None:
        with server.accept()[0] as connection:
            asked.append(connection.recv(65536))
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return f"unix://{server.getsockname()}", asked


def test_an_image_is_asked_for_by_its_name(listening: socket.socket) -> None:
    body = json.dumps({"Id": "sha256:1", "Comment": "é" * 100_000}).encode()
    url, asked = answering(listening, b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n" + body)
    entry = daemon.image(url, "there:5000/a/b:1@sha256:2")
    assert entry is not None
    assert entry["Id"] == "sha256:1"
    assert asked[0].startswith(b"GET /images/there:5000/a/b:1@sha256:2/json HTTP/1.0\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.0 404 Not Found\r\n\r\n{"message": "no such image"}',
        b'HTTP/1.0 500 Internal\r\n\r\n{"Id": "x"}',
        b"HTTP/1.0 200 OK\r\n\r\n{",
        b"HTTP/1.0 200 OK\r\n\r\n[]",
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        b"nonsense",
        b"",
    ],
)
def test_any_other_answer_leaves_it_to_the_client(listening: socket.socket, answer: bytes) -> None:
    url, _ = answering(listening, answer)
    assert daemon.image(url, "name") is None


def test_a_daemon_that_keeps_silent_is_left_to_the_client(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_PATIENCE", 0.2)
    assert daemon.ask(f"unix://{listening.getsockname()}", "/info") is None


@pytest.mark.parametrize("name", ["", "../info", "a/../b", "a b", "a?b", "a\r\nX: y", "ä", "/a", "a/"])
def test_what_is_no_image_name_is_not_asked_for(listening: socket.socket, name: str) -> None:
    listening.setblocking(False)
    assert daemon.image(f"unix://{listening.getsockname()}", name) is None
    with pytest.raises(BlockingIOError):
        listening.accept()


def test_nothing_is_asked_where_no_local_socket_is(tmp_path: Path) -> None:
    assert daemon.ask(None, "/info") is None
    assert daemon.ask("tcp://127.0.0.1:1", "/info") is None
    assert daemon.ask(f"unix://{tmp_path}/absent", "/info") is None
