"""The decoder of streams as a whole: any form, cut anywhere, with noise in it, damaged or ended too early."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ee_runner.errors import BadFrame, TruncatedStream
from ee_runner.stream import decoder as module
from ee_runner.stream.decoder import StreamDecoder
from ee_runner.stream.frames import MAGIC, FrameEncoder
from ee_runner.stream.lines import Buffer, Item, LineEncoder
from ee_runner.stream.records import Encoder, Hello, Kind, Noise, Record, hello_line

EVENT = {"event": "verbose", "counter": 1, "uuid": "u"}
HELLO = hello_line(Hello())
FORMS = ("lines", "sealed", "frames")
HOSTILE = (b"\n", b"\r\n", b'{"', b"{}", b"}\n", MAGIC, MAGIC + b"\x05\0\0\0", b"=", b" ", HELLO, b'{"eof":true}\n')

quick = settings(
    deadline=None,
    max_examples=80,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def start(form: str) -> tuple[bytes, Encoder]:
    """The greeting of a form, and its encoder."""
    if form == "frames":
        return hello_line(Hello(frames=True)), FrameEncoder()
    return (HELLO if form == "sealed" else b""), LineEncoder(sealed=form == "sealed")


def read(chunks: Iterator[bytes] | list[bytes]) -> list[Item]:
    decoder = StreamDecoder()
    return joined(item for chunk in chunks for item in decoder.feed(chunk))


def joined(items: Iterator[Item]) -> list[Item]:
    """Neighbouring content of one archive as one; its number is that of the first piece."""
    found: list[Item] = []
    for item in items:
        last = found[-1] if found else None
        if is_content(item) and is_content(last):
            found[-1] = Record(Kind.CONTENT, last.body + item.body, last.sequence)  # type: ignore[union-attr, operator]
        else:
            found.append(item)
    return found


def is_content(item: Item | None) -> bool:
    return isinstance(item, Record) and item.kind is Kind.CONTENT


def outcome(chunks: list[bytes]) -> tuple[list[Item], str]:
    """All that a stream gives, and how it ends. Any exception but the two of the protocol is a failure."""
    decoder = StreamDecoder()
    items: list[Item] = []
    try:
        for chunk in chunks:
            items.extend(decoder.feed(chunk))
        items.extend(decoder.close())
    except (BadFrame, TruncatedStream) as error:
        return joined(iter(items)), str(error)
    return joined(iter(items)), f"ended, {decoder.leftover} bytes left over"


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """The data in pieces of these sizes, again and again."""
    chunks: list[bytes] = []
    at = 0
    while at < len(data):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(data[at : at + size])
        at += size
    return chunks


sizes = st.lists(st.integers(1, 200), min_size=1, max_size=5)
words = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
extra = st.dictionaries(st.text(min_size=9), words, max_size=3)
messages = st.one_of(
    st.builds(lambda more, value: (Kind.REQUEST, {**more, "kwargs": value}), extra, words),
    st.builds(lambda more, value: (Kind.STATUS, {**more, "status": value}), extra, words),
    st.builds(lambda more, value: (Kind.EVENT, {**more, "event": [value]}), extra, words),
)
archives = st.tuples(st.just(Kind.ARCHIVE), st.lists(st.binary(max_size=200), max_size=4))
keepalives: Any = st.just((Kind.KEEPALIVE, {}))
scripts = st.lists(st.one_of(messages, archives, keepalives), max_size=8)
noises = st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(HOSTILE)), max_size=4).map(b"".join)


def play(encoder: Encoder, script: list[tuple[Kind, Any]]) -> list[bytes]:
    """The bytes of each step, and of the end."""
    parts = []
    for kind, body in script:
        if kind is Kind.ARCHIVE:
            pieces = [encoder.archive(sum(map(len, body))), *map(encoder.content, body), encoder.archive_end()]
            parts.append(b"".join(pieces))
        else:
            parts.append(encoder.keepalive() if kind is Kind.KEEPALIVE else encoder.message(kind, body))
    return [*parts, encoder.message(Kind.END, {"eof": True})]


def expected(script: list[tuple[Kind, Any]]) -> list[tuple[Kind, Any]]:
    found: list[tuple[Kind, Any]] = []
    for kind, body in script:
        if kind is Kind.ARCHIVE:
            content = b"".join(body)
            found.append((kind, {"size": len(content)}))
            found += [(Kind.CONTENT, content)] if content else []
            found.append((Kind.ARCHIVE_END, {}))
        else:
            found.append((kind, body))
    return [*found, (Kind.END, {"eof": True})]


def records(items: list[Item]) -> list[tuple[Kind, Any]]:
    return [(item.kind, item.body) for item in items if isinstance(item, Record)]


class TestAnyStream:
    @given(form=st.sampled_from(FORMS), script=scripts, sizes=sizes)
    @quick
    def test_gives_its_records_back_however_it_is_cut(
        self, form: str, script: list[tuple[Kind, Any]], sizes: list[int]
    ) -> None:
        greeting, encoder = start(form)
        stream = greeting + b"".join(play(encoder, script))
        items, ending = outcome(cut(stream, sizes))
        assert records(items) == expected(script)
        assert not [item for item in items if isinstance(item, Noise)]
        assert ending == "ended, 0 bytes left over"
        assert outcome([stream]) == outcome(cut(stream, [1])) == (items, ending)

    @given(form=st.sampled_from(FORMS[1:]), script=scripts, noise=st.lists(noises, min_size=1), sizes=sizes)
    @quick
    def test_gives_the_same_records_with_noise_between_them(
        self, form: str, script: list[tuple[Kind, Any]], noise: list[bytes], sizes: list[int]
    ) -> None:
        greeting, encoder = start(form)
        parts = play(encoder, script)
        # Lines of our own end's would count: its words and its archives are not noise.
        plain = [n.replace(b"zipfile", b"").replace(b"keepalive", b"") for n in noise]
        stream = greeting + b"".join(plain[i % len(plain)] + part for i, part in enumerate(parts))
        items, ending = outcome(cut(stream, sizes))
        assert records(items) == expected(script)
        assert ending.startswith("ended")

    @given(form=st.sampled_from(FORMS), data=st.lists(st.one_of(st.binary(), noises)).map(b"".join), sizes=sizes)
    @quick
    def test_may_be_anything(self, form: str, data: bytes, sizes: list[int]) -> None:
        stream = start(form)[0] + data
        assert outcome(cut(stream, sizes)) == outcome([stream])

    @given(form=st.sampled_from(FORMS), script=scripts, data=st.data(), sizes=sizes)
    @quick
    def test_may_be_damaged_anywhere(
        self, form: str, script: list[tuple[Kind, Any]], data: st.DataObject, sizes: list[int]
    ) -> None:
        greeting, encoder = start(form)
        body = bytearray(b"".join(play(encoder, script)))
        for _ in range(data.draw(st.integers(1, 3))):
            at, length = data.draw(st.integers(0, len(body))), data.draw(st.integers(0, 30))
            body[at : at + length] = data.draw(st.one_of(st.just(bytes(body[at : at + length]) * 2), noises))
        stream = greeting + bytes(body)
        items, ending = outcome(cut(stream, sizes))
        assert outcome([stream]) == (items, ending)
        if form != "lines":  # what is numbered is what was sent, or nothing
            sent = {
                record.sequence: record
                for record in read([greeting, *play(start(form)[1], script)])[1:]
                if isinstance(record, Record)
            }
            for item in items:
                if isinstance(item, Record) and item.sequence and item.kind not in (Kind.ARCHIVE, Kind.CONTENT):
                    assert item == sent[item.sequence]

    @given(form=st.sampled_from(FORMS), script=scripts, data=st.data())
    @quick
    def test_may_be_cut_off_anywhere(self, form: str, script: list[tuple[Kind, Any]], data: st.DataObject) -> None:
        greeting, encoder = start(form)
        stream = greeting + b"".join(play(encoder, script))
        size = data.draw(st.integers(0, len(stream) - 2))
        _, ending = outcome([stream[:size]])
        assert ending.startswith(("The stream ended ", "The stream holds no record, only "))


class TestTheGreeting:
    def read(self, **words: object) -> Item:
        line = {"event": "keepalive", "counter": 0, "uuid": 0, "ee_runner": words}
        (item,) = read([json.dumps(line).encode() + b"\n"])
        return item

    def test_is_given_and_kept(self) -> None:
        decoder = StreamDecoder()
        assert decoder.hello is None
        hello = Hello(stream="s", keepalive=2.5, offers=True, cache="c")
        assert list(decoder.feed(hello_line(hello))) == [hello]
        assert decoder.hello == hello

    def test_may_come_again(self) -> None:
        decoder = StreamDecoder()
        answer = Hello(frames=True, stream="s")
        assert list(decoder.feed(hello_line(Hello(offers=True)) + hello_line(answer))) == [Hello(offers=True), answer]
        assert decoder.hello == answer

    def test_ignores_what_a_later_one_adds(self) -> None:
        assert self.read(version=1, stream="s", colour="red") == Hello(stream="s")

    def test_of_a_later_version_names_it_and_the_remedy(self) -> None:
        with pytest.raises(BadFrame, match=r"at its beginning: the other end speaks version 2 .* upgrade ee-runner"):
            self.read(version=2, keepalive=[])

    @pytest.mark.parametrize(
        "words",
        [
            {"version": "1"},
            {"version": 0},
            {"version": True},
            {"version": None, "seq": 1, "crc": "00000000"},
            {"version": 1, "frames": 1},
            {"version": 1, "stream": 5},
            {"version": 1, "keepalive": -1},
            {"version": 1, "keepalive": "soon"},
            {"version": 1, "keepalive": 10**400},
            {"version": 1, "offers": None},
        ],
        ids=str,
    )
    def test_that_can_not_be_read_is_refused(self, words: dict[str, object]) -> None:
        with pytest.raises(BadFrame, match="the greeting of the other end can not be read"):
            self.read(**words)

    @pytest.mark.parametrize("silence", [86401, 1e300])
    def test_with_a_keepalive_of_more_than_a_day_has_none(self, silence: float) -> None:
        assert self.read(version=1, keepalive=silence) == Hello()
        assert self.read(version=1, keepalive=86400) == Hello(keepalive=86400)

    def test_may_come_behind_a_prompt(self) -> None:
        assert read([b"Password: " + HELLO]) == [Noise(b"Password: ", 10), Hello()]


class TestTheEnd:
    def test_what_comes_after_it_is_counted_and_not_looked_at(self) -> None:
        decoder = StreamDecoder()
        end = LineEncoder(sealed=False).message(Kind.END, {"eof": True})
        assert list(decoder.feed(end + b'{"zipfile": -1}\n')) == [Record(Kind.END, {"eof": True})]
        assert decoder.ended
        assert list(decoder.feed(b"logout\n")) == []
        assert decoder.leftover == 16 + 7
        assert list(decoder.close()) == []

    @pytest.mark.parametrize(
        ("stream", "message"),
        [
            (b"", "The stream ended before it began: not one byte came."),
            (
                b"bash: ansible-runner: not found\nbye",
                "The stream holds no record, only 35 bytes that belong to no record, beginning with "
                "'bash: ansible-runner: not found'.",
            ),
            (HELLO, "The stream ended after its greeting, before its end record."),
            (b'{"status":"x"}\n', "The stream ended after record 1 (a status), before its end record."),
            (
                b'{"kwargs":{}}\n{"zipfile":6}\nAAAA',
                "The stream ended in the middle of an archive (record 2), after 3 of 6 bytes, before its end record.",
            ),
            (
                hello_line(Hello(frames=True)) + FrameEncoder().archive(None),
                "The stream ended in the middle of an archive (record 1), after 0 bytes, before its end record.",
            ),
            (b'{"zipfile":0}\nnoise', "The stream ended after record 1 (an archive), before its end record."),
        ],
    )
    def test_that_is_missing_is_told_with_what_was_read(self, stream: bytes, message: str) -> None:
        assert outcome([stream])[1] == message

    def test_position_and_count_follow_the_records(self) -> None:
        decoder = StreamDecoder()
        seen = []
        for chunk in (b"", b'{"kwargs":{}}\n', b'{"zipfile":3}\n', b"AAAA", b'{"event":"x"}\n', b'{"eof":1}\n'):
            list(decoder.feed(chunk))
            seen.append((decoder.count, decoder.position))
        assert seen == [
            (0, "at its beginning"),
            (1, "after record 1 (a request)"),
            (2, "in the middle of an archive (record 2), after 0 of 3 bytes"),
            (2, "after record 2 (an archive)"),
            (3, "after record 3 (an event)"),
            (4, "after record 4 (the end record)"),
        ]


class CountingBuffer(Buffer):
    """Counts the bytes that are looked at, copied or moved."""

    touched = 0

    def append(self, data: bytes) -> None:
        type(self).touched += len(data)
        super().append(data)

    def find(self, what: bytes, start: int = 0) -> int:
        found = super().find(what, start)
        type(self).touched += (len(self) if found < 0 else found + len(what)) - start
        return found

    def peek(self, size: int) -> bytes:
        data = super().peek(size)
        type(self).touched += len(data)
        return data

    def replace(self, size: int, data: bytes) -> None:
        type(self).touched += len(data)
        super().replace(size, data)


FRAMES_HELLO = hello_line(Hello(frames=True))
STREAMS: dict[str, Callable[[int], bytes]] = {
    "one line": lambda n: b"x" * n,
    "many lines": lambda n: b"\n" * n,
    "braces": lambda n: HELLO + b'{"' * n,
    "lines of braces": lambda n: HELLO + (b'{"' * 50 + b"}\n") * (n // 100),
    "greetings that go on": lambda n: HELLO[:-1] * (n // len(HELLO)),
    "base64": lambda n: b'{"zipfile": %d}\n' % n + b"A" * n,
    "base64 with space": lambda n: b'{"zipfile": %d}\n' % n + b"AA\n A" * (n // 5),
    "space": lambda n: b'{"zipfile": %d}\n' % n + b" " * n,
    "magic": lambda n: FRAMES_HELLO + MAGIC * (n // 4),
    "half of magic": lambda n: FRAMES_HELLO + MAGIC[:3] * (n // 3),
    "a large frame": lambda n: FRAMES_HELLO + FrameEncoder().message(Kind.EVENT, {"event": "x"})[:-1] + b"y" * n,
    "keepalive frames": lambda n: FRAMES_HELLO + FrameEncoder().keepalive() * (n // 28),
}


class TestTheWork:
    @pytest.mark.parametrize("name", STREAMS)
    @pytest.mark.parametrize("size", [1, 10, 1000, 1 << 20])
    def test_is_linear_however_the_stream_is_cut(self, name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = STREAMS[name](20_000 if size == 1 else 200_000)
        monkeypatch.setattr(module, "Buffer", CountingBuffer)
        monkeypatch.setattr(CountingBuffer, "touched", 0)
        outcome(cut(stream, [size]))
        assert CountingBuffer.touched < 16 * len(stream) + 10_000

    @pytest.mark.parametrize("name", STREAMS)
    def test_takes_time_in_proportion_to_the_stream(self, name: str) -> None:
        def seconds(size: int) -> float:
            stream = STREAMS[name](size)
            begin = time.perf_counter()
            outcome([stream])
            return time.perf_counter() - begin

        small = min(seconds(20_000) for _ in range(3))
        large = min(seconds(320_000) for _ in range(2))  # quadratic work would take 256 times as long
        assert large < 80 * small + 0.1

    def test_of_an_archive_is_not_gathered(self) -> None:
        for form in ("sealed", "frames"):
            greeting, encoder = start(form)
            decoder = StreamDecoder()
            list(decoder.feed(greeting + encoder.archive(256 << 20)))
            piece = bytes(1 << 20)
            for _ in range(64):
                got = sum(len(item.body) for item in decoder.feed(encoder.content(piece)) if isinstance(item, Record))
                assert abs(got - len(piece)) < 4


def test_an_event_of_any_form_is_the_same() -> None:
    for form in FORMS:
        greeting, encoder = start(form)
        (record,) = [i for i in read([greeting + encoder.message(Kind.EVENT, EVENT)]) if isinstance(i, Record)]
        assert record.body == EVENT
