"""A real sshd on a loopback port, for users that exist for the tests."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .processes import RUN, MachineError, checked, free_port, require_root, serving, shared

USER = "ee-sshd"
OTHER_USER = "ee-sshd-other"
PASSWORD_FILE = RUN / "ee-sshd.password"
CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
PidFile none
AuthorizedKeysFile {directory}/authorized_keys.%u
TrustedUserCAKeys {directory}/authority.pub
AllowUsers {user} {other_user}
PasswordAuthentication yes
PubkeyAuthentication yes
UsePAM no
StrictModes no
UseDNS no
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True, slots=True)
class SshServer:
    """Where the server listens and what opens it.

    `key` and `locked_key` (which wants `passphrase`) are private keys, readable by root only, that `user` accepts;
    `password` is the user's. `other_user` lets in `other_key` alone. `certified_key`, which wants `passphrase` too, is
    known to nobody, but `certificate` is of an authority that the server trusts, for `user`. `known_hosts` is the line
    that a client's known_hosts file needs.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    key: Path
    locked_key: Path
    passphrase: str = field(repr=False)
    other_user: str
    other_key: Path
    certified_key: Path
    certificate: Path
    known_hosts: str
    log: Path


@contextmanager
def serve() -> Iterator[SshServer]:
    """Run an sshd for as long as the block lasts; the sessions that it serves end with it."""
    require_root("an sshd that changes to another user")
    server = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if server is None:
        raise MachineError("sshd is not installed; run: apt-get install openssh-server")
    directory = Path(tempfile.mkdtemp(prefix="ee-tests-sshd-"))
    try:
        with shared(USER, start=open_account, stop=close_account):
            described = configure(directory)
            argv: list[str | Path] = [server, "-D", "-e", "-f", directory / "sshd_config"]
            with serving(argv, log=described.log, ready=lambda: greets(described.port)):
                yield described
    finally:
        shutil.rmtree(directory)


def open_account() -> None:
    """Make sure of the users, with a password that is known to nobody but the sessions that run now."""
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for user in (USER, OTHER_USER):
        if subprocess.run(["id", user], capture_output=True, check=False).returncode:
            checked(["useradd", "--create-home", "--shell", "/bin/bash", user])
    if not PASSWORD_FILE.exists():
        PASSWORD_FILE.touch(mode=0o600)
        PASSWORD_FILE.write_text(secrets.token_urlsafe(12))
        # To the server an account without a password is locked, to keys too.
        entries = f"{USER}:{PASSWORD_FILE.read_text()}\n{OTHER_USER}:{secrets.token_urlsafe(12)}\n"
        checked(["chpasswd"], stdin=entries)


def close_account() -> None:
    for user in (USER, OTHER_USER):
        checked(["usermod", "--lock", user])
    PASSWORD_FILE.unlink()


def configure(directory: Path) -> SshServer:
    # sshd reads authorized_keys as the user who logs in.
    directory.chmod(0o755)
    passphrase = secrets.token_urlsafe(12)
    host_key = make_key(directory / "host_key")
    public = [make_key(directory / "key"), make_key(directory / "locked_key", passphrase=passphrase)]
    (directory / f"authorized_keys.{USER}").write_text("".join(public))
    (directory / f"authorized_keys.{OTHER_USER}").write_text(make_key(directory / "other_key"))
    make_certificate(directory, passphrase=passphrase)
    port = free_port()
    config = CONFIG.format(port=port, directory=directory, user=USER, other_user=OTHER_USER)
    (directory / "sshd_config").write_text(config)
    algorithm, key, *_ = host_key.split()
    return SshServer(
        host="127.0.0.1",
        port=port,
        user=USER,
        password=PASSWORD_FILE.read_text(),
        key=directory / "key",
        locked_key=directory / "locked_key",
        passphrase=passphrase,
        other_user=OTHER_USER,
        other_key=directory / "other_key",
        certified_key=directory / "certified_key",
        certificate=directory / "certified_key-cert.pub",
        known_hosts=f"[127.0.0.1]:{port} {algorithm} {key}\n",
        log=directory / "log",
    )


def make_key(path: Path, *, passphrase: str = "") -> str:
    """Make a key pair and return its public half."""
    checked(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "ee-tests", "-f", path])
    return path.with_suffix(".pub").read_text()


def make_certificate(directory: Path, *, passphrase: str) -> None:
    """Make an authority, and a key with a certificate of its for the user."""
    make_key(directory / "authority")
    make_key(directory / "certified_key", passphrase=passphrase)
    public = directory / "certified_key.pub"
    checked(["ssh-keygen", "-q", "-s", directory / "authority", "-I", "ee-tests", "-n", USER, public])


def greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
