"""What the little programs share: the private data directory that they run on, and how they answer."""

from __future__ import annotations

import json
from pathlib import Path

HOSTS = """\
h1 ansible_connection=local
h2 ansible_connection=local

[all:vars]
ansible_python_interpreter="{{ ansible_playbook_python }}"
"""
PLAYS = """\
- hosts: h1
  gather_facts: false
  tasks:
    - name: greet
      debug:
        msg: hello
"""
# A task that lasts until the program lets it go, so that no process outlives a runner that does not end it.
LASTING = """\
- hosts: h1
  gather_facts: false
  tasks:
    - name: greet
      debug:
        msg: hello
    - name: last
      shell: until test -e {{ playbook_dir }}/../over; do sleep 0.1; done
    - name: never
      debug:
        msg: too late
"""


def private_data_dir(name: str, *, plays: str = PLAYS, files: dict[str, str] | None = None) -> str:
    """Make a private data directory below the working directory, with two hosts and the playbook `site.yml`."""
    place = Path(name).absolute()
    contents = {"inventory/hosts": HOSTS, "project/site.yml": plays, **(files or {})}
    for path, text in contents.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    return str(place)


def fresh() -> str:
    """Return a name for one more private data directory."""
    return f"pdd-{len(list(Path.cwd().iterdir()))}"


def over(private_data_dir: str) -> None:
    """Let the task of LASTING end."""
    Path(private_data_dir, "over").touch()


def disk(artifact_dir: str | Path) -> dict[str, str | None]:
    """Return what the artifacts say of the end of a job."""
    files = {name: Path(artifact_dir, name) for name in ("rc", "status")}
    return {name: path.read_text() if path.exists() else None for name, path in files.items()}


def answer(**document: object) -> None:
    """Print what was observed, as the last line of the output."""
    print("\n" + json.dumps(document, default=str), flush=True)
