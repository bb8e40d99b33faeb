"""One job on a stage of its own: everything that it may leave lies in one directory, and it can be looked at whole.

All of the job's temporary, runtime, state and home directories are the scene's, apart from the runtime directory of
rootless podman's user. So scenes do not disturb each other, nor what else runs on the machine.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.engines.place import Place
from tests.engines.programs import engine_keywords
from tests.faults import observe
from tests.faults.observe import Artifacts, Left
from tests.support import stubborn, supervisor
from tests.support.chain import OF_ANSIBLE
from tests.support.processes import locked, signal_if_alive, wait_until

BOUND = 60.0
"""Seconds for what usually takes one: the machine may be busy."""

GRACE = 2
_OF_OTHERS = re.compile(r"\.?ansible[_-].*|[a-z0-9_]{8}|[0-9]{1,10}")
"""What others leave in TMPDIR when they are killed: Ansible's modules, Python's try whether it can be written, and
podman, which makes and removes files with numbers for names as it starts a container."""


@dataclass(slots=True)
class Scene:
    """A private data directory of a place's user, the programs that were started for it, and what is left of them."""

    place: Place
    root: Path
    word: str
    programs: list[subprocess.Popen[bytes]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    """All pids of the job that were ever met."""
    results: Path | None = None
    """Where the artifacts are, when not in the private data directory."""

    @property
    def directory(self) -> Path:
        return self.root / "data"

    @property
    def ident(self) -> str:
        return f"fault-{self.word}"

    @property
    def artifacts(self) -> Path:
        return (self.results or self.directory / "artifacts") / self.ident

    @property
    def flag(self) -> Path:
        return self.root / "flag"

    @property
    def records(self) -> Path:
        return self.root / "state" / "ansible-runner" / "jobs"

    @property
    def status(self) -> str | None:
        with suppress(OSError):
            return (self.artifacts / "status").read_text()
        return None

    @property
    def outcome(self) -> tuple[str | None, str | None, str | None]:
        return observe.read_outcome(self.artifacts)

    def read(self) -> Artifacts:
        return observe.read_artifacts(self.artifacts)

    # What is started.

    def write(self, files: Mapping[str, str]) -> None:
        """Write the private data directory."""
        self.place.write(files, under=str(self.directory.relative_to(self.place.root)))
        for key in self.directory.glob("project/key"):
            key.chmod(0o600)

    def options(self, *more: str | Path, image: str | None = None) -> list[str | Path]:
        """Return the options of a job in this scene."""
        results: list[str | Path] = ["--artifact-dir", self.results] if self.results else []
        playbook = ["-p", "site.yml"] if (self.directory / "project" / "site.yml").exists() else []
        return [self.directory, "-i", self.ident, *playbook, *results, *self.place.isolated(image), *more]

    def environment(self) -> dict[str, str]:
        own = {"XDG_STATE_HOME": self.root / "state", "TMPDIR": self.root / "tmp"}
        if self.place.user is None:
            own |= {"XDG_RUNTIME_DIR": self.root / "run", "HOME": self.root / "home"}
        if not self.place.contained:
            own |= {name: self.root / "home" / name.lower() for name in OF_ANSIBLE}
        return {**{name: str(path) for name, path in own.items()}, "EE_RUNNER_SCENE": self.word}

    def command(self, *words: str | Path, **streams: Any) -> subprocess.Popen[bytes]:
        """Start ``ansible-runner`` with these words."""
        return self._started(self.place.start(*words, cwd=self.root, env=self.environment(), **streams))

    def call(self, *words: str | Path, bound: float = BOUND) -> subprocess.CompletedProcess[str]:
        """Run ``ansible-runner`` with these words to its end."""
        child = self.command(*words)
        try:
            out, err = (data.decode(errors="replace") for data in child.communicate(timeout=bound))
        except subprocess.TimeoutExpired:
            child.kill()
            raise
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)

    def run(self, *more: str | Path, image: str | None = None) -> subprocess.Popen[bytes]:
        """Start ``ansible-runner run`` with its output thrown away and its complaints in a file."""
        with (self.root / "complaints").open("wb") as errors:
            options = self.options(*more, image=image)
            return self.command("run", *options, stdout=subprocess.DEVNULL, stderr=errors)

    def complaints(self) -> str:
        return (self.root / "complaints").read_text(errors="replace")

    def on_terminal(self, *more: str | Path, image: str | None = None) -> tuple[subprocess.Popen[bytes], int]:
        """Start ``ansible-runner run`` on a terminal that controls it; return it and the terminal's other end."""
        ours, theirs = pty.openpty()
        options = self.options(*more, image=image)
        os.chown(os.ttyname(theirs), self.place.uid, -1)
        # The first terminal that the leader of a session opens becomes its controlling one.
        shell: list[str | Path] = ["/bin/sh", "-c", 'exec <"$0" >"$0" 2>&1; exec "$@"', os.ttyname(theirs)]
        child = self._popen([*shell, self._python, "-m", "ee_runner", "run", *options])
        os.close(theirs)
        return child, ours

    def program(self, *, image: str | None = None, **given: Any) -> subprocess.Popen[bytes]:
        """Start a program that runs the job by the library; `given` is what tests.support.supervisor takes."""
        keywords: dict[str, Any] = {"private_data_dir": str(self.directory), "ident": self.ident, "quiet": True}
        if (self.directory / "project" / "site.yml").exists():
            keywords["playbook"] = "site.yml"
        keywords |= engine_keywords(self.place) | given.pop("keywords", {})
        if image is not None:
            keywords["container_image"] = image
        file = self.root / "supervisor.py"
        shutil.copyfile(supervisor.__file__, file)
        words = json.dumps({"keywords": keywords, "flag": str(self.flag), **given})
        with (self.root / "complaints").open("wb") as errors:
            return self._popen(
                [self._python, file, words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )

    def cleanup(self, *where: Path) -> None:
        """Run ``ansible-runner cleanup``, which must succeed."""
        done = self.call("cleanup", *where)
        assert (done.returncode, done.stderr) == (0, ""), done

    def next_start(self) -> None:
        """Run another job of the same user to its end, in another directory and on the host."""
        other = self.root / "other"
        self.place.write(stubborn.short("another"), under=str(other.relative_to(self.place.root)))
        done = self.call("run", other, "-p", "site.yml", "-i", "next", "--quiet")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done

    def raise_flag(self) -> None:
        self.flag.touch()

    @property
    def _python(self) -> Path:
        return self.place.user.python if self.place.user else Path(sys.executable)

    def _popen(self, argv: Sequence[str | Path], **streams: Any) -> subprocess.Popen[bytes]:
        environment = self.environment()
        if self.place.user is not None:
            return self._started(self.place.user.popen(argv, env=environment, cwd=self.root, **streams))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        whole = {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8", "TERM": "xterm", **environment}
        words = [*map(str, argv)]
        return self._started(subprocess.Popen(words, env=whole, cwd=self.root, start_new_session=True, **streams))

    def _started(self, child: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        self.programs.append(child)
        self.seen.add(child.pid)
        return child

    # What is seen.

    def processes(self, *, apart: Collection[int] = ()) -> dict[int, str]:
        found = observe.processes(self.word, apart=apart)
        self.seen |= set(found)
        return found

    def parts(self) -> set[str]:
        """Return which parts of a stubborn job run."""
        return stubborn.parts(self.processes().values(), self.word)

    def until_stubborn(self, *parts: str) -> None:
        """Wait until these parts of a stubborn job run, and it talks."""
        self._until(lambda: set(parts) <= self.parts(), what=lambda: f"{self.parts()} of {parts}")
        self.until_output(stubborn.TALK)

    def until_output(self, text: bytes) -> None:
        output = self.artifacts / "stdout"
        self._until(lambda: output.exists() and text in output.read_bytes(), what=lambda: f"{text!r} in the output")

    def _until(self, condition: Callable[[], bool], *, what: Callable[[], str]) -> None:
        """Wait until the condition holds; a program that has failed before says why."""

        def there() -> bool:
            for child in self.programs:
                assert not child.poll(), f"{child.args!r}: exit code {child.returncode}: {self.told()}"
            return condition()

        observe.until(there, bound=BOUND, what=lambda: f"{what()}: {self.told()}")

    def minders(self, supervisor_pid: int) -> list[int]:
        """Return the processes that stand between a supervisor and its job."""
        return [pid for pid, words in observe.children(supervisor_pid).items() if "minder" in words]

    def left(self, *, apart: Collection[int] = ()) -> Left:
        """Return all that there is of the job now; `apart` are processes that may still be there."""
        running = self.processes(apart=apart)
        return Left(
            processes=tuple(f"{pid} {words}" for pid, words in running.items()),
            containers=observe.containers(self.place, self.ident),
            files=tuple(map(str, self._files())),
            records=tuple(str(path) for path in self._list(self.records)),
            locks=tuple(str(path) for path in [self.artifacts] if locked(path)),
        )

    def until_nothing_is_left(self, bound: float, *, apart: Collection[int] = ()) -> float:
        return observe.until(lambda: not self.left(apart=apart), bound=bound, what=lambda: self.left(apart=apart))

    def until_the_job_is_gone(self, bound: float, *, apart: Collection[int] = ()) -> float:
        """Wait until no process and no container of the job is left, whatever files and records there are."""

        def running() -> list[object]:
            return [*self.processes(apart=apart).items()] or [*observe.containers(self.place, self.ident)]

        return observe.until(lambda: not running(), bound=bound, what=running)

    def told(self) -> str:
        """Return what the programs and the job have said, for one who wonders."""
        texts = [(self.root / "complaints"), self.artifacts / "stdout", self.directory / "daemon.log"]
        said = [path.read_text(errors="replace")[-1500:] for path in texts if path.exists()]
        return f"status {self.status}; {said!r}"

    def _files(self) -> Iterator[Path]:
        for own in (self.root / "tmp", self.root / "run"):
            yield from (path for path in self._list(own) if not _OF_OTHERS.fullmatch(path.name))
        for base in {observe.SHARED_MEMORY, Path("/tmp"), *([self.place.user.runtime] if self.place.user else [])}:
            for pid in self.seen:
                yield from base.glob(f"ee_runner_{pid}_*")
        yield from (path for path in [self.artifacts / ".events"] if path.exists())
        yield from (self.directory / "project").glob(".ee_runner_*")

    @staticmethod
    def _list(directory: Path) -> list[Path]:
        with suppress(FileNotFoundError):
            return sorted(directory.iterdir())
        return []

    # How it ends.

    def clear(self) -> None:
        """End and remove all that is left, after a test that failed too."""
        for child in self.programs:
            if child.poll() is None:
                child.kill()
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    stream.close()
            child.wait()
        wait_until(lambda: not self._kill_all(), bound=BOUND, what=f"end of {self.ident}")
        wait_until(self._containers_are_removed, bound=BOUND, what=f"end of the containers of {self.ident}")
        for path in (*self._files(), stubborn.master_directory(self.word)):
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def _kill_all(self) -> dict[int, str]:
        for pid in (found := self.processes()):
            signal_if_alive(pid, signal.SIGKILL)
        return found

    def _containers_are_removed(self) -> bool:
        """Remove containers; podman's first try fails for one whose monitor was killed."""
        for line in observe.containers(self.place, self.ident):
            self.place.command([self.place.engine, "rm", "--force", line.split()[0]])
        return not observe.containers(self.place, self.ident)


@contextmanager
def staged(place: Place) -> Iterator[Scene]:
    """Give a scene at a place; nothing of it is left after the block."""
    word = uuid.uuid4().hex[:12]
    root = place.root / word
    for name in ("state", "tmp", "run", "home"):
        (root / name).mkdir(parents=True)
    (root / "run").chmod(0o700)
    place.own(root)
    scene = Scene(place, root, word)
    try:
        yield scene
    finally:
        scene.clear()
