"""Old artifacts are removed when a job has ended, as its options say: by keyword, by setting, on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import ee_runner

PLAY = "- hosts: one\n  gather_facts: false\n"


def make_older(artifacts: Path, *idents: str, hours: float) -> None:
    moment = time.time() - hours * 3600
    for ident in idents:
        os.utime(artifacts / ident / "status", (moment, moment))


def names(artifacts: Path) -> list[str]:
    return sorted(path.name for path in artifacts.iterdir())


def test_the_keyword_and_the_setting_of_the_age(demo: Path) -> None:
    (demo / "project/site.yml").write_text(PLAY)
    artifacts = demo / "artifacts"
    for ident in ("a", "b"):
        ee_runner.run(private_data_dir=demo, playbook="site.yml", ident=ident)
    make_older(artifacts, "a", hours=3)
    make_older(artifacts, "b", hours=1)
    ee_runner.run(private_data_dir=demo, playbook="site.yml", ident="c", rotate_artifacts_age="2h")
    assert names(artifacts) == ["b", "c"]
    (demo / "env").mkdir(exist_ok=True)
    (demo / "env/settings").write_text("rotate_artifacts_age: 30m\n")
    ee_runner.run(private_data_dir=demo, playbook="site.yml", ident="d")
    assert names(artifacts) == ["c", "d"]


def test_the_flag_of_the_size_and_an_age_without_a_unit(demo: Path) -> None:
    (demo / "project/site.yml").write_text(PLAY)
    artifacts = demo / "artifacts"
    argv = [sys.executable, "-m", "ee_runner", "run", str(demo), "-p", "site.yml", "-q", "-i"]
    for ident in ("a", "b"):
        subprocess.run([*argv, ident], check=True)
    (artifacts / "a" / "large").write_bytes(os.urandom(3_000_000))
    make_older(artifacts, "a", hours=1)
    subprocess.run([*argv, "c", "--rotate-artifacts-size", "2m"], check=True)
    assert names(artifacts) == ["b", "c"]
    refused = subprocess.run([*argv, "d", "--rotate-artifacts-age", "30"], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "a length of time with its unit" in refused.stderr
    assert names(artifacts) == ["b", "c"]
