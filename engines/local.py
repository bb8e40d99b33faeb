"""No container: Ansible runs on the host, in the caller's own environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ee_runner import processes
from ee_runner.engines import needs
from ee_runner.engines.base import Capabilities, ContainerEngine, EngineInfo
from ee_runner.errors import EngineError
from ee_runner.job import Invocation, Mount
from ee_runner.plan import ExecutionPlan

_RUN = "EE_RUNNER_RUN"
_KILL_TIME = 10.0


class LocalEngine(ContainerEngine):
    """Runs the job as a child process; the parent's environment is inherited (seed, section 1.3)."""

    name = "local"
    capabilities = Capabilities(own_root=False, images=False, isolates=False)

    @property
    def executable(self) -> Path:
        return Path("/")

    def check(self) -> EngineInfo:
        return EngineInfo(self.name, self.executable, os.uname().release, rootless=os.geteuid() != 0)

    def mounts(self, plan: ExecutionPlan) -> tuple[Mount, ...]:
        """Nothing is mounted: the job sees the host."""
        del plan
        return ()

    def environment(self, plan: ExecutionPlan) -> dict[str, str]:
        return dict(plan.env) if plan.complete_env else needs.environment(plan.argv[0], plan.env)

    @contextmanager
    def invocation(self, plan: ExecutionPlan) -> Iterator[Invocation]:
        env = self.environment(plan)
        binding = self.agent_binding(plan)
        if binding is not None:
            env["SSH_AUTH_SOCK"] = binding.socket
        yield Invocation(plan.argv, {**env, _RUN: plan.mark}, Path(plan.cwd), plan.terminal)

    def stop(self, name: str, grace: float) -> bool:
        """There is no container: the executor's signals end the process."""
        del name, grace
        return False

    def clear(self, mark: str) -> None:
        """End the processes that were started with the mark in their environment; there should be none."""
        left = processes.kill_all(lambda: processes.with_variable(_RUN, mark), patience=_KILL_TIME)
        if left:
            raise EngineError(f"Processes of the job can not be ended: {left}.")

    def _stopper(self, plan: ExecutionPlan) -> Callable[[], None] | None:
        del plan
        return None
