"""Remote jobs whose ends are of this package and of ansible-runner, in every mix: a program observes the same.

Each job is recorded once for each end that can write it, two requests and four results, and the results are processed
by both sides. What three ends of ansible-runner give is what all mixes have to give.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.engines.projects import INVENTORY
from tests.support import venvs
from tests.support.remote import MIXES, OURS, REQUIREMENTS, SIDES, THEIRS, Comparable, Done, Ends, Mix, tree

LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
SCRIPT = f"""\
#!/usr/bin/env python3
import json
print(json.dumps({{"all": {{"hosts": ["one"], "vars": {LOCAL}}}, "_meta": {{"hostvars": {{}}}}}}))
"""
PLAYBOOK = """\
- name: playbook
  hosts: all
  gather_facts: false
  tasks:
    - name: role
      include_role: {name: greeter}
    - name: read through a link
      command: cat '{{ playbook_dir }}/linked'
    - name: environment
      debug: {msg: "{{ lookup('env', 'GREETING') }}"}
    - name: empty
      command: rmdir '{{ playbook_dir }}/empty'
    - name: figures
      set_stats: {data: {figure: 3}}
"""
ROLE = """\
- name: in the role
  debug: {msg: "{{ greeting }} {{ word | default('none') }}"}
"""
FAILING = """\
- name: failing
  hosts: two
  gather_facts: false
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  tasks:
    - name: fails
      fail: {msg: on purpose}
"""
PROMPTING = """\
- name: prompting
  hosts: one
  gather_facts: false
  vars_prompt:
    - {name: word, prompt: The word please, private: false}
  tasks:
    - name: repeats
      debug: {msg: "{{ word }} {{ inventory_hostname }} {{ figure }}"}
"""


@dataclass(frozen=True, slots=True)
class Job:
    """The keywords and the directory of a job; with `shared` the worker has its files already."""

    keywords: Mapping[str, Any]
    files: Mapping[str, str]
    shared: bool = False


JOBS = {
    "playbook": Job(
        {
            "playbook": "site.yml",
            "extravars": {"word": "wört"},
            "envvars": {"GREETING": "hällo"},
            "settings": {"job_timeout": 100},
        },
        {
            "inventory/script": SCRIPT,
            "project/site.yml": PLAYBOOK,
            "project/größe.txt": "x\n",
            "project/roles/greeter/tasks/main.yml": ROLE,
            "env/extravars": "greeting: grüße\n",
        },
    ),
    "prompts": Job(
        {
            "playbook": "prompting.yml",
            "passwords": {"The word please: ?$": "wört"},
            "inventory": {"all": {"hosts": {"one": {"figure": 1}}, "vars": LOCAL}},
        },
        {"project/prompting.yml": PROMPTING},
    ),
    "module": Job(
        {
            "module": "command",
            "module_args": "echo ünder",
            "host_pattern": "one",
            "inventory": "inventory/hosts",
            "only_transmit_kwargs": True,
        },
        {"inventory/hosts": INVENTORY},
        shared=True,
    ),
    "role": Job(
        {
            "role": "greeter",
            "role_vars": {"word": "from the vars of the role"},
            "hosts": "one",
            "inventory": "inventory/hosts",
        },
        {"inventory/hosts": INVENTORY, "roles/greeter/tasks/main.yml": ROLE, "roles/greeter/vars/main.yml": "greeting: hi"},
    ),
    "failing": Job({"playbook": "failing.yml", "inventory": "one,two"}, {"project/failing.yml": FAILING}),
}
COMMANDS = ("failing",)
"""Jobs whose ends are the command; those of the others are programs that call the library."""


def directory(place: Path, files: Mapping[str, str]) -> Path:
    """Make a private data directory; it has an empty directory and a link, too."""
    for name, text in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    (place / "project/empty").mkdir(parents=True)
    (place / "project/linked").symlink_to("größe.txt")
    return place


@dataclass(frozen=True, slots=True)
class Recording:
    """One job in every mix: what each end wrote, and what its program was told."""

    ends: Ends
    job: Job
    root: Path
    requests: dict[str, Done] = field(default_factory=dict)
    results: dict[tuple[str, str], Done] = field(default_factory=dict)
    processed: dict[Mix, Done] = field(default_factory=dict)

    def source(self, transmit: str) -> Path:
        return self.root / f"source-{transmit}"

    def worked_in(self, transmit: str, worker: str) -> Path:
        return self.root / f"worker-{transmit}-{worker}"

    def processed_in(self, mix: Mix) -> Path:
        return self.root / f"process-{'-'.join(mix)}"

    def artifacts(self, mix: Mix) -> Path:
        return self.processed_in(mix) / "artifacts/job"

    def make(self) -> None:
        pairs = list(product(SIDES, repeat=2))
        with ThreadPoolExecutor(2) as pool:
            self.requests.update(zip(SIDES, pool.map(self.request, SIDES), strict=True))
            self.results.update(zip(pairs, pool.map(lambda pair: self.result(*pair), pairs), strict=True))
            self.processed.update(zip(MIXES, pool.map(self.process, MIXES), strict=True))

    def request(self, side: str) -> Done:
        place = directory(self.source(side), self.job.files)
        keywords = {"private_data_dir": str(place), "ident": "job", **self.job.keywords}
        return self.ends.library(side, "transmit", place.with_suffix(".json"), keywords)

    def result(self, transmit: str, worker: str) -> Done:
        place = self.worked_in(transmit, worker)
        if self.job.shared:
            shutil.copytree(self.source(transmit), place, symlinks=True)
        keywords = {"private_data_dir": str(place)}
        place.mkdir(exist_ok=True)
        stream = self.requests[transmit].output
        return self.ends.library(worker, "worker", place.with_suffix(".json"), keywords, stream)

    def process(self, mix: Mix) -> Done:
        place = self.processed_in(mix)
        place.mkdir()
        keywords = {"private_data_dir": str(place), "ident": "job"}
        return self.ends.library(mix[2], "process", place.with_suffix(".json"), keywords, self.results[mix[:2]].output)

    def observed(self, mix: Mix) -> Any:
        """Return what is known of the job at the processing end, without what differs between runs."""
        artifacts, report = self.artifacts(mix), self.processed[mix].report
        events = sorted((artifacts / "job_events").iterdir(), key=lambda path: int(path.name.split("-")[0]))
        document = {
            "told": [_comparable(*told) for told in report.get("told", ())],
            "status": report.get("status"),
            "events": [[path.name, json.loads(path.read_text())] for path in events],
            "artifacts": sorted(path.name for path in artifacts.iterdir()),
            "stdout": [line for line in (artifacts / "stdout").read_text().splitlines() if line],
            **{name: (artifacts / name).read_text() for name in ("rc", "status", "stderr")},
        }
        return Comparable(worker=self.worked_in(*mix[:2]), process=self.processed_in(mix)).of(document)


class OfCommands(Recording):
    """The same by the command: the worker has a temporary directory, and the results are processed without an ident."""

    def artifacts(self, mix: Mix) -> Path:
        return self.processed_in(mix) / "artifacts"

    def request(self, side: str) -> Done:
        place = directory(self.source(side), self.job.files)
        options = [word for name, value in self.job.keywords.items() for word in (f"--{name}", value)]
        return self.ends.command(side, "transmit", place, *options)

    def result(self, transmit: str, worker: str) -> Done:
        return self.ends.command(worker, "worker", stdin=self.requests[transmit].output)

    def process(self, mix: Mix) -> Done:
        return self.ends.command(mix[2], "process", self.processed_in(mix), stdin=self.results[mix[:2]].output)


def _comparable(kind: str, *what: Any) -> list[Any]:
    """Leave out how an end calls Ansible: where its own files are, what it sets in the environment."""
    if kind != "status":
        return [kind, *what]
    data, _command, cwd, _env = what
    return [kind, {**dict.fromkeys(data), "status": data["status"]}, cwd]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    peer = venvs.ensure(*REQUIREMENTS, scratch=tmp_path_factory.mktemp("checkout"))
    return Ends(peer, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module", params=JOBS)
def recording(request: pytest.FixtureRequest, ends: Ends, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    kind = OfCommands if request.param in COMMANDS else Recording
    made = kind(ends, JOBS[request.param], tmp_path_factory.mktemp(request.param))
    made.make()
    return made


@pytest.mark.parametrize("mix", MIXES, ids="|".join)
def test_every_mix_gives_the_same(recording: Recording, mix: Mix) -> None:
    assert recording.observed(mix) == recording.observed((THEIRS, THEIRS, THEIRS))
