"""The directory that a worker works in: which ones it empties, what it leaves in them, and who else removes them."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ee_runner.cli import remains
from ee_runner.stream.worker import Terms, Worker
from tests.support import streams
from tests.support.processes import NOBODY, as_a_user, descendants, parent, require_root, wait_until
from tests.support.remote import tree

RUNNER = Path(sys.executable).parent / "ansible-runner"
HOST = "localhost ansible_connection=local ansible_python_interpreter={{ansible_playbook_python}}\n"
PLAY = "- hosts: all\n  gather_facts: false\n  tasks:\n    - "
NOTHING = streams.older({"kwargs": {"playbook": "none.yml"}}, {"eof": True})
"""A request that a worker takes, and that comes to no job."""


def request(task: str = "debug: {msg: hello}", **kwargs: Any) -> bytes:
    """A job of one task."""
    files = {"project/site.yml": f"{PLAY}{task}\n", "inventory/hosts": HOST}
    return streams.older(
        {"kwargs": {"playbook": "site.yml", "ident": "x", **kwargs}}, streams.archive(files), {"eof": True}
    )


@dataclass(frozen=True, slots=True)
class Host:
    """A home, a working directory and places for temporary files, for state and for a cache, in a directory each."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        places = {"HOME": "of/home", "TMPDIR": "of/tmp", "XDG_STATE_HOME": "of/state", "XDG_RUNTIME_DIR": "of/runtime"}
        own = {name: str(self.root / place) for name, place in places.items()}
        return {**kept, **own, "PATH": f"{RUNNER.parent}{os.pathsep}{os.environ['PATH']}"}

    def worker(
        self, directory: str | Path, *more: str | Path, given: bytes, before: str = "", after: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a worker in the directory, and shell commands around it, in a mount namespace of their own."""
        own = [] if os.geteuid() == 0 else ["--map-root-user"]
        script = f'{before or ":"} && {{ "$@"; rc=$?; {after or ":"}; exit $rc; }}'
        words = [RUNNER, "worker", "--private-data-dir", self.root / directory, *more]
        shell = ["unshare", "--mount", *own, "sh", "-c", script, "sh"] if before or after else []
        return subprocess.run(
            [*shell, *words], input=given, capture_output=True, env=self.environment, cwd=self.root / "of/cwd",
            timeout=60, check=False,
        )  # fmt: skip


@pytest.fixture
def host(tmp_path: Path) -> Host:
    for name in ("of/home", "of/tmp", "of/runtime", "of/cwd", "of/state/ansible-runner", "of/cache", "job/project"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "precious").write_text("kept")
    return Host(tmp_path)


def explanation(output: bytes) -> str:
    return str(json.loads(output.splitlines()[0])["job_explanation"])


# --delete


@pytest.mark.parametrize(
    "directory",
    ["of", "of/home", "of/tmp", "of/runtime", "of/cwd", "of/state", "of/state/ansible-runner", "of/cache", "of/cwd/.."],
)
def test_delete_is_refused_for_what_is_or_holds_a_place_of_the_users(host: Host, directory: str) -> None:
    before = tree(host.root)
    done = host.worker(directory, "--delete", "--cache", host.root / "of/cache", given=NOTHING)
    assert done.returncode == 78
    assert f"--delete: {host.root / directory} is not emptied" in explanation(done.stdout)
    assert tree(host.root) == before


@pytest.mark.parametrize("directory", ["/", "/usr/local/share/none-such", "/home/none-such", "/var/none-such"])
def test_delete_is_refused_for_what_is_the_systems(host: Host, directory: str) -> None:
    done = host.worker(directory, "--delete", given=NOTHING)
    assert done.returncode == 78
    assert "no directory of a job's own" in explanation(done.stdout)
    assert directory == "/" or not Path(directory).exists()


def test_delete_is_refused_for_a_link(host: Host) -> None:
    (host.root / "link").symlink_to("job")
    before = tree(host.root)
    done = host.worker("link", "--delete", given=NOTHING)
    assert "it is a symbolic link. Name the directory itself." in explanation(done.stdout)
    assert (done.returncode, tree(host.root)) == (78, before)


@pytest.mark.parametrize("directory", ["job", "job/project"])
@pytest.mark.parametrize("mount", ['mount --bind "$HOME" {}/job/project', "mount -t tmpfs none {}/job/project"])
def test_delete_is_refused_where_a_file_system_is_mounted(host: Host, directory: str, mount: str) -> None:
    before = tree(host.root)
    inside = f"{host.root}/job/project"
    done = host.worker(
        directory, "--delete", given=NOTHING,
        before=f"{mount.format(host.root)} && echo 1 > {inside}/there", after=f"cat {inside}/there >&2",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (78, b"1\n")
    assert "a file system is mounted on it or in it" in explanation(done.stdout)
    (host.root / "of/home/there").unlink(missing_ok=True)
    assert tree(host.root) == before


def test_a_file_system_that_the_job_mounts_survives_and_is_told(host: Host) -> None:
    outside = host.root / "of/home"
    mounting = f"shell: mkdir {{{{ playbook_dir }}}}/m && mount --bind {outside} {{{{ playbook_dir }}}}/m"
    done = host.worker("job", "--delete", given=request(mounting), before="true")
    assert done.returncode == 0
    assert f"{host.root}/job is left: {host.root}/job: a file system is mounted in it".encode() in done.stderr
    assert (outside / "precious").exists()


def test_what_an_older_job_left_is_not_read_before_it_is_removed(host: Host) -> None:
    (host.root / "job/env").mkdir()
    os.mkfifo(host.root / "job/env/settings")
    done = host.worker("job", "--delete", given=request())
    assert (done.returncode, (host.root / "job").exists()) == (0, False)


def test_a_broken_file_of_an_older_job_is_answered_over_the_stream(host: Host) -> None:
    (host.root / "job/env").mkdir()
    (host.root / "job/env/settings").write_text("{bad: [yaml")
    done = host.worker("job", given=NOTHING)
    assert done.returncode == 78
    assert "env/settings" in explanation(done.stdout)


@pytest.mark.parametrize("link", ["artifacts", "artifacts/x"])
def test_artifacts_are_not_written_through_a_link(host: Host, link: str) -> None:
    (host.root / "job" / link).parent.mkdir(exist_ok=True)
    (host.root / "job" / link).symlink_to(host.root / "of/home")
    before = tree(host.root / "of")
    done = host.worker("job", given=request())
    assert done.returncode == 78
    assert f"{host.root}/job/{link} is a symbolic link" in explanation(done.stdout)
    assert tree(host.root / "of") == before


# Without privileges


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of an unprivileged user's, who has home and temporary files there."""
    with tempfile.TemporaryDirectory(prefix="ee-tests-place-") as name:
        monkeypatch.setenv("HOME", name)
        monkeypatch.setattr(tempfile, "tempdir", f"{name}/tmp")
        Path(name, "tmp").mkdir()
        for path in (name, f"{name}/tmp"):
            os.chown(path, *([NOBODY] * 2 if os.geteuid() == 0 else [-1, -1]))
        yield Path(name)


class Told:
    """A keeper and a note in one: all that a worker says."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.said: list[tuple[str, str]] = []

    def owns(self, path: Path) -> None:
        self.said.append(("owns", str(path)))

    def released(self, path: Path) -> None:
        self.said.append(("released", str(path)))

    def owns_all(self, directory: Path, prefix: str) -> None: ...

    def runs(self, engine: str, container: str) -> None: ...

    def stopped(self) -> None: ...


def works(terms: Terms, stream: bytes) -> tuple[Told, bytes]:
    """Have a worker work in this process; return what it said, and its results."""
    told = Told()
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as output:
        source.write(stream)
        source.seek(0)
        Worker(terms, source=source, output=output, keeper=told, note=told.notes.append).run()
        output.seek(0)
        return told, output.read()


@pytest.mark.parametrize("given", [True, False])
def test_a_job_with_read_only_directories_leaves_nothing(place: Path, given: bool) -> None:
    closed = {"project/ro/": (0o40555, ""), "project/ro/sub/": (0o40555, ""), "project/ro/sub/secret": (0o100400, "s")}
    stream = streams.older({"kwargs": {"playbook": "none.yml"}}, _with_modes(closed), {"eof": True})
    works(Terms(), stream)  # imports what a user may be unable to read

    def work() -> None:
        terms = Terms(directory=place / "job", delete=True) if given else Terms()
        told, results = works(terms, stream)
        assert b"none.yml" in results  # it was unpacked, and read
        assert (told.notes, [path.name for path in place.iterdir()]) == ([], ["tmp"])
        assert list((place / "tmp").iterdir()) == []

    as_a_user(work)


def test_a_directory_that_can_not_be_emptied_keeps_the_job_from_running(place: Path) -> None:
    foreign = place / "job" / "foreign"
    (foreign / "below").mkdir(parents=True)
    require_root("files of another user")
    os.chown(place / "job", NOBODY, NOBODY)

    def work() -> None:
        told, results = works(Terms(directory=place / "job", delete=True), NOTHING)
        assert f"{place}/job can not be emptied: {foreign}/below: permission denied" in explanation(results)
        assert told.said[-1] == ("released", str(place / "job"))
        assert told.notes == []

    as_a_user(work)
    assert (foreign / "below").exists()


# The guardian


def test_a_worker_that_has_removed_its_directory_says_so(tmp_path: Path) -> None:
    told, _ = works(Terms(directory=tmp_path / "job", delete=True), NOTHING)
    assert told.said == [("owns", str(tmp_path / "job")), ("released", str(tmp_path / "job"))]


def test_what_has_taken_the_place_of_a_known_directory_stays(tmp_path: Path) -> None:
    for name in ("job", "other"):
        (tmp_path / name / "below").mkdir(parents=True)
    known = remains.identity((tmp_path / "job").stat())
    (tmp_path / "job").rename(tmp_path / "moved")
    (tmp_path / "other").rename(tmp_path / "job")
    assert not remains.remove(str(tmp_path / "job"), known)
    assert (tmp_path / "job" / "below").exists()
    assert remains.remove(str(tmp_path / "moved"), known)


def test_a_directory_in_which_somebody_works_stays(tmp_path: Path) -> None:
    (tmp_path / "job" / "below").mkdir(parents=True)
    with locked(tmp_path / "job"), pytest.raises(OSError, match="another worker works in it"):
        remains.remove(str(tmp_path / "job"))
    assert (tmp_path / "job" / "below").exists()
    assert remains.remove(str(tmp_path / "job"))


def test_a_killed_workers_guardian_leaves_the_job_that_came_after_it(host: Host) -> None:
    directory = host.root / "new"
    results, full = full_pipe()
    words: list[str | Path] = [RUNNER, "worker", "--private-data-dir", directory, "--delete"]
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, results)
        stuck = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=full, stderr=subprocess.PIPE, env=host.environment, cwd=host.root
        )
        stack.callback(stuck.kill)
        os.close(full)
        assert stuck.stdin is not None
        stuck.stdin.write(b'{"kwargs": {}}\n')
        stuck.stdin.flush()
        wait_until(directory.exists, bound=30, what="directory")
        stuck.stdin.write(b'{"eof": true}\n')
        stuck.stdin.flush()
        wait_until(lambda: not directory.exists(), bound=30, what="removal")
        (directory / "of another job").mkdir(parents=True)
        with locked(directory):
            os.kill(_worker(stuck.pid), signal.SIGKILL)
            _, errors = stuck.communicate(timeout=30)
        assert b"removed" not in errors
        assert (directory / "of another job").exists()


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory as a worker does that works in it."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(opened, fcntl.LOCK_SH)
        yield
    finally:
        os.close(opened)


def full_pipe() -> tuple[int, int]:
    """Return both ends of a pipe that takes nothing more, so that a worker can not write its results."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"\n" * 4096)
    os.set_blocking(writing, True)
    return reading, writing


def _worker(front: int) -> int:
    """Return the pid of the process that works: the front's grandchild."""
    return next(pid for pid in descendants(front) if parent(parent(pid)) == front)


def _with_modes(entries: Mapping[str, tuple[int, str]]) -> bytes:
    """Return a zip of entries with these modes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for name, (mode, text) in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, mode << 16
            file.writestr(entry, text)
    return made.getvalue()
