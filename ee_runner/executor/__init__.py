"""The shared executor: an Invocation in, bytes and an Outcome out.

It knows no Ansible, no engine and no artifacts. It owns the child process, the pty or pipes, the prompts, the limits
and the stopping; nothing else starts processes.
"""

from ee_runner.executor.cancellation import Cancellation
from ee_runner.executor.control import Completed, capture, companion, find_program
from ee_runner.executor.session import Executor, Sink

__all__ = [
    "Cancellation",
    "Completed",
    "Executor",
    "Sink",
    "capture",
    "companion",
    "find_program",
]
