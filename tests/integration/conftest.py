"""What whole runs with the host's own Ansible need."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.engines.projects import private_data_dir


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private data directory, and an environment in which the Ansible beside this interpreter is found."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name, text in private_data_dir().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path
