"""What the HTTP emitter sends, and what it refuses."""

from __future__ import annotations

import base64
import logging
import re
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ee_runner.emitters.http import emitter
from ee_runner.errors import ConfigurationError
from ee_runner.secrets import Secret
from tests.support.receivers import certificate, dead_port, http_receiver

REPO = Path(__file__).parents[2]
STATUS = {"status": "running", "runner_ident": "X"}
EVENT = {"runner_ident": "X", "counter": 1, "event": "verbose", "stdout": "päth", "event_data": {"res": [1, None]}}

pytestmark = pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")


def deliver(url: str, *, headers: dict[str, Any] | None = None, path: str = "/") -> None:
    made = emitter(url, headers=headers or {}, path=path, closing=30.0)
    made.status(STATUS)
    made.event(EVENT)
    assert made.close() == 0, made.fault


def refusal(url: str, headers: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        emitter(url, headers=headers or {}, path="/", closing=None)
    return str(caught.value)


def test_each_status_and_event_is_one_post_of_its_json() -> None:
    with http_receiver() as receiver:
        deliver(f"{receiver.url}/a/b?x=1", headers={"X-Site": "a", "X-Number": 5})
    assert [(post.method, post.path) for post in receiver.posts] == [("POST", "/a/b?x=1")] * 2
    assert receiver.bodies == [STATUS, EVENT]
    for post in receiver.posts:
        assert post.headers["content-type"] == "application/json"
        assert post.headers["x-site"] == "a"
        assert post.headers["x-number"] == "5"


def test_a_content_type_of_the_users_own_is_the_only_one() -> None:
    with http_receiver() as receiver:
        deliver(receiver.url, headers={"content-type": "application/vnd.x+json"})
    assert receiver.posts[0].headers["content-type"] == "application/vnd.x+json"


def test_the_userinfo_of_a_url_becomes_basic_authentication() -> None:
    with http_receiver() as receiver:
        deliver(receiver.url.replace("://", "://me:p%40ss@"))
    assert receiver.posts[0].headers["authorization"] == f"Basic {base64.b64encode(b'me:p@ss').decode()}"
    assert "@" not in receiver.posts[0].headers["host"]


@pytest.mark.parametrize(("path", "asked"), [("/", "/"), ("/events?x=1", "/events?x=1"), ("events", "/events")])
def test_a_unix_socket_is_posted_to_with_its_path(path: str, asked: str, tmp_path: Path) -> None:
    with http_receiver(path=tmp_path / "socket") as receiver:
        deliver(receiver.url, path=path, headers={"X-Site": "a"})
    assert [post.path for post in receiver.posts] == [asked] * 2
    assert receiver.bodies == [STATUS, EVENT]
    assert receiver.posts[0].headers["x-site"] == "a"


def test_a_unix_socket_is_reached_whatever_proxy_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{dead_port()}")
    with http_receiver(path=tmp_path / "socket") as receiver:
        deliver(receiver.url)


def test_tls_is_used_and_the_receiver_s_certificate_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = certificate(tmp_path)
    with http_receiver(certificate=pem) as receiver:
        unknown = emitter(receiver.url, headers={}, path="/", closing=1.0)
        unknown.status(STATUS)
        assert unknown.close() == 1
        assert "CERTIFICATE_VERIFY_FAILED" in unknown.fault
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        deliver(receiver.url)
    assert receiver.bodies == [STATUS, EVENT]


def test_secrets_are_neither_logged_nor_in_messages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with http_receiver(answer=lambda _: 403) as receiver:
        url = receiver.url.replace("://", "://me:hidden1@") + "/?token=hidden2"
        made = emitter(url, headers={"Authorization": "hidden3", "X-Key": Secret("hidden4")}, path="/", closing=30.0)
        made.status(STATUS)
        assert made.close() == 1
    assert [post.headers["x-key"] for post in receiver.posts] == ["hidden4"]
    assert "answered 403" in made.fault
    assert "hidden" not in made.fault
    assert "hidden" not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://x",
        "http://",
        "https:///x",
        "http://x:port",
        "http://[::1",
        "http://a b/",
        "http://a\n/",
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    assert refusal(url) == (
        f"runner_http_url: an http or https URL, or the absolute path of a unix socket, is expected, found {url!r}."
    )


def test_a_url_that_is_refused_is_shown_without_its_password() -> None:
    assert "ftp://********@x" in refusal("ftp://me:hidden@x")


def test_a_unix_socket_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    assert refusal(str(path)) == f"runner_http_url: the unix socket {path} can not be used: No such file or directory."
    path.touch()
    assert refusal(str(path)) == f"runner_http_url: {path} is no unix socket."


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"X Y": "hidden"}, "'X Y' is no name of a header"),
        ({"": "hidden"}, "'' is no name of a header"),
        ({"X": "hidden\r\nY: 1"}, "X: one line of text is expected"),
        ({"X": ["hidden"]}, "X: one line of text is expected"),
        ({"X": None}, "X: one line of text is expected"),
    ],
)
def test_headers_that_can_not_be_sent_are_refused_by_name(headers: dict[str, Any], said: str) -> None:
    message = refusal("http://x", headers)
    assert said in message
    assert "hidden" not in message


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_the_proxy_of_the_environment_is_used(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with http_receiver() as proxy, http_receiver() as direct:
        monkeypatch.setenv("HTTP_PROXY", scheme + proxy.url.removeprefix("http://"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        deliver("http://collector.invalid/x")
        deliver(direct.url)
    assert [post.path for post in proxy.posts] == ["http://collector.invalid/x"] * 2
    assert direct.bodies == [STATUS, EVENT]


@pytest.mark.parametrize("proxy", ["nonsense://x", "http://[::1"])
def test_a_proxy_that_can_not_be_used_is_named_as_the_fault(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    made = emitter("http://127.0.0.1:1/", headers={}, path="/", closing=30.0)
    made.status(STATUS)
    assert made.close() == 1
    assert made.fault.startswith("The HTTP client can not be set up: ")


@pytest.mark.parametrize(("option", "extra"), [("runner_http_url", "http"), ("runner_zmq_url", "zmq")])
def test_a_library_that_is_not_installed_is_named_with_its_extra(option: str, extra: str, tmp_path: Path) -> None:
    """A Python that has nothing but this library and msgspec."""
    (tmp_path / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    code = f"""if True:
        import sys
        sys.path[:0] = {[str(REPO), str(tmp_path)]!r}
        from ee_runner.emitters import of_job
        of_job(None, {{{option!r}: "http://x"}})"""
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert re.search(rf"ConfigurationError: {option} needs \w+, .*: pip install ee-runner\[{extra}\]", done.stderr)


def test_a_socket_whose_receiver_went_away_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    made = emitter(str(path), headers={}, path="/", closing=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # httpcore leaves the socket that failed to its destructor
        made.status(STATUS)
        assert made.close() == 1
    assert made.fault.startswith(f"The unix socket {path}: ")
    assert "refused" in made.fault
