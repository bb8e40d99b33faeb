"""The command: arguments in, an exit code out."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ee_runner import __version__
from ee_runner.cli import parser
from ee_runner.cli.caller import attachment, complain, signals
from ee_runner.console import write
from ee_runner.errors import ConfigurationError, RunnerError
from ee_runner.logs import log, logging_to
from ee_runner.options import CONTROL_COMMANDS, EMULATING_COMMANDS, Given
from ee_runner.values import replace

if TYPE_CHECKING:
    from ee_runner.cli import guardian
    from ee_runner.executor.minding import Minding

REMOTE = ("transmit", "worker", "worker cleanup", "process", "cleanup")

KEPT_BY_DEFAULT = 100
"""Jobs whose artifacts are kept below the state directory, where nobody else removes them."""


def main(argv: Sequence[str], ready: Minding | None = None) -> int:
    """Run the command with these arguments and return its exit code; `ready` is a minder started ahead for it."""
    parsed = parser.parse(argv)
    if parsed.command == "version":
        print(__version__)
        return 0
    if parsed.command == "worker" and "worker_info" not in parsed.explicit and "attach" not in parsed.explicit:
        from ee_runner.cli import guardian

        return guardian.guarded(lambda ward: _perform(parsed, ward, None))
    return _perform(parsed, None, ready)


def _perform(parsed: parser.Parsed, ward: guardian.Ward | None, ready: Minding | None) -> int:
    """Do what the command line asks for, and say what keeps it from being done."""
    try:
        with logging_to(debug="debug" in parsed.explicit, logfile=_logfile(parsed)):
            try:
                return _dispatch(parsed, ward, ready)
            except RunnerError:
                log.debug("The job could not be run:", exc_info=True)
                raise
    except RunnerError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return 128 + signal.SIGINT


def _dispatch(parsed: parser.Parsed, ward: guardian.Ward | None, ready: Minding | None) -> int:
    if parsed.command in REMOTE:
        from ee_runner.cli import remote

        return remote.run(parsed, ward)
    if parsed.command == "start":
        from ee_runner.cli import background

        return background.start(parsed)
    if parsed.command in CONTROL_COMMANDS:
        from ee_runner.cli import control

        return control.stop(parsed) if parsed.command == "stop" else control.is_alive(parsed)
    return _run(parsed, ready)


def _run(parsed: parser.Parsed, ready: Minding | None) -> int:
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
    attached = replace(attachment(resolved.values, emulates=emulates), ready=ready)
    with signals(attached.cancellation):
        runner = Runner(RunnerConfig.of(resolved, attached))
        runner.run()
    if runner.detail:
        complain(runner.detail)
    if emulates and os.isatty(2) and not resolved.values["quiet"]:
        write(2, f"Artifacts: {runner.config.artifact_dir}\n".encode())
    return runner.rc if runner.rc is not None else 1


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


def _logfile(parsed: parser.Parsed) -> Path | None:
    given = parsed.explicit.get("logfile")
    return None if given is None else Path(given.value)
