"""The published plugin ansible-runner-http, installed beside this package: it is found, called, and it delivers."""

from __future__ import annotations

import contextlib
import http.server
import json
import socketserver
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support import venvs

PLAYBOOK = "- hosts: localhost\n  gather_facts: false\n  tasks: [{name: greet, debug: {msg: hello}}]\n"
# What a program does: the outcome and the events that it sees, as JSON on a line of its own.
PROGRAM = """
import json, sys
import ansible_runner
runner = ansible_runner.run(**json.loads(sys.argv[1]))
told = {"status": runner.status, "rc": runner.rc, "events": [event["uuid"] for event in runner.events]}
print(json.dumps({**told, "plugins": sorted(ansible_runner.plugins)}))
"""


@dataclass(frozen=True, slots=True)
class Post:
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass(slots=True)
class Received:
    """What a server was posted, in the order of arrival."""

    posts: list[Post] = field(default_factory=list)

    @property
    def statuses(self) -> list[str]:
        return [post.body["status"] for post in self.posts if "status" in post.body]

    @property
    def events(self) -> list[str]:
        return [post.body["uuid"] for post in self.posts if "uuid" in post.body]


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextlib.contextmanager
def serving(address: Path | None) -> Iterator[tuple[str, Received]]:
    """Serve HTTP on a unix socket, or on a free port of the loopback; gives where it is reached."""
    received = Received()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.posts.append(Post(self.path, dict(self.headers), body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server: socketserver.BaseServer
    if address is None:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        url = f"http://127.0.0.1:{server.server_address[1]}/events"
    else:
        server, url = UnixServer(str(address), Handler), str(address)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield url, received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> venvs.Venv:
    return venvs.ensure(
        "ansible-core",
        "requests",
        "requests-unixsocket",
        alone=("ansible-runner-http==1.0.0",),
        scratch=tmp_path_factory.mktemp("checkout"),
    )


def play(
    venv: venvs.Venv, directory: Path, *, settings: Mapping[str, Any], **variables: str
) -> subprocess.CompletedProcess[str]:
    (directory / "project").mkdir()
    (directory / "project" / "site.yml").write_text(PLAYBOOK)
    options = {"private_data_dir": str(directory), "playbook": "site.yml", "quiet": True, "settings": dict(settings)}
    env = venv.environment(directory, **variables)
    return venv.run("python", "-c", PROGRAM, json.dumps(options), cwd=directory, env=env)


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_a_url_in_the_settings_gets_each_status_and_event_once_and_in_order(venv: venvs.Venv, tmp_path: Path) -> None:
    with serving(None) as (url, received):
        settings = {"runner_http_url": url, "runner_http_headers": {"X-Token": "of-the-test"}}
        answer = told(play(venv, tmp_path, settings=settings))
    assert (answer["status"], answer["rc"], answer["plugins"]) == ("successful", 0, ["http"])
    assert received.statuses == ["starting", "running", "successful"]
    assert received.events == answer["events"]
    assert len(received.events) > 5
    assert {(post.path, post.headers["X-Token"]) for post in received.posts} == {("/events", "of-the-test")}


def test_a_unix_socket_in_the_environment_gets_them_too(venv: venvs.Venv, tmp_path: Path) -> None:
    with serving(tmp_path / "http.sock") as (path, received):
        done = play(venv, tmp_path, settings={}, RUNNER_HTTP_URL=path, RUNNER_HTTP_PATH="/jobs/1")
        answer = told(done)
    assert received.statuses == ["starting", "running", "successful"]
    assert received.events == answer["events"]
    assert {post.path for post in received.posts} == {"/jobs/1"}


def test_what_it_raises_fails_the_run(venv: venvs.Venv, tmp_path: Path) -> None:
    with serving(None) as (url, _):
        pass  # nobody listens there any more
    done = play(venv, tmp_path, settings={"runner_http_url": url})
    assert done.returncode != 0
    assert "CallbackError" in done.stderr
    assert "ConnectionError" in done.stderr
    (job,) = (tmp_path / "artifacts").iterdir()
    assert (job / "status").read_text() == "error"


def test_without_a_url_it_is_silent(venv: venvs.Venv, tmp_path: Path) -> None:
    answer = told(play(venv, tmp_path, settings={}))
    assert (answer["status"], answer["plugins"]) == ("successful", ["http"])
