"""What must lie in no file, handed over by named pipes: whoever opens one reads the whole, once."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_OTHER_KERNEL = re.compile(r"(?:.*[=/.])?(?:kata|runsc|gvisor|krun)\b.*")
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
    giver.make(path)
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

    def make(self, path: Path) -> None:
        os.mkfifo(path, 0o600)
        if self._mode != 0o600:
            path.chmod(self._mode)

    def give(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # SIGPIPE would end a program that takes it so
        with contextlib.suppress(OSError):  # the directory is gone, and with it whoever could read
            while not self._over.is_set():
                self._give_once()
                if not self._again:
                    return

    def _give_once(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if not self._over.is_set():
                self._leave_name()
                self._write(descriptor)
        finally:
            os.close(descriptor)

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
            self._path.unlink()
            return
        fresh = self._path.with_name(f".{self._path.name}.next")
        self.make(fresh)
        fresh.rename(self._path)

    def end(self, thread: threading.Thread) -> None:
        """See the writer end; one that waits in open(2) comes out of it when somebody seems to read."""
        self._over.set()
        for _ in range(round(_PATIENCE / _ROUND)):
            if not thread.is_alive():
                break
            with contextlib.suppress(OSError), _opened(self._path):
                thread.join(_ROUND / 2)
            thread.join(_ROUND / 2)
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.close(descriptor)
