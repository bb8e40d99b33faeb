"""Remote jobs whose ends are of this package and of ansible-runner, in every mix: a program observes the same.

Each job is recorded once for each end that can write it, two requests and four results, and the results are processed
by both sides. What three ends of ansible-runner give is what all mixes have to give.
"""

from __future__ import annotations

import json
import os
import re
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
      command: test -d '{{ playbook_dir }}/empty'
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
NAMES = """\
- name: names
  hosts: all
  gather_facts: false
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  tasks:
    - name: reads what has no name in UTF-8
      shell: cat '{{ playbook_dir }}'/[!a-z]*
      register: found
      changed_when: false
    - name: says it
      debug: {msg: "{{ inventory_hostname }} {{ found.stdout }}"}
"""
OTHER = "- debug: {msg: other}\n"


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
            "inventory": "hosts",
            "only_transmit_kwargs": True,
        },
        {"inventory/hosts": INVENTORY},
        shared=True,
    ),
    "role": Job(
        {
            "role": "greeter",
            "role_vars": {"word": "from the vars of the role"},
            "role_skip_facts": True,
            "hosts": "one",
            "inventory": INVENTORY,
        },
        {"project/roles/greeter/tasks/main.yml": ROLE, "project/roles/greeter/vars/main.yml": "greeting: hi"},
    ),
    "failing": Job({"playbook": "failing.yml"}, {"project/failing.yml": FAILING, "inventory/hosts": INVENTORY}),
}
COMMANDS = ("failing",)
"""Jobs whose ends are the command; those of the others are programs that call the library."""


_PLAYS = re.compile(r"(?:<worker>/project/)?(?:main\.json|\.ee_runner_[0-9a-f]+\.yml)")
"""A play that is no file of the project is put into one, which has a name of its own on each side."""


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
        """The directory as it was sent; it is elsewhere then, as if on another host."""
        return self.root / f"sent-{transmit}"

    def worked_in(self, transmit: str, worker: str) -> Path:
        return self.root / f"worker-{transmit}-{worker}"

    def processed_in(self, mix: Mix) -> Path:
        return self.root / f"process-{'-'.join(mix)}"

    def artifacts(self, mix: Mix) -> Path:
        return self.processed_in(mix) / "artifacts/job"

    def make(self) -> None:
        pairs = list(product(SIDES, SIDES))
        with ThreadPoolExecutor(2) as pool:
            self.requests.update(zip(SIDES, pool.map(self.request, SIDES), strict=True))
            self.results.update(zip(pairs, pool.map(lambda pair: self.result(*pair), pairs), strict=True))
            self.processed.update(zip(MIXES, pool.map(self.process, MIXES), strict=True))

    def request(self, side: str) -> Done:
        place = directory(self.root / side, self.job.files)
        done = self.transmit(side, place)
        place.rename(self.source(side))
        return done

    def transmit(self, side: str, place: Path) -> Done:
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
        observed = Comparable(worker=self.worked_in(*mix[:2]), process=self.processed_in(mix)).of(document)
        return json.loads(_PLAYS.sub("<play>", json.dumps(observed)))


class OfCommands(Recording):
    """The same by the command: the worker has a temporary directory, and the results are processed without an ident."""

    def worked_in(self, transmit: str, worker: str) -> Path:
        lines = self.results[transmit, worker].output.splitlines()
        return Path(next(json.loads(line)["cwd"] for line in lines if b'"starting"' in line)).parent

    def artifacts(self, mix: Mix) -> Path:
        return self.processed_in(mix) / "artifacts"

    def transmit(self, side: str, place: Path) -> Done:
        return self.ends.command(side, "transmit", place, "--playbook", self.job.keywords["playbook"], "--ident", "job")

    def result(self, transmit: str, worker: str) -> Done:
        return self.ends.command(worker, "worker", stdin=self.requests[transmit].output)

    def process(self, mix: Mix) -> Done:
        return self.ends.command(mix[2], "process", self.processed_in(mix), stdin=self.results[mix[:2]].output)


def _comparable(kind: str, *what: Any) -> list[Any]:
    """Leave out how an end calls Ansible: where its own files are, what it sets in the environment, where it runs."""
    if kind != "status":
        return [kind, *what]
    data, _command, cwd, _env = what
    return [kind, {**dict.fromkeys(data), "status": data["status"]}, cwd.removesuffix("/project")]


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


def test_an_end_of_ours_ends_as_the_job_does(recording: Recording) -> None:
    for mix, done in recording.processed.items():
        rc = int((recording.artifacts(mix) / "rc").read_text())
        if isinstance(recording, OfCommands):
            assert (rc, recording.results[mix[:2]].rc, done.rc) == (2, 2, 2 if mix[2] == OURS else 0)
        else:
            assert (rc, done.report["rc"]) == (0, 0 if mix[2] == OURS else None)


def test_our_ends_have_nothing_to_complain_of(recording: Recording) -> None:
    ours = [recording.requests[OURS]]
    ours += [done for pair, done in recording.results.items() if pair[1] == OURS]
    ours += [done for mix, done in recording.processed.items() if mix[2] == OURS]
    assert {done.errors for done in ours} == {""}


def test_what_our_ends_write_is_for_the_user_alone(recording: Recording) -> None:
    for transmit in SIDES:
        for name, found in tree(recording.processed_in((transmit, OURS, OURS))).items():
            assert found.split()[:2] in (["directory", "700"], ["file", "600"]), name


def test_our_worker_has_what_was_sent_and_the_artifacts_and_nothing_else(recording: Recording) -> None:
    for transmit in SIDES:
        place = recording.worked_in(transmit, OURS)
        if isinstance(recording, OfCommands):
            assert not place.exists()
            continue
        sent, found = tree(recording.source(transmit)), tree(place)
        unsent = {name for name in found if name not in sent and name.split("/")[0] != "artifacts"}
        assert unsent <= {"inventory", "inventory/.ee_runner_hosts", "inventory/.ee_runner_hosts.json"}
        assert {name: found.get(name) for name in sent} == sent


def carried(ends: Ends, place: Path, worker: str, keywords: Mapping[str, Any]) -> Done:
    """Send a job with our end, have it done where nothing else is, and process it with our end."""
    (place / "worker").mkdir(parents=True)
    request = ends.library(OURS, "transmit", place / "1.json", {"ident": "job", **keywords})
    result = ends.library(
        worker, "worker", place / "2.json", {"private_data_dir": str(place / "worker")}, request.output
    )
    return ends.library(OURS, "process", place / "3.json", {"private_data_dir": str(place)}, result.output)


def shown(done: Done) -> list[str]:
    events = [told[1] for told in done.report["told"] if told[0] == "event"]
    results = [event["event_data"] for event in events if event["event"] == "runner_on_ok"]
    return [result["res"]["msg"] for result in results if result["task_action"] == "debug"]


def test_our_ends_carry_names_and_inventories_that_ansible_runner_fails_on(ends: Ends, tmp_path: Path) -> None:
    source = directory(tmp_path / "source", {"project/site.yml": NAMES})
    (source / os.fsdecode(b"project/\xff")).write_text("found")
    keywords = {"private_data_dir": str(source), "playbook": "site.yml", "ident": "job"}
    assert "UnicodeEncodeError" in ends.library(THEIRS, "transmit", tmp_path / "no", keywords).errors
    done = carried(ends, tmp_path / "1", OURS, {**keywords, "inventory": ["one,two", "three,"]})
    assert (sorted(shown(done)), done.errors) == (["one found", "three found", "two found"], "")


@pytest.mark.parametrize("worker", SIDES)
def test_hosts_and_roles_of_a_request_of_ours_are_found_by_either_worker(
    ends: Ends, tmp_path: Path, worker: str
) -> None:
    source = directory(
        tmp_path / "source",
        {
            "roles/greeter/tasks/main.yml": ROLE,
            "roles/greeter/meta/main.yml": "dependencies: [other]\n",
            "more/other/tasks/main.yml": OTHER,
        },
    )
    keywords = {
        "private_data_dir": str(source),
        "role": "greeter",
        "role_vars": {"greeting": "hi"},
        "role_skip_facts": True,
        "roles_path": str(source / "more"),
        "inventory": "one,two",
        "extravars": LOCAL,
    }
    done = carried(ends, tmp_path / worker, worker, keywords)
    assert (shown(done), done.errors) == (["other", "other", "hi none", "hi none"], "")


def test_paths_of_a_request_without_files_are_those_of_the_worker(ends: Ends, tmp_path: Path) -> None:
    source = directory(tmp_path / "source", {"project/site.yml": NAMES, "inventory/hosts": INVENTORY})
    keywords = {
        "private_data_dir": str(source),
        "playbook": str(source / "project/site.yml"),
        "inventory": str(source / "inventory/hosts"),
        "only_transmit_kwargs": True,
    }
    for side in SIDES:
        (kwargs,) = (
            json.loads(line)["kwargs"]
            for line in ends.library(side, "transmit", tmp_path / side, keywords).output.splitlines()
            if b'"kwargs"' in line
        )
        assert (kwargs["playbook"], kwargs["inventory"]) == ("site.yml", "inventory/hosts")
