"""Records as frames: numbered, checked, compressed; what is no frame is passed over, and what lies is refused."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from ee_runner.errors import BadFrame, StreamError, TruncatedStream
from ee_runner.stream import frames
from ee_runner.stream.decoder import StreamDecoder
from ee_runner.stream.frames import MAGIC, FrameEncoder
from ee_runner.stream.lines import MAX_LINE, Item, LineEncoder
from ee_runner.stream.records import Hello, Kind, Noise, Record, hello_line

EVENT = {"event": "runner_on_ok", "counter": 1, "uuid": "u-1"}
STATUS = {"status": "running"}
END = {"eof": True}
HELLO = hello_line(Hello(frames=True))


def read(*chunks: bytes) -> list[Item]:
    decoder = StreamDecoder()
    return [item for chunk in (HELLO, *chunks) for item in decoder.feed(chunk)][1:]


def problem(*chunks: bytes) -> str:
    with pytest.raises(BadFrame) as caught:
        read(*chunks)
    return str(caught.value)


def frame(
    kind: int, payload: bytes = b"", *, number: int = 1, flags: int = 0, reserved: int = 0, length: int | None = None
) -> bytes:
    """A frame as the protocol says, with any fields."""
    length = len(payload) if length is None else length
    fields = struct.pack(">4sBBHQII", b"\xeeRF\x01", kind, flags, reserved, number, length, zlib.crc32(payload))
    return fields + struct.pack(">I", zlib.crc32(fields)) + payload


def packed(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def encode(*records: tuple[Kind, dict[str, Any]]) -> list[bytes]:
    encoder = FrameEncoder()
    return [encoder.message(kind, body) for kind, body in records]


def archive(data: bytes, size: int | None = None) -> bytes:
    encoder = FrameEncoder()
    return encoder.archive(size) + encoder.content(data) + encoder.archive_end()


class TestFrames:
    def test_a_message_is_a_header_and_json(self) -> None:
        (data,) = encode((Kind.STATUS, STATUS))
        assert data == frame(Kind.STATUS, b'{"status":"running"}')
        assert read(data) == [Record(Kind.STATUS, STATUS, 1)]

    def test_a_message_that_zstd_makes_smaller_is_compressed(self) -> None:
        body = {"event": "x", "stdout": "a" * 1000}
        (data,) = encode((Kind.EVENT, body))
        assert len(data) < 100
        assert data[5] == 1
        assert json.loads(zstandard.ZstdDecompressor().decompress(data[frames.HEADER_SIZE :])) == body
        assert read(data) == [Record(Kind.EVENT, body, 1)]

    def test_records_are_numbered_one_by_one_and_keepalives_are_not(self) -> None:
        encoder = FrameEncoder(first=1)
        stream = encoder.message(Kind.STATUS, STATUS) + encoder.keepalive() + encoder.archive(None)
        stream += encoder.content(b"ab") + encoder.keepalive() + encoder.archive_end()
        stream += encoder.message(Kind.END, END)
        assert encoder.next == 6
        assert read(stream) == [
            Record(Kind.STATUS, STATUS, 1),
            Record(Kind.KEEPALIVE, {}),
            Record(Kind.ARCHIVE, {"size": None}, 2),
            Record(Kind.KEEPALIVE, {}),
            Record(Kind.CONTENT, b"ab", 3),
            Record(Kind.ARCHIVE_END, {}, 4),
            Record(Kind.END, END, 5),
        ]

    def test_frames_go_on_with_the_numbers_of_the_lines_before_them(self) -> None:
        lines = LineEncoder(sealed=True)
        decoder = StreamDecoder()
        stream = hello_line(Hello()) + lines.message(Kind.STATUS, STATUS) + lines.archive(0) + lines.archive_end()
        items = list(decoder.feed(stream + HELLO + FrameEncoder(first=lines.next).message(Kind.END, END)))
        assert items[-1] == Record(Kind.END, END, 3)

    def test_content_is_gathered_to_1_mib_and_compressed(self) -> None:
        encoder = FrameEncoder()
        encoder.archive(None)
        assert encoder.content(bytes(frames.PIECE - 1)) == b""
        first = encoder.content(b"\0" * (frames.PIECE + 1))
        second = encoder.archive_end()
        assert len(first + second) < 500
        records = read(archive(bytes(2 * frames.PIECE)))
        assert [len(item.body) for item in records[1:3] if isinstance(item, Record)] == [frames.PIECE] * 2

    def test_content_that_does_not_become_smaller_goes_as_it_is(self) -> None:
        data = os.urandom(3 * frames.PIECE + 5)
        stream = archive(data)
        assert len(stream) == len(data) + 6 * frames.HEADER_SIZE + len(b'{"size":null}')
        assert data[: frames.PIECE] in stream

    @pytest.mark.parametrize("pieces", [[1], [frames.PIECE], [frames.PIECE - 1, 2], [5 << 20], [700_000], [0, 3 << 20]])
    def test_the_frames_of_an_archive_do_not_depend_on_its_pieces(self, pieces: list[int]) -> None:
        data = bytes(range(256)) * (20 if pieces == [1] else 10_000)
        encoder, stream, rest = FrameEncoder(), b"", memoryview(data)
        stream += encoder.archive(len(data))
        while rest:
            for size in pieces:
                stream, rest = stream + encoder.content(rest[:size]), rest[size:]
        assert stream + encoder.archive_end() == archive(data, len(data))
        content = b"".join(i.body for i in read(stream) if isinstance(i, Record) and isinstance(i.body, bytes))
        assert data.startswith(content)

    def test_records_and_archives_do_not_mix(self) -> None:
        encoder = FrameEncoder()
        misuses: tuple[Callable[[], bytes], ...] = (lambda: encoder.content(b""), encoder.archive_end)
        for misuse in misuses:
            with pytest.raises(ValueError, match="no archive is open"):
                misuse()
        encoder.archive(None)
        for misuse in (lambda: encoder.message(Kind.EVENT, EVENT), lambda: encoder.archive(None)):
            with pytest.raises(ValueError, match="an archive is open"):
                misuse()

    def test_an_archive_has_its_announced_size(self) -> None:
        encoder = FrameEncoder()
        encoder.archive(3)
        encoder.content(b"ab")
        with pytest.raises(ValueError, match="2 bytes, and 3 were announced"):
            encoder.archive_end()

    def test_a_message_that_no_end_takes_is_not_sent(self) -> None:
        with pytest.raises(StreamError, match="is too long"):
            encode((Kind.EVENT, {"event": "x", "stdout": "a" * MAX_LINE}))


class TestNoise:
    @pytest.mark.parametrize(
        "noise",
        [b"a log line\n", b"\xee", MAGIC[:3], MAGIC, MAGIC * 50, frame(6, b"{}")[:27], MAGIC + bytes(24), b"\0" * 5000],
        ids=lambda noise: ascii(noise[:12]),
    )
    def test_noise_between_frames_is_passed_over_in_one_piece(self, noise: bytes) -> None:
        first, second = encode((Kind.STATUS, STATUS), (Kind.END, END))
        seen = Noise(noise[:1000], len(noise))
        expected = [seen, Record(Kind.STATUS, STATUS, 1), seen, Record(Kind.END, END, 2)]
        stream = noise + first + noise + second
        assert read(stream) == expected
        assert read(*(stream[i : i + 1] for i in range(len(stream)))) == expected

    def test_a_header_with_a_false_checksum_is_noise(self) -> None:
        bad = bytearray(frame(Kind.STATUS, b'{"status":"x"}'))
        bad[12] ^= 1
        (good,) = encode((Kind.END, END))
        assert read(bytes(bad) + good) == [Noise(bytes(bad), len(bad)), Record(Kind.END, END, 1)]

    def test_noise_at_the_end_is_told_at_the_end(self) -> None:
        decoder = StreamDecoder()
        (status,) = encode((Kind.STATUS, STATUS))
        list(decoder.feed(HELLO + status + b"Connection closed" + MAGIC[:2]))
        rest = decoder.close()
        assert next(rest) == Noise(b"Connection closed" + MAGIC[:2], 19)
        with pytest.raises(TruncatedStream, match=r"ended after record 1 \(a status\), before its end record"):
            next(rest)

    def test_the_beginning_of_a_frame_is_no_noise(self) -> None:
        decoder = StreamDecoder()
        list(decoder.feed(HELLO + encode((Kind.STATUS, STATUS))[0][:-1]))
        with pytest.raises(TruncatedStream, match="ended after its greeting"):
            list(decoder.close())


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (frame(9, b"{}"), "a frame comes that this end does not know (kind 9"),
            (frame(0, b"{}"), "a frame comes that this end does not know (kind 0"),
            (frame(5, b"{}", flags=2), "flags 0x2"),
            (frame(5, b"{}", reserved=256), "reserved 0x100"),
            (frame(6, b"{}", number=3), "records 1 to 2 are missing"),
            (frame(6, b"{}", number=0), "record 0 came twice or out of order, where record 1 was due"),
            (frame(7, number=1), "a keepalive has the number 1"),
            (frame(7, b"x", number=0), "a keepalive is 1 bytes long, where 0 are the most"),
            (frame(7, b"", number=0, flags=1), "a keepalive can not be decompressed"),
            (frame(5, length=MAX_LINE + 1), "record 1 (status) is 67108865 bytes long, where 67108864 are the most"),
            (frame(2, length=4097), "record 1 (archive) is 4097 bytes long, where 4096 are the most"),
            (frame(3, b"ab"), "record 1 (content) comes outside an archive"),
            (frame(4), "record 1 (archive_end) comes outside an archive"),
            (frame(5, b'{"status":1}')[:-1] + b"!", "record 1 (status) is damaged: its checksum does not fit"),
            (frame(5, b'{"event":"x"}'), 'record 1 (status) is not the JSON object of one: b\'{"event"'),
            (frame(6, b'{"event":"keepalive"}'), "record 1 (event) is not the JSON object of one"),
            (frame(6, b"[" * 100_000), "record 1 (event) is not the JSON object of one"),
            (frame(8, b"\xff"), "record 1 (end) is not the JSON object of one"),
            (frame(2, b"[]"), "record 1 (archive) is not the JSON object of one"),
            (frame(2, b'{"size":-1}'), "the size of an archive is -1"),
            (frame(2, b'{"size":true}'), "the size of an archive is True"),
            (frame(5, b"no zstd", flags=1), "record 1 (status) can not be decompressed"),
            (frame(5, b"", flags=1), "record 1 (status) can not be decompressed"),
            (frame(5, packed(b"{}")[:-1], flags=1), "record 1 (status) can not be decompressed"),
            (frame(5, packed(b"{}") + b"x", flags=1), "record 1 (status) can not be decompressed"),
            (frame(5, packed(b"{}") + packed(b"{}"), flags=1), "record 1 (status) can not be decompressed"),
            (frame(5, b"\x50\x2a\x4d\x18\1\0\0\0x", flags=1), "record 1 (status) can not be decompressed"),
        ],
        ids=lambda value: value[:40] if isinstance(value, str) else "",
    )
    def test_a_frame_that_the_protocol_does_not_allow_is_named(self, data: bytes, words: str) -> None:
        message = problem(data)
        assert message.startswith("The stream can not be read after its greeting: ")
        assert words in message

    @pytest.mark.parametrize("declared", [True, False])
    def test_a_decompression_bomb_is_refused(self, declared: bool) -> None:
        bomb = packed(bytes(MAX_LINE + 1), write_content_size=declared)
        assert "67108864" in problem(frame(6, bomb, flags=1))
        begin = frame(2, b'{"size":null}')
        bomb = packed(bytes(2 * frames.LARGEST + 1), write_content_size=declared)
        assert "record 2 (content)" in problem(begin + frame(3, bomb, flags=1, number=2))

    def test_a_declared_size_that_lies_is_refused_before_memory_is_taken(self) -> None:
        lie = bytearray(packed(bytes(300)))
        assert lie[4:7] == b"\x60\x2c\x00"  # a content size of two bytes, 256 less
        lie[4:7] = b"\xe0" + struct.pack("<Q", 1 << 50)
        assert f"says that it is {1 << 50} bytes long" in problem(frame(6, bytes(lie), flags=1))

    def test_zstd_without_a_declared_size_is_read(self) -> None:
        data = packed(b'{"status":"running"}', write_content_size=False)
        assert read(frame(5, data, flags=1)) == [Record(Kind.STATUS, STATUS, 1)]

    @pytest.mark.parametrize(("size", "came"), [(1, 2), (3, 2)])
    def test_an_archive_is_as_long_as_it_says(self, size: int, came: int) -> None:
        stream = frame(2, b'{"size":%d}' % size) + frame(3, b"ab", number=2) + frame(4, number=3)
        assert f"an archive of {size} bytes was announced, and {came} came" in problem(stream)

    def test_nothing_but_content_comes_in_the_middle_of_an_archive(self) -> None:
        begin = frame(2, b'{"size":7}')
        message = problem(begin + frame(3, b"ab", number=2) + frame(5, b"{}", number=3))
        assert "in the middle of an archive (record 2), after 2 of 7 bytes: record 3 (status) comes in the" in message
        assert "record 2 (archive) comes in the middle of an archive" in problem(begin + frame(2, b"{}", number=2))

    def test_lines_do_not_come_back_after_frames(self) -> None:
        items = read(hello_line(Hello()) + encode((Kind.END, END))[0])
        assert [type(item) for item in items] == [Noise, Record]
