"""An older name of `ansible_runner.config.runner`."""

from ansible_runner.config.runner import ExecutionMode, RunnerConfig

__all__ = ["ExecutionMode", "RunnerConfig"]
