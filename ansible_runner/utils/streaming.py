"""A directory on a stream, as one archive, the way the ends of a remote job send it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ee_runner.errors import TruncatedStream
from ee_runner.stream.archive import pack
from ee_runner.stream.archive.unpack import Unpacker
from ee_runner.stream.decoder import StreamDecoder
from ee_runner.stream.lines import LineEncoder
from ee_runner.stream.output import Output
from ee_runner.stream.records import Kind, Record

__all__ = ["stream_dir", "unstream_dir"]

_CHUNK = 256 * 1024


def stream_dir(source_directory: str, stream: IO[bytes]) -> None:
    """Write a directory to a stream: the line ``{"zipfile": size}`` and the archive in base64.

    Sockets, named pipes and devices are left out. Raises StreamError for what can not be read or written.
    """
    packing, encoder = pack.single(Path(source_directory)), LineEncoder(sealed=False)
    with Output(stream) as output:
        output.write(encoder.archive(packing.size))
        for chunk in packing.chunks:
            output.write(encoder.content(chunk))
        output.write(encoder.archive_end())


def unstream_dir(stream: IO[Any], length: int, target_directory: str) -> None:
    """Unpack an archive of so many bytes, whose line was read already, and take nothing beyond it from the stream.

    The directory is made when it is absent. Raises UnsafeArchive for what would be written elsewhere, and other
    StreamErrors for an archive that is damaged or ends too early.
    """
    decoder = StreamDecoder()
    with Unpacker(Path(target_directory)) as unpacker:
        for _ in decoder.feed(b'{"zipfile": %d}\n' % length):
            pass
        for data in _base64(stream, length):
            for item in decoder.feed(data):
                if isinstance(item, Record) and item.kind is Kind.CONTENT and isinstance(item.body, bytes):
                    unpacker.feed(item.body)
        unpacker.close()


def _base64(stream: IO[Any], length: int) -> Iterator[bytes]:
    """Read as many bytes as the archive has in base64."""
    left = (length + 2) // 3 * 4
    while left:
        data = stream.read(min(left, _CHUNK))
        if not data:
            raise TruncatedStream(f"The archive ends too early: {left} bytes of it are missing. Send it again.")
        left -= len(data)
        yield data.encode() if isinstance(data, str) else data
