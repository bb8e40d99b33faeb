"""Configurations of jobs, one class for each kind of command."""

from ansible_runner.config import ansible_cfg, command, doc, inventory, runner

__all__ = ["ansible_cfg", "command", "doc", "inventory", "runner"]
