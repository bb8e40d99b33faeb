"""A place to run jobs in: one engine, one user, a directory of that user's, and the command as a child process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.support.images import ImageSet
from tests.support.rootless import RootlessUser

CONTAINERS = ("podman", "podman-rootless", "docker")


@dataclass(frozen=True, slots=True)
class Result:
    """A finished ``ansible-runner``: its exit code, what it printed, and the artifacts it left."""

    rc: int
    stdout: str
    stderr: str
    artifacts: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        files = (self.artifacts / "job_events").glob("*.json")
        return sorted((json.loads(path.read_text()) for path in files), key=lambda event: int(event["counter"]))

    @property
    def status(self) -> str:
        return (self.artifacts / "status").read_text()

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] in kinds]


@dataclass(frozen=True, slots=True)
class Place:
    """Runs the command with one engine; `image` is None for engines without images."""

    name: str
    images: ImageSet | None
    user: RootlessUser | None
    root: Path

    @property
    def engine(self) -> str:
        return self.name.removesuffix("-rootless")

    @property
    def contained(self) -> bool:
        return self.name in CONTAINERS

    @property
    def uid(self) -> int:
        return self.user.uid if self.user else os.getuid()

    def write(self, files: Mapping[str, str], *, under: str = "") -> Path:
        """Write files of the place's user below a directory of the place and return that directory."""
        base = self.root / under
        for name, text in files.items():
            path = base / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            if text.startswith("#!"):
                path.chmod(0o755)
        self.own(base)
        return base

    def own(self, tree: Path) -> None:
        if self.user is not None:
            os.chown(self.root, self.user.uid, self.user.gid)
            self.user.own(tree)

    def engine_options(self, image: str | None = None) -> list[str]:
        options = ["--process-isolation-executable", self.engine]
        if self.contained:
            assert self.images is not None
            options += ["--container-image", image or self.images.default, "--pull", "never"]
        return options

    def isolated(self, image: str | None = None) -> list[str]:
        """The options of ``run`` for this engine; the local engine is no isolation."""
        return [] if self.name == "local" else ["--process-isolation", *self.engine_options(image)]

    def start(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.PIPE,
        stderr: int | IO[Any] = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        streams: dict[str, Any] = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        if self.user is not None:
            argv = [self.user.python, "-m", "ee_runner", *arguments]
            return self.user.popen(argv, env=env, cwd=cwd or self.root, **streams)
        argv = [Path(sys.executable), "-m", "ee_runner", *arguments]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8", "TERM": "xterm", **(env or {})}
        return subprocess.Popen([*map(str, argv)], env=environ, cwd=cwd or self.root, start_new_session=True, **streams)

    def ansible_runner(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: float = 120,
    ) -> tuple[int, str, str]:
        """Run the command to its end and return its exit code, standard output and standard error."""
        child = self.start(*arguments, cwd=cwd, env=env, stdin=subprocess.PIPE)
        try:
            out, err = child.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            out, err = child.communicate()
            raise AssertionError(f"no end within {timeout} s\nstdout: {out!r}\nstderr: {err!r}") from None
        return child.returncode, out.decode(errors="replace"), err.decode(errors="replace")

    def emulate(
        self,
        command: str,
        *arguments: str | Path,
        image: str | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Result:
        """Run ``ansible-runner playbook`` or ``adhoc``."""
        root = Path(tempfile.mkdtemp(prefix="artifacts-", dir=self.root))
        self.own(root)
        options = [*self.engine_options(image), "--artifact-dir", str(root), "--ident", "job"]
        done = self.ansible_runner(command, *options, *arguments, cwd=cwd, env=env, stdin=stdin)
        return Result(*done, root / "job")

    def run(
        self,
        private_data_dir: Path,
        *arguments: str | Path,
        image: str | None = None,
        ident: str = "job",
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run ``ansible-runner run``."""
        done = self.ansible_runner("run", private_data_dir, "-i", ident, *self.isolated(image), *arguments, env=env)
        return Result(*done, private_data_dir / "artifacts" / ident)

    def command(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run any program as the place's user."""
        if self.user is not None:
            return self.user.run(argv)
        return subprocess.run(argv, text=True, capture_output=True, check=False, stdin=subprocess.DEVNULL)

    def containers(self) -> list[str]:
        """Names of the containers of this suite's jobs, running or not; their idents begin with "job"."""
        if not self.contained:
            return []
        listing = [self.engine, "ps", "-a", "--filter", "name=ansible_runner_job", "--format", "{{.Names}}"]
        return self.command(listing).stdout.split()

    def clear(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
