"""The three ends of a remote job as commands: what each reads, writes and leaves, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import streams
from tests.support.processes import wait_until

RUNNER = Path(sys.executable).parent / "ansible-runner"
HOST = "localhost ansible_connection=local ansible_python_interpreter={{ansible_playbook_python}}\n"
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - debug: {msg: "{{ word | default('hello') }}"}
"""
SLOW = """
- hosts: all
  gather_facts: false
  tasks:
    - debug: {msg: begun}
    - command: sleep 60
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A private data directory."""
    files = {"project/site.yml": PLAY, "project/slow.yml": SLOW, "inventory/hosts": HOST, "env/extravars": "{}"}
    for name, text in files.items():
        (tmp_path / "job" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "job" / name).write_text(text)
    return tmp_path / "job"


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """The ends of this test have their temporary files and their state to themselves."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "EE_RUNNER_IMAGE"))}
    return {
        **kept,
        "PATH": f"{RUNNER.parent}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(tmp_path / "tmp"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


class Ends:
    """Runs the ends, one after another or at once."""

    def __init__(self, tmp_path: Path, environment: Mapping[str, str]) -> None:
        self.place, self.environment = tmp_path, environment

    def run(self, *argv: str | Path, given: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [RUNNER, *argv], input=given, capture_output=True, env=self.environment, cwd=cwd or self.place,
            timeout=120, check=False,
        )  # fmt: skip

    def start(self, *argv: str | Path, **more: Any) -> Any:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.Popen([RUNNER, *argv], env=self.environment, cwd=self.place, **pipes)

    def request(self, job: Path, *argv: str) -> bytes:
        done = self.run("transmit", job, *(argv or ("-p", "site.yml")))
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    @property
    def left(self) -> list[str]:
        """What the ends left among the temporary files; a module of Ansible's that is killed leaves its payload."""
        names = {path.name for path in (self.place / "tmp").iterdir()}
        return sorted(name for name in names if not name.startswith("ansible_ansible."))


@pytest.fixture
def ends(tmp_path: Path, environment: Mapping[str, str]) -> Iterator[Ends]:
    (tmp_path / "tmp").mkdir()
    ends = Ends(tmp_path, environment)
    yield ends
    assert ends.left == []


def records(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines() if line.startswith(b"{")]


def test_a_job_goes_out_and_its_results_come_back(ends: Ends, job: Path) -> None:
    results = ends.run("worker", given=ends.request(job, "-p", "site.yml", "-i", "x")).stdout
    done = ends.run("process", job, "-i", "x", given=results)
    assert done.returncode == 0
    assert b'"msg": "hello"' in done.stdout
    assert (job / "artifacts" / "x" / "status").read_text() == "successful"
    assert (job / "artifacts" / "x" / "stdout").read_bytes().split() == done.stdout.split()


@pytest.mark.parametrize("form", ["lines", "frames"])
def test_a_failed_job_is_the_exit_code_of_worker_and_process(ends: Ends, job: Path, form: str) -> None:
    (job / "project" / "site.yml").write_text("- hosts: all\n  gather_facts: false\n  tasks: [fail: ]\n")
    worked = ends.run("worker", given=ends.request(job, "-p", "site.yml", "--wire", form))
    done = ends.run("process", job, "-q", given=worked.stdout)
    assert (worked.returncode, done.returncode, done.stdout) == (2, 2, b"")


def test_a_worker_leaves_what_was_sent_and_the_artifacts(ends: Ends, job: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (job / "empty").mkdir()
    ends.run("worker", "--private-data-dir", kept, given=ends.request(job, "-p", "site.yml", "-i", "x"))
    top = {path.name for path in kept.iterdir()}
    assert top == {"project", "inventory", "env", "empty", "artifacts"}
    assert {path.name for path in (kept / "artifacts").iterdir()} == {"x"}
    assert kept.stat().st_mode & 0o777 == 0o700


def test_delete_empties_the_directory_before_and_removes_it_after(ends: Ends, job: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "project").mkdir(parents=True)
    (kept / "project" / "site.yml").write_text("an older job's")
    done = ends.run("worker", "--private-data-dir", kept, "--delete", given=ends.request(job))
    assert done.returncode == 0
    assert not kept.exists()


@pytest.mark.parametrize("precious", ["/", "~", "."])
def test_delete_is_refused_where_it_would_do_harm(ends: Ends, job: Path, precious: str) -> None:
    directory = os.path.expanduser(precious)  # noqa: PTH111
    done = ends.run("worker", "--private-data-dir", directory, "--delete", given=ends.request(job))
    assert done.returncode == 78
    assert "is not emptied" in records(done.stdout)[0]["job_explanation"]


def test_two_workers_do_not_empty_each_others_directory(ends: Ends, job: Path, tmp_path: Path) -> None:
    own = ("worker", "--private-data-dir", tmp_path / "kept", "--delete")
    first = ends.start(*own)
    first.stdin.write(ends.request(job, "-p", "slow.yml"))
    first.stdin.close()
    while b"begun" not in first.stdout.readline():
        pass
    second = ends.run(*own, given=ends.request(job))
    assert second.returncode == 78
    assert "Another worker works in" in records(second.stdout)[0]["job_explanation"]
    first.send_signal(signal.SIGTERM)
    rest = first.stdout.read()
    assert b'"status":"canceled"' in rest
    assert first.wait(30) == 254
    first.stdout.close()
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (b"", 76, "not one byte came"),
        (b"garbage\n", 76, "beginning with 'garbage'"),
        (streams.older({"eof": True}), 76, "there is no request before it"),
        (streams.older({"status": "running"}, {"eof": True}), 76, "status is no record of a request"),
        (streams.older({"kwargs": {"playbok": "x"}}, {"eof": True}), 78, "did you mean 'playbook'?"),
        (streams.older({"kwargs": {"playbook": "x.yml"}}, {"eof": True}), 78, "there is no playbook"),
        (streams.older({"kwargs": {"playbook": "x.yml"}}, b"no zip at all"), 76, "archive"),
        (
            streams.older({"kwargs": {"playbook": "x.yml"}}) + b'{"zipfile": 100}\nUEsD',
            76,
            "in the middle of an archive",
        ),
    ],
)
def test_a_request_that_can_not_be_run_is_answered_with_the_reason(
    ends: Ends, given: bytes, code: int, words: str
) -> None:
    done = ends.run("worker", given=given)
    said = records(done.stdout)
    assert [said[0]["status"], said[-1]["eof"]] == ["error", True]
    assert words in said[0]["job_explanation"]
    assert done.returncode == code
    assert b"Traceback" not in done.stderr


def test_process_says_why_there_was_no_job_and_ends_with_its_exit_code(ends: Ends, job: Path) -> None:
    request = ends.request(job).replace(b'"site.yml"', b'"none.yml"')
    results = ends.run("worker", given=request).stdout
    done = ends.run("process", job, given=results)
    assert done.returncode == 76  # the seal of the request does not fit any more
    plain = streams.older({"kwargs": {"playbook": "none.yml"}}, {"eof": True})
    done = ends.run("process", job, given=ends.run("worker", given=plain).stdout)
    assert b"there is no playbook" in done.stderr
    assert done.returncode == 78


def test_keepalives_fill_the_silence_into_a_pipe(ends: Ends, job: Path) -> None:
    (job / "project" / "site.yml").write_text("- hosts: all\n  gather_facts: false\n  tasks: [command: sleep 3]\n")
    done = ends.run("worker", "--keepalive-seconds", "1", given=ends.request(job))
    plain = [each for each in records(done.stdout) if each.get("event") == "keepalive" and "ee_runner" not in each]
    assert plain
    assert plain[0] == {"event": "keepalive", "counter": 0, "uuid": 0}
    assert records(done.stdout)[0]["ee_runner"]["keepalive"] == 1


def test_keepalives_are_on_into_a_pipe_and_off_into_a_file(ends: Ends, job: Path, tmp_path: Path) -> None:
    request = ends.request(job)
    assert records(ends.run("worker", given=request).stdout)[0]["ee_runner"]["keepalive"] == 10
    with (tmp_path / "results").open("wb") as results:
        worker = ends.start("worker", stdout=results)
        worker.communicate(request)
    assert records((tmp_path / "results").read_bytes())[0]["ee_runner"]["keepalive"] is None


def test_a_worker_that_falls_silent_is_lost(ends: Ends, job: Path) -> None:
    process = ends.start("process", job, "--stream-timeout", "1")
    process.stdin.write(streams.own(streams.STARTING, streams.RUNNING))
    process.stdin.flush()
    assert process.wait(30) == 76
    assert b"Nothing came over the stream for 1 seconds" in process.stderr.read()
    assert (job / "artifacts" / "status").read_text() == "error"
    for file in (process.stdin, process.stdout, process.stderr):
        file.close()


def test_a_reader_that_goes_ends_the_job_at_once(ends: Ends, job: Path) -> None:
    worker = ends.start("worker", "--keepalive-seconds", "0")
    worker.stdin.write(ends.request(job, "-p", "slow.yml"))
    worker.stdin.close()
    while b"begun" not in worker.stdout.readline():
        pass
    began = time.monotonic()
    worker.stdout.close()
    assert worker.wait(30) == 76
    assert time.monotonic() - began < 20
    assert b"Nobody reads the results any more" in worker.stderr.read()
    worker.stderr.close()


def test_a_durable_job_goes_on_and_its_results_are_taken_up_again(ends: Ends, job: Path) -> None:
    (job / "project" / "site.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  tasks: [debug: {msg: begun}, command: sleep 2, debug: {msg: ended}]\n"
    )
    worker = ends.start("worker", "--durable")
    worker.stdin.write(ends.request(job, "-p", "site.yml", "-i", "x"))
    worker.stdin.close()
    read = b""
    while b"begun" not in read:
        read += worker.stdout.readline()
    worker.stdout.close()
    first = ends.run("process", job, "-i", "x", given=read)
    assert first.returncode == 76
    assert b"ansible-runner worker --attach IDENT" in first.stderr
    attached = ends.run("worker", "--attach", "x")
    assert worker.wait(30) == 0
    worker.stderr.close()
    second = ends.run("process", job, "-i", "x", "--resume", given=attached.stdout)
    assert second.returncode == 0
    shown = first.stdout + second.stdout
    assert [shown.count(word) for word in (b'"msg": "begun"', b'"msg": "ended"', b"PLAY RECAP")] == [1, 1, 1]
    assert (job / "artifacts" / "x" / "status").read_text() == "successful"
    assert ends.run("worker", "--attach", "x").stdout == attached.stdout
    unknown = ends.run("worker", "--attach", "y")
    assert unknown.returncode == 78
    assert b"no journal of 'y'" in unknown.stderr


def test_a_project_that_is_sent_again_costs_what_changed(ends: Ends, job: Path) -> None:
    (job / "project" / "large").write_bytes(os.urandom(1 << 20))
    (job / "env" / "passwords").write_text("nobody asks: SESAME\n")
    sizes, codes = [], []
    for _ in range(2):
        request = ends.request(job, "-p", "site.yml", "--cache", "known")
        sizes.append(len(request))
        results = ends.run("worker", "--cache", "kept", given=request).stdout
        codes.append(ends.run("process", job, "-q", "--cache", "known", given=results).returncode)
    assert codes == [0, 0]
    kept = [path.read_bytes() for path in (ends.place / "kept").rglob("*") if path.is_file()]
    assert not any(b"SESAME" in content for content in kept)
    assert sizes[0] > 1 << 20
    assert sizes[1] < 10_000


def test_a_cache_that_was_lost_is_told_and_filled_anew(ends: Ends, job: Path) -> None:
    def once(cache: str) -> subprocess.CompletedProcess[bytes]:
        request = ends.request(job, "-p", "site.yml", "--cache", "known")
        results = ends.run("worker", "--cache", cache, given=request).stdout
        return ends.run("process", job, "-q", "--cache", "known", given=results)

    assert once("kept").returncode == 0
    lost = once("another")
    assert lost.returncode == 76
    assert b"The cache lacks" in lost.stderr
    assert once("another").returncode == 0


def test_a_link_that_leads_out_is_refused_unless_the_worker_allows_it(ends: Ends, job: Path) -> None:
    (job / "project" / "out").symlink_to("/etc/hostname")
    request = ends.request(job)
    refused = ends.run("worker", given=request)
    assert refused.returncode == 76
    assert "project/out" in records(refused.stdout)[1]["job_explanation"]
    assert ends.run("worker", "--allow-outside-links", given=request).returncode == 0


def test_what_can_not_be_sent_is_told(ends: Ends, job: Path) -> None:
    os.mkfifo(job / "project" / "pipe")
    done = ends.run("transmit", job, "-p", "site.yml")
    assert done.returncode == 0
    assert b"project/pipe is not sent" in done.stderr


def test_secrets_of_the_caller_travel_and_stay_off_the_workers_disk(ends: Ends, job: Path, tmp_path: Path) -> None:
    program = (
        "import sys, ee_runner\n"
        f"ee_runner.run(streamer='transmit', private_data_dir={str(job)!r}, playbook='site.yml', ident='x',\n"
        "    passwords={'nobody asks': 'SESAME'}, extravars={'word': 'open'}, envvars={'MY_TOKEN': 'SESAME'})\n"
    )
    sent = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=ends.environment, check=True, timeout=60
    )
    kept = tmp_path / "kept"
    results = ends.run("worker", "--private-data-dir", kept, given=sent.stdout).stdout
    done = ends.run("process", job, given=results)
    assert b'"msg": "open"' in done.stdout
    found = [path for path in (*kept.rglob("*"), *job.rglob("*")) if path.is_file() and b"SESAME" in path.read_bytes()]
    assert found == []
    assert b"SESAME" not in results


@pytest.mark.parametrize("end", ["transmit", "worker", "process"])
def test_a_terminal_is_no_stream(ends: Ends, job: Path, end: str) -> None:
    ours, theirs = pty.openpty()
    where = {"stdout": theirs} if end == "transmit" else {"stdin": theirs}
    arguments = {"transmit": (job, "-p", "site.yml"), "worker": (), "process": (job,)}[end]
    started = ends.start(end, *arguments, **where)
    _, said = started.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert started.returncode == 78
    assert b"which is a terminal here; connect it with" in said


def test_transmit_says_that_its_reader_has_gone(ends: Ends, job: Path) -> None:
    (job / "project" / "large").write_bytes(os.urandom(1 << 20))
    started = ends.start("transmit", job, "-p", "site.yml")
    started.stdout.close()
    assert started.wait(30) == 76
    assert b"Nobody reads the stream any more" in started.stderr.read()
    started.stdin.close()
    started.stderr.close()


def test_worker_info_and_cleanup_are_part_of_the_worker(ends: Ends, tmp_path: Path) -> None:
    info = ends.run("worker", "--worker-info")
    assert info.returncode == 0
    assert info.stdout.startswith(b"{cpu_count: ")
    (tmp_path / "old-1").mkdir()
    done = ends.run("worker", "cleanup", "--file-pattern", f"{tmp_path}/old-*", "--grace-period", "0")
    assert done.returncode == 0
    assert not (tmp_path / "old-1").exists()
    assert done.stdout.splitlines()[-1] == b"(changed: True)"


def test_cleanup_passes_over_the_directory_of_a_worker_that_works(ends: Ends, job: Path, tmp_path: Path) -> None:
    worker = ends.start("worker", "--private-data-dir", tmp_path / "busy-1")
    wait_until((tmp_path / "busy-1").exists, bound=30, what="the worker's directory")
    clean = ("worker", "cleanup", "--file-pattern", f"{tmp_path}/busy-*", "--grace-period", "0")
    ends.run(*clean)
    assert (tmp_path / "busy-1").exists()
    worker.communicate(ends.request(job))
    assert worker.returncode == 0
    ends.run(*clean)
    assert not (tmp_path / "busy-1").exists()
