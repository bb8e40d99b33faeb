"""The artifacts of one job on disk: private files, whole files."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ee_runner.errors import ArtifactError
from ee_runner.events.appending import LogWriter
from ee_runner.events.kept import FILES, LOG, PARTIAL, Form
from ee_runner.job import Outcome, Status

FINAL: frozenset[str] = frozenset({"successful", "failed", "canceled", "timeout", "error"})
"""The statuses in which a job ends."""

_APPENDING = os.O_CREAT | os.O_APPEND


class ArtifactStore:
    """Writes ``artifacts/<ident>`` (seed, section 1.13): files 0600, events and status whole or not there.

    The directory and its `job_events` exist already, and are held open: what a job inside puts in their place, or
    in the place of a file, is never written through. Every method raises ArtifactError, naming the file, when the
    disk is full, read-only or gone. Without `keeps_output` there is no `stdout` and `stderr`. `events` says how these
    are kept, see `ee_runner.events.kept`; a log that is there is gone on with. Close the store, or use it as a context
    manager.
    """

    def __init__(self, directory: Path, *, keeps_output: bool = True, events: Form = "files") -> None:
        self.directory = directory
        self._has_files = events != "log"
        self._log: LogWriter | None = None
        self._stdout: int | None = None
        self._stderr: int | None = None
        self._stack = contextlib.ExitStack()
        try:
            self._home = self._open(directory, os.O_DIRECTORY)
            self._events = self._open(directory / FILES, os.O_DIRECTORY, within=self._home)
            if events != "files":
                with _explained(directory / LOG):
                    self._log = LogWriter(self._open(directory / LOG, os.O_RDWR | _APPENDING, within=self._home))
            if keeps_output:
                self._stdout = self._open(directory / "stdout", os.O_WRONLY | _APPENDING, within=self._home)
                self._stderr = self._open(directory / "stderr", os.O_WRONLY | _APPENDING, within=self._home)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> ArtifactStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def write_stdout(self, data: bytes) -> None:
        if self._stdout is not None:
            self._add(self._stdout, data, name="stdout")

    def write_stderr(self, data: bytes) -> None:
        if self._stderr is not None:
            self._add(self._stderr, data, name="stderr")

    def write_event(self, event: Mapping[str, Any]) -> str | int:
        """Write an event and return what to announce of it: its file's name, or where its line in the log ends.

        What has no counter or uuid, and what JSON can not say, raises KeyError, TypeError and ValueError.
        """
        name, data = f"{event['counter']}-{event['uuid']}.json", _encoder()(event)
        if self._has_files:
            try:
                _replace(PARTIAL, name, data, within=self._events)
            except OSError as error:
                raise _failure(self.directory / FILES / name, error) from error
        if self._log is None:
            return name
        try:
            return self._log.append(data, event["counter"])
        except OSError as error:
            raise _failure(self.directory / LOG, error) from error

    def write_command(self, *, command: tuple[str, ...], cwd: str, env: Mapping[str, str]) -> None:
        """Write ``command``: what was executed, with secrets already masked by the caller."""
        shown = {_readable(name): _readable(value) for name, value in env.items()}
        record = {"command": tuple(map(_readable, command)), "cwd": _readable(cwd), "env": shown}
        self._write("command", json.dumps(record, ensure_ascii=False, indent=1).encode())

    def write_status(self, status: Status) -> None:
        self._write("status", status.encode())

    def write_outcome(self, outcome: Outcome) -> None:
        """Write the terminal `rc` and `status`, in this order: who sees the status finds the rc.

        A job that did not end by itself has a `reason` too: the reason's word, then a line that says more. On a full
        disk the status is still written, over the earlier one, and the error raised.
        """
        try:
            if outcome.reason != "exited" or outcome.detail:
                self._write("reason", f"{outcome.reason}\n{outcome.detail}".rstrip().encode(errors="replace") + b"\n")
            if outcome.rc is not None:
                self._write("rc", str(outcome.rc).encode())
            self._write("status", outcome.status.encode())
        except ArtifactError:
            with contextlib.suppress(OSError):  # the error on its way says it
                self._overwrite("status", b"error")
            raise

    def _add(self, descriptor: int, data: bytes, *, name: str) -> None:
        try:
            _write_all(descriptor, data)
        except OSError as error:
            raise _failure(self.directory / name, error) from error

    def _write(self, name: str, data: bytes) -> None:
        with _explained(self.directory / name):
            _replace(f"{name}.partial", name, data, within=self._home)

    def _overwrite(self, name: str, data: bytes) -> None:
        descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._home)
        try:
            _write_all(descriptor, data)
            os.ftruncate(descriptor, len(data))
        finally:
            os.close(descriptor)

    def _open(self, path: Path, flags: int, *, within: int | None = None) -> int:
        name = str(path) if within is None else path.name
        with _explained(path):
            descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=within)
        self._stack.callback(os.close, descriptor)
        return descriptor


@functools.cache
def _encoder() -> Callable[[object], bytes]:
    """Return what makes JSON of an event; what it takes to load that is not needed before Ansible has one."""
    import msgspec

    return msgspec.json.Encoder().encode


def _readable(text: str) -> str:
    """Return the text with bytes that are no UTF-8, as the system may hand them in, replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _replace(partial: str, final: str, data: bytes, *, within: int) -> None:
    """Write a file of this directory in one step; what lies in the way of the partial one is removed, not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(partial, flags, 0o600, dir_fd=within)
    except FileExistsError:
        os.unlink(partial, dir_fd=within)
        descriptor = os.open(partial, flags, 0o600, dir_fd=within)
    try:
        try:
            _write_all(descriptor, data)
        finally:
            os.close(descriptor)
        os.rename(partial, final, src_dir_fd=within, dst_dir_fd=within)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(partial, dir_fd=within)
        raise


def _write_all(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(path, error) from error


def _failure(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"The artifact {path} can not be written: {describe(error)}")


def describe(error: OSError, *, option: str = "--artifact-dir") -> str:
    """Say what an operating system error means for a file, and what to do; `option` is what chooses its place."""
    elsewhere = f"choose another place with {option}" if option else "choose another place"
    remedies = {
        errno.ENOSPC: f"the disk is full. Free space there, or {elsewhere}.",
        errno.EDQUOT: f"the disk quota is used up. Free space there, or {elsewhere}.",
        errno.EROFS: f"the file system is read-only. {elsewhere[0].upper()}{elsewhere[1:]}.",
        errno.EACCES: f"permission denied. Make the directory writable, or {elsewhere}.",
        errno.ELOOP: "a symbolic link stands in its place. Remove the link.",
        errno.ENOTDIR: "something that is no directory stands in its place. Move that away.",
        errno.ENOENT: "its directory is gone. Something removed it while the job ran.",
    }
    return remedies.get(error.errno or 0, f"{error.strerror or error}.")
