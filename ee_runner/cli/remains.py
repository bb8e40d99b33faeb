"""What a killed worker leaves behind, and the end of it: processes, containers, directories.

A guard lives as long as its job: the engines are loaded only when there is a container to remove.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ee_runner import orphans
from ee_runner.cleanup import trees
from ee_runner.cleanup.trees import identity

__all__ = ["ORDERLY", "Claims", "clean", "identity", "record", "remove"]

ORDERLY = 8.0
"""Seconds that a worker has to end its job and itself when one of its guards has been killed."""

_GRACE = 2.0
"""Seconds that what is left has to end by itself after SIGTERM."""

_KILL_TIME = 10.0
_LATE = 1.0
"""Seconds in which an engine may still make a container for a client that has been killed."""


def record(words: Sequence[str]) -> bytes:
    """Return the words in the form in which they are told: the length in 4 bytes, and the words with NULs between."""
    body = b"\0".join(os.fsencode(word) for word in words)
    return len(body).to_bytes(4, "big") + body


class Claims:
    """What the worker has said to be its own; a last record that is not whole was not said."""

    def __init__(self) -> None:
        self._buffer = b""
        self.worker = 0
        self._paths: dict[str, str] = {}
        self._prefixes: set[tuple[str, str]] = set()
        self.containers: dict[str, dict[str, str]] = {}
        """By engine, each with the supervisor that its labels name."""
        self.stopped = False
        """Whether processes that are left belong to what was stopped."""

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= (end := 4 + int.from_bytes(self._buffer[:4], "big")) > 4:
            self._note(*map(os.fsdecode, self._buffer[4:end].split(b"\0")))
            self._buffer = self._buffer[end:]

    def _note(self, verb: str, subject: str, *more: str) -> None:
        if verb == "is":
            self.worker = int(subject)
        elif verb == "owns":
            self._paths[subject] = more[0]
        elif verb == "released":
            self._paths.pop(subject, None)
        elif verb == "owns-all":
            self._prefixes.add((subject, more[0]))
        elif verb == "runs":
            self.containers.setdefault(subject, {})[more[0]] = more[1]
        elif verb == "stopped":
            self.stopped = True

    def paths(self) -> Iterator[tuple[str, str]]:
        """Yield the paths to remove, each with the identity that it had when it was told, if it was there then."""
        yield from self._paths.items()
        for directory, prefix in sorted(self._prefixes):
            with contextlib.suppress(OSError):
                found = os.listdir(directory)  # noqa: PTH208 - names alone
                yield from ((f"{directory}/{name}", "") for name in found if name.startswith(prefix))


def clean(claims: Claims, *, older: frozenset[int] = frozenset()) -> str:
    """End and remove all that is left below this process, and say so in words; empty when there was nothing.

    `older` children are left alone, and all below them. A worker that still runs knows that it is to end, and has the
    first turn. Other processes are asked first, for an engine's client takes its container along, and killed when the
    engine has had its turn.
    """
    failures: list[str] = []
    engines = [_Engine(name, own, failures) for name, own in claims.containers.items()]
    orphans.await_end(claims.worker, patience=ORDERLY)
    processes = orphans.ask(older, patience=_GRACE)
    for engine in engines:
        engine.remove()
    processes |= orphans.kill(older, patience=_KILL_TIME)
    if processes:
        for engine in engines:
            engine.remove_late()
    left = orphans.alive(older) & processes
    failures += [f"process {pid} can not be ended" for pid in sorted(left)]
    paths = [path for path, known in claims.paths() if _removed(path, known, failures)]
    return _words(len(processes - left), [name for engine in engines for name in engine.removed], paths, failures)


def _words(processes: int, containers: Sequence[str], paths: Sequence[str], failures: Iterable[str]) -> str:
    done = [f"ended {processes} process{'es' * (processes > 1)}"] if processes else []
    done += [f"removed the container {name}" for name in containers]
    done += [f"removed {path}" for path in paths]
    return "; ".join((*done, *failures))


class _Engine:
    """An engine with containers of the worker; `removed` are the names of those that were still there."""

    def __init__(self, name: str, containers: Mapping[str, str], failures: list[str]) -> None:
        self.removed: list[str] = []
        self._name = name
        self._containers = containers
        self._failures = failures
        self._works = True

    def remove(self) -> None:
        try:
            self._remove()
        except Exception as error:  # whatever it is, the rest is to be cleaned too
            self._works = False
            self._failures.append(f"{', '.join(self._containers)} in {self._name} may be left: {error}")

    def remove_late(self) -> None:
        """Look again: a client that was killed may have been about to make one."""
        deadline = time.monotonic() + _LATE
        while self._works and len(self.removed) < len(self._containers):
            self.remove()
            if time.monotonic() >= deadline:
                return
            time.sleep(0.2)

    def _remove(self) -> None:
        from ee_runner.engines import registry
        from ee_runner.engines.oci import OciEngine

        engine, _ = registry.choose(self._name)
        if isinstance(engine, OciEngine):
            supervisors = set(self._containers.values())
            for found in engine.list_containers():
                if "/".join(map(str, found.supervisor)) in supervisors and engine.stop(found.id, 0):
                    self.removed.append(found.name)
        elif engine.capabilities.images:  # else all of it is processes
            self.removed += [name for name in self._containers if engine.stop(name, 0)]


def _removed(path: str, known: str, failures: list[str]) -> bool:
    """Remove what was told, and say whether it was there; why it can not be removed goes to `failures`."""
    from ee_runner.cleanup import usage

    try:
        usage.refuse_mounts(path)
        return remove(path, known)
    except OSError as error:
        failures.append(f"{path} can not be removed: {error.strerror}")
        return False


def remove(path: str, known: str = "") -> bool:
    """Remove what was told, as `trees.discard` does; raises OSError, also while another worker works there."""
    try:
        return trees.discard(path, known)
    except BlockingIOError as error:
        raise OSError(error.errno, "another worker works in it") from None
