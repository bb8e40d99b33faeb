"""Following a pull, whoever does it: it is shown, and it can be given up."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import re
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ee_runner.engines import faults
from ee_runner.engines.base import Progress
from ee_runner.errors import ImageError
from ee_runner.executor import Cancellation, Executor
from ee_runner.job import Invocation, Limits, RegistryAuth, Terminal

PATIENCE = 120.0
"""Seconds that a registry may take to name what there is to fetch; the fetching itself takes its time."""

LONGEST = 24 * 3600
"""Seconds that an SDK waits for the next message: a large layer is fetched without a word."""

_ANSWERED = re.compile(r"Getting image|Copying|Pulling from|Pulling fs layer|Download|Already exists|Digest:|Status:")


@dataclass(frozen=True, slots=True)
class Step:
    """One message of a pull; `current` and `total` are bytes of all layers, 0 when they are not known."""

    text: str
    current: int = 0
    total: int = 0


Steps: TypeAlias = Generator[Step, None, None]


def follow(steps: Steps, image: str, progress: Progress, cancel: Cancellation) -> None:
    """Show the steps until they end; raises what they raise, and ImageError when the registry keeps silent.

    When `cancel` asks for it the steps are left alone.
    """
    arrived: queue.SimpleQueue[Step | BaseException | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for step in steps:
                arrived.put(step)
                if cancel.requested is not None:
                    break
            arrived.put(None)
        except BaseException as error:
            arrived.put(error)
        finally:
            steps.close()

    threading.Thread(target=read, daemon=True).start()
    deadline: float | None = time.monotonic() + PATIENCE
    with cancel.waking(lambda: arrived.put(Step(""))):
        while cancel.check() is None:
            try:
                step = arrived.get(timeout=_patience(deadline, cancel))
            except queue.Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    raise _silence(image) from None
                continue
            if step is None:
                return
            if isinstance(step, BaseException):
                raise step
            if _ANSWERED.search(step.text):
                deadline = None
            if step.text:
                progress.update(step.text, step.current, step.total)


def by_client(argv: Sequence[str], engine: str, image: str, progress: Progress, cancel: Cancellation) -> None:
    """Pull with the engine's client and show what it says; raises ImageError when it fails or keeps silent."""
    sink = _Lines(progress)
    ending = Cancellation().asking(lambda: cancel.check() is not None)
    timer = threading.Timer(PATIENCE, lambda: None if sink.answered else ending.request("idle_timeout"))
    timer.start()
    try:
        with cancel.waking(lambda: ending.request() if cancel.requested else None):
            invocation = Invocation(tuple(argv), dict(os.environ), Path("/"), Terminal.PIPES)
            outcome = Executor().run(invocation, sink, cancel=ending, limits=Limits(grace=2.0), passwords={})
    finally:
        timer.cancel()
    if outcome.rc == 0 or cancel.requested is not None:
        return
    raise _silence(image) if ending.requested else faults.image_fault(engine, image, sink.text or outcome.detail)


def _patience(deadline: float | None, cancel: Cancellation) -> float | None:
    moments = (cancel.patience, None if deadline is None else max(deadline - time.monotonic(), 0.0))
    return min((moment for moment in moments if moment is not None), default=None)


def _silence(image: str) -> ImageError:
    return ImageError(
        f"The image {image} can not be pulled: the registry {faults.registry_of(image)} gave no answer within "
        f"{PATIENCE:g} s. Check the registry's name, the network and the proxy settings.",
        image=image,
        cause="unreachable",
    )


def auth_file(auth: RegistryAuth) -> str:
    """Return the credentials as both clients keep them in their files."""
    assert auth.username is not None  # noqa: S101 - the callers ask first
    assert auth.password is not None  # noqa: S101
    pair = base64.b64encode(f"{auth.username}:{auth.password.reveal()}".encode()).decode()
    return json.dumps({"auths": {auth.host: {"auth": pair}}})


def answers(path: Path) -> bool:
    """Say whether somebody listens at a socket."""
    import socket

    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


class _Lines:
    """Shows each line of the client as a step, and keeps what it wrote last."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rest = b""
        self.text = ""
        self.answered = False

    def stdout(self, data: bytes) -> None:
        *lines, self._rest = re.split(rb"[\r\n]+", self._rest + data)
        for line in filter(None, lines):
            text = line.decode("utf-8", "replace")
            self.answered = self.answered or _ANSWERED.search(text) is not None
            self._progress.update(text, 0, 0)

    def stderr(self, data: bytes) -> None:
        self.text = (self.text + data.decode("utf-8", "replace"))[-4000:]
        self.stdout(data)
