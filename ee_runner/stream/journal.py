"""The results of a worker's job as they were sent, kept on its host: to be read again, and to be followed.

A journal is ``<ident>/results`` in the state directory: the very bytes of the stream. Who follows reads this file; the
worker's socket beside it is only the bell that says when there is more, and goes silent when the worker is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from ee_runner import locks
from ee_runner.artifacts import describe
from ee_runner.errors import ArtifactError, ConfigurationError, nearest
from ee_runner.names import ident_problem
from ee_runner.sources import state_directory
from ee_runner.workspace.places import private_directory, remove

_CHUNK = 1 << 18
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHOWN = 10
_WAITING = 1024


def home() -> Path:
    """Return where this user's workers keep the journals of their jobs; ConfigurationError without a home."""
    return state_directory() / "worker"


class Journal:
    """Writes down what a worker sends of one job, and tells those who follow.

    Any thread may append. No follower is ever waited for. Make one with `create`; end it, or use it as a context
    manager.
    """

    def __init__(self, path: Path, *, results: int, bell: _Bell, stack: contextlib.ExitStack) -> None:
        self.path = path
        self._results = results
        self._bell = bell
        self._stack = stack
        self._size = 0
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._failure: ArtifactError | None = None

    @classmethod
    def create(cls, directory: Path, ident: str) -> Journal:
        """Begin the journal of a job, in the place of one of an earlier job of that ident that has ended.

        Directories are 0700, a missing one is made. Raises ConfigurationError for an ident that can not name a
        directory, and while a job of that ident runs; ArtifactError when nothing can be written.
        """
        _check(ident)
        private_directory(directory)
        path = directory / ident / "results"
        with _explained(path), _alone(directory), contextlib.ExitStack() as stack:
            home = _held(directory / ident, stack)
            for name in os.listdir(home):  # noqa: PTH208 - a killed worker left it; readers keep what they have open
                if name == "results.new" or name.startswith("socket."):
                    os.unlink(name, dir_fd=home)
            results = os.open("results.new", _APPENDING, 0o600, dir_fd=home)
            stack.callback(os.close, results)
            bell = stack.enter_context(contextlib.closing(_Bell(path.parent, _socket_of(results), home=home)))
            os.rename("results.new", "results", src_dir_fd=home, dst_dir_fd=home)
            return cls(path, results=results, bell=bell, stack=stack.pop_all())

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def append(self, data: bytes) -> None:
        """Write down what was sent, all of it or nothing; who follows gets it.

        Raises ArtifactError when the disk is full, read-only or gone, and from then on, for a journal with a gap is
        worth nothing beyond it. What was written before stays readable.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            try:
                self._write(data)
            except OSError as error:
                self._failure = _failure(self.path, error)
                raise self._failure from error
            self._bell.ring()

    def end(self) -> None:
        """The job is over: who follows gets the rest and the end. The results are on the disk then, or ArtifactError.

        May be called again; in a fork of the process that made it nothing is done.
        """
        if os.getpid() != self._owner:
            return
        with self._lock, self._stack, _explained(self.path):
            if self._results >= 0:
                results, self._results = self._results, -1
                self._failure = self._failure or ArtifactError(f"The journal {self.path} has ended.")
                os.fsync(results)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._results, rest) :]
        except OSError:
            with contextlib.suppress(OSError):  # half a record would be taken for damage
                os.ftruncate(self._results, self._size)
            raise
        self._size += len(data)


class Attachment(Iterator[bytes]):
    """The bytes of a journal from its start on, in pieces, followed until the worker ends it or is gone.

    Of a worker that was killed they end early, as its stream did. Raises ConfigurationError, with the idents that
    there are, for an unknown one; ArtifactError when the journal can not be read. It is closed at its end; close it, or
    use it as a context manager, when it is left before.
    """

    def __init__(self, directory: Path, ident: str) -> None:
        _check(ident)
        self._path = directory / ident / "results"
        with _explained(self._path, "read"), contextlib.ExitStack() as stack:
            try:
                home = os.open(self._path.parent, _DIRECTORY | os.O_NOFOLLOW)
                stack.callback(os.close, home)
                self._results = os.open("results", _READING, dir_fd=home)
                stack.callback(os.close, self._results)
            except FileNotFoundError:
                raise _unknown(directory, ident) from None
            self._bell = _connected(_address(self._path.parent, _socket_of(self._results), home=home))
            if self._bell is not None:
                stack.enter_context(self._bell)
            self._stack = stack.pop_all()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __next__(self) -> bytes:
        with _explained(self._path, "read"):
            while self._results >= 0:
                if data := os.read(self._results, _CHUNK):
                    return data
                if self._bell is None:
                    self.close()
                elif not _rung(self._bell):
                    self._bell = None  # what was written before it went silent is still to be read
        raise StopIteration

    def close(self) -> None:
        """Follow no longer; may be called again."""
        self._results, self._bell = -1, None
        self._stack.close()


def attached(directory: Path, ident: str) -> Attachment:
    """Replay the journal of a job and follow it; see Attachment."""
    return Attachment(directory, ident)


def rotate(directory: Path, keep: int) -> None:
    """Remove the oldest journals of jobs that have ended until `keep` of these are left; 0 keeps all.

    Raises ArtifactError when they can not be listed.
    """
    if keep <= 0 or not directory.is_dir():
        return
    with _explained(directory), _alone(directory):
        ended = [path for path in _journals(directory) if _has_ended(path)]
        for path in ended[keep:]:
            remove(path)


class _Bell:
    """A socket whose clients get a byte when there is more to read, unless they have one to take already."""

    def __init__(self, directory: Path, name: str, *, home: int) -> None:
        self._home = home
        self._name = name
        self._clients: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(_address(directory, name, home=home))
            self._listener.setblocking(False)
            self._listener.listen(_WAITING)
        except BaseException:
            self._listener.close()
            raise

    def ring(self) -> None:
        """Wake everybody; who came since the last time may not have seen what is there now, and is woken too."""
        self._admit()
        self._clients = [client for client in self._clients if _wake(client)]

    def close(self) -> None:
        """Fall silent for everybody, also where a fork of this process has the sockets open."""
        self._admit()
        for each in (self._listener, *self._clients):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._clients = []
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._home)

    def _admit(self) -> None:
        """Let everybody in who knocks; when no descriptor is left for them they wait."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setblocking(False)
                self._clients.append(client)


def _wake(client: socket.socket) -> bool:
    """Give a client its byte; whoever is gone is let go of."""
    try:
        client.send(b"\0")
    except BlockingIOError:  # it has more bytes to take than it can hold
        pass
    except OSError:
        client.close()
        return False
    return True


def _rung(bell: socket.socket) -> bool:
    """Wait for the bell; whether there may be more after what is there now."""
    try:
        return bool(bell.recv(_WAITING))
    except ConnectionResetError:  # the worker went before it let us in
        return False


def _connected(address: str) -> socket.socket | None:
    """Return the bell of a worker, or None when there is none any more."""
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bell.connect(address)
    except (FileNotFoundError, ConnectionRefusedError):
        bell.close()
        return None
    except BaseException:
        bell.close()
        raise
    return bell


def _socket_of(results: int) -> str:
    """Name the socket that belongs to a file of results, and not to one that takes its place."""
    return f"socket.{os.fstat(results).st_ino}"


def _address(directory: Path, name: str, *, home: int) -> str:
    """Name a socket by its directory's descriptor where that can be done: an address holds some 100 bytes only."""
    base = Path(f"/proc/self/fd/{home}")
    return str((base if base.exists() else directory) / name)


def _held(directory: Path, stack: contextlib.ExitStack) -> int:
    """Make the directory of a job, and hold it until `stack` closes; a crash lets go of it."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    home = os.open(directory, _DIRECTORY | os.O_NOFOLLOW)
    stack.callback(_release, home)
    if os.fstat(home).st_uid != os.geteuid():
        raise ConfigurationError(f"The journal's directory {directory} belongs to another user; choose another ident.")
    os.fchmod(home, 0o700)
    if not locks.take(home):
        raise ConfigurationError(
            f"A job with the ident {directory.name!r} is running, and keeps its journal in {directory}; "
            "attach to it, choose another ident, or let it end."
        )
    return home


def _release(home: int) -> None:
    """Let go of a directory, also where a fork of this process has it open."""
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(home, fcntl.LOCK_UN)
    os.close(home)


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep other processes from making and removing journals meanwhile."""
    descriptor = os.open(directory, _DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # without locks two at the same moment are unlikely enough
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _journals(directory: Path) -> list[Path]:
    """List the directories of journals, the newest first."""
    found = []
    for path in directory.iterdir():
        with contextlib.suppress(OSError):  # another process removes it
            found.append(((path / "results").lstat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]


def _has_ended(path: Path) -> bool:
    """Tell whether nobody holds a job's directory; where that can not be known the journal stays."""
    try:
        home = os.open(path, _DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(home, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(home)
    return True


def _check(ident: str) -> None:
    if problem := ident_problem(ident):
        raise ConfigurationError(f"The ident {ident!r} can not name a journal: {problem}.")


def _unknown(directory: Path, ident: str) -> ConfigurationError:
    idents = [path.name for path in _journals(directory)] if directory.is_dir() else []
    there = ", ".join(idents[:_SHOWN]) + (f" and {len(idents) - _SHOWN} more" if len(idents) > _SHOWN else "")
    return ConfigurationError(
        f"There is no journal of {ident!r} in {directory}{nearest(ident, idents)}. "
        + (f"There are, the newest first: {there}." if idents else "There is none at all.")
    )


@contextlib.contextmanager
def _explained(path: Path, done: str = "written") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(path, error, done) from error


def _failure(path: Path, error: OSError, done: str = "written") -> ArtifactError:
    return ArtifactError(f"The journal {path} can not be {done}: {describe(error, option='')}")
