"""What must lie in no file, handed over by named pipes: whoever opens one reads the whole, once."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import stat
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_OTHER_KERNEL = re.compile(r"(?:.*[=/.])?(?:kata|runsc|gvisor|krun)\b.*")
_HANDLE: int = getattr(os, "O_PATH", 0)
_ROUND = 0.05
_PATIENCE = 1.0


def reach(engine: str, options: Iterable[str], environ: Mapping[str, str]) -> bool:
    """Say whether a job in this engine, with these container options, can read a pipe of this host.

    It can not where it runs under another kernel: in a virtual machine, as all containers elsewhere than on Linux.
    """
    if sys.platform != "linux" or any(map(_OTHER_KERNEL.fullmatch, options)):
        return False
    if engine == "docker":
        return "/desktop/" not in environ.get("DOCKER_HOST", "") and not _chosen_desktop(environ)
    if engine == "podman":
        return environ.get("CONTAINER_HOST", "unix:").startswith("unix:") and not environ.get("CONTAINER_CONNECTION")
    return True


def _chosen_desktop(environ: Mapping[str, str]) -> bool:
    """Say whether the docker client's context is that of Docker Desktop, whose containers run in a virtual machine."""
    if environ.get("DOCKER_HOST") or environ.get("DOCKER_CONTEXT"):
        return environ.get("DOCKER_CONTEXT", "").startswith("desktop")
    home = environ.get("DOCKER_CONFIG") or f"{environ.get('HOME', '/nonexistent')}/.docker"
    try:
        text = Path(home, "config.json").read_text(errors="replace")
    except OSError:
        return False
    return re.search(r'"currentContext"\s*:\s*"desktop', text) is not None


@contextlib.contextmanager
def handed_out(path: Path, data: bytes, *, again: bool = False, mode: int = 0o600) -> Iterator[Path]:
    """Make a named pipe for the length of the block and give its path: its first reader gets the data.

    With that reader the name goes, so that no second one waits for ever; with `again` there is a fresh pipe of that
    name instead, for any number of readers, one at a time. The end of the block in a fork of this process ends nothing.
    Raises OSError when no pipe can be made there.
    """
    giver = _Giver(path, data, again=again, mode=mode)
    thread = threading.Thread(target=giver.give, daemon=True)
    thread.start()
    owner = os.getpid()
    try:
        yield path
    finally:
        if os.getpid() == owner:
            giver.end(thread)


class _Giver:
    """One pipe's writer: it waits for a reader in open(2), without polling."""

    def __init__(self, path: Path, data: bytes, *, again: bool, mode: int) -> None:
        self._path = path
        self._data = data
        self._again = again
        self._mode = mode
        self._over = threading.Event()
        self._changing = threading.Lock()
        self._pipe = _Pipe(path, mode)

    def give(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # SIGPIPE would end a program that takes it so
        with contextlib.suppress(OSError):  # the directory is gone, and with it whoever could read
            while not self._over.is_set():
                self._give_once()
                if not self._again:
                    return

    def _give_once(self) -> None:
        with self._pipe.opened(os.O_WRONLY) as descriptor:
            if not self._over.is_set():
                self._leave_name()
                self._write(descriptor)

    def _write(self, descriptor: int) -> None:
        """Write all of it, unless the reader goes away or does not read on when the job is over."""
        os.set_blocking(descriptor, False)
        room = select.poll()
        room.register(descriptor, select.POLLOUT)
        view = memoryview(self._data)
        with contextlib.suppress(BrokenPipeError):
            while view and not self._over.is_set():
                try:
                    view = view[os.write(descriptor, view) :]
                except BlockingIOError:
                    room.poll(_ROUND * 1000)

    def _leave_name(self) -> None:
        """Take this pipe's name away before its reader can have come to the end: who opens it next is another."""
        if not self._again:
            self._path.unlink(missing_ok=True)
            return
        following = self._path.with_name(f".{self._path.name}.next")
        fresh = _Pipe(following, self._mode)
        following.rename(self._path)
        with self._changing:
            earlier, self._pipe = self._pipe, fresh
            earlier.close()

    def end(self, thread: threading.Thread) -> None:
        """See the writer end; one that waits in open(2) comes out of it when somebody seems to read."""
        self._over.set()
        for _ in range(round(_PATIENCE / _ROUND)):
            if not thread.is_alive():
                self._pipe.close()
                break
            with self._changing, contextlib.suppress(OSError), self._pipe.opened(os.O_RDONLY | os.O_NONBLOCK):
                thread.join(_ROUND / 2)
            thread.join(_ROUND / 2)
        with contextlib.suppress(OSError):  # a job has put a directory there
            self._path.unlink(missing_ok=True)


class _Pipe:
    """A new named pipe, opened as that pipe whatever comes to have its name: a job may put a link there.

    Raises OSError when it can not be made. Where there is no /proc it is opened by its name.
    """

    def __init__(self, path: Path, mode: int) -> None:
        os.mkfifo(path, 0o600)
        self._handle: int | None = None
        self._name = str(path)
        try:
            if _HANDLE:
                self._take(os.open(path, _HANDLE | os.O_NOFOLLOW | os.O_CLOEXEC))
            if mode != 0o600:
                os.chmod(self._name, mode)  # noqa: PTH101 - a descriptor
        except OSError:
            self.close()
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def _take(self, handle: int) -> None:
        self._handle = handle
        if not stat.S_ISFIFO(os.fstat(handle).st_mode):
            raise OSError(errno.EEXIST, "something else has taken the name of a pipe")
        if os.path.exists(f"/proc/self/fd/{handle}"):  # noqa: PTH110 - as a name it is used
            self._name = f"/proc/self/fd/{handle}"

    @contextlib.contextmanager
    def opened(self, flags: int) -> Iterator[int]:
        descriptor = os.open(self._name, flags | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
