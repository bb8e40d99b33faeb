"""Kills one process of a remote job at a random moment, again and again, and looks from outside at what becomes of it.

    python bench/soak.py remote --rounds 50 --engine podman      local, bwrap, podman or docker
    python bench/soak.py remote --seed 4711 --only 17            the 17th round of that seed again

Each round starts transmit | worker | process, joined by pipes, and sends SIGKILL to the first end, the last, or one of
the worker's three processes: the command itself, its guardian, and the process that does the work. Jobs are of several
kinds: plain tasks, tasks that are deaf to SIGTERM, that daemonize, are asynchronous, silent, or print more than a pipe
holds, and one whose project takes long to send. Within the bound the others must have ended, each with the exit code
and the status that belong to it, and nothing may be left: no process, zombie, container, temporary directory or lock.
Moments are drawn between the start and the end of such a job on this machine, which two jobs without a kill measure.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from tests.support import images, machine
from tests.support.chain import TERMINAL, Chain, Setting, chained

VICTIMS = ("transmit", "front", "guardian", "working", "process")
ENGINES = ("local", "bwrap", "podman", "docker")
OTHERS = ("tasks", "silent", "deaf", "daemon", "async", "talkative")
MEGABYTE = 1 << 20
OVER = (0, "successful")
LOST = (76, "error")
UNSENT = (1, "error")
CANCELED = (254, "canceled")
EXPECTED = {
    "transmit": (LOST, UNSENT, OVER),
    "front": (CANCELED, LOST, OVER),
    "guardian": (CANCELED, LOST, OVER),
    "working": (LOST, OVER),
}
"""How the processing end may end by victim: the exit code and the status.

Over is a job that was through before. Lost is also one whose worker is so young that it has no guardian yet, or hears
no signals yet. Unsent is one of which not a byte came, so that the worker does not know whether it may tell exit codes.
"""

WORKER = {"transmit": (76, 0), "front": (-9,), "guardian": (137,), "working": (137,)}


@dataclass(frozen=True, slots=True)
class Round:
    """What to kill in which job, and when: a fraction of the time that such a job takes."""

    number: int
    victim: str
    playbook: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a round: seconds until the last end had ended, until nothing was left, and what is wrong."""

    ended: float
    clean: float
    process: tuple[int, str | None]
    faults: Sequence[str]


def rounds(count: int, seed: int) -> Iterator[Round]:
    """Draw the rounds; each victim has its turn with each kind of job, the first end with the large one alone."""
    chance = random.Random(seed)  # noqa: S311 - the same rounds again for the same seed
    kinds = [(victim, playbook) for playbook in OTHERS for victim in VICTIMS]
    for number, (victim, playbook) in enumerate(islice(cycle(kinds), count), 1):
        large = victim == "transmit" or chance.random() < 0.15
        yield Round(number, victim, "large" if large else playbook, chance.random())


@contextmanager
def prepared(engine: str, image: str | None) -> Iterator[Setting]:
    """Give the options of an engine, with its images made and its daemon running."""
    if engine == "local":
        yield Setting()
        return
    options = ["--process-isolation", "--process-isolation-executable", engine]
    with ExitStack() as stack:
        if engine == "bwrap":
            yield Setting(options)
            return
        machine.ensure_containers_conf()
        if engine == "docker":
            stack.enter_context(machine.docker_daemon())
        image = image or images.ensure(engine).default
        yield Setting([*options, "--container-image", image, "--pull", "never"], client=engine)


@contextmanager
def large_file(megabytes: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        path = Path(directory, "blob")
        piece = os.urandom(MEGABYTE)
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(piece)
        yield path


class Soak:
    """Plays rounds on one engine."""

    def __init__(self, setting: Setting, blob: Path, *, bound: float) -> None:
        self._setting = setting
        self._blob = blob
        self._bound = bound
        self._spans = {"large": 0.0, "tasks": 0.0}
        self._sending = 0.0

    def measure(self) -> str:
        """See how long jobs take that nobody disturbs; raises SystemExit when that fails."""
        for playbook in self._spans:
            with self._chain(playbook) as chain:
                start = time.monotonic()
                left = chain.until_nothing_is_left(120)
                codes = {name: chain.rc(name) for name in chain.ends}
                if left or any(codes.values()) or chain.status != "successful":
                    raise SystemExit(f"without a kill: {codes}, {chain.status}, {left}")
                self._spans[playbook] = chain.ended["process"] - start
                if playbook == "large":
                    self._sending = chain.ended["transmit"] - start
        return f"sending {self._sending:.1f} s, large {self._spans['large']:.1f} s, tasks {self._spans['tasks']:.1f} s"

    def play(self, drawn: Round) -> Told | None:
        """Play one round; None when the victim had ended before its moment."""
        span = self._sending if drawn.victim == "transmit" else self._spans.get(drawn.playbook, self._spans["tasks"])
        with self._chain(drawn.playbook) as chain:
            end = time.monotonic() + drawn.fraction * span
            while time.monotonic() < end:
                chain.all_ended()
                time.sleep(0.01)
            chain.running()
            pids = chain.victims()
            victim = pids.get(drawn.victim) or (drawn.victim in ("guardian", "working") and pids.get("front"))
            if not victim:
                return None
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            actual = next(name for name, pid in pids.items() if pid == victim)
            left = chain.until_nothing_is_left(self._bound)
            clean = time.monotonic() - killed
            if any(child.poll() is None for child in chain.ends.values()):
                return Told(clean, clean, (-1, chain.status), left)
            ended = max(chain.ended.values()) - killed
            return Told(ended, clean, (chain.rc("process"), chain.status), [*left, *faults(chain, actual)])

    @contextmanager
    def _chain(self, playbook: str) -> Iterator[Chain]:
        with chained(playbook, setting=self._setting, blob=self._blob if playbook == "large" else None) as chain:
            yield chain


def faults(chain: Chain, victim: str) -> list[str]:
    """Say what is wrong with how the ends ended, all of which have."""
    codes = {name: chain.rc(name) for name in chain.ends}
    process, words = (codes["process"], chain.status), {name: chain.words(name) for name in chain.ends}
    found = []
    if victim == "process":
        if codes["worker"] == 0 and chain.status not in TERMINAL:
            found.append("the worker says that all went well, but its results were not read")
    else:
        if process not in EXPECTED[victim]:
            found.append(f"process ended with {process}")
        if codes["worker"] not in WORKER[victim]:
            found.append(f"worker ended with {codes['worker']}")
        if process in (LOST, UNSENT) and not words["process"].startswith("ansible-runner: "):
            found.append("process gives no reason")
    if victim != "transmit" and codes["transmit"] not in (0, 76):
        found.append(f"transmit ended with {codes['transmit']}")
    found += [f"{name} says: {text}" for name, text in words.items() if "Traceback" in text]
    return found and [*found, *(f"{name} ({codes[name]}): {text!r}" for name, text in words.items())]


def in_time(soak: Soak, drawn: Round) -> tuple[Round, Told]:
    """Play a round, earlier if its moment was too late for a kill."""
    while (told := soak.play(drawn)) is None:
        drawn = replace(drawn, fraction=drawn.fraction / 2)
    return drawn, told


def show(drawn: Round, told: Told) -> None:
    code, status = told.process
    line = f"{drawn.number:3} {drawn.victim:8} {drawn.playbook:9} at {drawn.fraction:.3f}"
    print(f"{line}: ended {told.ended:5.2f} s, clean {told.clean:5.2f} s, process {code} {status}", flush=True)
    for fault in told.faults:
        print(f"    FAULT {fault}", flush=True)


def summary(played: Sequence[tuple[Round, Told]]) -> None:
    for victim in (*VICTIMS, ""):
        of_victim = [told for drawn, told in played if victim in ("", drawn.victim)]
        if not of_victim:
            continue
        ended, clean = [told.ended for told in of_victim], [told.clean for told in of_victim]
        figures = (f"median {statistics.median(each):.2f} s, max {max(each):.2f} s" for each in (ended, clean))
        outcomes = ", ".join(f"{told[0]} {told[1]} x{n}" for told, n in Counter(t.process for t in of_victim).items())
        print(
            "{:8} {:3} kills; ended: {}; nothing left: {}; {}".format(victim or "all", len(ended), *figures, outcomes)
        )
    print(f"{sum(bool(told.faults) for _, told in played)} of {len(played)} rounds with faults")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--engine", choices=ENGINES, default="local")
    parser.add_argument("--image", help="default: that of the tests, which is made when it is not there")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--only", type=int, help="play this round alone")
    parser.add_argument("--bound", type=float, default=10.0, help="seconds within which all must be over")
    parser.add_argument("--size", type=int, default=150, help="megabytes of the large project")


def main(given: argparse.Namespace) -> int:
    """Play the rounds that were asked for; 1 when there were faults."""
    print(f"engine {given.engine}, seed {given.seed}", flush=True)
    played: list[tuple[Round, Told]] = []
    with prepared(given.engine, given.image) as setting, large_file(given.size) as blob:
        soak = Soak(setting, blob, bound=given.bound)
        print(soak.measure(), flush=True)
        for drawn in rounds(given.rounds, given.seed):
            if given.only in (None, drawn.number):
                played.append(in_time(soak, drawn))
                show(*played[-1])
    summary(played)
    return int(any(told.faults for _, told in played))
