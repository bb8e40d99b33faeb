"""Jobs that are canceled, and jobs whose supervisor is killed, at random moments, again and again, on every engine.

    python bench/soak.py jobs --rounds 420 --at-once 4        half are canceled, half have their supervisor killed
    python bench/soak.py jobs --seed 4711 --only 17           the 17th round of that seed again
    python bench/soak.py remote --rounds 50 --engine podman   remote jobs, one end of which is killed (soak_remote.py)

A round starts a job: short tasks, or the stubborn job of the fault suite. At its moment, anywhere between the start of
the command and a while after the job is under way, it is asked to end in one of seven ways, or its supervisor gets
SIGKILL, now and then together with the minder. Then it is looked at from outside. Of a canceled job nothing may be left
as soon as it says so; one that has lost its supervisor must be gone within ten seconds, and be settled by its minder,
the next start or `ansible-runner cleanup`. The artifacts must be whole, or say that they are not: every event parses,
none is missing before another, the text of each is in the output, and a job that succeeded has all of them.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import soak_remote

from tests.engines.place import CONTAINERS, Place
from tests.faults import observe
from tests.faults.scene import GRACE, Scene, staged
from tests.faults.ways import WAYS
from tests.support import images, machine, sshd, stubborn
from tests.support.processes import alive
from tests.support.sshd import SshServer

ENGINES = ("local", "bwrap", "podman", "podman-rootless", "docker")
KINDS = ("short", "stubborn")
SETTLERS = ("minder", "next start", "cleanup")
SPAN = {"short": 2.5, "stubborn": 5.0}
"""Seconds within which the moments of a kind of job lie; a job that was through before has another, earlier one."""

EARLY = 1.5
BEGUN = 0.8

GONE = 10.0
CANCELED = 15.0 + GRACE
SETTLED = 60.0
UNBORN = (None, None, None)
CANCELED_OUTCOME = ("canceled", "254", "canceled")
LOST_OUTCOME = ("error", "254", "lost")
OVER = ("successful", "0", None)


@dataclass(frozen=True, slots=True)
class Round:
    """What is done to which job, and when: after this many seconds.

    `deed` is one of the ways to ask for the end, ``kill`` or ``kill both``; `settler` is who comes after a kill. The
    seconds are counted from the start of the command, or from when it has `begun`: its artifacts say so.
    """

    number: int
    engine: str
    kind: str
    deed: str
    settler: str
    begun: bool
    moment: float


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a round: seconds until the job was gone, how it ended, and what is wrong."""

    seconds: float
    outcome: tuple[str | None, str | None, str | None]
    faults: Sequence[str] = ()


class TooLate(Exception):
    """The job was through before its moment."""


def rounds(count: int, *, seed: int, engines: Sequence[str]) -> Iterator[Round]:
    """Draw the rounds: cancels and kills by turns, each way of them with each engine in its turn."""
    chance = random.Random(seed)  # noqa: S311 - the same rounds again for the same seed
    ways = [(way, "kill both" if turn % 4 == 3 else "kill") for turn, way in enumerate(sorted(WAYS) * 4)]
    deeds = [(deed, engine) for pair in ways for engine in engines for deed in pair]
    for number, (deed, engine) in enumerate(islice(cycle(deeds), count), 1):
        kind = chance.choice(KINDS)
        settler = chance.choice(SETTLERS[1:] if deed == "kill both" else SETTLERS)
        begun = chance.random() < BEGUN
        yield Round(number, engine, kind, deed, settler, begun, chance.uniform(0, SPAN[kind] if begun else EARLY))


@contextmanager
def places(engines: Sequence[str], root: Path) -> Iterator[Mapping[str, Place]]:
    """Give a place for each engine, with its images made and its daemon running."""
    with ExitStack() as stack:
        machine.ensure_containers_conf()
        if "docker" in engines:
            stack.enter_context(machine.docker_daemon())
        user = stack.enter_context(machine.rootless_user()) if "podman-rootless" in engines else None
        found = {}
        for engine in engines:
            made = images.ensure(engine) if engine in CONTAINERS else None
            found[engine] = Place(engine, made, user if engine == "podman-rootless" else None, root / engine)
            found[engine].root.mkdir()
            found[engine].own(found[engine].root)
        yield found


def play(drawn: Round, place: Place, server: SshServer) -> Told:
    """Play a round; raises TooLate.

    The stubborn job has the master of an ssh connection, unless nobody is left to end it: no word of the job is to be
    found in such a process, which ends by itself.
    """
    with staged(place) as scene:
        stays = stubborn.stubborn(scene.word, None if drawn.deed == "kill both" else server)
        scene.write(stays if drawn.kind == "stubborn" else stubborn.short(scene.word, seconds=0.5))
        try:
            told = canceled(scene, drawn) if drawn.deed in WAYS else killed(scene, drawn)
        except AssertionError as error:
            words = [f"{error}"[:2000], *traceback.format_exc().splitlines()[-8:-1], scene.told()]
            return Told(0.0, scene.outcome, words)
        return replace(told, faults=[*told.faults, *unsound(scene, told)])


def network(scene: Scene) -> tuple[str, ...]:
    """Return the options with which a container reaches the ssh server."""
    return ("--network=host",) if scene.place.contained else ()


def canceled(scene: Scene, drawn: Round) -> Told:
    """Ask for the end, and see that nothing is left as soon as the job has ended."""
    job = WAYS[drawn.deed](scene, network(scene), None)
    sleep_until(drawn, scene, job.supervisor)
    asked = time.monotonic()
    job.ask()
    observe.until(lambda: ended(scene, job.supervisor), bound=CANCELED, what=scene.left)
    seconds = time.monotonic() - asked
    apart = {job.supervisor, *scene.minders(job.supervisor), *(child.pid for child in scene.programs)}
    left = scene.left(apart=apart)
    rc = job.end()
    faults = [f"left when it had ended: {what}" for what in (*left.processes, *left.containers)]
    if scene.outcome == UNBORN:  # the command did not listen yet, and had not begun
        faults += [] if rc in (*(-number for number in signal.Signals), 130) else [f"no outcome, exit code {rc}"]
    elif scene.outcome not in (CANCELED_OUTCOME, OVER) or str(rc) != scene.outcome[1]:
        faults.append(f"ended as {scene.outcome}, exit code {rc}")
    return Told(seconds, scene.outcome, faults)


def killed(scene: Scene, drawn: Round) -> Told:
    """Kill the supervisor, and see the job gone and settled."""
    supervisor = scene.run(*(f"--container-option={option}" for option in network(scene)))
    sleep_until(drawn, scene, supervisor.pid)
    minders = scene.minders(supervisor.pid) if drawn.deed == "kill both" else []
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in (supervisor.pid, *minders):
            os.kill(pid, number)
    at = time.monotonic()
    if drawn.deed == "kill both":  # nobody is left to end it
        settle(scene, drawn)
    scene.until_the_job_is_gone(GONE)
    seconds = time.monotonic() - at
    if drawn.deed != "kill both":
        settle(scene, drawn)
    faults = [] if scene.outcome in (LOST_OUTCOME, OVER, UNBORN) else [f"settled as {scene.outcome}"]
    return Told(seconds, scene.outcome, faults)


def settle(scene: Scene, drawn: Round) -> None:
    """Let somebody come after a kill; a supervisor that died young had no minder, so that the next start has to."""
    if drawn.settler == "cleanup":
        scene.cleanup()
    elif drawn.settler == "next start" or not is_settled_by_itself(scene):
        scene.next_start()


def is_settled_by_itself(scene: Scene) -> bool:
    with suppress(AssertionError):
        observe.until(lambda: not scene.left(), bound=GONE, what=scene.left)
        return True
    return False


def sleep_until(drawn: Round, scene: Scene, supervisor: int) -> None:
    if drawn.begun:
        observe.until(lambda: scene.status or ended(scene, supervisor), bound=SETTLED, what=scene.told)
    end = time.monotonic() + drawn.moment
    while time.monotonic() < end:
        time.sleep(0.01)
    scene.processes()
    if ended(scene, supervisor):
        raise TooLate


def ended(scene: Scene, supervisor: int) -> bool:
    return scene.status in observe.TERMINAL or not alive(supervisor)


def unsound(scene: Scene, told: Told) -> Iterator[str]:
    """Say what is wrong with what is left on purpose, and what else there is."""
    try:
        scene.until_nothing_is_left(SETTLED)
        artifacts = scene.read()
    except AssertionError as error:
        yield f"{error}"
        return
    position = 0
    for event in artifacts.events:
        text = str(event["stdout"]).encode()
        found = artifacts.stdout.find(text, position)
        if found < 0:
            yield f"the text of event {event['counter']} is not in the output"
            return
        position = found + len(text)
    names = {event["event"] for event in artifacts.events}
    if told.outcome == OVER and ("playbook_on_stats" not in names or b"PLAY RECAP" not in artifacts.stdout):
        yield "it succeeded, but its last event or its recap is missing"


class Soak:
    """Plays rounds, several at once, and tells of each as it ends."""

    def __init__(self, found: Mapping[str, Place], server: SshServer) -> None:
        self._places = found
        self._server = server
        self._telling = threading.Lock()
        self.played: list[tuple[Round, Told]] = []

    def play(self, drawn: Round) -> None:
        """Play a round, earlier if its moment was too late."""
        while True:
            try:
                told = play(drawn, self._places[drawn.engine], self._server)
            except TooLate:
                drawn = replace(drawn, moment=drawn.moment / 2)
            except Exception:
                told = Told(0.0, UNBORN, [traceback.format_exc()])
                break
            else:
                break
        with self._telling:
            self.played.append((drawn, told))
            show(drawn, told)


def show(drawn: Round, told: Told) -> None:
    since = "begin" if drawn.begun else "start"
    what = f"{drawn.number:4} {drawn.engine:15} {drawn.deed:15} {drawn.kind:8} {drawn.moment:4.2f} s after {since:5}"
    after = f", then {drawn.settler}" if drawn.deed not in WAYS else ""
    outcome = " ".join(str(part) for part in told.outcome if part) or "not begun"
    print(f"{what}: gone in {told.seconds:5.2f} s, {outcome}{after}", flush=True)
    for fault in told.faults:
        print(f"    FAULT {fault}", flush=True)


def summary(played: Sequence[tuple[Round, Told]]) -> None:
    """Print a line for each engine and sort of deed, and one for all."""
    sorts = {"canceled": lambda drawn: drawn.deed in WAYS, "killed": lambda drawn: drawn.deed not in WAYS}
    for engine in (*ENGINES, ""):
        for name, belongs in sorts.items():
            some = [told for drawn, told in played if engine in ("", drawn.engine) and belongs(drawn)]
            if some:
                print(f"{engine or 'all':15} {name:8} {figures(some)}")
    print(f"{sum(bool(told.faults) for _, told in played)} of {len(played)} rounds with faults")


def figures(some: Sequence[Told]) -> str:
    seconds = [told.seconds for told in some]
    outcomes = Counter(told.outcome[0] or "not begun" for told in some)
    ends = ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items()))
    return f"{len(some):4} times; gone: median {statistics.median(seconds):.2f} s, max {max(seconds):.2f} s; {ends}"


def jobs(given: argparse.Namespace) -> int:
    """Play the rounds that were asked for; 1 when there were faults."""
    print(f"seed {given.seed}, {given.rounds} rounds on {', '.join(given.engines)}", flush=True)
    drawn = list(rounds(given.rounds, seed=given.seed, engines=given.engines))
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as root,
        places(given.engines, Path(root)) as found,
        sshd.serve() as server,
    ):
        Path(root).chmod(0o755)  # rootless podman's user has a place in it
        soak = Soak(found, server)
        with ThreadPoolExecutor(given.at_once) as pool:
            list(pool.map(soak.play, [each for each in drawn if given.only in (None, each.number)]))
    summary(soak.played)
    return int(any(told.faults for _, told in soak.played))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    sorts = parser.add_subparsers(required=True)
    mine = sorts.add_parser("jobs", help="cancel jobs, and kill their supervisors")
    mine.add_argument("--rounds", type=int, default=420)
    mine.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, metavar="ENGINE")
    mine.add_argument("--at-once", type=int, default=4, help="rounds that are played at the same time")
    mine.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    mine.add_argument("--only", type=int, help="play this round alone")
    mine.set_defaults(play=jobs)
    remote = sorts.add_parser("remote", help="kill one process of a remote job")
    soak_remote.add_options(remote)
    remote.set_defaults(play=soak_remote.main)
    return parser.parse_args()


if __name__ == "__main__":
    given = parsed()
    sys.exit(given.play(given))
