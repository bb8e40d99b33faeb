"""transmit | worker | process, joined by pipes, each to be killed by its own pid, and what is left of them afterwards.

A chain has a directory of its own, where all of its temporary files go, and a mark in the environment of all of its
processes, inside containers too.
"""

from __future__ import annotations

import functools
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from .processes import alive, all_pids, locked, parent, signal_if_alive, wait_until

END = ("transmit", "worker", "process")
SHARED_MEMORY = Path("/dev/shm")
VARIABLE = "EE_RUNNER_CHAIN"
OF_ANSIBLE = ("ANSIBLE_HOME", "ANSIBLE_LOCAL_TEMP", "ANSIBLE_REMOTE_TEMP", "ANSIBLE_ASYNC_DIR")
"""Where Ansible keeps what it leaves when it is killed."""

TERMINAL = frozenset({"successful", "failed", "canceled", "timeout", "error"})

_INVENTORY = """\
one ansible_connection=local
two ansible_connection=local
[all:vars]
ansible_python_interpreter="{{ ansible_playbook_python }}"
"""
_PLAY = "- hosts: all\n  gather_facts: false\n  tasks:\n"
_NAP = "    - {name: nap, command: sleep 0.4}\n"
_DEAF = "trap '' TERM INT HUP; for each in $(seq 400); do sleep 0.1; done"
_AWAY = f'setsid -f sh -c "{_DEAF.replace("$", chr(92) + "$")}" </dev/null >/dev/null 2>&1'

PLAYBOOKS: Mapping[str, str] = {
    "tasks": _PLAY + 6 * _NAP,
    "silent": _PLAY + "    - {name: silent, command: sleep 40}\n",
    "empty": "- hosts: nobody\n",
    "deaf": f"{_PLAY}    - name: deaf\n      shell: |\n        {_DEAF}\n",
    "daemon": f"{_PLAY}    - name: daemon\n      shell: |\n        {_AWAY}\n    - {{name: stay, command: sleep 40}}\n",
    "async": f"{_PLAY}    - {{name: later, command: sleep 40, async: 600, poll: 0}}\n"
    "    - {name: stay, command: sleep 40}\n",
    "talkative": f"{_PLAY}    - name: talkative\n      debug: {{msg: \"{{{{ 'words ' * 20000 }}}}\"}}\n"
    '      loop: "{{ range(200) | list }}"\n',
    "large": _PLAY + 2 * _NAP,
}
"""Jobs of some seconds; those that stay are there for forty."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a chain runs: the options that choose the engine, and the engine's client, None without containers."""

    options: Sequence[str | Path] = ()
    client: str | None = None

    def containers(self, word: str) -> list[str]:
        """Return the names of the containers, running or not, that have this word in theirs."""
        if self.client is None:
            return []
        listing = [self.client, "ps", "--all", "--filter", f"name={word}", "--format", "{{.Names}}"]
        return subprocess.run(
            listing, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        ).stdout.split()


@dataclass(slots=True)
class Chain:
    """Three processes that run, or have run."""

    root: Path
    mark: str
    setting: Setting
    ends: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    """When each end was seen to have ended, of time.monotonic."""
    seen: set[int] = field(default_factory=set)
    """All pids of the chain that were ever met."""
    results: int | None = None
    """Where the output of the last end can be read; `hang_up` closes it."""

    @property
    def ident(self) -> str:
        return f"kill-{self.mark}"

    @property
    def artifacts(self) -> Path:
        return self.root / "results" / "artifacts" / self.ident

    @property
    def status(self) -> str | None:
        with suppress(OSError):
            return (self.artifacts / "status").read_text()
        return None

    def words(self, name: str) -> str:
        """Return what an end said on standard error."""
        return (self.root / f"{name}.err").read_text(errors="replace")

    def rc(self, name: str) -> int:
        return self.ends[name].wait(60)

    def running(self) -> dict[int, str]:
        """Return the processes that run with the mark in their environment or arguments, by pid."""
        found = {pid: words for pid in all_pids() if (words := _marked(pid, self.mark)) is not None}
        self.seen |= set(found)
        return found

    def victims(self) -> dict[str, int]:
        """Return the pids of the ends and of the worker's three processes, as far as they run."""
        pids = {name: child.pid for name, child in self.ends.items() if child.poll() is None}
        if (front := pids.pop("worker", None)) is not None:
            pids["front"] = front
            for name, above in (("guardian", "front"), ("working", "guardian")):
                below = _children(pids[above]) if above in pids else []
                pids |= {name: below[0]} if below else {}
        return pids

    def send(self, victim: str, number: signal.Signals) -> None:
        """Send a signal to one of `victims`, all of which are noted as seen."""
        self.running()
        os.kill(self.victims()[victim], number)

    def stop_worker(self) -> None:
        """Have the worker stand still, from the top down, so that none of its processes is missed."""
        for name in ("front", "guardian", "working"):
            if (pid := self.victims().get(name)) is not None:
                os.kill(pid, signal.SIGSTOP)
                wait_until(functools.partial(_stands, pid), bound=30, what=f"stop of process {pid}")

    def let_worker_go_on(self) -> None:
        for pid in self.victims().values():
            os.kill(pid, signal.SIGCONT)

    def until_blocked(self, name: str, bound: float = 60) -> None:
        """Wait until the pipe that an end, or one of the worker's processes, writes to is full."""
        output = f"/proc/{self.victims()[name]}/fd/1"
        wait_until(lambda: not _takes_more(output), bound=bound, what=f"a full pipe behind {name} of {self.ident}")

    def all_ended(self) -> bool:
        """Say whether the three ends have ended, and note when."""
        for name, child in self.ends.items():
            if name not in self.ended and child.poll() is not None:
                self.ended[name] = time.monotonic()
        return len(self.ended) == len(self.ends)

    def until_events(self, count: int = 1, bound: float = 60) -> None:
        """Wait until that many events are at the processing end."""
        events = self.artifacts / "job_events"
        wait_until(
            lambda: len([path for path in events.glob("*.json") if "partial" not in path.name]) >= count,
            bound=bound,
            what=f"event {count} of {self.ident}",
        )

    def left(self) -> list[str]:
        """Return what there still is of the chain, in words; nothing may be left when it has ended."""
        found = [f"process {pid}: {words}" for pid, words in self.running().items()]
        found += [f"zombie {pid}" for pid in self.seen if self._is_zombie(pid)]
        found += [f"file {path}" for path in self._files()]
        return found or [
            *(f"container {name}" for name in self.setting.containers(self.mark)),
            *(f"lock of process {pid}" for pid in _holders_of_locks() & self.seen),
            *([f"lock on {self.artifacts}"] if locked(self.artifacts) else []),
        ]

    def until_nothing_is_left(self, bound: float) -> list[str]:
        """Wait until all has ended and nothing is left; return what is left nevertheless."""
        deadline = time.monotonic() + bound
        while (late := time.monotonic() > deadline) or not self.all_ended() or self.left():
            if late:
                return [*(f"{name} has not ended" for name in self.ends if name not in self.ended), *self.left()]
            time.sleep(0.02)
        return []

    def hang_up(self) -> None:
        """Close the reading end of the worker's results."""
        if self.results is not None:
            os.close(self.results)
            self.results = None

    def clear(self) -> None:
        """End and remove all that is left, after a test that failed too."""
        self.hang_up()
        for pid in {*(child.pid for child in self.ends.values() if child.poll() is None), *self.running()}:
            signal_if_alive(pid, signal.SIGKILL)
        for child in self.ends.values():
            child.wait()
        wait_until(lambda: not self._kill_all(), bound=30, what=f"end of {self.ident}")
        wait_until(self._containers_are_removed, bound=60, what=f"end of the containers of {self.ident}")
        for path in self._files():
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.root)

    def _kill_all(self) -> dict[int, str]:
        for pid in (found := self.running()):
            signal_if_alive(pid, signal.SIGKILL)
        return found

    def _containers_are_removed(self) -> bool:
        """Remove containers; podman's first try fails for one whose monitor was killed."""
        for name in self.setting.containers(self.mark):
            assert self.setting.client is not None
            subprocess.run([self.setting.client, "rm", "--force", name], capture_output=True, check=False)
        return not self.setting.containers(self.mark)

    def _is_zombie(self, pid: int) -> bool:
        """Say whether a process waits for a parent of the chain; init's are init's, and the ends are reaped here."""
        return _state(pid) == "Z" and parent(pid) not in (1, os.getpid())

    def _files(self) -> list[Path]:
        """Return temporary files and directories, those in shared memory by the pids in their names.

        What Ansible's modules have in TMPDIR while they run stays there when they are killed; that is Ansible's, as the
        file of eight letters with which Python tries a directory is Python's.
        """
        theirs = re.compile(r"ansible[_-].*|[a-z0-9_]{8}")
        found = [path for path in (self.root / "tmp").iterdir() if not theirs.fullmatch(path.name)]
        return [*found, *(path for pid in self.seen for path in SHARED_MEMORY.glob(f"ee_runner_{pid}_*"))]


@contextmanager
def chained(
    playbook: str,
    *,
    setting: Setting | None = None,
    options: Mapping[str, Sequence[str | Path]] | None = None,
    blob: Path | None = None,
    processed: bool = True,
) -> Iterator[Chain]:
    """Start a chain; `options` are those of each end, `blob` is a file that becomes part of the project.

    Without `processed` there is no processing end, and `results` are the worker's. Whatever is left of the chain is
    ended and removed after the block.
    """
    root = Path(tempfile.mkdtemp(prefix="chain-"))
    chain = Chain(root, uuid.uuid4().hex, setting or Setting())
    source = _source(chain, playbook, blob)
    given = {name: [*map(str, (options or {}).get(name, ()))] for name in END}
    try:
        job = [str(source), "-p", "site.yml", "-i", chain.ident, *map(str, chain.setting.options)]
        results = [str(root / "results"), "-i", chain.ident, "--quiet"]
        commands = {
            "transmit": ["transmit", *job, *given["transmit"]],
            "worker": ["worker", *given["worker"]],
            "process": ["process", *results, *given["process"]],
        }
        _connect(chain, {name: words for name, words in commands.items() if processed or name != "process"})
        yield chain
    finally:
        chain.clear()


def _source(chain: Chain, playbook: str, blob: Path | None) -> Path:
    """Make the private data directory of the job, and the directories of the chain."""
    for name in ("tmp", "home", "results"):
        (chain.root / name).mkdir()
    source = chain.root / "source"
    files = {
        "project/site.yml": PLAYBOOKS[playbook],
        "inventory/hosts": _INVENTORY,
        "env/envvars": f"{VARIABLE}: {chain.mark}\n",
    }
    for name, text in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    if blob is not None:
        os.link(blob, source / "project" / "blob")
    return source


def _connect(chain: Chain, commands: Mapping[str, Sequence[str]]) -> None:
    """Start the ends, with a pipe from each to the next; standard errors go to files."""
    environment = _environment(chain)
    reading = os.open(os.devnull, os.O_RDONLY)
    for name, words in commands.items():
        then, writing = os.pipe()
        with (chain.root / f"{name}.err").open("wb") as errors:
            chain.ends[name] = subprocess.Popen(
                [sys.executable, "-m", "ee_runner", *words],
                stdin=reading, stdout=writing, stderr=errors,
                env=environment, cwd=chain.root, start_new_session=True,
            )  # fmt: skip
        os.close(reading)
        os.close(writing)
        chain.results = reading = then
    chain.seen |= {child.pid for child in chain.ends.values()}


def _environment(chain: Chain) -> dict[str, str]:
    environment = {
        **os.environ,
        VARIABLE: chain.mark,
        **{name: str(chain.root / "home" / name.lower()) for name in OF_ANSIBLE},
        "HOME": str(chain.root / "home"),
        "TMPDIR": str(chain.root / "tmp"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
    }
    environment.pop("XDG_RUNTIME_DIR", None)  # the per-run directory is in shared memory
    return environment


def _marked(pid: int, mark: str) -> str | None:
    """Return a process's command line if the mark is in it, or in its environment; this program's own is not."""
    if pid == os.getpid():
        return None
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        if mark.encode() in words or mark.encode() in Path(f"/proc/{pid}/environ").read_bytes():
            return words.replace(b"\0", b" ").decode(errors="replace")[:200] if alive(pid) else None
    return None


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _stands(pid: int) -> bool:
    return _state(pid) == "T"


def _takes_more(pipe: str) -> bool:
    descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLOUT)
        return bool(poller.poll(0))
    finally:
        os.close(descriptor)


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _holders_of_locks() -> set[int]:
    lines = Path("/proc/locks").read_text().splitlines()
    return {int(words[4]) for line in lines if (words := line.replace("-> ", "").split())}
