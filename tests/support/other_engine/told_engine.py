"""An engine that is no part of ee-runner: it runs the job on the host and tells that it did."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ee_runner.engines.base import Capabilities, ContainerEngine, EngineInfo
from ee_runner.job import Invocation
from ee_runner.plan import ExecutionPlan


class ToldEngine(ContainerEngine):
    name = "told"
    capabilities = Capabilities(own_root=False, images=False)

    def check(self) -> EngineInfo:
        return EngineInfo(self.name, Path("/"), "1.0", rootless=True)

    @contextmanager
    def invocation(self, plan: ExecutionPlan) -> Iterator[Invocation]:
        env = {**os.environ, **plan.env, "TOLD_ENGINE": "was here"}
        yield Invocation(plan.argv, env, Path(plan.cwd), plan.terminal)

    def stop(self, name: str, grace: float) -> bool:
        del name, grace
        return False
