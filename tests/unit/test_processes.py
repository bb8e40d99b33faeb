"""Processes and signals are called by names that mean them alone."""

from __future__ import annotations

import os
import signal

from ee_runner.processes import Identity, signal_name


def test_a_signal_is_called_by_its_name() -> None:
    assert signal_name(signal.SIGKILL) == "SIGKILL"
    assert signal_name(signal.SIGRTMIN + 3) == f"signal {signal.SIGRTMIN + 3}"


def test_the_identity_of_a_process_is_not_that_of_its_fork() -> None:
    own = Identity.own()
    assert own == Identity.of(os.getpid())
    assert own.runs
    child = os.fork()
    if child == 0:
        os._exit(0 if Identity.own() == Identity.of(os.getpid()) != own else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert Identity.own() == own
    assert not Identity.of(child).runs
