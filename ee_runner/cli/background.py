"""A job in the background: its start, which waits until it runs, and the process that goes on with it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ee_runner import names, settings
from ee_runner.artifacts import describe
from ee_runner.cli.caller import complain, signals
from ee_runner.console import write
from ee_runner.errors import ArtifactError, LaunchError, RunnerError
from ee_runner.executor import Cancellation
from ee_runner.logs import log

if TYPE_CHECKING:
    from ee_runner.cli.parser import Parsed
    from ee_runner.runner import Runner
    from ee_runner.sources import Resolved

LOG = "daemon.log"
PID = "pid"

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CANCELED = "the job was canceled before it had started"
_SIGN = 10.0
"""Seconds that a job whose process runs may take for its first sign of life; until then its engine may still fail."""


def start(parsed: Parsed) -> int:
    """Start a job in the background; return 0 when it runs, or has run (seed, section 4.2).

    What keeps it from running is said, and its exit code returned, or it is raised as RunnerError. A signal that asks
    to end cancels the job as long as it is waited for.
    """
    resolved = settings.resolve(parsed.explicit, environ=os.environ, command=parsed.command)
    if resolved.values["explain"]:
        write(1, "".join(f"{line}\n" for line in resolved.explain()).encode())
        return 0
    if resolved.values["ident"] is None:
        resolved = replace(resolved, values={**resolved.values, "ident": names.new_ident()})
    spec = settings.job_spec(resolved)
    log_path = spec.private_data_dir / LOG
    log_file = _open_log(log_path)
    read, words = os.pipe()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _go_on(resolved, spec.private_data_dir, log_file=log_file, starter=_Starter(words), mask=mask)
    os.close(words)
    os.close(log_file)
    started = _Started(pid, spec.ident, log_path, quiet=resolved.values["quiet"])
    return started.awaited(read, mask)


def _open_log(path: Path) -> int:
    """Open the log to append to it; never through a link, for a job inside may write to its directory."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise ArtifactError(f"The log {path} can not be written: {describe(error, option='')}") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ArtifactError(f"The log {path} can not be written: it is no regular file. Move it away.")
    if found.st_uid == os.geteuid():
        os.fchmod(descriptor, 0o600)
    return descriptor


class _Starter:
    """The process that started this one, as long as it waits: what it is told, it tells the user.

    It is also the display of the job, which shows that Ansible runs, and takes the progress of a pull.
    """

    def __init__(self, descriptor: int) -> None:
        self._words: int | None = descriptor
        self.knows_of_start = False

    def tell(self, *words: object) -> None:
        if self._words is not None:
            with contextlib.suppress(BrokenPipeError):  # it was killed; the job goes on
                os.write(self._words, json.dumps(words).encode() + b"\n")

    def tell_last(self, *words: object) -> None:
        if self._words is not None:
            self.tell(*words)
            os.close(self._words)
            self._words = None

    def started(self) -> None:
        self.knows_of_start = True
        self.tell("started")

    def stdout(self, data: bytes) -> None: ...

    def stderr(self, data: bytes) -> None: ...

    def event(self, event: dict[str, Any]) -> None:
        if event["event"] != "verbose":  # which a complaint of the engine is, too
            self.tell_last("alive")

    def start(self, image: str) -> None:
        self.tell("pull", image)

    def update(self, text: str, current: int | None = None, total: int | None = None) -> None:
        self.tell("pulled", text, current, total)

    def finish(self) -> None:
        self.tell("pull ended")


class _Started:
    """The process of a job in the background, as its starter sees it."""

    def __init__(self, pid: int, ident: str, log_path: Path, *, quiet: bool) -> None:
        from ee_runner.cli.display import PullProgress

        self._pid = pid
        self._ident = ident
        self._log_path = log_path
        self._quiet = quiet
        self._progress = PullProgress()
        self._cancellation = Cancellation()
        self._told_to_end = False
        self._runs_since: float | None = None

    def awaited(self, words: int, mask: Any) -> int:
        """Wait until the job runs, or will not; return the exit code."""
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, words)
            stack.callback(self._progress.finish)
            stack.enter_context(signals(self._cancellation))
            stack.enter_context(self._cancellation.waking(self._cancel))
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            try:
                return self._listen(words)
            except KeyboardInterrupt:  # asked a second time, so is the job's process
                os.kill(self._pid, signal.SIGTERM)
                os.waitpid(self._pid, 0)
                raise

    def _listen(self, words: int) -> int:
        poll = select.poll()
        poll.register(words, select.POLLIN)
        rest = b""
        while poll.poll(self._patience()):
            data = os.read(words, 65536)
            if not data:
                raise self._died()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                code = self._heard(*json.loads(line))
                if code is not None:
                    return code
        return self._say_started()

    def _patience(self) -> float | None:
        """Return the milliseconds in which the job is to give a sign of life; None as long as it does not run."""
        if self._runs_since is None or self._told_to_end:
            return None
        return max(self._runs_since + _SIGN - time.monotonic(), 0.0) * 1000

    def _cancel(self) -> None:
        if self._cancellation.requested and not self._told_to_end:
            self._told_to_end = True
            os.kill(self._pid, signal.SIGTERM)
            complain("the job is being canceled")

    def _heard(self, kind: str, *words: Any) -> int | None:
        """Do what the job's process says; return an exit code when there is nothing to wait for any more."""
        match kind:
            case "started":
                self._runs_since = time.monotonic()
            case "alive" | "ended":
                return self._say_started()
            case "failed":
                return self._say_failed(*words)
            case "warning":
                complain(*words)
            case "pull":
                self._progress.start(*words)
            case "pulled":
                self._progress.update(*words)
            case "pull ended":
                self._progress.finish()
        return None

    def _say_started(self) -> int:
        if self._told_to_end:
            os.waitpid(self._pid, 0)
            complain("the job was canceled")
            return 254
        if not self._quiet:
            write(1, f"started {self._ident}, process {self._pid}\n".encode(errors="backslashreplace"))
        return 0

    def _say_failed(self, code: int, text: str) -> int:
        os.waitpid(self._pid, 0)
        complain(text)
        complain(f"the log is {self._log_path}")
        return code

    def _died(self) -> LaunchError:
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return LaunchError(f"The job's process {how} before the job ran. See {self._log_path}.")


def _go_on(resolved: Resolved, directory: Path, *, log_file: int, starter: _Starter, mask: Any) -> NoReturn:
    """Run the job in this process, which is a fork, to its end; nothing of the caller of `start` is gone back to."""
    code = 1
    try:
        os.setsid()
        _stand_alone(log_file)
        code = _logged(resolved, directory, starter=starter, mask=mask)
    except BaseException:
        log.exception("The process that runs the job failed:")
    finally:
        os._exit(code)


def _stand_alone(log_file: int) -> None:
    """Let go of the caller's standard streams: no input, no output, and words of the runner's own into its log."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor, source in enumerate((nothing, nothing, log_file)):
        os.dup2(source, descriptor)
    for descriptor in (nothing, log_file):
        os.close(descriptor)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it is what `stop` sends


def _logged(resolved: Resolved, directory: Path, *, starter: _Starter, mask: Any) -> int:
    """Run the job, and tell the log and the starter what keeps it from running."""
    _log_to_standard_error(debug=resolved.values["debug"])
    ident = resolved.values["ident"]
    try:
        runner = _run(resolved, directory, starter=starter, mask=mask)
    except RunnerError as error:
        log.debug("The job could not be run:", exc_info=True)
        code, text = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, text = 128 + signal.SIGINT, "interrupted"
    else:
        log.info("%s: %s, rc %s%s", ident, runner.status, runner.rc, f" ({runner.detail})" if runner.detail else "")
        code = runner.rc or 0
        if starter.knows_of_start and runner.reason != "launch":
            starter.tell_last("ended")
        else:
            starter.tell_last("failed", code, runner.detail or _CANCELED)
        return code
    log.error("%s: %s", ident, text)
    starter.tell_last("failed", code, text)
    return code


def _log_to_standard_error(*, debug: bool) -> None:
    """Log how the job goes; with `debug` there is a handler for that, and for more, already."""
    if debug:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)


def _run(resolved: Resolved, directory: Path, *, starter: _Starter, mask: Any) -> Runner:
    from ee_runner.attachment import Attachment
    from ee_runner.config import RunnerConfig
    from ee_runner.runner import Runner

    ident = resolved.values["ident"]

    def warn(text: str) -> None:
        log.warning("%s: %s", ident, text)
        starter.tell("warning", text)

    def started() -> None:
        log.info("%s: started, process %d", ident, os.getpid())
        starter.started()

    attached = Attachment(
        display=starter,
        progress=None if resolved.values["quiet"] else starter,
        explain=log.debug,
        warn=warn,
        started=started,
        stoppable=True,
    )
    with signals(attached.cancellation):
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        runner = Runner(RunnerConfig.of(resolved, attached))
        with pid_file(directory / PID):
            runner.run()
    return runner


@contextlib.contextmanager
def pid_file(path: Path) -> Iterator[None]:
    """Keep this process's pid in a file, which is removed at the end unless another process has replaced it.

    Nobody is to believe it: a job inside may be able to write to its directory. Raises ArtifactError.
    """
    try:
        descriptor = _replaced(path, f"{os.getpid()}\n".encode())
    except OSError as error:
        raise ArtifactError(f"The pid file {path} can not be written: {describe(error, option='')}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                path.unlink()
        os.close(descriptor)


def _replaced(path: Path, data: bytes) -> int:
    """Put a new file, 0600, in the place of what is there, which is never written through; return it, open."""
    partial = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
        partial.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        os.close(descriptor)
        raise
    return descriptor
