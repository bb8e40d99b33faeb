"""What podman and docker share: one command line, one way to stop, one reading of their failures."""

from __future__ import annotations

import json
import os
import re
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ee_runner import processes
from ee_runner.engines import endings, faults, handover, labels, mounts, users
from ee_runner.engines.base import (
    AgentBinding,
    Caller,
    Capabilities,
    ContainerEngine,
    NoProgress,
    Progress,
    engine_error,
)
from ee_runner.engines.images import ImageInfo, ImageStore, Shortcut, absent, image_name, says_absent
from ee_runner.errors import ConfigurationError, EngineError, EngineUnavailable
from ee_runner.executor import Cancellation, Completed, capture
from ee_runner.job import ContainerSpec, Invocation, Mount, Outcome, Terminal
from ee_runner.plan import ExecutionPlan

AGENT_SOCKET = PurePosixPath("/run/ee_runner_agent.sock")
"""Where the ssh-agent's socket lands inside: beside the per-run directory, which is read-only there."""

_ENGINE_FAILED, _NOT_EXECUTABLE, _NOT_FOUND = 125, 126, 127
_STOP_MARGIN = 30.0
_LATE = (0.0, 0.2, 0.5)
"""Seconds before each look at the event log, as long as it does not tell how a container ended."""

_INIT_FAILED = rf"\[FATAL tini|catatonit|{handover.STARTER}: .*exec: "
_ENGINE_SAYS = r"^(Error|docker): "
_NETWORK = r'plugin type="|netavark|aardvark'
_NO_COMMAND = _INIT_FAILED + r"|executable file.*not found|exec: .*permission denied|no such file or directory"


class OciEngine(ContainerEngine):
    """Runs the job with an OCI engine's client: it carries terminal, signals and exit codes without loss."""

    capabilities = Capabilities(own_root=True, images=True)

    def __init__(self, executable: str | None = None) -> None:
        super().__init__(executable)
        self._store = ImageStore(self.name, self._control, self._shortcut)

    # What differs between the two

    @abstractmethod
    def _mapping(self) -> users.Mapping:
        """Say how users inside relate to the caller."""

    @abstractmethod
    def _pull(self, container: ContainerSpec, progress: Progress, cancel: Cancellation) -> None:
        """Pull the image; raises ImageError. Returns early when `cancel` asks for it."""

    @abstractmethod
    def _init_options(self) -> tuple[str, ...]:
        """Return what puts a small init before the job: as pid 1 it would not hear SIGTERM."""

    def _global_options(self) -> tuple[str, ...]:
        """Return the options before the client's subcommand."""
        return ()

    @abstractmethod
    def _event_options(self) -> tuple[str, ...]:
        """Return the options with which ``events`` ends when it has told what was, and how it tells it.

        That is a line for each event, which `endings.Told` reads.
        """

    @abstractmethod
    def _limits_kept(self) -> frozenset[str]:
        """Return which of the limits memory, swap, cpus and pids_limit the engine can enforce on this machine."""

    # Images

    @abstractmethod
    def _shortcut(self) -> Shortcut:
        """Return what knows images without starting the client."""

    def ensure_image(
        self, container: ContainerSpec, progress: Progress | None = None, *, cancel: Cancellation | None = None
    ) -> ImageInfo | None:
        shown, cancel = progress or NoProgress(), cancel or Cancellation()

        def pull() -> None:
            shown.start(image_name(container))
            try:
                self._pull(container, shown, cancel)
            finally:
                shown.finish()

        return self._store.ensure(container, pull, cancel)

    # The command line

    def agent_binding(self, plan: ExecutionPlan) -> AgentBinding | None:
        """Bind the socket itself, not its directory: the job sees no more than it needs."""
        if plan.agent_socket is None:
            return None
        return AgentBinding(Mount(plan.agent_socket, AGENT_SOCKET), str(AGENT_SOCKET))

    @contextmanager
    def invocation(self, plan: ExecutionPlan) -> Iterator[Invocation]:
        container = plan.container
        image = self._store.get(container)
        identity = users.identify(
            image,
            caller=Caller.current(),
            mapping=self._mapping,
            options=container.options,
            passwd=lambda: self._store.passwd(image),
        )
        with handover.scratch(plan.run_dir) as scratch:
            handed = handover.environment(plan, scratch, engine=self.name)
            argv = (
                *(str(self.executable), *self._global_options()),
                *("run", *handed.options, *(word for mount in handed.mounts for word in mounts.options(mount))),
                *(() if endings.is_bounded(container) else ("--rm",)),
                *("--interactive", *(("--tty",) if plan.tty and plan.terminal is not Terminal.PIPES else ())),
                *("--pull=never", "--log-driver", "none", "--name", self.container_name(plan.ident)),
                *self._init_options(),
                *labels.options({**labels.of_job(plan.ident, plan.private_data_dir), labels.RUN: plan.mark}),
                *("--workdir", container.workdir or str(plan.cwd)),
                *_user_options(identity, scratch),
                *self._mount_options(plan, identity),
                *self._agent_options(plan),
                *self._limit_options(container),
                *self._own_options(plan),
                *container.options,
                *(image_name(container), *handed.argv),
            )
            cwd = plan.run_dir if plan.run_dir.is_dir() else Path("/")
            try:
                yield Invocation(argv, {**os.environ, **handed.client}, cwd, plan.terminal, adopt=False)
            except BaseException:
                self._end_processes(plan)
                raise
        if endings.is_bounded(container):
            self._take_down(plan)

    def _limit_options(self, container: ContainerSpec) -> Iterator[str]:
        """Yield the options for the limits; raises ConfigurationError for one that the machine would not enforce."""
        asked = {"memory": container.memory, "cpus": container.cpus, "pids_limit": container.pids_limit}
        asked = {name: value for name, value in asked.items() if value}
        if not asked:
            return
        kept = self._limits_kept()
        if not kept.issuperset(asked):
            raise ConfigurationError(faults.unlimited(self.name, [name for name in asked if name not in kept]))
        for name, value in asked.items():
            yield from (f"--{name.replace('_', '-')}", f"{value:g}" if name == "cpus" else str(value))
        if container.memory and "swap" in kept:  # as much in all: what goes over is not swapped out instead
            yield from ("--memory-swap", str(container.memory))

    def _own_options(self, plan: ExecutionPlan) -> tuple[str, ...]:
        """Return options for ``run`` that this engine alone needs."""
        del plan
        return ()

    def _mount_options(self, plan: ExecutionPlan, identity: users.Identity) -> tuple[str, ...]:
        arranged = self.mounts(plan)
        if plan.ssh_directory is not None and identity.home is not None:
            ssh = Mount(plan.ssh_directory, identity.home / ".ssh", read_only=True)
            arranged = mounts.arrange((ssh, *arranged))
        words: tuple[str, ...] = ()
        if Path("/sys/fs/selinux/enforce").exists():
            own = {mount.target for mount in plan.mounts}
            if plan.selinux_relabel:
                arranged = tuple(mounts.relabelled(m) if m.target in own else m for m in arranged)
            else:
                words = ("--security-opt", "label=disable")
        return (*words, *(word for mount in arranged for word in mounts.options(mount)))

    def _agent_options(self, plan: ExecutionPlan) -> tuple[str, ...]:
        binding = self.agent_binding(plan)
        return () if binding is None else ("--env", f"SSH_AUTH_SOCK={binding.socket}")

    # Stopping

    def stop(self, name: str, grace: float) -> bool:
        seconds = str(max(int(grace), 0))
        done = self._control("stop", "-t", seconds, name, timeout=grace + _STOP_MARGIN)
        if done.rc != 0 and not self._exists(name):
            return False
        self._remove(name)
        return True

    def _remove(self, name: str) -> None:
        deadline = time.monotonic() + _STOP_MARGIN
        while True:
            done = self._control("rm", "--force", name)
            if not self._exists(name):
                return
            if time.monotonic() >= deadline:
                raise engine_error(self, f"remove the container {name}", done.stderr)
            time.sleep(0.2)

    def _stop_run(self, plan: ExecutionPlan, grace: float) -> bool:
        stopped = [self.stop(container, grace) for container in self._with_label(f"{labels.RUN}={plan.mark}")]
        return any(stopped)

    def clear(self, mark: str) -> None:
        for container in self._with_label(f"{labels.RUN}={mark}"):
            self._control("kill", container)  # else podman's rm would wait for a job that is deaf to SIGTERM
            self._remove(container)

    def _exists(self, name: str) -> bool:
        done = self._control("container", "inspect", "--format", "{{.Id}}", name)
        fault = faults.daemon_fault(self.name, done.stderr) if done.rc else None
        if fault is not None:
            raise EngineUnavailable(fault)
        return done.rc == 0

    def _may_still_start(self, mark: str) -> bool:
        return bool(processes.with_argument(f"{labels.RUN}={mark}"))

    def list_containers(self) -> tuple[labels.JobContainer, ...]:
        """Return the containers of jobs, whoever runs them, stopped ones too."""
        listed = self._with_label(labels.IDENT)
        if not listed:
            return ()
        shown = self._control("container", "inspect", *listed)
        return tuple(labels.read(entry) for entry in json.loads(shown.stdout or "[]"))

    def _with_label(self, label: str) -> list[str]:
        """Return the ids of the containers with this label, stopped ones too."""
        listed = self._control("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}")
        if listed.rc == 0:
            return listed.stdout.split()
        fault = faults.daemon_fault(self.name, listed.stderr)
        raise EngineUnavailable(fault) if fault else engine_error(self, "list containers", listed.stderr)

    # How it ended

    def _judge(self, plan: ExecutionPlan, outcome: Outcome, tail: str, *, since: float) -> Outcome:
        try:
            return self._judged(plan, outcome, tail, since)
        finally:
            for file in (endings.note(plan.run_dir), endings.id_file(plan)):
                file.unlink(missing_ok=True)

    def _judged(self, plan: ExecutionPlan, outcome: Outcome, tail: str, since: float) -> Outcome:
        if outcome.reason == "killed":  # not the job: the client says that by its exit code
            raise EngineError(
                f"The client of {self.name} was {outcome.detail} in mid-run; the container has been removed."
            )
        if outcome.reason != "exited" or not outcome.rc:
            return outcome
        if endings.note(plan.run_dir).exists():
            return endings.by_kernel(plan.container, outcome)
        if outcome.rc in (_ENGINE_FAILED, _NOT_EXECUTABLE, _NOT_FOUND):
            return self._judge_ambiguous(plan, outcome, tail, self._told(plan, since))
        if endings.is_by_signal(outcome.rc):
            return endings.judged(plan, outcome, self._told(plan, since))
        return outcome

    def _judge_ambiguous(self, plan: ExecutionPlan, outcome: Outcome, tail: str, told: endings.Told) -> Outcome:
        """Judge an exit code that the job may have, and the engine: its event log says whether the job has run."""
        words = _last_words(tail)
        of_job = outcome.rc != _ENGINE_FAILED and not re.search(_NETWORK, words)
        refused = of_job and re.search(_NO_COMMAND, words, re.IGNORECASE)
        if refused and (not told.started or re.search(_INIT_FAILED, words)):
            return Outcome("failed", _NOT_FOUND, "launch", _no_command(plan))
        of_engine = outcome.rc == _ENGINE_FAILED or re.search(_ENGINE_SAYS, words, re.MULTILINE)
        if told.ended if told.started else not of_engine:
            return outcome
        self.clear(plan.mark)
        if told.started:
            raise EngineError(
                f"{self.name} lost the container in mid-run; it has been removed. ({faults.one_line(words)})"
            )
        fault = faults.daemon_fault(self.name, tail)
        if fault is not None:
            raise EngineUnavailable(fault)
        if says_absent(words):  # it was there when the job was made ready
            raise absent(self.name, plan.container)
        raise EngineError(faults.diagnosis(self.name, words) or str(engine_error(self, "run the job", words)))

    def _told(self, plan: ExecutionPlan, since: float) -> endings.Told:
        """Return what the event log tells of a run that has ended; raises EngineUnavailable without the daemon."""
        wanted = ("--since", f"{since:.9f}", "--filter", f"label={labels.RUN}={plan.mark}")
        for pause in _LATE:
            time.sleep(pause)
            done = self._control("events", *wanted, *self._event_options())
            fault = faults.daemon_fault(self.name, done.stderr) if done.rc else None
            if fault is not None:
                raise EngineUnavailable(self._gone(plan, fault))
            told = endings.Told.by(done.stdout.splitlines())
            if told.ended or not told.started:
                break
        return told

    def _gone(self, plan: ExecutionPlan, fault: str) -> str:
        """End what runs on without its daemon, as far as that can be done, and say what has become of the job."""
        ended = "it has been ended" if self._end_processes(plan) else "it may still run"
        return f"{fault} The job was under way, and {ended}; the next start removes its container."

    def _end_processes(self, plan: ExecutionPlan) -> bool:
        """End what runs in the container without the engine's help; say whether that was possible."""
        del plan
        return False

    def _take_down(self, plan: ExecutionPlan) -> None:
        """Remove a container that was kept, after a note of what the engine says of its end."""
        kept = self._with_label(f"{labels.RUN}={plan.mark}")
        if kept and "true" in self._control("container", "inspect", "--format", "{{.State.OOMKilled}}", *kept).stdout:
            endings.note(plan.run_dir).touch()
        for container in kept:
            self._remove(container)

    def _control(self, *words: str, timeout: float = 60, env: Mapping[str, str] | None = None) -> Completed:
        """Run one of the client's short commands."""
        return capture((str(self.executable), *self._global_options(), *words), timeout=timeout, env=env)


def _user_options(identity: users.Identity, scratch: handover.Scratch) -> tuple[str, ...]:
    words = identity.options
    if identity.passwd is not None:
        passwd = scratch.write("passwd", identity.passwd, mode=0o644)
        words = (*words, "--volume", f"{passwd}:/etc/passwd:ro", "--env", f"HOME={identity.home}")
    if identity.makes_home:
        words = (*words, "--tmpfs", f"{identity.home}:rw,exec,mode=1777")
    return words


def _last_words(tail: str) -> str:
    """Return the last lines of an output, without the usage hints that clients add."""
    lines = [line for line in tail.splitlines() if line.strip() and not re.match(r"Run '|See '|Usage:", line.strip())]
    return "\n".join(lines[-6:])


def _no_command(plan: ExecutionPlan) -> str:
    return (
        f"{plan.argv[0]} can not be executed in the image {image_name(plan.container)}: it is not there, or not "
        "executable. Use an image that has it."
    )
