"""Jobs whose supervisor is killed: nothing of them runs on, nothing temporary stays, and their status says it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ee_runner import underway
from ee_runner.processes import with_argument
from tests.support.processes import REPO, alive, descendants, wait_until

BOUND = 60
"""Seconds, on a machine that does much else."""

WAITING = """
- hosts: one
  gather_facts: false
  tasks:
    - ansible.builtin.command: cat {fifo}
"""

LIBRARY = """if True:
    import sys
    import ansible_runner
    task = {"ansible.builtin.command": f"cat {sys.argv[1]}"}
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]
    ansible_runner.run(playbook=play, ident="x", quiet=True)
"""


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records and temporary directories of the test's own."""
    place = tmp_path_factory.mktemp("places")
    (place / "tmp").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    monkeypatch.setenv("TMPDIR", str(place / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)


class Job:
    """A job that waits in a task, and the process that runs it."""

    def __init__(self, supervisor: subprocess.Popen[bytes], fifo: Path) -> None:
        self.supervisor = supervisor
        self._fifo = str(fifo)
        wait_until(self._runs_task, bound=BOUND, what="the job's task")
        self.record = underway.underway()[0]
        self.processes = descendants(supervisor.pid)

    def _task(self) -> list[int]:
        return [pid for pid in with_argument(self._fifo) if pid != self.supervisor.pid]

    def _runs_task(self) -> bool:
        assert self.supervisor.poll() is None, "it has ended before its task"
        return any(Path(f"/proc/{pid}/comm").read_text() == "cat\n" for pid in self._task() if alive(pid))

    def kill(self, *, minder: bool = False) -> None:
        """Kill the supervisor, and its minder too, neither of which can do anything then."""
        victims = [self.supervisor.pid, *(pid for pid in self.processes if minder and _is_minder(pid))]
        assert len(victims) == 1 + minder
        for victim in victims:
            os.kill(victim, signal.SIGSTOP)
        for victim in reversed(victims):
            os.kill(victim, signal.SIGKILL)
        self.supervisor.wait()

    @property
    def is_gone(self) -> bool:
        return not any(map(alive, self.processes))

    @property
    def ending(self) -> tuple[str, str, str]:
        return (self._artifact("status"), self._artifact("rc"), self._artifact("reason").partition("\n")[0])

    def _artifact(self, name: str) -> str:
        return (self.record.artifact_dir / name).read_text()


def _is_minder(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "ee-minder\n"


LOST = ("error", "254", "lost")


@contextlib.contextmanager
def running(argv: list[str | Path], fifo: Path) -> Iterator[Job]:
    """A job that has been started; what is left of it at the end is killed."""
    with subprocess.Popen([*map(str, argv)], cwd=REPO, stdout=subprocess.DEVNULL) as supervisor:
        family: tuple[int, ...] = ()
        try:
            job = Job(supervisor, fifo)
            family = job.processes
            yield job
        finally:
            for pid in (supervisor.pid, *family, *descendants(supervisor.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def command(*words: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "ee_runner", *words]


@pytest.fixture
def project(demo: Path) -> Path:
    """A private data directory whose playbook waits."""
    os.mkfifo(demo / "fifo")
    (demo / "project" / "waits.yml").write_text(WAITING.format(fifo=demo / "fifo"))
    return demo


def left_behind() -> list[Path]:
    """What jobs have on this machine that is temporary."""
    places = (Path(os.environ["XDG_RUNTIME_DIR"]), Path(os.environ["TMPDIR"]))
    return [path for place in places for path in place.iterdir() if path.name.startswith(("ee_runner_", ".ansible-"))]


def test_a_job_whose_supervisor_is_killed_is_ended_and_settled(project: Path) -> None:
    with running(command("run", project, "-p", "waits.yml", "-i", "x", "-q"), project / "fifo") as job:
        assert left_behind()
        job.kill()
        wait_until(lambda: job.is_gone and not job.record.file.exists(), bound=BOUND, what="the job's rescue")
        assert job.ending == LOST
        assert left_behind() == []


def another_start(project: Path) -> None:
    subprocess.run(command("run", project, "-p", "debug.yml", "-i", "next", "-q"), cwd=REPO, check=True)


def a_cleanup(_project: Path) -> None:
    done = subprocess.run(command("cleanup"), cwd=REPO, check=True, capture_output=True, text=True)
    assert "Settled the job x of " in done.stdout


@pytest.mark.parametrize("next_one", [another_start, a_cleanup])
def test_without_its_minder_it_is_settled_by_the_next_one(project: Path, next_one: Callable[[Path], None]) -> None:
    (project / "project" / "debug.yml").write_text("- hosts: all\n  gather_facts: false\n")
    with running(command("run", project, "-p", "waits.yml", "-i", "x", "-q"), project / "fifo") as job:
        job.kill(minder=True)
        assert [record.ident for record in underway.abandoned()] == ["x"]
        assert (job.record.artifact_dir / "status").read_text() == "running"
        next_one(project)
        wait_until(lambda: job.is_gone, bound=BOUND, what="the end of the job's processes")
        assert job.ending == LOST
        assert left_behind() == []
        assert underway.files() == []


def test_a_program_without_a_directory_of_its_own_leaves_none(demo: Path) -> None:
    os.mkfifo(demo / "fifo")
    with running([sys.executable, "-c", LIBRARY, demo / "fifo"], demo / "fifo") as job:
        assert any(path.name.startswith(".ansible-runner-") for path in left_behind())
        assert not job.record.stoppable
        job.kill()
        wait_until(lambda: job.is_gone and not job.record.file.exists(), bound=BOUND, what="the job's rescue")
        assert left_behind() == []


def test_a_generated_playbook_in_the_project_goes_too(project: Path) -> None:
    (project / "roles" / "waits" / "tasks").mkdir(parents=True)
    task = f"- ansible.builtin.command: cat {project / 'fifo'}\n"
    (project / "roles" / "waits" / "tasks" / "main.yml").write_text(task)
    argv = command("run", project, "-r", "waits", "--hosts", "one", "--role-skip-facts", "-i", "x", "-q")
    with running(argv, project / "fifo") as job:
        assert list((project / "project").glob(".ee_runner_*"))
        job.kill()
        wait_until(lambda: job.is_gone and not job.record.file.exists(), bound=BOUND, what="the job's rescue")
        assert job.ending == LOST
        assert list((project / "project").glob(".ee_runner_*")) == []


def test_a_job_that_has_ended_in_order_leaves_no_record(project: Path) -> None:
    with running(command("run", project, "-p", "waits.yml", "-i", "x", "-q"), project / "fifo") as job:
        (project / "fifo").write_text("go on")
        assert job.supervisor.wait(BOUND) == 0
        assert (job.record.artifact_dir / "status").read_text() == "successful"
        assert underway.files() == []
        assert left_behind() == []
