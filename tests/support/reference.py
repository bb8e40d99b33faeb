"""The reference image, built as its users build it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import images, machine

TAG = "localhost/ee-runner-packaging-test:latest"
ENGINES = [engine for engine in ("podman", "docker") if engine in os.environ.get("ENGINES", "podman docker").split()]


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    engine: str
    name: str

    def argv(self, *options: str | Path, command: tuple[str, ...] = ()) -> list[str]:
        """The words that run the image."""
        return [self.engine, "run", "--rm", *map(str, options), self.name, *command]

    def run(self, *options: str | Path, command: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        argv = self.argv(*options, command=command)
        return subprocess.run(argv, stdin=subprocess.DEVNULL, text=True, capture_output=True, check=False)


@contextmanager
def built(engine: str) -> Iterator[ReferenceImage]:
    """Have the image in the engine's store for as long as the block lasts."""
    with ExitStack() as stack:
        machine.ensure_containers_conf()
        if engine == "docker":
            stack.enter_context(machine.docker_daemon())
        # images/build passes --network none.
        (name,) = images.build("reference", engine, "--tag", TAG)
        stack.callback(subprocess.run, [engine, "rmi", "--force", name], capture_output=True, check=True)
        yield ReferenceImage(engine=engine, name=name)
