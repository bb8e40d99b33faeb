"""An unprivileged user with a rootless podman and the project under test."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .processes import (
    REPO,
    SESSION_VARIABLE,
    MachineError,
    alive,
    all_pids,
    checked,
    require_root,
    shared,
    signal_if_alive,
    wait_until,
)

USER = "ee-tests"
CACHE = Path("/var/cache/ee-runner-tests")
SOURCES = ("ee_runner", "engines", "ansible_runner")
STORAGE_CONF = '[storage]\ndriver = "overlay"\n'
PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3")


@dataclass(frozen=True, slots=True)
class RootlessUser:
    """An unprivileged user who can run podman, bwrap and the project.

    `python` is an interpreter that the user may execute; the project and ansible-core are installed in it.
    """

    name: str
    uid: int
    gid: int
    home: Path
    runtime: Path
    python: Path

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a login of this user; `extra` comes on top."""
        session = os.environ.get(SESSION_VARIABLE)
        return {
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "PATH": f"{self.python.parent}:/usr/local/bin:/usr/bin:/bin",
            "XDG_RUNTIME_DIR": str(self.runtime),
            **({SESSION_VARIABLE: session} if session else {}),
            **(extra or {}),
        }

    def prefix(self) -> tuple[str, ...]:
        """Return the words that, before a command's, run it as this user: for what can't change the user itself."""
        variables = (f"{name}={value}" for name, value in self.environ().items() if name != SESSION_VARIABLE)
        return ("runuser", "-u", self.name, "--", "env", "-i", *variables)

    def popen(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.PIPE,
        stderr: int | IO[Any] = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Start a command as this user, in a session of its own; `cwd` is the home directory unless given."""
        return subprocess.Popen(
            [*map(str, argv)],
            env=self.environ(env),
            cwd=cwd or self.home,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            user=self.uid,
            group=self.gid,
            extra_groups=[],
            start_new_session=True,
        )

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str = "",
        timeout: float = 120.0,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this user to its end; `check` raises MachineError when it fails."""
        child = self.popen(argv, env=env, cwd=cwd, stdin=subprocess.PIPE)
        try:
            out, err = child.communicate(stdin.encode(), timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            raise
        done = subprocess.CompletedProcess(
            child.args, child.returncode, out.decode(errors="replace"), err.decode(errors="replace")
        )
        if check and done.returncode:
            raise MachineError(f"{done.args} of {self.name}: exit code {done.returncode}: {done.stderr}")
        return done

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a directory of this user's that is removed at the end, whoever owns what is in it."""
        directory = Path(tempfile.mkdtemp(prefix="ee-tests-"))
        os.chown(directory, self.uid, self.gid)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def own(self, tree: Path) -> None:
        """Give the tree to this user."""
        for path in (tree, *tree.rglob("*")):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


@contextmanager
def rootless_user() -> Iterator[RootlessUser]:
    """Give the unprivileged user; what this user still runs at the end is ended by the last session out."""
    require_root("an unprivileged user for rootless podman")
    with shared(USER, start=make_user, stop=end_user_processes):
        entry = pwd.getpwnam(USER)
        yield RootlessUser(
            name=USER,
            uid=entry.pw_uid,
            gid=entry.pw_gid,
            home=Path(entry.pw_dir),
            runtime=runtime_directory(entry.pw_uid),
            python=project_python(),
        )


def runtime_directory(uid: int) -> Path:
    return Path(f"/run/user/{uid}")


def make_user() -> None:
    if subprocess.run(["id", USER], capture_output=True, check=False).returncode:
        checked(["useradd", "--create-home", "--shell", "/bin/bash", USER])
    for file in ("/etc/subuid", "/etc/subgid"):
        if not any(line.startswith(f"{USER}:") for line in Path(file).read_text().splitlines()):
            raise MachineError(f"{file} has no range for {USER}; run: usermod --add-subuids 500000-565535 {USER}")
    entry = pwd.getpwnam(USER)
    prepare_store(entry)
    prepare_devices()
    runtime = runtime_directory(entry.pw_uid)
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(runtime, entry.pw_uid, entry.pw_gid)


def prepare_store(entry: pwd.struct_passwd) -> None:
    """Choose the overlay driver before podman's first use: it would settle on vfs, which copies the image each run."""
    directory = Path(entry.pw_dir, ".config", "containers")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "storage.conf").write_text(STORAGE_CONF)
    for path in (directory.parent, directory, directory / "storage.conf"):
        os.chown(path, entry.pw_uid, entry.pw_gid)


def prepare_devices() -> None:
    for device in (Path("/dev/net/tun"), Path("/dev/fuse")):
        if device.exists() and device.stat().st_mode & 0o666 != 0o666:
            device.chmod(0o666)
    propagation = checked(["findmnt", "--noheadings", "--output", "PROPAGATION", "/"])
    if "shared" not in propagation:
        checked(["mount", "--make-shared", "/"])


def end_user_processes() -> None:
    """End what is left of the user's, podman's pause process first of all."""
    uid = pwd.getpwnam(USER).pw_uid
    left = [pid for pid in all_pids() if owner(pid) == uid]
    for pid in left:
        signal_if_alive(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, left)), bound=5, what=f"end of the processes of {USER}")


def owner(pid: int) -> int:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return -1


def project_python() -> Path:
    """Return an interpreter in which the project, as it is now, and ansible-core are installed, for every user.

    Both parts are kept under a hash of what goes in and never change once made, so that sessions don't disturb
    each other.
    """
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        dependencies = made(f"dependencies-{digest([REPO / 'pyproject.toml'])}", install_dependencies)
        project = made(
            f"project-{digest(source_files())}", lambda venv: install_project(venv, dependencies=dependencies)
        )
    return project / "bin" / "python"


def made(name: str, install: Callable[[Path], None]) -> Path:
    """Return the virtual environment of this name, made now if it isn't there whole."""
    venv = CACHE / name
    stamp = venv / ".complete"
    if not stamp.exists():
        prune(older_than=24 * 3600)
        checked([system_python(), "-m", "venv", "--without-pip", "--clear", venv])
        install(venv)
    stamp.touch()
    return venv


def prune(*, older_than: float) -> None:
    for stamp in CACHE.glob("*/.complete"):
        if time.time() - stamp.stat().st_mtime > older_than:
            shutil.rmtree(stamp.parent)


def install_dependencies(venv: Path) -> None:
    """Install what the project needs, ansible-core and the build backend, but not the project."""
    pip(venv, "install", f"{REPO}[ansible]", "hatchling")
    pip(venv, "uninstall", "--yes", "ee-runner")


def install_project(venv: Path, *, dependencies: Path) -> None:
    link = f"import site; site.addsitedir({str(site_packages(dependencies))!r})\n"
    (site_packages(venv) / "dependencies.pth").write_text(link)
    pip(venv, "install", "--no-deps", "--no-build-isolation", str(REPO))
    for command in (dependencies / "bin").glob("ansible*"):
        (venv / "bin" / command.name).symlink_to(command)


def site_packages(venv: Path) -> Path:
    (found,) = venv.glob("lib/python*/site-packages")
    return found


def pip(venv: Path, *arguments: str) -> None:
    """Run this interpreter's pip on the virtual environment, which has none of its own."""
    checked([sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "--quiet", *arguments])


def source_files() -> list[Path]:
    files = (path for tree in SOURCES for path in (REPO / tree).rglob("*") if path.is_file())
    return sorted([REPO / "pyproject.toml", *(path for path in files if "__pycache__" not in path.parts)])


def digest(files: Sequence[Path]) -> str:
    total = hashlib.sha256(system_python().encode())
    for file in files:
        total.update(f"{file.relative_to(REPO)}\0".encode() + file.read_bytes())
    return total.hexdigest()[:16]


def system_python() -> str:
    """Return an interpreter that every user may execute: one under /root is of no use here."""
    for python in PYTHONS:
        with suppress(OSError):
            if (
                subprocess.run(
                    [python, "-c", "import sys; sys.exit(sys.version_info < (3, 10))"], check=False
                ).returncode
                == 0
            ):
                return python
    raise MachineError(f"no Python 3.10 or newer at {' or '.join(PYTHONS)}; run: apt-get install python3")
