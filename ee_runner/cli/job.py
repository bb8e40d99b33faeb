"""One job from the command line: arguments in, an exit code out. Signals are caught here, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ee_runner import __version__
from ee_runner.cli import parser
from ee_runner.cli.display import occupy_standard_streams
from ee_runner.console import write
from ee_runner.errors import ConfigurationError, RunnerError
from ee_runner.logs import log, logging_to
from ee_runner.options import EMULATING_COMMANDS, Given

if TYPE_CHECKING:
    from ee_runner.attachment import Attachment
    from ee_runner.cli import guardian
    from ee_runner.executor import Cancellation

REMOTE = ("transmit", "worker", "worker cleanup", "process")

KEPT_BY_DEFAULT = 100
"""Jobs whose artifacts are kept below the state directory, where nobody else removes them."""


def main(argv: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code."""
    occupy_standard_streams()
    parsed = parser.parse(argv)
    if parsed.command == "version":
        print(__version__)
        return 0
    if parsed.command == "worker" and "worker_info" not in parsed.explicit and "attach" not in parsed.explicit:
        from ee_runner.cli import guardian

        return guardian.guarded(lambda ward: _perform(parsed, ward))
    return _perform(parsed, None)


def _perform(parsed: parser.Parsed, ward: guardian.Ward | None) -> int:
    """Do what the command line asks for, and say what keeps it from being done."""
    try:
        with logging_to(debug="debug" in parsed.explicit, logfile=_logfile(parsed)):
            try:
                if parsed.command in REMOTE:
                    from ee_runner.cli import remote

                    return remote.run(parsed, ward)
                return _run(parsed)
            except RunnerError:
                log.debug("The job could not be run:", exc_info=True)
                raise
    except RunnerError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return 128 + signal.SIGINT


def _run(parsed: parser.Parsed) -> int:
    from ee_runner import settings
    from ee_runner.config import RunnerConfig
    from ee_runner.runner import Runner

    emulates = parsed.command in EMULATING_COMMANDS
    explicit = dict(parsed.explicit)
    if emulates and "private_data_dir" not in explicit:
        explicit = {**state_for_command(own_artifacts="artifact_dir" in explicit), **explicit}
    resolved = settings.resolve(explicit, environ=os.environ, command=parsed.command)
    if resolved.values["explain"]:
        write(1, "".join(f"{line}\n" for line in resolved.explain()).encode())
        return 0
    attached = attachment(resolved.values, emulates=emulates)
    with signals(attached.cancellation):
        runner = Runner(RunnerConfig.of(resolved, attached))
        runner.run()
    if runner.detail:
        complain(runner.detail)
    if emulates and os.isatty(2) and not resolved.values["quiet"]:
        write(2, f"Artifacts: {runner.config.artifact_dir}\n".encode())
    return runner.rc if runner.rc is not None else 1


def attachment(values: Any, *, emulates: bool) -> Attachment:
    from ee_runner.attachment import Attachment
    from ee_runner.cli.display import PullProgress
    from ee_runner.console import Console, JsonLines, to_descriptor
    from ee_runner.job import Terminal

    quiet = values["quiet"] or values["suppress_ansible_output"]
    out, err = to_descriptor(1), to_descriptor(2)
    shown = JsonLines(out) if values["json_mode"] else Console(out, err, plain=not os.isatty(1))
    on_terminal = emulates and os.isatty(0) and os.isatty(1)
    return Attachment(
        display=None if quiet else shown,
        progress=None if quiet else PullProgress(),
        terminal=Terminal.INTERACTIVE if on_terminal else Terminal.PIPES if emulates else None,
        stdin=0 if emulates else None,
        explain=log.debug,
        strict=emulates,
        warn=complain,
    )


def state_for_command(*, own_artifacts: bool) -> dict[str, Given]:
    """Give playbook and adhoc a private data directory of the user's own, in which old jobs make room for new ones."""
    from ee_runner.sources import state_directory

    try:
        state = state_directory()
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The state directory {error.filename} can not be made: {error.strerror}. "
            "Name another by --private-data-dir."
        ) from error
    origin = f"default of {' and '.join(sorted(EMULATING_COMMANDS))}"
    kept = {} if own_artifacts else {"rotate_artifacts": Given(KEPT_BY_DEFAULT, origin)}
    return {"private_data_dir": Given(state, origin), **kept}


@contextlib.contextmanager
def signals(cancellation: Cancellation) -> Iterator[None]:
    """Turn the signals that ask a command to end into a cancel, for the length of the block."""
    previous: dict[int, Any] = {}

    def cancel(signum: int, _frame: object) -> None:
        cancellation.request()
        signal.signal(signum, interrupt)

    def interrupt(_signum: int, _frame: object) -> None:
        raise KeyboardInterrupt  # asked a second time: out of whatever it is that takes so long

    def resize(_signum: int, _frame: object) -> None:
        cancellation.nudge()

    try:
        for stopping in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(stopping) is not signal.SIG_IGN:  # nohup
                previous[stopping] = signal.signal(stopping, cancel)
        previous[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, resize)
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler or signal.SIG_DFL)


def _logfile(parsed: parser.Parsed) -> Path | None:
    given = parsed.explicit.get("logfile")
    return None if given is None else Path(given.value)


def complain(text: str) -> None:
    write(2, f"ansible-runner: {text}\n".encode(errors="backslashreplace"))
