"""The records of jobs that are under way: what to end and to remove when the process that runs a job dies.

A record is a file of the user's own, in the state directory and so nowhere that a job in a container can write. The
job's supervisor holds a lock on it as long as the job lasts; one that nobody holds is of a job that was abandoned.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ee_runner import locks, names
from ee_runner.errors import ArtifactError, RunnerError
from ee_runner.logs import log
from ee_runner.processes import Identity
from ee_runner.sources import state_directory
from ee_runner.values import dataclass, replace

SUFFIX = ".json"
PARTIAL = ".partial"

_ADDRESS = (
    *("CONTAINERS_STORAGE_CONF", "CONTAINER_CONNECTION", "CONTAINER_HOST", "CONTAINER_SSHKEY"),
    *("DOCKER_CERT_PATH", "DOCKER_CONTEXT", "DOCKER_HOST", "DOCKER_TLS_VERIFY"),
)
"""The variables that say which engine a client speaks to."""

_LARGEST = 1 << 20
_PATIENCE_STEP = 0.02
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOUND = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Underway:
    """One job as its record has it.

    `engine` is what `registry.choose` takes, and `address` the variables that say where it is. A `stoppable` supervisor
    is a command, which ends its job in order on SIGTERM, and takes `grace` seconds for that. `paths` are temporary
    files and directories; so is all in `bases` whose name begins with `prefix`, which is the supervisor's own. `file`
    is the record itself, `host` the name of the machine that it was written on.
    """

    mark: str
    ident: str
    private_data_dir: Path
    artifact_dir: Path
    engine: str
    supervisor: Identity
    stoppable: bool
    paths: tuple[Path, ...]
    file: Path
    bases: tuple[Path, ...] = ()
    prefix: str = ""
    grace: float = 0.0
    address: Mapping[str, str] | None = None
    host: str = ""

    @property
    def is_of_this_host(self) -> bool:
        """Whether the job ran on this machine; a home directory may be shared by several."""
        return self.host == os.uname().nodename

    @property
    def is_of_this_engine(self) -> bool:
        """Whether the engine is found here by the same variables as where the job was started."""
        return (self.address or {}) == address()


_WRITTEN = tuple(name for name in Underway.__slots__ if name != "file")


class Claim:
    """The record of a job of this process; without a `file` where none could be written."""

    def __init__(self, record: Underway) -> None:
        self.file: Path | None = None
        self._record = record
        self._owner = os.getpid()
        self._descriptor: int | None = None
        self._stays = False

    def add(self, path: Path) -> None:
        """Have a file or a directory removed when this process dies, one whose name nobody else uses."""
        self._amend(paths=(*self._record.paths, path.absolute()))

    def leave(self) -> None:
        """Keep the record at the end of the block: something of the job is left, and a later job is to see to it."""
        self._stays = True
        self._amend(prefix="", bases=())  # other jobs of this process have theirs there

    def _amend(self, **changes: Any) -> None:
        self._record = replace(self._record, **changes)
        if self.file is not None and os.getpid() == self._owner:
            self._publish()

    def _publish(self) -> None:
        """Write the record beside its place, lock it, put it there: who finds it there finds it whole, and held."""
        earlier = self._descriptor
        try:
            self._descriptor = _published(self._record)
            self.file = self._record.file
        except OSError as error:
            log.debug("There is no record of the job %s: %s", self._record.ident, error)
            return
        if earlier is not None:
            locks.release(earlier, self._owner)

    def _end(self) -> None:
        if self._descriptor is None or os.getpid() != self._owner:
            return
        if not self._stays:
            with suppress(OSError):
                self._record.file.unlink()
        locks.release(self._descriptor, self._owner)


@contextmanager
def claim(
    *,
    mark: str,
    ident: str,
    private_data_dir: Path,
    artifact_dir: Path,
    engine: str,
    stoppable: bool = False,
    grace: float = 0.0,
    paths: Iterable[Path] = (),
    bases: Iterable[Path] = (),
) -> Iterator[Claim]:
    """Keep a record of a job of this process for the length of the block; where none can be kept, go on without.

    `paths` are what the job's end leaves to be removed, `bases` the directories in which all is that begins with
    `names.run_prefix`. The record has the directories as they are now, without links: later ones may be the job's. The
    block may be left in a fork of the process, which changes nothing.
    """
    record = Underway(
        mark=mark,
        ident=ident,
        private_data_dir=_real(private_data_dir),
        artifact_dir=_real(artifact_dir.parent) / artifact_dir.name,
        engine=engine,
        supervisor=Identity.own(),
        stoppable=stoppable,
        grace=grace,
        paths=tuple(path.absolute() for path in paths),
        file=Path(),
        bases=tuple(base.absolute() for base in bases),
        prefix=names.run_prefix(),
        address=address(),
        host=os.uname().nodename,
    )
    claimed = Claim(record)
    try:
        claimed._amend(file=_made_directory() / f"{mark}{SUFFIX}")
        claimed._publish()
    except (OSError, RunnerError) as error:
        log.debug("There is no record of the job %s: %s", ident, error)
    try:
        yield claimed
    finally:
        claimed._end()


def underway(private_data_dir: Path | None = None, ident: str | None = None) -> list[Underway]:
    """Return this user's jobs that run, of a directory and of an ident if these are given."""
    found = [record for file in files() if (record := _if_held(file)) is not None and ident in (None, record.ident)]
    if private_data_dir is None:
        return found
    real = _real(private_data_dir)
    return [record for record in found if _real(record.private_data_dir) == real]


def abandoned() -> list[Underway]:
    """Return the jobs whose supervisor has died, or left something to be seen to; what is no record is passed over."""
    found = []
    for file in files():
        with suppress(OSError, ArtifactError), seized(file) as record:
            found += [record] if record is not None else []
    return found


def directory() -> Path:
    """Return where the records are, and whether or not there are any; ConfigurationError without a home."""
    return state_directory().absolute() / "jobs"


def files() -> list[Path]:
    """Return the files of all records, held or not."""
    try:
        place = directory()
        return [place / name for name in os.listdir(place) if name.endswith(SUFFIX)]  # noqa: PTH208 - names alone
    except (OSError, RunnerError):
        return []


@contextmanager
def seized(file: Path, *, patience: float = 0.0) -> Iterator[Underway | None]:
    """Hold the record of an abandoned job for the length of the block.

    None, when its job runs, somebody else holds it, or it is gone; so many seconds are waited for it. Raises
    ArtifactError for what is no record of this user's.
    """
    descriptor, owner = _locked(file, time.monotonic() + patience), os.getpid()
    if descriptor is None:
        yield None
        return
    try:
        yield _read(descriptor, file)
    finally:
        locks.release(descriptor, owner)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # which a link that leads to itself does not trouble


def address() -> dict[str, str]:
    """Return the variables of this process that say where engines are."""
    return {name: os.environ[name] for name in _ADDRESS if os.environ.get(name)}


def _made_directory() -> Path:
    """Make the directory of the records, and see that it is this user's alone; raises OSError, ConfigurationError."""
    place = directory()
    try:
        found = place.lstat()
    except FileNotFoundError:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise NotADirectoryError(f"{place} is not a directory of this user's")
    if stat.S_IMODE(found.st_mode) & 0o077:
        place.chmod(0o700)
    return place


def _published(record: Underway) -> int:
    """Put a record in its place, held; return the descriptor that holds it."""
    partial = record.file.with_suffix(PARTIAL)
    descriptor = os.open(partial, _NEW, 0o600)
    try:
        locks.hold(descriptor)
        data = _written(record)
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, "the record was not written whole")
        partial.rename(record.file)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        locks.release(descriptor, os.getpid())
        raise
    return descriptor


def _locked(file: Path, deadline: float) -> int | None:
    while True:
        try:
            descriptor = os.open(file, _FOUND)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _no_record(file, (error.strerror or str(error)).lower()) from error
        try:
            locks.hold(descriptor)
        except OSError:
            os.close(descriptor)
        else:
            if os.fstat(descriptor).st_nlink:
                return descriptor
            locks.release(descriptor, os.getpid())  # it was removed, or replaced by its owner
        if time.monotonic() >= deadline:
            return None
        time.sleep(_PATIENCE_STEP)


def _if_held(file: Path) -> Underway | None:
    """Return a record whose job runs; one who only looks must not keep another who looks from seeing it free."""
    try:
        descriptor = os.open(file, _FOUND)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(ArtifactError):
            record = _read(descriptor, file)
            return None if record.supervisor.gone else record  # it is being settled
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _written(record: Underway) -> bytes:
    return json.dumps({name: getattr(record, name) for name in _WRITTEN}, default=str).encode()


def _read(descriptor: int, file: Path) -> Underway:
    """Read an open record; raises ArtifactError for what this library did not write."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise _no_record(file, "it is not a file of this user's")
    data = os.pread(descriptor, min(found.st_size, _LARGEST), 0)
    try:
        return _understood(json.loads(data), file)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise _no_record(file, f"it can not be read ({error or type(error).__name__})") from error


def _understood(fields: Mapping[str, Any], file: Path) -> Underway:
    pid, born = fields["supervisor"]
    return Underway(
        mark=_fitting(fields["mark"], lambda text: text == file.stem and re.fullmatch("[0-9a-f]{8,128}", text)),
        ident=_text(fields["ident"]),
        private_data_dir=_place(fields["private_data_dir"]),
        artifact_dir=_place(fields["artifact_dir"]),
        engine=_text(fields["engine"]),
        supervisor=Identity(int(pid), _text(born)),
        stoppable=fields["stoppable"] is True,
        grace=float(fields["grace"]),
        paths=tuple(map(_place, fields["paths"])),
        file=file,
        bases=tuple(map(_place, fields["bases"])),
        prefix=_fitting(fields["prefix"], lambda text: not text or names.is_run_prefix(text)),
        address={_text(name): _text(value) for name, value in fields["address"].items() if name in _ADDRESS},
        host=_text(fields["host"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("text is missing")
    return value


def _fitting(value: Any, fits: Callable[[str], object]) -> str:
    text = _text(value)
    if not fits(text):
        raise ValueError("a name is not its own")
    return text


def _place(value: Any) -> Path:
    path = Path(_text(value))
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError("a path is not absolute")
    return path


def _no_record(file: Path, reason: str) -> ArtifactError:
    return ArtifactError(f"{file} is no record of a job: {reason}. Remove it.")
