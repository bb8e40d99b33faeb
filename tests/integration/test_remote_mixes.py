"""Remote jobs whose ends are of this package and of ansible-runner, in every mix: a program observes the same.

Each job is recorded once for each end that can write it, two requests and four results, and the results are processed
by both. What three ends of ansible-runner give is what all mixes have to give.
"""

from __future__ import annotations

import json
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

PYTHON = "{{ ansible_playbook_python }}"
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": PYTHON}
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
      stat: {path: "{{ playbook_dir }}/empty"}
      register: empty
      failed_when: not empty.stat.isdir
    - name: figures
      set_stats: {data: {figure: 3}}
"""
ROLE = """\
- name: in the role
  debug: {msg: "{{ greeting }} {{ word | default('none') }}"}
"""
FAILING = """\
- name: failing
  hosts: one
  gather_facts: false
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
FILES = {
    "inventory/hosts": INVENTORY,
    "project/failing.yml": FAILING,
    "project/prompting.yml": PROMPTING,
    "project/größe.txt": "x\n",
    "roles/greeter/tasks/main.yml": ROLE,
    "roles/greeter/defaults/main.yml": "greeting: hello\n",
}


@dataclass(frozen=True, slots=True)
class Job:
    """What the three ends are given; `shared` is a job whose files are at the worker already."""

    transmit: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=lambda: FILES)
    shared: bool = False


JOBS = {
    "playbook": Job(
        {
            "playbook": "site.yml",
            "extravars": {"word": "wört"},
            "envvars": {"GREETING": "hällo"},
            "settings": {"job_timeout": 100},
        },
        files={
            "inventory/script": SCRIPT,
            "project/site.yml": PLAYBOOK,
            "project/größe.txt": "x\n",
            "project/roles/greeter/tasks/main.yml": ROLE,
            "env/extravars": "greeting: grüße\n",
        },
    ),
    "failing playbook": Job({"playbook": "failing.yml"}),
    "prompts": Job(
        {
            "playbook": "prompting.yml",
            "passwords": {"The word please: ?$": "wört"},
            "inventory": {"all": {"hosts": {"one": {"figure": 1}}, "vars": LOCAL}},
        }
    ),
    "module": Job(
        {
            "module": "command",
            "module_args": "echo ünder",
            "host_pattern": "all",
            "inventory": "localhost,",
            "only_transmit_kwargs": True,
        },
        shared=True,
    ),
    "role": Job(
        {
            "role": "greeter",
            "role_vars": {"word": "from the role's vars"},
            "hosts": "one",
            "inventory": "inventory/hosts",
        }
    ),
}


def directory(place: Path, files: Mapping[str, str]) -> Path:
    """Make a private data directory of all that is not a plain file, too."""
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

    job: Job
    root: Path
    requests: dict[str, Done] = field(default_factory=dict)
    results: dict[tuple[str, str], Done] = field(default_factory=dict)
    processed: dict[Mix, Done] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return self.root / "source"

    def worked_in(self, transmit: str, worker: str) -> Path:
        return self.root / f"worker-{transmit}-{worker}"

    def processed_in(self, mix: Mix) -> Path:
        return self.root / f"process-{'-'.join(mix)}"

    def make(self, ends: Ends) -> None:
        directory(self.source, self.job.files)
        with ThreadPoolExecutor(2) as pool:
            self.requests.update(zip(SIDES, pool.map(lambda side: self._request(ends, side), SIDES), strict=True))
            pairs = list(product(SIDES, repeat=2))
            self.results.update(zip(pairs, pool.map(lambda pair: self._result(ends, *pair), pairs), strict=True))
            self.processed.update(zip(MIXES, pool.map(lambda mix: self._process(ends, mix), MIXES), strict=True))

    def _request(self, ends: Ends, side: str) -> Done:
        keywords = {"private_data_dir": str(self.source), "ident": "job", **self.job.transmit}
        return ends.library(side, "transmit", self.root / f"{side}.json", keywords)

    def _result(self, ends: Ends, transmit: str, worker: str) -> Done:
        place = self.worked_in(transmit, worker)
        if self.job.shared:
            shutil.copytree(self.source, place, symlinks=True)
        else:
            place.mkdir()
        keywords = {"private_data_dir": str(place)}
        stream = self.requests[transmit].output
        return ends.library(worker, "worker", place.with_suffix(".json"), keywords, stream)

    def _process(self, ends: Ends, mix: Mix) -> Done:
        place = self.processed_in(mix)
        place.mkdir()
        keywords = {"private_data_dir": str(place), "ident": "job"}
        return ends.library(mix[2], "process", place.with_suffix(".json"), keywords, self.results[mix[:2]].output)

    def observed(self, mix: Mix) -> dict[str, Any]:
        """Return what the program at the processing end knows of the job, without what differs between runs."""
        place = self.processed_in(mix)
        comparable = Comparable(worker=self.worked_in(*mix[:2]), process=place)
        report = self.processed[mix].report
        artifacts = place / "artifacts/job"
        events = sorted((artifacts / "job_events").iterdir(), key=lambda path: int(path.name.split("-")[0]))
        return comparable.of(
            {
                "told": [_without_command(told) for told in report["told"]],
                "status": report["status"],
                "events": [[path.name, json.loads(path.read_text())] for path in events],
                "artifacts": sorted(path.name for path in artifacts.iterdir()),
                "stdout": _plain((artifacts / "stdout").read_text()),
                **{name: (artifacts / name).read_text() for name in ("rc", "status", "stderr")},
            }
        )


def _without_command(told: list[Any]) -> list[Any]:
    """Leave out of `starting` where an end keeps its own files, and how it sets Ansible's environment up."""
    if told[0] != "status":
        return told
    _, data, command, cwd, env = told
    return [*told[:1], {**dict.fromkeys(data), "status": data["status"]}, cwd]


def _plain(stdout: str) -> str:
    """Return the output without line ends of a terminal, and without the empty line at Ansible's end."""
    return stdout.replace("\r", "").rstrip("\n")


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    return Ends(venvs.ensure(*REQUIREMENTS, scratch=tmp_path_factory.mktemp("checkout")), tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module", params=JOBS)
def recording(request: pytest.FixtureRequest, ends: Ends, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    made = Recording(JOBS[request.param], tmp_path_factory.mktemp("mixes"))
    made.make(ends)
    return made


@pytest.mark.parametrize("mix", MIXES, ids="|".join)
def test_every_mix_gives_the_same(recording: Recording, mix: Mix) -> None:
    assert recording.observed(mix) == recording.observed((THEIRS, THEIRS, THEIRS))
