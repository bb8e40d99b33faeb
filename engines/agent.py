"""The ssh-agent of a job: the caller's own (SSH_AUTH_SOCK), or one that holds the keys of env/ssh_key."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ee_runner import names
from ee_runner.engines import sshkeys
from ee_runner.engines.sshkeys import Certificate, Keys
from ee_runner.errors import ConfigurationError, EngineError, LaunchError
from ee_runner.executor import Cancellation, Executor, capture, companion, find_program
from ee_runner.job import Invocation, Limits, Outcome
from ee_runner.secrets import Secret, redact
from ee_runner.values import dataclass, field

KEY_NAME = "ssh_key_data"
"""The name that ssh-add asks by: people's patterns match ``Enter passphrase for .../ssh_key_data:``."""

VALUE = "env/ssh_key (ssh_key)"

_LONGEST_ADDRESS = 107 if sys.platform == "linux" else 103
"""Bytes that the path of a unix socket may have: sun_path without its NUL, see unix(7)."""

_START = 15.0
_END = 1.0
_ADD = Limits(job_timeout=30.0, grace=1.0)

_KEEPER = """
exec 3< "$2"
ssh-agent -D -a "$1" 3<&- &
agent=$!
trap 'kill -KILL "$agent"' TERM
read -r _ <&3
kill "$agent"
wait "$agent"
wait "$agent"
"""
"""Ends the agent when nobody holds the lifeline any more: a crash of this process leaves no key behind.

An agent that ignores this is killed at SIGTERM, which cuts the first wait short; the second one sees it gone.
"""


def host_socket(environ: Mapping[str, str]) -> Path | None:
    """Return the socket of the caller's ssh-agent, links resolved, or None when there is none that answers."""
    if not environ.get("SSH_AUTH_SOCK") or host_socket_problem(environ):
        return None
    return Path(environ["SSH_AUTH_SOCK"]).resolve()


def host_socket_problem(environ: Mapping[str, str]) -> str | None:
    """Say why the agent that SSH_AUTH_SOCK names can not be used, or None when it can or none is named."""
    address = environ.get("SSH_AUTH_SOCK")
    if not address:
        return None
    try:
        _connect(Path(address))
    except OSError as error:
        return f"The ssh-agent of SSH_AUTH_SOCK={address} is left out: {error.strerror or error}."
    return None


@contextlib.contextmanager
def job_agent(value: Secret, *, run_dir: Path, passwords: Mapping[str, Secret], cancel: Cancellation) -> Iterator[Path]:
    """Keep an ssh-agent that holds the private keys of `value` for the length of the block, and give its socket.

    `value` is what `sshkeys.parse` takes; a certificate is held beside its key. The socket lies alone in a directory
    of mode 0700. The keys reach the agent through pipes and lie in no file; passphrases come from `passwords`
    (pattern -> answer), asked by ``Enter passphrase for <run_dir>/ssh_key_data:``, of further keys by
    ``.../ssh_key_data_2:`` and so on. After a cancel the agent lacks what was still to come. Nothing is left behind
    afterwards, nor when this process is killed.

    Raises ConfigurationError, naming the key, for one that is none, or whose passphrase is missing or wrong, and for a
    certificate that is of none of them; LaunchError when OpenSSH's client programs are missing or do not work.
    """
    keys = sshkeys.parse(value)
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    _require_programs(env)
    with _agent(run_dir, env) as address:
        _Loader(run_dir, {**env, "SSH_AUTH_SOCK": str(address)}, passwords, cancel).load(keys)
        yield address


def _require_programs(env: Mapping[str, str]) -> None:
    for program in ("ssh-agent", "ssh-add"):
        try:
            find_program(program, env)
        except LaunchError as error:
            raise LaunchError(
                f"{error} env/ssh_key needs it: install OpenSSH's client (openssh-client, or openssh-clients)."
            ) from error


@contextlib.contextmanager
def _agent(run_dir: Path, env: Mapping[str, str]) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(_socket_directory(run_dir)) / "socket"
        fifo = stack.enter_context(_fifo(run_dir / "ssh_agent_lifeline"))
        lifeline = stack.enter_context(fifo.open("r+b", buffering=0))
        stack.enter_context(companion(["sh", "-c", _KEEPER, "sh", str(address), str(fifo)], env=env))
        stack.callback(_await, address, alive=False, seconds=_END)
        stack.callback(lifeline.close)
        if not _await(address, alive=True, seconds=_START):
            raise LaunchError(f"ssh-agent does not answer on {address} after {_START:g} s.")
        yield address


@contextlib.contextmanager
def _socket_directory(run_dir: Path) -> Iterator[Path]:
    """Make a private directory in which the path of a socket is short enough."""
    directory = run_dir / "agent"
    try:
        if len(os.fsencode(directory / "socket")) <= _LONGEST_ADDRESS:
            directory.mkdir(mode=0o700)
        else:
            directory = Path(tempfile.mkdtemp(prefix=names.run_prefix()))
    except OSError as error:
        raise LaunchError(f"No directory for the ssh-agent can be made in {run_dir}: {error.strerror}.") from error
    try:
        if len(os.fsencode(directory / "socket")) > _LONGEST_ADDRESS:
            raise LaunchError(f"The path of a socket in {directory} is too long; set TMPDIR to a shorter directory.")
        yield directory
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def _fifo(path: Path) -> Iterator[Path]:
    try:
        os.mkfifo(path, 0o600)
    except OSError as error:
        raise LaunchError(f"The named pipe {path} can not be made: {error.strerror}.") from error
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _connect(address: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        probe.connect(str(address))


def _await(address: Path, *, alive: bool, seconds: float) -> bool:
    """Wait until the agent answers, or does so no more; return whether that came about in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            _connect(address)
        except OSError:
            answers = False
        else:
            answers = True
        if answers is alive:
            return True
        time.sleep(0.005)
    return False


@dataclass(frozen=True, slots=True)
class _Key:
    """One of the keys: its pipe, by whose path its passphrase is asked, and how it is called in messages."""

    text: str = field(repr=False)
    path: Path
    label: str


@dataclass(frozen=True, slots=True)
class _Loader:
    """Brings keys and certificates into the agent that `env` names."""

    run_dir: Path
    env: Mapping[str, str] = field(repr=False)
    passwords: Mapping[str, Secret]
    cancel: Cancellation

    def load(self, keys: Keys) -> None:
        missing = list(keys.certificates)
        for key in self._named(keys.private):
            if not self._add(key, missing[0] if missing else None):
                return
            for certificate in self._of_held_keys(missing):
                self._add(key, certificate)
            missing = self._not_held(missing)
        if missing and not self.cancel.requested:
            self._refuse(missing[0])

    def _named(self, texts: Sequence[str]) -> Iterator[_Key]:
        for number, text in enumerate(texts, start=1):
            path = self.run_dir / (KEY_NAME if number == 1 else f"{KEY_NAME}_{number}")
            yield _Key(text, path, f"{VALUE}, key {number} of {len(texts)}," if len(texts) > 1 else VALUE)

    def _add(self, key: _Key, certificate: Certificate | None) -> bool:
        """Have ssh-add load a key, and the certificate if it is that key's; False when the job was cancelled."""
        conversation = _Conversation(key, self.passwords)
        conversation.stopping.asking(lambda: self.cancel.check() is not None)
        with (
            _fifo(key.path),
            _written(key.path, key.text),
            _beside(key.path, certificate),
            self.cancel.waking(lambda: conversation.cancel_with(self.cancel)),
        ):
            conversation.cancel_with(self.cancel)
            outcome = Executor().run(
                Invocation(("ssh-add", str(key.path)), self.env, self.run_dir),
                conversation,
                cancel=conversation.stopping,
                limits=_ADD,
                passwords=self.passwords,
            )
        if outcome.status not in ("successful", "canceled"):
            raise conversation.failure(outcome)
        return outcome.status == "successful"

    def _of_held_keys(self, certificates: Sequence[Certificate]) -> list[Certificate]:
        held = self._held() if certificates else set()
        return [each for each in certificates if each.key in held and each.blob not in held]

    def _not_held(self, certificates: Sequence[Certificate]) -> list[Certificate]:
        held = self._held() if certificates else set()
        return [each for each in certificates if each.blob not in held]

    def _held(self) -> set[str]:
        """Return the public keys and certificates that the agent holds, in base64."""
        try:
            listed = capture(("ssh-add", "-L"), env=self.env, timeout=_START)
        except EngineError as error:
            raise LaunchError(str(error)) from error
        return {line.split()[1] for line in listed.stdout.splitlines() if len(line.split()) > 1}

    def _refuse(self, certificate: Certificate) -> NoReturn:
        place = f"{VALUE}, line {certificate.line}: the certificate"
        if certificate.key in self._held():
            raise ConfigurationError(f"{place} is not taken by ssh-add; look at it with `ssh-keygen -L`.")
        raise ConfigurationError(f"{place} belongs to none of the keys there. Give the key that it certifies as well.")


@contextlib.contextmanager
def _beside(path: Path, certificate: Certificate | None) -> Iterator[None]:
    """Put a certificate, which is public, where ssh-add looks for it, as long as it does."""
    if certificate is None:
        yield
        return
    beside = path.with_name(f"{path.name}-cert.pub")
    try:
        beside.write_text(certificate.text)
    except OSError as error:
        raise LaunchError(f"The certificate {beside} can not be written: {error.strerror}.") from error
    try:
        yield
    finally:
        beside.unlink(missing_ok=True)


class _Conversation:
    """What ssh-add says, followed so that a question which nobody can answer ends it at once."""

    def __init__(self, key: _Key, passwords: Mapping[str, Secret]) -> None:
        self.stopping = Cancellation()
        self._key = key
        self._passwords = passwords
        self._said = ""
        prompt = f"Enter passphrase for {key.path}: "
        self._answerable = any(re.search(pattern, prompt, re.MULTILINE) for pattern in passwords)

    def stdout(self, data: bytes) -> None:
        self._said = (self._said + data.decode("utf-8", "replace"))[-4096:]
        if self._refused or (self._asked and not self._answerable):
            self.stopping.request("prompt_unanswered")

    stderr = stdout

    def cancel_with(self, cancel: Cancellation) -> None:
        if cancel.requested:
            self.stopping.request("canceled")

    def failure(self, outcome: Outcome) -> Exception:
        """Say what was wrong; never with a part of the key or the passphrase."""
        label, path = self._key.label, self._key.path
        if self._refused or (self._asked and outcome.reason == "exited"):
            return ConfigurationError(
                f"The passphrase for {label} is wrong; it comes from the entry of env/passwords that "
                f"matches `Enter passphrase for {path}:`."
            )
        if self._asked and not self._answerable:
            return ConfigurationError(
                f"{label} is protected by a passphrase, and no pattern of env/passwords matches "
                f"`Enter passphrase for {path}:`. Add one: 'Enter passphrase for .*:\\s*?$': the passphrase."
            )
        if outcome.reason != "exited":
            return LaunchError(f"ssh-add did not take {label} within {_ADD.job_timeout:g} s.")
        said = " ".join(redact(self._said, self._passwords.values()).replace(str(path), path.name).split())
        return ConfigurationError(
            f"{label} can not be read as a private key: {said or f'ssh-add ended with {outcome.rc}'}. "
            "Give the content of the private key file, all of its lines."
        )

    @property
    def _asked(self) -> bool:
        return "Enter passphrase for" in self._said

    @property
    def _refused(self) -> bool:
        return "Bad passphrase" in self._said


@contextlib.contextmanager
def _written(fifo: Path, text: str) -> Iterator[None]:
    """Hand the text to the first reader of the pipe; when none has come by the end of the block, to nobody."""
    over = threading.Event()
    writer = threading.Thread(target=_write, args=(fifo, text.encode(), over), daemon=True)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()


def _write(fifo: Path, data: bytes, over: threading.Event) -> None:
    while not over.wait(0.002):
        try:
            descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # ENXIO: no reader yet
            continue
        os.set_blocking(descriptor, True)
        with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb", buffering=0) as pipe:
            pipe.write(data)
        return
