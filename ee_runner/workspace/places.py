"""Makes the directories and files of one run, private to the user, and removes those that are not artifacts."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ee_runner import locks, names
from ee_runner.errors import ArtifactError, ConfigurationError
from ee_runner.job import CommandTarget, JobSpec
from ee_runner.values import dataclass
from ee_runner.workspace.inputs import mode_of

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a new private directory is made in it
_PLAYBOOK = ".ee_runner_"
_PATIENCE = 0.3
"""Seconds in which a directory is tried again that is held: an earlier job is rotated away in less."""

_OF_ONE_JOB = ("job_events", "job_events.jsonl", "command", "rc", "reason", "status", "stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Where in the job's artifact directory the observer, the spool's reader and the fact cache write."""

    events: Path
    spool: Path
    fact_cache: Path


def artifacts(spec: JobSpec, stack: ExitStack) -> Artifacts:
    """Make the job's artifact directory and what belongs in it; the observer's part goes when `stack` closes.

    What an earlier job of the same ident left makes room, its fact cache apart. All of it is 0700, even what was there
    with another mode. Raises ConfigurationError while a job of that ident runs, ArtifactError for a symbolic link
    in the directory where one of its own is to be.
    """
    directory = spec.artifact_dir
    artifact_directory(directory, stack)
    fact_cache = _directory_within(directory, spec.fact_cache)
    events = directory / ".events"
    remove(events)
    stack.enter_context(removed(events))
    _directory_within(directory, events.name)
    return Artifacts(events, private_file(events / "spool", b""), fact_cache)


def artifact_directory(directory: Path, stack: ExitStack, *, fresh: bool = True) -> None:
    """Make a job's artifact directory and hold it until `stack` closes; a fresh one has nothing of an earlier job.

    Raises what `artifacts` raises.
    """
    deadline = time.monotonic() + _PATIENCE
    while not _locked(directory, stack):
        if time.monotonic() > deadline:
            raise ConfigurationError(
                f"A job with the ident {directory.name!r} is running in {directory}; choose another ident, or let it "
                "end."
            )
        time.sleep(0.005)
    _close_to_others(directory)
    for name in _OF_ONE_JOB if fresh else ():
        remove(directory / name)
    _directory_within(directory, "job_events")


def _directory_within(directory: Path, name: str) -> Path:
    """Make a directory below one of the runner's own, level by level, and never through a symbolic link."""
    for part in Path(name).parts:
        directory /= part
        if directory.is_symlink():
            raise ArtifactError(
                f"{directory} is a symbolic link; a directory of the runner's own belongs there. Remove it."
            )
        private_directory(directory)
        _close_to_others(directory)
    return directory


def _close_to_others(directory: Path) -> None:
    """Take the access of group and others from a directory that is ours and was there before."""
    try:
        found = directory.stat()
        if found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) & 0o077:
            directory.chmod(0o700)
    except OSError as error:
        raise _refused(directory, error) from error


def _locked(directory: Path, stack: ExitStack) -> bool:
    """Make a directory and hold it for this job until `stack` closes; a crash lets go of it.

    Return False while another job holds it, or when somebody who rotates artifacts takes an earlier job's from there.
    """
    private_directory(directory.parent)
    with ExitStack() as attempt:
        try:
            with suppress(FileExistsError):
                directory.mkdir(mode=0o700)
            descriptor = _hold(directory, attempt)
            if not os.path.samestat(os.fstat(descriptor), directory.lstat()):
                return False
        except (BlockingIOError, FileNotFoundError):
            return False
        except OSError as error:  # a network file system that can not lock directories: EBADF, ENOLCK
            if error.errno not in locks.NO_LOCKS:
                raise _refused(directory, error) from error
        stack.push(attempt.pop_all())
    return True


def _hold(directory: Path, stack: ExitStack) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    stack.callback(locks.release, descriptor, os.getpid())
    locks.hold(descriptor)
    return descriptor


@contextmanager
def removed(path: Path) -> Iterator[Path]:
    """Remove a file or a directory tree at the end of the block, unless it ends in a fork of this process."""
    owner = os.getpid()
    try:
        yield path
    finally:
        if os.getpid() == owner:
            remove(path)


@contextmanager
def run_directory(environ: Mapping[str, str]) -> Iterator[Path]:
    """Make the per-run directory, in memory where that can be had, hold it for cleanups, and remove it at the end."""
    with ExitStack() as stack:
        path = stack.enter_context(removed(_make_run_directory(run_directory_bases(environ))))
        with suppress(OSError):  # locks are a help, not a need
            _hold(path, stack)
        yield path


@contextmanager
def project(spec: JobSpec) -> Iterator[Path]:
    """Give the project directory, or with directory isolation a copy of it that is removed at the end."""
    base = spec.directory_isolation_base_path
    if base is None or isinstance(spec.target, CommandTarget) or not stat.S_ISDIR(mode_of(spec.project_dir)):
        yield spec.project_dir
        return
    with removed(_project_copy(spec.project_dir, base)) as copy:
        yield copy


def callback(run_dir: Path, observer: Path) -> Path:
    """Copy the observing callback plugin to a directory that holds nothing else, and return that directory."""
    directory = run_dir / "callback"
    private_directory(directory)
    private_file(directory / observer.name, observer.read_bytes())
    return directory


def playbook(data: bytes, *, run_dir: Path, project_dir: Path, stack: ExitStack) -> Path:
    """Write a generated playbook; it is removed when `stack` closes.

    It stands in the project directory, for Ansible takes roles, group_vars and plugins from beside the playbook; in
    the per-run directory when the project is absent or read-only.
    """
    path = playbook_path(project_dir)
    stack.enter_context(removed(path))
    try:
        _write_private(path, data)
    except OSError:
        remove(path)
        return private_file(run_dir / "playbook.yml", data)
    return path


def playbook_path(project_dir: Path) -> Path:
    """Return a new path for a generated playbook."""
    return project_dir / f"{_PLAYBOOK}{os.urandom(8).hex()}.yml"


def private_directory(path: Path) -> None:
    """Make a directory and those above it that are missing, each 0700; ArtifactError says what stands in the way."""
    missing = []
    level = path
    while not os.path.lexists(level):
        missing.append(level)
        level = level.parent
    if not stat.S_ISDIR(mode_of(level)):
        raise ArtifactError(f"The directory {path} can not be made: {level} is not a directory. Move it away.")
    for each in reversed(missing):
        try:
            each.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _refused(each, error) from error


def private_file(path: Path, data: bytes) -> Path:
    """Write a new file, 0600, and return its path; ArtifactError says why it can not be written."""
    try:
        _write_private(path, data)
    except OSError as error:
        raise _refused(path, error) from error
    return path


def remove(path: Path) -> None:
    """Remove a file or a directory tree as far as it can be; what is left is nobody's secret but only litter."""
    if path.is_symlink() or not path.is_dir():
        with suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(data)


def _refused(path: Path, error: OSError) -> ArtifactError:
    from ee_runner.artifacts import describe

    return ArtifactError(f"{path} can not be made: {describe(error)}")


def run_directory_bases(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield where per-run directories are made: in the first of these that can be written."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and _is_own_directory(Path(runtime)):
        yield Path(runtime)
    yield from (_SHARED_MEMORY, Path(tempfile.gettempdir()))


def _is_own_directory(path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _make_run_directory(bases: Iterator[Path]) -> Path:
    tried = []
    for base in bases:
        try:
            return Path(tempfile.mkdtemp(prefix=names.run_prefix(), dir=base))
        except OSError as error:
            tried.append(f"{base}: {(error.strerror or str(error)).lower()}")
    raise ArtifactError(f"No private directory can be made for this run: {'; '.join(tried)}. Set TMPDIR.")


def _of_other_jobs(directory: str, names_within: list[str]) -> list[str]:
    """Return the playbooks of other jobs that run in the project, as far as they are named pipes."""
    playbooks = [name for name in names_within if name.startswith(_PLAYBOOK) and name.endswith(".yml")]
    return [name for name in playbooks if stat.S_ISFIFO(mode_of(Path(directory, name)))]


def _project_copy(source: Path, base: Path) -> Path:
    if base.resolve().is_relative_to(source.resolve()):
        raise ConfigurationError(
            f"directory_isolation_base_path: {base} lies in the project {source}, which would be copied into itself"
        )
    private_directory(base)
    try:
        copy = Path(tempfile.mkdtemp(prefix=f"{names.run_prefix()}project_", dir=base))
    except OSError as error:
        raise _refused(base, error) from error
    try:
        shutil.copytree(source, copy, symlinks=True, dirs_exist_ok=True, ignore=_of_other_jobs)
    except (OSError, shutil.Error) as error:
        remove(copy)
        reason = error.args[0][0] if isinstance(error, shutil.Error) else error
        what = f"{reason[0]}: {reason[2]}" if isinstance(reason, tuple) else str(reason)
        raise ArtifactError(f"The project {source} can not be copied to {copy}: {what}") from error
    return copy
