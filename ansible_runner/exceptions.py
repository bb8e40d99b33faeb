"""The exceptions of ansible-runner: the same classes as in `ee_runner.errors`."""

from ee_runner.errors import CallbackError, ConfigurationError
from ee_runner.errors import RunnerError as AnsibleRunnerException

__all__ = ["AnsibleRunnerException", "CallbackError", "ConfigurationError"]
