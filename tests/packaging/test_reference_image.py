"""The reference image is built offline, and plays a private data directory as any user."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.reference import ReferenceImage


@pytest.mark.parametrize("options", [(), ("--user", "12345"), ("--user", "12345:12345")], ids=" ".join)
def test_it_plays_the_directory_at_runner_as_any_user(
    image: ReferenceImage, demo: Path, options: tuple[str, ...]
) -> None:
    done = image.run(*options, "-e", "RUNNER_PLAYBOOK=test.yml", "-v", f"{demo}:/runner")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: [localhost]" in done.stdout
    assert "Test!" in done.stdout
    (status,) = demo.glob("artifacts/*/status")
    assert status.read_text() == "successful"


def test_an_arbitrary_user_has_a_name_and_a_writable_home(image: ReferenceImage) -> None:
    done = image.run("--user", "12345", command=("sh", "-c", "id -un && touch ~/file && ssh -G localhost"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_serves_as_an_execution_environment(image: ReferenceImage) -> None:
    done = image.run(command=("ansible-playbook", "--version"))
    assert done.stdout.startswith("ansible-playbook [core 2."), done.stdout + done.stderr
