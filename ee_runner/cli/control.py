"""Asks for the jobs of a private data directory, and stops them: ``is-alive`` and ``stop``."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ee_runner.cli import supervisors
from ee_runner.cli.caller import complain
from ee_runner.cli.supervisors import Supervisor
from ee_runner.console import write
from ee_runner.job import Limits
from ee_runner.sources import working_directory

if TYPE_CHECKING:
    from ee_runner.cli.parser import Parsed
    from ee_runner.processes import Identity

_MARGIN = 10.0
"""Seconds beyond the job's grace that its supervisor may take to end."""

_KILLED = 10.0
"""Seconds that a process may take to go after SIGKILL."""

_STEP = 0.05

NONE, SEVERAL = 1, 2


def is_alive(parsed: Parsed) -> int:
    """Say whether a job of the directory, or of the ident, runs: 0 when one does, 1 when none does."""
    jobs = _jobs(parsed)
    if not parsed.value("quiet"):
        _say(_listed(jobs, "runs", "run") if jobs else _none(parsed))
    return 0 if jobs else NONE


def stop(parsed: Parsed) -> int:
    """Cancel the job of the directory, or of the ident, and see it ended.

    Returns 0 when it was stopped, 1 when there was none to stop, 2 when there are several.
    """
    jobs = _jobs(parsed)
    ours = [job for job in jobs if job.stoppable and not job.elsewhere]
    if len(ours) > 1:
        complain(f"several jobs run in {_directory(parsed)}: {_listed(ours, '', '')}; {_choice(ours)}")
        return SEVERAL
    if ours:
        return _stop(ours[0], quiet=bool(parsed.value("quiet")))
    for job in jobs:
        complain(_refusal(job))
    if not jobs and not parsed.value("quiet"):
        complain(_none(parsed))
    return NONE


def _jobs(parsed: Parsed) -> list[Supervisor]:
    return supervisors.of_directory(
        _directory(parsed), ident=parsed.value("ident"), artifacts=_absolute(parsed.value("artifact_dir"))
    )


def _directory(parsed: Parsed) -> Path:
    return working_directory() / Path(parsed.value("private_data_dir"))


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else working_directory() / path


def _none(parsed: Parsed) -> str:
    ident, directory = parsed.value("ident"), _directory(parsed)
    if not directory.is_dir():
        return f"no job runs: there is no directory {directory}"
    return f"no job {ident!r} runs in {directory}" if ident else f"no job runs in {directory}"


def _listed(jobs: Sequence[Supervisor], one: str, many: str) -> str:
    words = [f"{job.ident} ({job.place})" for job in jobs]
    return f"{', '.join(words)} {one if len(words) == 1 else many}".rstrip()


def _choice(jobs: Sequence[Supervisor]) -> str:
    distinct = {job.ident for job in jobs}
    return "name one with -i" if len(distinct) > 1 else "name its artifacts with --artifact-dir"


def _refusal(job: Supervisor) -> str:
    if job.elsewhere:
        return f"{job.ident} is run by {job.place}; stop it there"
    return f"{job.ident} is run by {job.place}, a program that uses the library; it is for that program to cancel it"


def _stop(job: Supervisor, *, quiet: bool) -> int:
    patience = (Limits().grace if job.record is None else job.record.grace) + _MARGIN
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(_Process(job.process))
        try:
            # the second one gets a command out of what it hangs in, such as a terminal that takes no output
            ended = process.asked(signal.SIGTERM, patience) or process.asked(signal.SIGTERM, patience)
            killed = not ended and process.asked(signal.SIGKILL, _KILLED)
        except PermissionError:
            complain(f"{job.ident} is run by {job.place}, which this user may not stop")
            return NONE
    if not ended and not killed:
        complain(f"{job.ident} can not be stopped: {job.place} does not end, not even by SIGKILL")
        return NONE
    if not quiet:
        _say(_end_of(job) if ended else f"{job.ident} did not stop in time: {job.place} was killed")
    return 0 if ended else _settle(job)


def _settle(job: Supervisor) -> int:
    """See to what a supervisor that was killed has left, unless its minder does; return the exit code."""
    if job.record is None:  # another user's, whose next job does it
        return 0
    from ee_runner.cleanup import lost

    settled = lost.settle(job.record, patience=_KILLED)
    for failure in settled.failures if settled else ():
        complain(failure)
    return NONE if settled and settled.failures else 0


def _end_of(job: Supervisor) -> str:
    """Say how the job ended, as its artifacts tell."""
    status = _status(job.artifact_dir)
    if status in ("successful", "failed", "timeout", "error"):
        return f"{job.ident} has ended: {status}"
    return f"stopped {job.ident}, {job.place}"


def _status(directory: Path) -> str:
    try:
        descriptor = os.open(directory / "status", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        return file.read(32).decode("ascii", "replace").strip()


class _Process:
    """A process that is asked to end, and no later one of its pid; a context manager."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._descriptor: int | None = None

    def __enter__(self) -> _Process:
        try:
            self._descriptor = os.pidfd_open(self._identity.pid)
        except (AttributeError, OSError) as error:  # no Linux, an old one, or the process has gone
            if getattr(error, "errno", errno.ENOSYS) not in (errno.ENOSYS, errno.ESRCH, errno.EPERM):
                raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def asked(self, number: signal.Signals, patience: float) -> bool:
        """Send a signal and wait so many seconds; say whether the process has gone. Raises PermissionError."""
        if self._identity.gone:  # looked at with the descriptor open: it is that process, or none
            return True
        with contextlib.suppress(ProcessLookupError):
            self._send(number)
            self._send(signal.SIGCONT)  # one that was suspended goes on, and ends
        return self._gone_within(patience)

    def _send(self, number: signal.Signals) -> None:
        if self._descriptor is None:
            os.kill(self._identity.pid, number)
        else:
            signal.pidfd_send_signal(self._descriptor, number)

    def _gone_within(self, patience: float) -> bool:
        if self._descriptor is not None:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            return bool(poll.poll(patience * 1000))
        deadline = time.monotonic() + patience
        while self._runs():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_STEP)
        return True

    def _runs(self) -> bool:
        if self._identity.gone:
            return False
        try:
            os.kill(self._identity.pid, 0)
        except ProcessLookupError:
            return False
        return True


def _say(text: str) -> None:
    write(1, f"{text}\n".encode(errors="backslashreplace"))
