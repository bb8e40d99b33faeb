"""A container as the other end of a remote job: the engine's own command carries the stream."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.reference import ReferenceImage

RUNNER = [sys.executable, "-m", "ee_runner"]
IDENT = "inside"
BOUND = 120


def test_a_job_runs_in_a_container_that_is_given_nothing_but_the_stream(image: ReferenceImage, demo: Path) -> None:
    worker_argv = image.argv("-i", "--network", "none", command=("ansible-runner", "worker"))
    transmit_argv = [*RUNNER, "transmit", str(demo), "-p", "test.yml", "-i", IDENT, "--wire", "frames"]
    with (
        subprocess.Popen(transmit_argv, stdout=subprocess.PIPE) as transmit,
        subprocess.Popen(worker_argv, stdin=transmit.stdout, stdout=subprocess.PIPE) as worker,
    ):
        process = subprocess.run(
            [*RUNNER, "process", str(demo), "-i", IDENT], stdin=worker.stdout, capture_output=True, check=False
        )
        assert (transmit.wait(timeout=BOUND), worker.wait(timeout=BOUND)) == (0, 0), process.stderr
    artifacts = demo / "artifacts" / IDENT
    assert (process.returncode, process.stderr) == (0, b"")
    assert b"Test!" in process.stdout
    assert (artifacts / "status").read_text() == "successful"
    started = json.loads((artifacts / "command").read_text())
    assert started["cwd"].startswith("/tmp/.ansible-runner-")  # inside; no directory of this host was there
    assert not list(Path("/tmp").glob(f"{Path(started['cwd']).parent.name}*"))
