"""No container: Ansible runs on the host, in the caller's own environment."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ee_runner.engines import needs
from ee_runner.engines.base import Capabilities, ContainerEngine, EngineInfo
from ee_runner.job import Invocation, Mount
from ee_runner.plan import ExecutionPlan


class LocalEngine(ContainerEngine):
    """Runs the job as a child process; the parent's environment is inherited (seed, section 1.3)."""

    name = "local"
    capabilities = Capabilities(own_root=False, images=False, isolates=False)

    @property
    def executable(self) -> Path:
        return Path("/")

    def check(self) -> EngineInfo:
        return EngineInfo(self.name, self.executable, platform.release(), rootless=os.geteuid() != 0)

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
        yield Invocation(plan.argv, env, Path(plan.cwd), plan.terminal)

    def stop(self, name: str, grace: float) -> bool:
        """There is no container: the executor's signals end the process."""
        del name, grace
        return False

    def _stopper(self, mark: str, grace: float) -> Callable[[], None] | None:
        del mark, grace
        return None
