"""The interface that every engine implements, and the one way in which a job runs in any of them."""

from __future__ import annotations

import os
import pwd
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import ClassVar, Protocol

from ee_runner import names
from ee_runner.engines import mounts
from ee_runner.errors import EngineError, EngineUnavailable
from ee_runner.executor import Cancellation, Executor, Sink
from ee_runner.executor.minding import Minding
from ee_runner.job import ContainerSpec, Invocation, Mount, Outcome, status_of_stop
from ee_runner.logs import log
from ee_runner.plan import ExecutionPlan
from ee_runner.values import dataclass, replace

_TAIL = 4096
_RETRY = 0.2

_WHOLE_LINES = ("ansible", "ansible-playbook")
"""Programs that leave a line unfinished only to ask something."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do.

    `own_root`: it has a root filesystem of its own, so that the private data directory lands at /runner.
    `images`: it runs images. `isolates`: the job does not see all of the host.
    """

    own_root: bool
    images: bool
    isolates: bool = True


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """An engine that answered."""

    name: str
    executable: Path
    version: str
    rootless: bool


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image in the engine's store: the user that it runs as, and the HOME that it sets."""

    id: str
    user: str = ""
    home: str | None = None

    @property
    def runs_as_root(self) -> bool:
        return self.user.partition(":")[0] in ("", "0", "root")


@dataclass(frozen=True, slots=True)
class AgentBinding:
    """How the job reaches its ssh-agent: what is mounted, if anything, and the value of SSH_AUTH_SOCK inside."""

    mount: Mount | None
    socket: str


class Progress(Protocol):
    """Shows a pull; counts are bytes where the engine tells them, else steps, and `total` 0 when it is unknown."""

    def start(self, image: str) -> None: ...

    def update(self, text: str, current: int, total: int) -> None: ...

    def finish(self) -> None: ...


class NoProgress:
    """Shows nothing."""

    def start(self, image: str) -> None: ...

    def update(self, text: str, current: int, total: int) -> None: ...

    def finish(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """The user on the host whose files the job reads and writes."""

    uid: int
    gid: int
    name: str
    home: Path

    @classmethod
    def current(cls) -> Caller:
        uid, gid = os.getuid(), os.getgid()
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return cls(uid, gid, f"user{uid}", Path(os.environ.get("HOME") or "/"))
        return cls(uid, gid, entry.pw_name, Path(entry.pw_dir))


class ContainerEngine(ABC):
    """Builds what a job needs to run in one kind of container, and stops it; it keeps no state of a job."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    remedy: ClassVar[str] = ""
    """What to do when the engine is not installed."""

    def __init__(self, executable: str | None = None) -> None:
        self._asked = executable or self.name

    @property
    def executable(self) -> Path:
        """The engine's program; raises EngineUnavailable when it is not there."""
        found = shutil.which(self._asked)
        if found is None:
            raise EngineUnavailable(f"{self._asked} is not installed, or not on PATH. {self.remedy}".rstrip())
        return Path(found)

    @abstractmethod
    def check(self) -> EngineInfo:
        """Ask the engine whether it can run jobs; raises EngineUnavailable with the remedy."""

    def ensure_image(
        self, container: ContainerSpec, progress: Progress | None = None, *, cancel: Cancellation | None = None
    ) -> ImageInfo | None:
        """Have the image in the store as the pull policy says; None from engines without images.

        Raises ImageError, or EngineUnavailable. When `cancel` asks for it the pull is given up, and the image
        may be missing: None.
        """
        del container, progress, cancel
        return None

    def mounts(self, plan: ExecutionPlan) -> tuple[Mount, ...]:
        """Return all that is mounted for the job, checked, parents first; raises MountRefused."""
        binding = self.agent_binding(plan)
        own = (binding.mount,) if binding is not None and binding.mount is not None else ()
        return mounts.arrange((*plan.mounts, *plan.container.volume_mounts, *own))

    def agent_binding(self, plan: ExecutionPlan) -> AgentBinding | None:
        """Return how the job's ssh-agent is reached inside, or None when it has none."""
        if plan.agent_socket is None:
            return None
        return AgentBinding(None, str(plan.agent_socket))

    def container_name(self, ident: str) -> str:
        return names.container_name(ident)

    def environment(self, plan: ExecutionPlan) -> dict[str, str]:
        """Return the variables that the job's process gets from this side; an image may add its own."""
        return dict(plan.env)

    @abstractmethod
    def invocation(self, plan: ExecutionPlan) -> AbstractContextManager[Invocation]:
        """Give the process that runs the job; what it needs on disk lives as long as the context."""

    @abstractmethod
    def stop(self, name: str, grace: float) -> bool:
        """Ask the container to end, kill it after `grace` seconds, and see that it is gone.

        Returns whether there was one. Raises EngineError when it can not be ended.
        """

    def run(
        self,
        plan: ExecutionPlan,
        sink: Sink,
        cancel: Cancellation,
        *,
        stdin: int | None = None,
        progress: Progress | None = None,
        started: Callable[[], None] | None = None,
        ready: Minding | None = None,
    ) -> Outcome:
        """Run the job to its end; nothing of it is left in the engine then. `started` is called when it runs.

        `ready` is a minder that was started ahead; whoever started it closes it.
        Raises EngineError and its kinds for what kept it from running, and whatever the sink raises.
        """
        self.ensure_image(plan.container, progress, cancel=cancel)
        asked = cancel.check()
        if asked is not None:
            return Outcome(status_of_stop(asked), 254, asked)
        tail, since = TailSink(sink), time.time()
        with self.invocation(plan) as invocation:
            try:
                outcome = Executor().run(
                    replace(invocation, rescue=plan.rescue),
                    tail,
                    cancel=cancel,
                    limits=plan.limits,
                    passwords=plan.passwords,
                    stdin=stdin,
                    stop=self._stopper(plan),
                    started=started,
                    whole_lines=PurePosixPath(plan.argv[0]).name in _WHOLE_LINES,
                    ready=ready,
                )
            except BaseException:
                self._clear_on_the_way_out(plan)
                raise
            if outcome.reason != "exited":
                self.clear(plan.mark)
        return self._judge(plan, outcome, tail.text, since=since)

    def clear(self, mark: str) -> None:
        """End and remove at once all that bears the mark of a run; raises EngineError when that can not be done."""
        self.stop(mark, 0)

    def _stop_run(self, plan: ExecutionPlan, grace: float) -> bool:
        """Stop a run as `stop` does what bears a name; of an engine that does not mark its runs, by the name.

        A name is shared by all runs of the ident, in other private data directories too; a mark is not.
        """
        return self.stop(self.container_name(plan.ident), grace)

    def _stopper(self, plan: ExecutionPlan) -> Callable[[], None] | None:
        """Return what stops the job when it is to stop; None leaves it to SIGTERM."""

        def stop() -> None:
            deadline = time.monotonic() + plan.limits.grace
            while not self._stop_run(plan, max(deadline - time.monotonic(), 0.0)):
                if time.monotonic() >= deadline or not self._may_still_start(plan.mark):
                    return
                time.sleep(_RETRY)

        return stop

    def _may_still_start(self, mark: str) -> bool:
        """Say whether the engine's client runs although there is no container (yet)."""
        del mark
        return False

    def _judge(self, plan: ExecutionPlan, outcome: Outcome, tail: str, *, since: float) -> Outcome:
        """Tell the engine's own failure from the job's; raises EngineError for the former."""
        del plan, tail, since
        return outcome

    def _clear_on_the_way_out(self, plan: ExecutionPlan) -> None:
        """Clear while an exception is on its way: the caller is to get that one, not the clearing's own."""
        try:
            self.clear(plan.mark)
        except Exception as error:
            log.warning("What a failed job left in %s was not removed: %s", self.name, error)


class TailSink:
    """Hands everything on and keeps the last of it, in which an engine says why it failed."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._tail = b""

    def stdout(self, data: bytes) -> None:
        self._keep(data)
        self._sink.stdout(data)

    def stderr(self, data: bytes) -> None:
        self._keep(data)
        self._sink.stderr(data)

    @property
    def text(self) -> str:
        """The last few thousand characters, without carriage returns."""
        return self._tail.decode("utf-8", "replace").replace("\r", "")

    def _keep(self, data: bytes) -> None:
        self._tail = data[-_TAIL:] if len(data) >= _TAIL else (self._tail + data)[-_TAIL:]


def engine_error(engine: ContainerEngine, doing: str, words: str) -> EngineError:
    """Make the error of a failed control command out of what it said."""
    return EngineError(f"{engine.name} failed to {doing}: {' '.join(words.split()) or 'it gave no reason'}")
