"""The same little programs against ansible-runner and against this package: what they can observe is the same.

Each program in tests/support/parity uses the documented library API and prints one JSON document. It runs once with
ansible-runner from its own virtual environment, and once with this package; both find the same Ansible on PATH. Where
this package differs on purpose, `DIFFERENCES` says so, with the reason and with what each side gives.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import venvs
from tests.support.processes import REPO
from tests.support.remote import Comparable

PROGRAMS = REPO / "tests/support/parity"
REQUIREMENTS = ("ansible-runner==2.4.3", "ansible-core<2.20")


@dataclass(frozen=True, slots=True)
class Says:
    """Equals every text that holds the pattern."""

    pattern: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and re.search(self.pattern, other) is not None

    def __hash__(self) -> int:
        return hash(self.pattern)


@dataclass(frozen=True, slots=True)
class Difference:
    """One intended difference: its place in the answer, why it is there, and what each side gives."""

    where: tuple[str | int, ...]
    why: str
    theirs: Any
    ours: Any


@dataclass(frozen=True, slots=True)
class Side:
    """The interpreter that runs a program, and what it finds."""

    python: Path
    environment: dict[str, str]
    place: Path

    def run(self, program: str) -> Any:
        """Return what the program observed, and what it showed before that, without what differs between runs."""
        for directory in ("work", "home", "tmp"):
            (self.place / directory).mkdir(parents=True)
        done = subprocess.run(
            [self.python, PROGRAMS / f"{program}.py"],
            cwd=self.place / "work",
            env={**self.environment, "HOME": str(self.place / "home"), "TMPDIR": str(self.place / "tmp")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        shown, _, answer = done.stdout.rstrip("\n").rpartition("\n")
        return Comparable(place=self.place).of(
            {**json.loads(answer), "shown": [as_data(line) for line in shown.splitlines() if line]}
        )


def as_data(line: str) -> Any:
    """Return a line of JSON as the object that it is, and any other as text."""
    try:
        return json.loads(line)
    except ValueError:
        return line


TRACEBACK = Says("^Traceback ")
NOT_FOUND = Says("^The command was not found or was not executable: no-such-program")
NOT_INSTALLED = Says("^no-such-program is not installed, or not on PATH")
CHECKED = "what is wrong with the arguments is one kind of error, which names the nearest argument that there is"
IN_ORDER = "what a callback raises ends the job in order, and is one kind of error with its cause"
PIPED = "events are made of the output, wherever it goes; error output of its own stays apart"
KEPT = "what goes to the caller's files is in the artifacts, too"
STATS = {
    "ok": {"h1": 1},
    **{key: {} for key in ("changed", "dark", "failures", "ignored", "rescued", "skipped")},
    "processed": {"h1": 1},
}
OLD_FACTS = {} if sys.version_info >= (3, 11) else {"figure": 3}  # ansible-core 2.19 needs Python 3.11
SIGNALS = "a command that a signal ends has an exit code, the shell's"
FORM = "paths are taken in the forms in which programs have them"
ENDED = {"disk": {"rc": "70", "status": "error"}, "finished": ["error"]}
UNTOLD = {"disk": {"rc": None, "status": None}, "finished": []}


def raising(where: str, theirs: list[Any], cause: str = "Sorry") -> Difference:
    """What a callback raises before the job has ended."""
    ours = {"raised": ["CallbackError", cause, True], **ENDED}
    return Difference((where,), IN_ORDER, {"raised": theirs, **UNTOLD}, ours)


def events_of(*lines: str) -> list[Any]:
    keys = ["counter", "created", "end_line", "event", "runner_ident", "start_line", "stdout", "uuid"]
    return [["verbose", line, keys] for line in lines]


DIFFERENCES: dict[str, tuple[Difference, ...]] = {
    "attributes": (
        Difference(
            ("adhoc", "cwd", 1),
            "Ansible runs in the project, whatever it runs (seed, section 1.10)",
            "<place>/work/pdd",
            "<place>/work/pdd/project",
        ),
        Difference(
            ("env", "ANSIBLE_HOST_KEY_CHECKING"),
            "whether host keys are checked is for the user's configuration to say",
            "False",
            None,
        ),
    ),
    "commands": (
        Difference(
            ("explicit terminal",),
            "ansible-runner refuses its own default when it is named",
            {"returned": ["ConfigurationError", True], "told": [], "events": [], "rc": None, "status": None},
            {
                "returned": ["out\nerr\n", "", 3],
                "told": [
                    ["starting", ["sh", "-c", "echo out; echo err >&2; exit 3"], "<place>/work", "explicit terminal"],
                    ["running", None, None, "explicit terminal"],
                    ["failed", None, None, "explicit terminal"],
                    ["finished", 3],
                ],
                "events": events_of("out", "err"),
                "rc": "3",
                "status": "failed",
                "stdout": "out\r\nerr\r\n",
                "stderr": "",
            },
        ),
        Difference(
            ("missing",),
            "the message says where it was looked for",
            [[NOT_FOUND, "", 127], "failed"],
            [[NOT_INSTALLED, "", 127], "failed"],
        ),
        Difference(
            ("missing pipes",),
            "a program that there is not is told like on a terminal, without a traceback",
            [["", TRACEBACK, 254], "failed"],
            [[NOT_INSTALLED, "", 127], "failed"],
        ),
        Difference(("killed", "returned", 2), SIGNALS, None, 137),
        Difference(("killed", "told", 3, 1), SIGNALS, None, 137),
        Difference(("killed", "rc"), SIGNALS, "None", "137"),
        Difference(("killed pipes", "returned", 2), SIGNALS, -9, 137),
        Difference(("killed pipes", "told", 3, 1), SIGNALS, -9, 137),
        Difference(("killed pipes", "rc"), SIGNALS, "-9", "137"),
        Difference(("one text", "returned"), CHECKED, ["TypeError", False], ["ConfigurationError", True]),
        Difference(("files", "stdout"), KEPT, "", "given\nout\n"),
        Difference(("files", "stderr"), KEPT, "", "err\n"),
        Difference(("one file", "stdout"), KEPT, "", "out\n"),
        Difference(("files", "events"), PIPED, [], events_of("given", "out")),
        Difference(("one file", "events"), PIPED, events_of("err"), events_of("out")),
        Difference(("pipes", "events"), PIPED, events_of("out", "err"), events_of("out")),
    ),
    "configs": (Difference(("misspelt",), CHECKED, ["TypeError", False], ["ConfigurationError", True]),),
    "facts": (Difference(("found",), "the facts of ansible-core 2.19 are found as well", OLD_FACTS, {"figure": 3}),),
    "failures": (
        Difference(
            ("missing",),
            "what keeps Ansible from running is raised before it starts",
            {
                "result": ["failed", 1, False],
                "kinds": ["verbose"],
                "failed": [],
                "stats": None,
                "said": [Says("the playbook: none.yml could not be found")],
            },
            "ConfigurationError",
        ),
        Difference(("misspelt",), CHECKED, ["TypeError", False], ["ConfigurationError", True]),
        Difference(("nowhere",), CHECKED, ["ValueError", False], ["ConfigurationError", True]),
    ),
    "inputs": (
        Difference(
            ("argv", "role", 1),
            "roles are still found where Ansible finds them",
            "/roles",
            "/roles:~/.ansible/roles:/usr/share/ansible/roles:/etc/ansible/roles",
        ),
        Difference(
            ("argv", "roles", 1),
            "roles are still found where Ansible finds them",
            "/roles:/more",
            "/roles:/more:~/.ansible/roles:/usr/share/ansible/roles:/etc/ansible/roles",
        ),
        Difference(
            ("hosts", "comma"),
            "a list of hosts is one as for Ansible's -i",
            ["successful", ["localhost,"]],
            ["successful", ["localhost"]],
        ),
        Difference(("hosts", "path"), FORM, "TypeError", ["successful", ["t1"]]),
        Difference(("playbooks", "path"), FORM, "TypeError", ["successful", ["greet"], None]),
    ),
    "keeping": (
        Difference(
            ("kept",),
            "a handler that returns nothing keeps the event",
            {"True": [1], "yes": [4]},
            {"True": [1], "yes": [4], "None": [5]},
        ),
        Difference(("stats",), "the numbers of the recap are known without its file, too", None, STATS),
    ),
    "module_run": (
        Difference(
            ("module", "cwd"),
            "Ansible runs in the project, whatever it runs (seed, section 1.10)",
            "<place>/work/pdd",
            "<place>/work/pdd/project",
        ),
    ),
    "playbook_run": (
        Difference(("modes", "stderr"), "no artifact is readable to others", "0o100644", "0o100600"),
        Difference(("told", -3, -2), "the result is on disk before anybody is told of it", None, "0"),
    ),
    "raising": (
        raising("event_handler", ["Sorry", "NoneType", False]),
        raising("starting", ["Sorry", "NoneType", False]),
        raising("running", ["Sorry", "NoneType", False]),
        raising("wrong signature", ["TypeError", "NoneType", False], "TypeError"),
        raising("cancel_callback", ["CallbackError", "Sorry", True]),
        Difference(
            ("successful",),
            IN_ORDER,
            {"raised": ["Sorry", "NoneType", False], **UNTOLD},
            {
                "raised": ["CallbackError", "Sorry", True],
                "disk": {"rc": "0", "status": "successful"},
                "finished": ["successful"],
            },
        ),
        Difference(("artifacts_handler", "finished"), "the other callbacks are called", [], ["successful"]),
    ),
    "surroundings": (
        Difference(
            ("unchanged", 1),
            "what the caller passes is not changed",
            {"job_timeout": 200, "idle_timeout": 300},
            {"job_timeout": 200},
        ),
        Difference(
            ("counted",),
            "what the user's callback plugin says during an event is that event's text",
            "verbose",
            "playbook_on_stats",
        ),
    ),
}


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> venvs.Venv:
    return venvs.ensure(*REQUIREMENTS, scratch=tmp_path_factory.mktemp("checkout"))


@pytest.mark.parametrize("program", sorted(path.stem for path in PROGRAMS.glob("*.py") if path.stem != "program"))
def test_a_program_observes_the_same(program: str, peer: venvs.Venv, tmp_path: Path) -> None:
    found = peer.environment(tmp_path)
    del found["PYTHONPATH"]
    theirs = Side(peer.bin / "python", found, tmp_path / "theirs")
    ours = Side(Path(sys.executable), found, tmp_path / "ours")
    with ThreadPoolExecutor(2) as pool:
        expected, observed = pool.map(lambda side: side.run(program), (theirs, ours))
    for difference in DIFFERENCES.get(program, ()):
        assert taken(expected, difference.where) == difference.theirs, difference.why
        assert taken(observed, difference.where) == difference.ours, difference.why
    assert observed == expected


def taken(document: Any, where: tuple[str | int, ...]) -> Any:
    """Remove one place from the document, and return what was there."""
    *above, last = where
    for step in above:
        document = document[step]
    value, document[last] = document[last], "differs"
    return value
