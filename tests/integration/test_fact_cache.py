"""The fact cache with a real ansible: what it writes is read, what is written it sees.

EE_TEST_ANSIBLE_BIN names the bin directory of another ansible to try than the one of the running interpreter.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import ee_runner
from ee_runner.facts import read_facts, write_facts
from tests.integration.test_callback import BIN, environment

HOSTS = [
    "localhost",
    "host with spaces",
    "žluťoučký-kůň🐎",
    ".hidden",
    "a\\b",
    "s1_looks-like-a-schema",
    "web..1",
    "a-name..longer-than-the-short-hash",
    "<x>",
    "a|b",
]
PASSWORD = "correct horse"
EVERY_KIND = """\
plain: abc
word: {"žluť": ["kůň 🐎", {"b": "{{ 'x' * 2 }}"}]}
number: 3
fraction: 1.5
truth: true
nothing: null
raw: !unsafe "{{ not_a_template }}"
day: 2024-01-02
moment: 2024-01-02 03:04:05
"""


class Place:
    """A fact cache, and plays on it."""

    def __init__(self, scratch: Path, **variables: str) -> None:
        self.scratch = scratch
        self.cache = scratch / "fact_cache"
        self.cache.mkdir(mode=0o700)
        (scratch / "password").write_text(PASSWORD)
        self.variables = environment(
            ANSIBLE_CACHE_PLUGIN="jsonfile",
            ANSIBLE_CACHE_PLUGIN_CONNECTION=str(self.cache),
            ANSIBLE_VAULT_PASSWORD_FILE=str(scratch / "password"),
            **variables,
        )

    def run(self, program: str, *arguments: str, feed: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / program), *arguments],
            env=self.variables,
            cwd=self.scratch,
            input=feed,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def play(self, *tasks: str, hosts: list[str] | None = None, gather: str = "false") -> str:
        """Play tasks, given as YAML, on local hosts; what Ansible said, which must be nothing bad."""
        said = self.attempt(*tasks, hosts=hosts or ["localhost"], gather=gather)
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout

    def attempt(self, *tasks: str, hosts: list[str], gather: str = "false") -> subprocess.CompletedProcess[str]:
        interpreter = self.variables["ANSIBLE_PYTHON_INTERPRETER"]
        variables = {"ansible_connection": "local", "ansible_python_interpreter": interpreter}
        inventory = {"all": {"hosts": {host: {} for host in hosts}, "vars": variables}}
        (self.scratch / "inventory.yml").write_text(json.dumps(inventory))
        head = f"- hosts: all\n  gather_facts: {gather}\n  gather_subset: ['!all', '!min', date_time]\n  tasks:\n"
        (self.scratch / "play.yml").write_text(head + "".join(f"  - {task}\n" for task in tasks))
        return self.run("ansible-playbook", "-i", "inventory.yml", "play.yml")

    def seen(self, hosts: list[str] | None = None) -> dict[str, Any]:
        """What a play that gathers nothing finds in `ansible_facts` of each host."""
        said = self.play(
            'ansible.builtin.debug: {msg: "{{ [inventory_hostname, ansible_facts] | to_json | b64encode }}"}',
            hosts=hosts,
        )
        found = re.findall(r'"msg": "([A-Za-z0-9+/=]+)"', said)
        return dict(json.loads(base64.b64decode(text)) for text in found)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def set_facts(facts: str) -> str:
    """The task that sets facts, given as YAML, and caches them."""
    return "ansible.builtin.set_fact:\n" + "".join(
        f"      {line}\n" for line in f"cacheable: true\n{facts}".splitlines()
    )


def version() -> tuple[int, ...]:
    said = subprocess.run([BIN / "ansible", "--version"], env=environment(), capture_output=True, text=True, check=True)
    found = re.search(r"core (\d+)\.(\d+)", said.stdout)
    assert found is not None
    return tuple(map(int, found.groups()))


def test_gathered_facts_are_read(place: Place) -> None:
    place.play(gather="true")
    facts = read_facts(place.cache, "localhost")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", facts["ansible_date_time"]["date"])
    assert read_facts(place.cache, "another") == {}


def test_cached_values_of_every_kind_are_plain_data(place: Place) -> None:
    place.play(set_facts(EVERY_KIND))
    facts = read_facts(place.cache, "localhost")
    assert facts == {
        "plain": "abc",
        "word": {"žluť": ["kůň 🐎", {"b": "xx"}]},
        "number": 3,
        "fraction": 1.5,
        "truth": True,
        "nothing": None,
        "raw": "{{ not_a_template }}",
        "day": "2024-01-02",
        "moment": "2024-01-02T03:04:05",
    }


def test_written_facts_are_seen_without_gathering(place: Place) -> None:
    facts = {"x": 1, "žluť": ["kůň 🐎", {"deep": [True, None, 1.5]}], "text": "{{ 1 + 1 }}", "ansible_y": "short"}
    write_facts(place.cache, "localhost", facts)
    seen = place.seen()["localhost"]
    assert seen.pop("y", seen.pop("ansible_y", None)) == "short"
    assert seen == {name: value for name, value in facts.items() if name != "ansible_y"}
    assert read_facts(place.cache, "localhost") == facts


def test_hosts_of_every_name_are_read_and_written(place: Place) -> None:
    for host in HOSTS:
        write_facts(place.cache, host, {"written": host})
    assert place.seen(HOSTS) == {host: {"written": host} for host in HOSTS}
    place.play(set_facts('added: "{{ inventory_hostname }}"'), hosts=HOSTS)
    for host in HOSTS:
        assert read_facts(place.cache, host) == {"written": host, "added": host}


def test_a_host_with_a_slash_is_cached_where_ansible_can(place: Place) -> None:
    write_facts(place.cache, "a/b", {"written": 1})
    place.attempt(set_facts("added: 2"), hosts=["a/b"])
    expected = {"written": 1, "added": 2} if version() >= (2, 21) else {"written": 1}
    assert read_facts(place.cache, "a/b") == expected


def test_what_was_written_last_is_read_and_seen(place: Place) -> None:
    write_facts(place.cache, "localhost", {"x": "written", "kept": 1})
    place.play(set_facts("x: played"))
    assert read_facts(place.cache, "localhost") == {"x": "played", "kept": 1}
    write_facts(place.cache, "localhost", {"x": "written again"})
    assert read_facts(place.cache, "localhost") == {"x": "written again"}
    assert place.seen()["localhost"] == {"x": "written again"}


def test_gathering_adds_to_the_written_facts(place: Place) -> None:
    write_facts(place.cache, "localhost", {"x": 1})
    place.play(gather="true")
    facts = read_facts(place.cache, "localhost")
    assert facts["x"] == 1
    assert "date" in facts["ansible_date_time"]
    write_facts(place.cache, "localhost", facts | {"x": 2})
    seen = place.seen()["localhost"]
    assert seen["x"] == 2
    assert seen["date_time"] == facts["ansible_date_time"]


def test_facts_that_a_play_clears_are_gone(place: Place) -> None:
    write_facts(place.cache, "localhost", {"x": 1})
    place.play("ansible.builtin.meta: clear_facts")
    assert read_facts(place.cache, "localhost") == {}
    assert place.seen()["localhost"] == {}


def test_encrypted_facts_stay_encrypted(place: Place) -> None:
    encrypted = place.run("ansible-vault", "encrypt", "--output", "-", feed="hunter2").stdout
    assert encrypted.startswith("$ANSIBLE_VAULT;")
    facts = {"secret": {"__ansible_vault": encrypted}}
    write_facts(place.cache, "localhost", facts)
    shown = "hunter2" if version() < (2, 19) else encrypted
    assert read_facts(place.cache, "localhost") == facts
    assert place.seen()["localhost"] == {"secret": shown}
    assert not any("hunter2" in path.read_text() for path in place.cache.iterdir())


def test_a_prefix_is_that_of_ansible(tmp_path: Path) -> None:
    place = Place(tmp_path, ANSIBLE_CACHE_PLUGIN_PREFIX="pre-")
    write_facts(place.cache, "localhost", {"x": 1}, prefix="pre-")
    assert place.seen()["localhost"] == {"x": 1}
    place.play(set_facts("y: 2"))
    assert read_facts(place.cache, "localhost", prefix="pre-") == {"x": 1, "y": 2}
    assert read_facts(place.cache, "localhost") == {}


def test_variables_of_the_caller_are_facts_and_lie_in_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/site.yml").write_text(
        "- hosts: localhost\n"
        "  gather_subset: [env, '!all', '!min']\n"
        "  tasks:\n"
        "    - assert: {that: ansible_env.ODDLY_NAMED | length == 11}\n"
        "- hosts: localhost\n"
        "  gather_facts: false\n"
        "  tasks:\n"
        "    - assert: {that: ansible_env.ODDLY_NAMED | length == 11}\n"
    )
    runner = ee_runner.run(
        private_data_dir=tmp_path, playbook="site.yml", envvars={"ODDLY_NAMED": "hush, hush!", "LANG": "C.UTF-8"}
    )
    assert runner.status == "successful"
    texts = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    gathered = runner.get_fact_cache("localhost")["ansible_env"]
    assert gathered["LANG"] == "C.UTF-8", "what everybody may know is kept"
    assert gathered["ODDLY_NAMED"] == "********"
    assert [path for path, text in texts.items() if "hush, hush!" in text] == []
