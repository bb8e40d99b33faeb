"""The artifacts of one job on disk: private files, whole files, the oldest jobs rotated out."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from ee_runner.errors import ArtifactError
from ee_runner.job import Outcome, Status

FINAL: frozenset[str] = frozenset({"successful", "failed", "canceled", "timeout", "error"})
"""The statuses in which a job ends."""


class ArtifactStore:
    """Writes ``artifacts/<ident>`` (seed, section 1.13): files 0600, events and status replaced in one step.

    The directory and its `job_events` exist already. Every method raises ArtifactError, naming the file, when the
    disk is full, read-only or gone. Close the store, or use it as a context manager.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._events = f"{directory}/job_events/"
        self._stack = contextlib.ExitStack()
        try:
            self._stdout = self._append("stdout")
            self._stderr = self._append("stderr")
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
        with _explained(self.directory / "stdout"):
            self._stdout.write(data)

    def write_stderr(self, data: bytes) -> None:
        with _explained(self.directory / "stderr"):
            self._stderr.write(data)

    def write_event(self, event: Mapping[str, Any]) -> None:
        """Write ``job_events/<counter>-<uuid>.json``."""
        name = f"{self._events}{event['counter']}-{event['uuid']}"
        with _explained(Path(f"{name}.json")):
            _replace(f"{name}-partial.json", f"{name}.json", msgspec.json.encode(event))

    def write_command(self, *, command: tuple[str, ...], cwd: str, env: Mapping[str, str]) -> None:
        """Write ``command``: what was executed, with secrets already masked by the caller."""
        record = {"command": command, "cwd": cwd, "env": env}
        self._write("command", msgspec.json.format(msgspec.json.encode(record), indent=1))

    def write_status(self, status: Status) -> None:
        self._write("status", status.encode())

    def write_outcome(self, outcome: Outcome) -> None:
        """Write the terminal `rc` and `status`, in this order: who sees the status finds the rc."""
        if outcome.rc is not None:
            self._write("rc", str(outcome.rc).encode())
        self._write("status", outcome.status.encode())

    def _write(self, name: str, data: bytes) -> None:
        path = self.directory / name
        with _explained(path):
            _replace(f"{path}.partial", str(path), data)

    def _append(self, name: str) -> BinaryIO:
        path = self.directory / name
        with _explained(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return self._stack.enter_context(os.fdopen(descriptor, "wb", buffering=0))


def read_events(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a job in order of their counter; raises ArtifactError for a file that can not be read."""
    for path in sorted((directory / "job_events").glob("*-*.json"), key=_counter):
        if path.name.endswith("-partial.json"):
            continue
        try:
            yield msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.DecodeError) as error:
            raise ArtifactError(f"The event file {path} can not be read: {error}.") from error


def rotate(root: Path, *, keep: int, current: Path) -> None:
    """Remove the oldest finished jobs below `root` until `keep` jobs are left; 0 keeps all (seed, section 4.9).

    A job without a terminal status is running, or was lost and is evidence: it stays. So does `current`.
    """
    if keep <= 0:
        return
    finished = [path for path in root.iterdir() if path != current and _finished(path)]
    finished.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in finished[max(keep - 1, 0) :]:
        try:
            shutil.rmtree(path)
        except FileNotFoundError:  # another job rotates too
            continue
        except OSError as error:
            raise ArtifactError(f"The old artifacts {path} can not be removed: {error}.") from error


def _finished(path: Path) -> bool:
    try:
        return (path / "status").read_text().strip() in FINAL
    except OSError:
        return False


def _counter(path: Path) -> int:
    number = path.name.partition("-")[0]
    return int(number) if number.isdigit() else -1


def _replace(partial: str, final: str, data: bytes) -> None:
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
    os.rename(partial, final)  # noqa: PTH104 - once per event


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"The artifact {path} can not be written: {describe(error)}") from error


def describe(error: OSError) -> str:
    """Say what an operating system error means for a file, and what to do."""
    remedies = {
        errno.ENOSPC: "the disk is full. Free space there, or choose another place with --artifact-dir.",
        errno.EDQUOT: "the disk quota is used up. Free space there, or choose another place with --artifact-dir.",
        errno.EROFS: "the file system is read-only. Choose another place with --artifact-dir.",
        errno.EACCES: "permission denied. Make the directory writable, or choose another place with --artifact-dir.",
        errno.ENOENT: "its directory is gone. Something removed it while the job ran.",
    }
    return remedies.get(error.errno or 0, f"{error.strerror or error}.")
