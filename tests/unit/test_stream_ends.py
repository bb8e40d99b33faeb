"""The ends of a stream: whatever can be read or written, waited for without polling, and given up in time."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ee_runner.errors import ConfigurationError, StreamError
from ee_runner.executor import Cancellation
from ee_runner.stream.input import Input, Silence, pieces_until
from ee_runner.stream.output import Canceled, Output
from ee_runner.stream.ways import is_live

DATA = bytes(range(256)) * 6000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            continue


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


class Channel:
    """A file object of somebody else's: it has no descriptor, and reads by lines alone."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readline(self, size: int) -> bytes:
        return self._file.readline(size)


def of_a_file(tmp_path: Path) -> Any:
    (tmp_path / "file").write_bytes(DATA)
    return (tmp_path / "file").open("rb")


def raw(tmp_path: Path) -> Any:
    (tmp_path / "file").write_bytes(DATA)
    return (tmp_path / "file").open("rb", buffering=0)


def text(tmp_path: Path) -> Any:
    (tmp_path / "file").write_bytes(DATA)
    return (tmp_path / "file").open("r", encoding="latin-1")


SOURCES: dict[str, Callable[[Path], Any]] = {
    "bytes in memory": lambda _: io.BytesIO(DATA),
    "a buffered file": of_a_file,
    "a raw file": raw,
    "a text file's buffer": text,
    "lines alone": lambda _: Channel(DATA),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_all_of_it_is_read_from(kind: str, tmp_path: Path) -> None:
    source = SOURCES[kind](tmp_path)
    assert b"".join(Input(source).chunks()) == DATA
    if hasattr(source, "close"):
        source.close()


@pytest.mark.parametrize("made", [lambda end: end, lambda end: end.makefile("rb"), lambda end: end.fileno()])
def test_a_socket_is_read_as_socket_as_file_and_as_descriptor(made: Callable[[socket.socket], Any]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        source = made(ours)

        def write() -> None:
            theirs.sendall(DATA)
            theirs.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        assert b"".join(Input(source).chunks()) == DATA
        writer.join()
        if isinstance(source, io.IOBase):
            source.close()


def test_bytes_are_there_as_soon_as_they_come(pipe: tuple[int, int]) -> None:
    chunks = Input(pipe[0]).chunks()
    for piece in (b"one", b"two"):
        os.write(pipe[1], piece)
        assert next(chunks) == piece
    chunks.close()


@pytest.mark.parametrize("buffered", [False, True])
def test_silence_ends_the_wait(pipe: tuple[int, int], buffered: bool) -> None:
    source: Any = os.fdopen(os.dup(pipe[0]), "rb") if buffered else pipe[0]
    chunks = Input(source, silence=0.2).chunks()
    began = time.monotonic()
    with pytest.raises(Silence, match=r"for 0\.2 seconds"):
        next(chunks)
    assert 0.15 < time.monotonic() - began < 20
    os.close(pipe[1])
    if buffered:
        source.close()


@pytest.mark.parametrize("buffered", [False, True])
def test_a_cancel_from_another_thread_ends_the_wait_at_once(pipe: tuple[int, int], buffered: bool) -> None:
    source: Any = os.fdopen(os.dup(pipe[0]), "rb") if buffered else pipe[0]
    cancellation = Cancellation()
    threading.Timer(0.1, cancellation.request).start()
    began = time.monotonic()
    with pytest.raises(Canceled):
        next(Input(source, cancellation=cancellation).chunks())
    assert time.monotonic() - began < 20
    os.close(pipe[1])
    if buffered:
        source.close()


def test_a_callback_that_asks_for_the_stop_is_asked_while_nothing_comes(pipe: tuple[int, int]) -> None:
    cancellation = Cancellation().asking(lambda: True)
    with pytest.raises(Canceled):
        next(Input(pipe[0], cancellation=cancellation).chunks())


def test_waiting_costs_nothing(pipe: tuple[int, int]) -> None:
    threading.Timer(1.0, os.close, [pipe[1]]).start()
    before = time.process_time()
    assert list(Input(pipe[0]).chunks()) == []
    assert time.process_time() - before < 0.2


def test_what_can_not_be_read_is_said() -> None:
    with pytest.raises(ConfigurationError, match="_input: a file that can be read is expected, found a float"):
        next(Input(1.5).chunks())
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(StreamError, match="can not be read"):
        next(Input(closed).chunks())


@pytest.mark.parametrize("buffered", [False, True])
def test_an_answer_is_waited_for_line_by_line_and_nothing_beyond_is_read(buffered: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as file:
        source: Any = file if buffered else ours
        theirs.sendall(b"first\nsecond\nthird")
        heard = b""
        for piece in pieces_until(20, source):
            heard += piece
            if heard.endswith(b"second\n"):
                break
        assert heard == b"first\nsecond\n"
        assert (file.read(5) if buffered else ours.recv(100)) == b"third"


@pytest.mark.parametrize("buffered", [False, True])
def test_an_answer_that_never_ends_its_line_is_not_waited_for_longer(pipe: tuple[int, int], buffered: bool) -> None:
    os.write(pipe[1], b"Last login: to")
    with os.fdopen(os.dup(pipe[0]), "rb") as file:
        assert b"".join(pieces_until(0.3, file if buffered else pipe[0])) == b"Last login: to"


def test_an_answer_is_not_waited_for_after_a_cancel_or_an_end(pipe: tuple[int, int]) -> None:
    cancellation = Cancellation()
    threading.Timer(0.1, cancellation.request).start()
    with pytest.raises(Canceled):
        list(pieces_until(60, pipe[0], cancellation=cancellation))
    os.close(pipe[1])
    assert list(pieces_until(60, pipe[0])) == []
    with pytest.raises(ConfigurationError, match="a socket, a pipe or a descriptor"):
        list(pieces_until(1, io.BytesIO(b"x\n")))


def test_all_of_it_is_written_to_files_sockets_and_descriptors(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    got: list[bytes] = []
    with ours, theirs:
        reader = threading.Thread(target=lambda: got.extend(Input(theirs).chunks()))
        reader.start()
        with Output(ours) as output:
            output.write(DATA)
        ours.shutdown(socket.SHUT_WR)
        reader.join()
    assert b"".join(got) == DATA
    memory = io.BytesIO()
    with Output(memory) as output:
        output.write(DATA)
    assert memory.getvalue() == DATA
    with (tmp_path / "raw").open("wb", buffering=0) as file, Output(file) as output:
        output.write(DATA)
    assert (tmp_path / "raw").read_bytes() == DATA


def test_keepalives_fill_the_silence_and_nothing_else(pipe: tuple[int, int]) -> None:
    with Output(pipe[1], keepalive=0.2, idle=lambda: b"k") as output:
        time.sleep(1.1)
        output.write(b"record")
    os.close(pipe[1])
    data = b"".join(Input(pipe[0]).chunks())
    assert data.startswith(b"kk")
    assert data.endswith(b"record")


def test_no_keepalive_gets_into_what_is_written_together(pipe: tuple[int, int]) -> None:
    with Output(pipe[1], keepalive=0.05, idle=lambda: b"k") as output, output.together():
        output.write(b"<")
        time.sleep(0.5)
        output.write(b">")
    os.close(pipe[1])
    assert b"<>" in b"".join(Input(pipe[0]).chunks())


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_goes_is_noticed_without_a_write(kind: str) -> None:
    gone = threading.Event()
    if kind == "pipe":
        reading, writing = os.pipe()
        close: Callable[[], None] = lambda: os.close(reading)  # noqa: E731
        target: Any = writing
    else:
        ours, theirs = socket.socketpair()
        close, target = theirs.close, ours
    with Output(target, gone=gone.set) as output:
        close()
        assert gone.wait(20)
        with pytest.raises(StreamError, match="the other end has gone"):
            output.write(b"x")
    os.close(writing) if kind == "pipe" else ours.close()


def test_no_thread_and_no_descriptor_is_left(pipe: tuple[int, int]) -> None:
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    with Output(pipe[1], keepalive=5, idle=bytes, gone=lambda: None) as output:
        output.write(b"x")
    next(Input(pipe[0]).chunks())
    assert set(threading.enumerate()) == threads
    assert open_descriptors() == descriptors


def test_a_reader_waits_behind_a_pipe_or_a_socket_but_not_behind_a_file(pipe: tuple[int, int], tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "file").open("wb") as file:
        assert is_live(pipe[1])
        assert is_live(ours)
        assert not is_live(file)
        assert not is_live(io.BytesIO())


class Deaf(io.RawIOBase):
    """A file object of somebody else's that takes nothing, and is no descriptor."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def write(self, data: Any) -> int:
        self.released.wait(60)
        return len(data)


class Stuck:
    """The same for pipes, sockets, files behind a buffer and other objects: a reader that does not read."""

    def __init__(self, kind: str) -> None:
        self._stack = contextlib.ExitStack()
        self.reading: Any
        self.target: Any
        if kind == "socket":
            self.reading, self.target = map(self._stack.enter_context, socket.socketpair())
        elif kind == "object":
            self.reading = self.target = Deaf()
            self._stack.callback(self.target.released.set)
        else:
            reading, writing = os.pipe()
            self.reading = self._stack.enter_context(os.fdopen(reading, "rb", buffering=0))
            file = self._stack.enter_context(os.fdopen(writing, "wb", buffering=-1 if kind == "buffered pipe" else 0))
            self.target = file if kind == "buffered pipe" else writing

    def __enter__(self) -> Stuck:
        return self

    def __exit__(self, *exc: object) -> None:
        self.reading.close()  # who is stuck gets out
        self._stack.close()


KINDS = ["pipe", "buffered pipe", "socket", "object"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_takes_nothing_is_given_up_in_time_after_a_cancel(kind: str) -> None:
    cancellation = Cancellation()
    with Stuck(kind) as stuck:
        began = time.monotonic()
        with Output(stuck.target, cancellation=cancellation, patience=0.3) as output:
            threading.Timer(0.3, cancellation.request).start()
            with pytest.raises(Canceled, match=r"has read nothing for 0\.3 seconds"):
                output.write(DATA * 4)
            assert 0.5 < time.monotonic() - began < 20
            cancellation.forget()
            with pytest.raises(Canceled):
                output.write(b"more")
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_takes_nothing_for_too_long_is_given_up(kind: str) -> None:
    with Stuck(kind) as stuck, Output(stuck.target) as output:
        output.silence = 0.3
        with pytest.raises(StreamError, match="Nobody takes what is written"):
            output.write(DATA * 4)


@pytest.mark.parametrize("canceled", [False, True])
def test_a_slow_reader_gets_everything(pipe: tuple[int, int], canceled: bool) -> None:
    cancellation, got = Cancellation(), bytearray()

    def read_slowly() -> None:
        while len(got) < len(DATA):
            time.sleep(0.05)
            got.extend(os.read(pipe[0], 32768))

    reader = threading.Thread(target=read_slowly)
    reader.start()
    began = time.monotonic()
    with Output(pipe[1], cancellation=cancellation, patience=0.8) as output:
        output.silence = 0.8
        if canceled:
            cancellation.request()
        output.write(DATA)
    reader.join()
    assert time.monotonic() - began > 1
    assert bytes(got) == DATA


def test_a_stop_that_is_asked_for_by_a_callback_is_heard_while_nobody_reads(pipe: tuple[int, int]) -> None:
    cancellation = Cancellation().asking(lambda: True)
    with Output(pipe[1], cancellation=cancellation) as output, pytest.raises(Canceled):
        output.write(DATA)


def test_a_keepalive_that_nobody_takes_keeps_nobody(pipe: tuple[int, int]) -> None:
    cancellation, asked = Cancellation(), threading.Event()

    def idle() -> bytes:
        asked.set()
        return DATA

    with Output(pipe[1], keepalive=0.05, idle=idle, cancellation=cancellation) as output:
        assert asked.wait(20)
        threading.Timer(0.2, cancellation.request).start()
        with pytest.raises(Canceled):
            output.write(b"record")
    with Output(pipe[1], keepalive=0.05, idle=lambda: b"k" * 8192):
        time.sleep(0.3)
    os.close(pipe[0])


def test_a_pipe_becomes_larger_for_a_record_that_does_not_fit_and_for_no_other(pipe: tuple[int, int]) -> None:
    before = fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ)
    with Output(pipe[1]) as output:
        for _ in range(before // 4096):
            output.write(bytes(4096))
        reader = threading.Timer(0.2, os.read, (pipe[0], before))
        reader.start()
        output.write(bytes(4096))
        reader.join()
        assert fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ) == before
        output.write(bytes(2 * before))
        assert fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ) > before


def test_the_pipe_blocks_as_before_for_those_who_share_it(pipe: tuple[int, int]) -> None:
    with Output(pipe[1]) as output:
        output.write(b"x")
        assert os.get_blocking(pipe[1])


def test_a_pipe_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(Input(pipe[0]).chunks()))
    with Output(os.fdopen(pipe[1], "wb")) as output:
        threading.Timer(0.2, reader.start).start()
        output.write(DATA)
        os.close(pipe[1])
    reader.join()
    assert b"".join(got) == DATA
