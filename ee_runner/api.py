"""The library's functions: keyword arguments in, a Runner or a command's output out."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO, cast

from ee_runner import settings
from ee_runner.attachment import Attachment
from ee_runner.config import ALIASES, RunnerConfig, temporary_directory
from ee_runner.console import Captured, Console, checked, descriptor_of, to_any
from ee_runner.errors import ConfigurationError, LaunchError
from ee_runner.job import Terminal
from ee_runner.options import CALLBACKS
from ee_runner.results import Results
from ee_runner.runner import Runner
from ee_runner.values import replace

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ee_runner.keywords import JobKeywords, Keywords
    from ee_runner.stream.process import Processor
    from ee_runner.stream.transmit import Transmitter
    from ee_runner.stream.worker import Worker

_STREAMS = ("streamer", "_input", "_output")
_STREAMERS = ("transmit", "worker", "process")


def init_runner(*, attachment: Attachment | None = None, **options: Unpack[JobKeywords]) -> Runner:
    """Return a Runner whose job is ready to run; `config.env` may be changed before its `run` is called.

    The keywords are the options of the option table, such as `private_data_dir`, `playbook` and `container_image`,
    and the callbacks. Raises ConfigurationError for an unknown or wrong one, and what `RunnerConfig.prepare` raises.
    With `streamer` it is one end of a remote job (seed, chapter 8): a Transmitter, a Worker or a Processor, which read
    `_input` and write `_output`, and have `run`, `cancel`, `status` and `rc` as a Runner has.
    """
    given: dict[str, Any] = dict(options)
    callbacks = {name: given.pop(name) for name in CALLBACKS if name in given}
    streaming = {name: given.pop(name, None) for name in _STREAMS}
    if streaming["streamer"]:
        return cast(Runner, _streamer(streaming, given, callbacks, attachment))
    return Runner(RunnerConfig(attachment=attachment, **given), **callbacks)


def run(*, attachment: Attachment | None = None, **options: Unpack[JobKeywords]) -> Runner:
    """Run one job in the foreground and return its Runner (seed, section 5.2).

    Takes what `init_runner` takes, and raises what it and `Runner.run` raise. How the job ended is in the Runner: a
    failing play, a cancel and a timeout raise nothing.
    """
    runner = init_runner(attachment=attachment, **options)
    runner.run()
    return runner


def run_async(
    *, attachment: Attachment | None = None, **options: Unpack[JobKeywords]
) -> tuple[threading.Thread, Runner]:
    """Run one job in a thread of its own and return the thread, started, and the Runner (seed, section 5.3).

    What is wrong with the arguments is raised here. What `Runner.run` raises ends the thread (threading.excepthook);
    the Runner's status is ``error`` then.
    """
    return _started(init_runner(attachment=attachment, **options))


def run_command(
    executable_cmd: str,
    cmdline_args: Iterable[str] | None = None,
    *,
    input_fd: int | TextIO | None = None,
    output_fd: int | TextIO | None = None,
    error_fd: int | TextIO | None = None,
    attachment: Attachment | None = None,
    **options: Unpack[Keywords],
) -> tuple[str, str, int]:
    """Run any command in the foreground, and return its output, its error output and its exit code (seed, section 5.4).

    `input_fd`, `output_fd` and `error_fd` are descriptors or files that the command is connected to; what goes there
    is not returned. When input and output both are terminals, the command has one, too. With `runner_mode` ``pexpect``
    the error output is part of the output; with ``subprocess`` the two stay apart. A command that is not Ansible's
    makes no events but for an `event_handler`, a plugin or `json_mode`. Raises what `run` raises.
    """
    attachment = connected(input_fd, output_fd, error_fd, attachment=attachment)
    runner = _command(executable_cmd, cmdline_args, attachment, options)
    captured = Captured(out=output_fd is None, err=error_fd is None)
    runner.config.attachment = replace(runner.config.attachment, captured=captured, unread=True)
    runner.run()
    return captured.out, captured.err, runner.rc if runner.rc is not None else 1


def run_command_async(
    executable_cmd: str,
    cmdline_args: Iterable[str] | None = None,
    *,
    input_fd: int | TextIO | None = None,
    output_fd: int | TextIO | None = None,
    error_fd: int | TextIO | None = None,
    attachment: Attachment | None = None,
    **options: Unpack[Keywords],
) -> tuple[threading.Thread, Runner]:
    """Run any command in a thread of its own, and return the thread, started, and the Runner (seed, section 5.5)."""
    attachment = connected(input_fd, output_fd, error_fd, attachment=attachment)
    return _started(_command(executable_cmd, cmdline_args, attachment, options))


def connected(
    input_fd: int | TextIO | None,
    output_fd: int | TextIO | None,
    error_fd: int | TextIO | None,
    *,
    attachment: Attachment | None = None,
) -> Attachment:
    """Connect a command to the caller's descriptors; without a terminal at both ends it gets none in a container."""
    stdin = None if input_fd is None else checked("input_fd", input_fd, writing=False)
    if input_fd is not None and stdin is None:
        raise ConfigurationError("input_fd: an open file with a descriptor is expected, or the descriptor")
    out = None if output_fd is None else to_any("output_fd", output_fd)
    err = None if error_fd is None else to_any("error_fd", error_fd)
    on_terminal = stdin is not None and os.isatty(stdin) and _is_terminal(output_fd)
    terminal = None if stdin is None else Terminal.INTERACTIVE if on_terminal else Terminal.PIPES
    attachment = attachment or Attachment()
    if out is not None or err is not None:
        display = Console(out or _nowhere, err or _nowhere, plain=False)
        attachment = replace(attachment, display=display, shown=True)
    return replace(attachment, terminal=terminal, tty=on_terminal or stdin is None, stdin=stdin)


def _streamer(
    streaming: Mapping[str, Any],
    given: dict[str, Any],
    callbacks: Mapping[str, Any],
    attachment: Attachment | None,
) -> Transmitter | Worker | Processor:
    """Return one end of a remote job."""
    kind, source, output = (streaming[name] for name in _STREAMS)
    if kind not in _STREAMERS:
        raise ConfigurationError(f"streamer: {' or '.join(_STREAMERS)} is expected, found {kind!r}")
    attachment = attachment or Attachment()
    given = {ALIASES.get(name, name): value for name, value in given.items()}
    if kind == "process" and given.get("private_data_dir") is None:
        given["private_data_dir"] = temporary_directory()
    resolved = settings.resolve(given, environ=os.environ, command=kind)
    if kind == "transmit":
        from ee_runner.stream.transmit import Transmitter

        cancellation = attachment.cancellation
        return Transmitter(resolved, output=output, answers=source, cancellation=cancellation, callbacks=callbacks)
    if kind == "worker":
        from ee_runner.stream import worker

        return worker.Worker(worker.terms(resolved, given), source=source, output=output, attachment=attachment)
    from ee_runner.stream.process import Processor

    return Processor(resolved, source=source, attachment=attachment, callbacks=callbacks)


def _started(runner: Runner) -> tuple[threading.Thread, Runner]:
    log = runner.log if isinstance(runner, Results) else None  # a transmitter and a worker keep no events
    if log is not None:
        log.begin()
    thread = threading.Thread(target=runner.run, name="ee_runner job")
    try:
        thread.start()
    except RuntimeError as error:
        if log is not None:
            log.end()
        raise LaunchError(f"No thread can be started for the job: {error}.") from error
    return thread, runner


def _command(
    executable_cmd: str, cmdline_args: Iterable[str] | None, attachment: Attachment, options: Keywords
) -> Runner:
    if not executable_cmd:
        raise ConfigurationError("executable_cmd: the command to run is expected, found nothing")
    if isinstance(cmdline_args, str):
        raise ConfigurationError("cmdline_args: a list of arguments is expected, found one text; use shlex.split()")
    if cmdline_args is not None and not isinstance(cmdline_args, Iterable):
        raise ConfigurationError("cmdline_args: a list of arguments is expected")
    mode = options.get("runner_mode")
    if mode == "pexpect" and attachment.terminal is Terminal.PIPES:
        raise ConfigurationError("input_fd: only a terminal goes with runner_mode 'pexpect'; use 'subprocess'")
    words = list(cmdline_args or ())
    return init_runner(attachment=attachment, executable_cmd=executable_cmd, cmdline_args=words, **options)


def _is_terminal(output: int | TextIO | None) -> bool:
    descriptor = None if output is None else descriptor_of(output)
    return descriptor is not None and os.isatty(descriptor)


def _nowhere(data: bytes) -> None:
    del data
