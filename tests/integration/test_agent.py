"""The ssh-agent of a job, with the real ssh-agent, ssh-add and ssh-keygen."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ee_runner.engines import agent
from ee_runner.engines.agent import host_socket, host_socket_problem, job_agent
from ee_runner.errors import ConfigurationError, LaunchError
from ee_runner.executor import Cancellation
from ee_runner.job import Limits
from ee_runner.secrets import Secret

pytestmark = pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="needs openssh-client: apt-get install it")

PHRASE = "correct horse"
ASKED = {r"^Enter passphrase for .*/ssh_key_data:\s*?$": Secret(PHRASE)}


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A run directory whose path leaves room for a socket."""
    with tempfile.TemporaryDirectory(prefix="ee-") as name:
        yield Path(name)


def make_key(place: Path, *options: str, phrase: str = "") -> str:
    path = place / "key"
    subprocess.run(["ssh-keygen", "-q", *(options or ("-t", "ed25519")), "-N", phrase, "-f", path], check=True)
    text = path.read_text()
    path.unlink()
    return text


def held(address: Path) -> list[str]:
    """The keys that an agent holds."""
    done = subprocess.run(
        ["ssh-add", "-l"],
        env={**os.environ, "SSH_AUTH_SOCK": str(address)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.splitlines() if done.returncode == 0 else []


def processes(word: str) -> list[str]:
    """The command lines of running processes that name a path."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if word in line and f"/{os.getpid()}/" not in str(entry):
            lines.append(line)
    return lines


def assert_nothing_is_left(run_dir: Path) -> None:
    assert list(run_dir.iterdir()) == []
    assert processes(str(run_dir)) == []


@pytest.mark.parametrize(
    "options",
    [("-t", "ed25519"), ("-t", "rsa", "-b", "2048", "-m", "PEM"), ("-t", "ecdsa", "-m", "PKCS8")],
    ids=["openssh", "pem", "pkcs8"],
)
def test_a_key_is_held_for_the_length_of_the_block(run_dir: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    key = Secret(make_key(tmp_path, *options))
    with job_agent(key, run_dir=run_dir, passwords={}, cancel=Cancellation()) as address:
        assert len(held(address)) == 1
        assert stat.S_IMODE(address.parent.stat().st_mode) == 0o700
        assert [entry.name for entry in address.parent.iterdir()] == [address.name]
    assert_nothing_is_left(run_dir)


@pytest.mark.parametrize(
    "mangle", [str.strip, lambda text: text.replace("\n", "\r\n"), lambda text: "\n\n" + text + "\n "]
)
def test_line_ends_do_not_matter(run_dir: Path, tmp_path: Path, mangle: object) -> None:
    assert callable(mangle)
    key = Secret(mangle(make_key(tmp_path)))
    with job_agent(key, run_dir=run_dir, passwords={}, cancel=Cancellation()) as address:
        assert len(held(address)) == 1


def test_a_passphrase_comes_from_the_passwords(run_dir: Path, tmp_path: Path) -> None:
    key = Secret(make_key(tmp_path, phrase=PHRASE))
    passwords = {r"^SSH password:\s*?$": Secret("other"), **ASKED}
    with job_agent(key, run_dir=run_dir, passwords=passwords, cancel=Cancellation()) as address:
        assert len(held(address)) == 1


@pytest.mark.parametrize(
    ("passwords", "message"),
    [
        ({}, r"protected by a passphrase, and no pattern .*ssh_key_data:`. Add one"),
        ({r"^SSH password:\s*?$": Secret("other")}, r"no pattern of env/passwords matches"),
        ({r"Enter passphrase for .*ssh_key_data:": Secret("wrong-phrase")}, r"passphrase for env/ssh_key .* is wrong"),
        ({r"[Pp]assphrase": Secret("wrong-phrase")}, r"passphrase for env/ssh_key .* is wrong"),
        ({r"[Pp]assphrase": Secret("")}, r"passphrase for env/ssh_key .* is wrong"),
    ],
    ids=["none", "unmatched", "wrong", "wrong-again", "empty"],
)
def test_a_missing_or_wrong_passphrase_is_told_at_once(
    run_dir: Path, tmp_path: Path, passwords: dict[str, Secret], message: str
) -> None:
    key = Secret(make_key(tmp_path, phrase=PHRASE))
    started = time.monotonic()
    with (
        pytest.raises(ConfigurationError, match=message) as caught,
        job_agent(key, run_dir=run_dir, passwords=passwords, cancel=Cancellation()),
    ):
        pytest.fail("an agent without its key")
    assert time.monotonic() - started < 5
    assert "wrong-phrase" not in str(caught.value)
    assert_nothing_is_left(run_dir)


# --- several keys -------------------------------------------------------------------------------------------------


def types(address: Path) -> list[str]:
    """What an agent holds, in its order."""
    return [line.rpartition("(")[2].rstrip(")") for line in held(address)]


def test_several_keys_of_any_format_are_held(run_dir: Path, tmp_path: Path) -> None:
    formats = [("-t", "ed25519"), ("-t", "rsa", "-b", "2048", "-m", "PEM"), ("-t", "ecdsa", "-m", "PKCS8")]
    keys = [make_key(tmp_path, *options) for options in formats]
    text = f"first\n{keys[0]}\n\n# the second\n{keys[1].strip()}\r\n{keys[2].strip()}"
    with job_agent(Secret(text), run_dir=run_dir, passwords={}, cancel=Cancellation()) as address:
        assert types(address) == ["ED25519", "RSA", "ECDSA"]
    assert_nothing_is_left(run_dir)


def test_each_key_asks_for_its_own_passphrase(run_dir: Path, tmp_path: Path) -> None:
    text = make_key(tmp_path, phrase="first one") + make_key(tmp_path) + make_key(tmp_path, phrase="third one")
    passwords = {
        rf"^Enter passphrase for {re.escape(str(run_dir))}/ssh_key_data:\s*?$": Secret("first one"),
        r"^Enter passphrase for .*/ssh_key_data_3:\s*?$": Secret("third one"),
    }
    with job_agent(Secret(text), run_dir=run_dir, passwords=passwords, cancel=Cancellation()) as address:
        assert len(held(address)) == 3
    assert_nothing_is_left(run_dir)


def test_one_pattern_may_answer_for_all_keys(run_dir: Path, tmp_path: Path) -> None:
    text = make_key(tmp_path, phrase=PHRASE) + make_key(tmp_path, phrase=PHRASE)
    passwords = {r"^Enter passphrase for .*:\s*?$": Secret(PHRASE)}
    with job_agent(Secret(text), run_dir=run_dir, passwords=passwords, cancel=Cancellation()) as address:
        assert len(held(address)) == 2


@pytest.mark.parametrize(
    ("passwords", "message"),
    [
        (ASKED, r"key 2 of 2, is protected by a passphrase, and no pattern .*ssh_key_data_2:`. Add one"),
        ({r"passphrase": Secret(PHRASE)}, r"The passphrase for env/ssh_key \(ssh_key\), key 2 of 2, is wrong"),
    ],
    ids=["unanswered", "wrong"],
)
def test_a_passphrase_that_fails_is_told_with_its_key(
    run_dir: Path, tmp_path: Path, passwords: dict[str, Secret], message: str
) -> None:
    text = make_key(tmp_path, phrase=PHRASE) + make_key(tmp_path, phrase="another")
    with (
        pytest.raises(ConfigurationError, match=message),
        job_agent(Secret(text), run_dir=run_dir, passwords=passwords, cancel=Cancellation()),
    ):
        pytest.fail("an agent without its key")
    assert_nothing_is_left(run_dir)


def test_a_cancel_while_the_second_key_is_read_is_heard_at_once(run_dir: Path, tmp_path: Path) -> None:
    slow = make_key(tmp_path, "-t", "ed25519", "-a", "400", phrase=PHRASE)
    cancel = Cancellation()
    moments: list[float] = []

    def comes_while_the_second_is_read() -> bool:
        moments.extend([time.monotonic()] * (run_dir / "ssh_key_data_2").exists())
        return bool(moments)

    cancel.asking(comes_while_the_second_is_read)
    passwords = {r"passphrase": Secret(PHRASE)}
    text = make_key(tmp_path) + slow + make_key(tmp_path)
    with job_agent(Secret(text), run_dir=run_dir, passwords=passwords, cancel=cancel) as address:
        assert time.monotonic() - moments[0] < 1.5
        assert len(held(address)) == 1
    assert_nothing_is_left(run_dir)


# --- certificates -------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """The private key of a certificate authority."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "authority"], check=True)
    return tmp_path / "authority"


def certified(place: Path, authority: Path, *options: str, phrase: str = "", certificates: int = 1) -> tuple[str, ...]:
    """A private key, and certificates of it."""
    key = place / "certified"
    subprocess.run(["ssh-keygen", "-q", *(options or ("-t", "ed25519")), "-N", phrase, "-f", key], check=True)
    made = [key.read_text()]
    for number in range(certificates):
        subprocess.run(
            ["ssh-keygen", "-q", "-s", authority, "-I", f"id{number}", "-n", "someone", f"{key}.pub"], check=True
        )
        made.append((place / "certified-cert.pub").read_text())
    for path in place.glob("certified*"):
        path.unlink()
    return tuple(made)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (("-t", "ed25519"), "ED25519"),
        (("-t", "rsa", "-b", "2048", "-m", "PEM"), "RSA"),
        (("-t", "ecdsa", "-b", "384", "-m", "PKCS8"), "ECDSA"),
    ],
    ids=["ed25519", "rsa", "ecdsa"],
)
@pytest.mark.parametrize("behind", [True, False], ids=["behind", "before"])
def test_a_certificate_is_held_beside_its_key(
    run_dir: Path, tmp_path: Path, authority: Path, options: tuple[str, ...], kind: str, behind: bool
) -> None:
    key, certificate = certified(tmp_path, authority, *options)
    text = key + certificate if behind else certificate + key
    with job_agent(Secret(text), run_dir=run_dir, passwords={}, cancel=Cancellation()) as address:
        assert types(address) == [kind, f"{kind}-CERT"]
    assert_nothing_is_left(run_dir)


def test_certificates_find_their_keys_in_any_order(run_dir: Path, tmp_path: Path, authority: Path) -> None:
    locked, of_locked = certified(tmp_path, authority, "-t", "rsa", "-m", "PEM", phrase=PHRASE)
    double, one, two = certified(tmp_path, authority, certificates=2)
    alone = make_key(tmp_path, "-t", "ecdsa")
    text = f"{one}{alone}{of_locked}{locked}{two.strip()}\r\n{double}"
    passwords = {r"^Enter passphrase for .*/ssh_key_data_2:\s*?$": Secret(PHRASE)}
    with job_agent(Secret(text), run_dir=run_dir, passwords=passwords, cancel=Cancellation()) as address:
        assert sorted(types(address)) == ["ECDSA", "ED25519", "ED25519-CERT", "ED25519-CERT", "RSA", "RSA-CERT"]
    assert_nothing_is_left(run_dir)


def test_a_certificate_of_no_key_there_is_told(run_dir: Path, tmp_path: Path, authority: Path) -> None:
    _, stray = certified(tmp_path, authority)
    text = "\n" + stray + make_key(tmp_path)
    with (
        pytest.raises(ConfigurationError, match=r"line 2: the certificate belongs to none of the keys"),
        job_agent(Secret(text), run_dir=run_dir, passwords={}, cancel=Cancellation()),
    ):
        pytest.fail("an agent without its certificate")
    assert_nothing_is_left(run_dir)


@pytest.mark.parametrize(
    ("mangle", "message"),
    [
        (lambda words: [words[0], words[1][:40]], "line 1: the certificate can not be read: it is cut"),
        (lambda words: [words[0], words[1] + "!"], "line 1: the certificate can not be read"),
        (lambda words: [words[0]], "line 1: the certificate can not be read: it is cut"),
        (lambda words: ["ssh-new" + words[0][11:], words[1]], "algorithm ssh-new-cert-v01@openssh.com is not known"),
        (lambda words: ["ssh-rsa" + words[0][11:], words[1]], "are of two algorithms"),
        (lambda words: [words[0], words[1][:-24]], "line 1: the certificate is not taken by ssh-add"),
    ],
    ids=["cut", "no-base64", "empty", "unknown", "mixed", "cut-behind-the-key"],
)
def test_a_malformed_certificate_is_told(
    run_dir: Path, tmp_path: Path, authority: Path, mangle: object, message: str
) -> None:
    assert callable(mangle)
    key, certificate = certified(tmp_path, authority)
    text = f"{' '.join(mangle(certificate.split()))}\n{key}"
    with (
        pytest.raises(ConfigurationError, match=message),
        job_agent(Secret(text), run_dir=run_dir, passwords={}, cancel=Cancellation()),
    ):
        pytest.fail("an agent without its certificate")
    assert_nothing_is_left(run_dir)


# --- OpenSSH's programs hang --------------------------------------------------------------------------------------


def hang(place: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a program of that name found that does nothing for a long time."""
    (place / program).write_text("#!/bin/sh\nexec sleep 1000\n")
    (place / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")


def test_an_ssh_add_that_hangs_is_ended_and_told(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Secret(make_key(tmp_path))
    hang(tmp_path, "ssh-add", monkeypatch)
    monkeypatch.setattr(agent, "_ADD", Limits(job_timeout=0.5, grace=0.5))
    with (
        pytest.raises(LaunchError, match=r"ssh-add did not take env/ssh_key \(ssh_key\) within 0.5 s"),
        job_agent(key, run_dir=run_dir, passwords={}, cancel=Cancellation()),
    ):
        pytest.fail("an agent without its key")
    assert_nothing_is_left(run_dir)


def test_an_ssh_agent_that_hangs_is_ended_and_told(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Secret(make_key(tmp_path))
    hang(tmp_path, "ssh-agent", monkeypatch)
    monkeypatch.setattr(agent, "_START", 0.5)
    with (
        pytest.raises(LaunchError, match=r"ssh-agent does not answer on .* after 0.5 s"),
        job_agent(key, run_dir=run_dir, passwords={}, cancel=Cancellation()),
    ):
        pytest.fail("no agent")
    assert_nothing_is_left(run_dir)


# --- what is no key -----------------------------------------------------------------------------------------------


def _one_line(text: str) -> str:
    return text.replace("\n", " ")


def _cut(text: str) -> str:
    lines = text.splitlines()
    return "\n".join([*lines[:2], *lines[3:]])


@pytest.mark.parametrize(
    ("mangle", "message"),
    [
        (lambda _: "", "holds no private key"),
        (lambda _: "ssh-ed25519 AAAA me", "holds no private key"),
        (lambda text: text + _cut(text), r"key 2 of 2, can not be read as a private key: .* .ssh_key_data_2.: "),
        (_one_line, r"can not be read as a private key: Error loading key .ssh_key_data."),
        (_cut, r"can not be read as a private key: Error loading key .ssh_key_data."),
    ],
    ids=["empty", "public", "second", "one-line", "cut"],
)
def test_a_malformed_key_is_told_without_showing_it(
    run_dir: Path, tmp_path: Path, mangle: object, message: str
) -> None:
    assert callable(mangle)
    text = mangle(make_key(tmp_path))
    with (
        pytest.raises(ConfigurationError, match=message) as caught,
        job_agent(Secret(text), run_dir=run_dir, passwords={}, cancel=Cancellation()),
    ):
        pytest.fail("an agent without its key")
    assert not any(word in str(caught.value) for word in re.findall(r"\S{20,}", text))
    assert_nothing_is_left(run_dir)


def test_no_regular_file_ever_holds_the_key(run_dir: Path, tmp_path: Path) -> None:
    text = make_key(tmp_path, phrase=PHRASE)
    seen: dict[str, int] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            with contextlib.suppress(FileNotFoundError):  # it went while it was looked at
                for path in run_dir.rglob("*"):
                    seen[path.name] = path.lstat().st_mode

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with job_agent(Secret(text), run_dir=run_dir, passwords=ASKED, cancel=Cancellation()) as address:
            assert len(held(address)) == 1
            assert not (run_dir / "ssh_key_data").exists()
            assert not any(word in line for line in processes("ssh") for word in text.splitlines()[1:-1])
    finally:
        over.set()
        watcher.join()
    assert stat.S_ISFIFO(seen["ssh_key_data"])
    assert stat.S_IMODE(seen["ssh_key_data"]) == 0o600
    assert not any(stat.S_ISREG(mode) for mode in seen.values())


def test_an_exception_in_the_block_leaves_nothing(run_dir: Path, tmp_path: Path) -> None:
    key = Secret(make_key(tmp_path))
    with pytest.raises(ZeroDivisionError), job_agent(key, run_dir=run_dir, passwords={}, cancel=Cancellation()):
        raise ZeroDivisionError
    assert_nothing_is_left(run_dir)


def test_a_stopped_agent_is_killed(run_dir: Path, tmp_path: Path) -> None:
    key = Secret(make_key(tmp_path))
    with job_agent(key, run_dir=run_dir, passwords={}, cancel=Cancellation()) as address:
        probe = socket.socket(socket.AF_UNIX)
        probe.connect(str(address))
        peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        probe.close()
        os.kill(int.from_bytes(peer[:4], sys.byteorder), signal.SIGSTOP)
    assert_nothing_is_left(run_dir)


def test_a_long_run_directory_gets_its_socket_elsewhere(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = run_dir / "short"
    short.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    deep = run_dir / ("d" * 120)
    deep.mkdir()
    with job_agent(Secret(make_key(tmp_path)), run_dir=deep, passwords={}, cancel=Cancellation()) as address:
        assert short in address.parents
        assert len(held(address)) == 1
    assert list(short.iterdir()) == []
    assert list(deep.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with (
        pytest.raises(LaunchError, match="set TMPDIR"),
        job_agent(Secret(make_key(tmp_path)), run_dir=deep, passwords={}, cancel=Cancellation()),
    ):
        pytest.fail("a socket that nobody can reach")
    assert list(deep.iterdir()) == []


def test_after_a_cancel_the_agent_is_empty_and_ends(run_dir: Path, tmp_path: Path) -> None:
    cancel = Cancellation()
    cancel.request()
    with job_agent(Secret(make_key(tmp_path, phrase=PHRASE)), run_dir=run_dir, passwords={}, cancel=cancel) as address:
        assert held(address) == []
    assert_nothing_is_left(run_dir)


def test_openssh_missing_is_told_with_the_remedy(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Secret(make_key(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(LaunchError, match=r"ssh-agent is not installed.*openssh-client"),
        job_agent(key, run_dir=run_dir, passwords={}, cancel=Cancellation()),
    ):
        pytest.fail("an agent without ssh-agent")
    assert_nothing_is_left(run_dir)


def test_a_killed_supervisor_leaves_no_agent(run_dir: Path, tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from ee_runner.engines.agent import job_agent
from ee_runner.executor import Cancellation
from ee_runner.secrets import Secret
with job_agent(Secret({make_key(tmp_path)!r}), run_dir=Path({str(run_dir)!r}), passwords={{}}, cancel=Cancellation()):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while processes(str(run_dir)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes(str(run_dir)) == []


def test_two_jobs_have_an_agent_each(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        first, second = Secret(make_key(tmp_path)), Secret(make_key(tmp_path))
        with (
            job_agent(first, run_dir=Path(one), passwords={}, cancel=Cancellation()) as left,
            job_agent(second, run_dir=Path(two), passwords={}, cancel=Cancellation()) as right,
        ):
            assert held(left) != held(right)


# --- the caller's own agent ---------------------------------------------------------------------------------------


def test_the_callers_agent_is_found_through_links(run_dir: Path, tmp_path: Path) -> None:
    with job_agent(Secret(make_key(tmp_path)), run_dir=run_dir, passwords={}, cancel=Cancellation()) as address:
        link = tmp_path / "link"
        link.symlink_to(address)
        assert host_socket({"SSH_AUTH_SOCK": str(link)}) == address.resolve()
        assert host_socket_problem({"SSH_AUTH_SOCK": str(link)}) is None


def test_no_agent_is_no_problem() -> None:
    assert host_socket({}) is None
    assert host_socket_problem({}) is None
    assert host_socket_problem({"SSH_AUTH_SOCK": ""}) is None


def test_a_stale_agent_is_left_out_and_told(run_dir: Path) -> None:
    stale = run_dir / "stale"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(stale))
    listener.listen()
    listener.close()
    regular = run_dir / "file"
    regular.write_text("")
    for address in (stale, regular, run_dir / "none", run_dir / ("x" * 200)):
        environ = {"SSH_AUTH_SOCK": str(address)}
        assert host_socket(environ) is None
        problem = host_socket_problem(environ)
        assert problem is not None
        assert str(address) in problem
