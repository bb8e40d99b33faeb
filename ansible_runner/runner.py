"""The Runner of ansible-runner: the same class as in `ee_runner`."""

from ee_runner.runner import Runner

__all__ = ["Runner"]
