"""The decoder and the assembler: bytes in, text and events out, however the bytes are cut."""

from __future__ import annotations

import itertools
import json
import random
import time
from typing import Any

import pytest

from ee_runner.events.decoder import Boundary, Decoder, EventAssembler, EventDict, EventMark, Item, Text

NONCE = "00112233445566778899aabbccddeeff"
OTHER = "ff112233445566778899aabbccddeeff"
BOUNDARY = f"\x1b_ee;{NONCE};B\x1b\\".encode()


def mark(offset: int, length: int, nonce: str = NONCE) -> bytes:
    return f"\x1b_ee;{nonce};E;{offset};{length}\x1b\\".encode()


def decode(*chunks: bytes) -> list[Item]:
    """Items of a stream, neighbouring texts joined."""
    decoder = Decoder(NONCE)
    items = [item for chunk in chunks for item in decoder.feed(chunk)] + decoder.close()
    joined: list[Item] = []
    for item in items:
        if isinstance(item, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].data + item.data)
        else:
            joined.append(item)
    return joined


class Spool:
    """Records in memory."""

    def __init__(self) -> None:
        self.data = b""

    def add(self, **record: Any) -> bytes:
        """Add a record and give its mark."""
        line = json.dumps({"uuid": f"uuid-{len(self.data)}", "event": "runner_on_ok", **record}).encode()
        self.data += line + b"\n"
        return mark(len(self.data) - len(line) - 1, len(line))

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def assemble(spool: Spool, *chunks: bytes, max_text: int = 1 << 20) -> list[EventDict]:
    decoder = Decoder(NONCE)
    numbers = itertools.count(1)
    assembler = EventAssembler(
        ident="job",
        read_record=spool.read,
        new_uuid=lambda: f"new-{next(numbers)}",
        now=lambda: "now",
        max_text=max_text,
    )
    items = [item for chunk in chunks for item in decoder.feed(chunk)] + decoder.close()
    return [event for item in items for event in assembler.push(item)] + assembler.close()


def lines(events: list[EventDict]) -> list[tuple[str, int, int]]:
    return [(event["stdout"], event["start_line"], event["end_line"]) for event in events]


def test_marks_are_taken_out_of_the_text() -> None:
    stream = b"before\n" + BOUNDARY + b"inside\n" + mark(10, 20) + b"after\n"
    assert decode(stream) == [Text(b"before\n"), Boundary(), Text(b"inside\n"), EventMark(10, 20), Text(b"after\n")]


STREAM = (
    b"one\r\n"
    + BOUNDARY
    + b"\x1b[0;32mgreen\x1b[0m \xff\xfe \xc5\xbe\r\n"
    + mark(0, 123456)
    + mark(5, 6, OTHER)
    + b"\x1b_ee;\x1b_ee;"
    + BOUNDARY
    + BOUNDARY[:-1]
    + BOUNDARY
    + b"\x1b\x1b\x1b"
    + mark(7, 8)
    + f"\x1b_ee;{NONCE};E;x;1\x1b\\".encode()
    + b"prompt: "
)


def test_result_does_not_depend_on_how_the_stream_is_cut() -> None:
    whole = decode(STREAM)
    assert decode(*[STREAM[i : i + 1] for i in range(len(STREAM))]) == whole
    for seed in range(300):
        cuts = random.Random(seed)
        places = sorted(cuts.sample(range(len(STREAM)), cuts.randint(1, 12)))
        assert decode(*[STREAM[a:b] for a, b in zip([0, *places], [*places, len(STREAM)], strict=True)]) == whole


def test_text_is_complete_whatever_the_bytes() -> None:
    pieces = [BOUNDARY, mark(1, 2), mark(3, 4, OTHER), b"\x1b_ee;", b"\x1b", b"\\", NONCE.encode(), b"text\n", b"\xff"]
    for seed in range(300):
        chance = random.Random(seed)
        stream = [chance.choice(pieces) for _ in range(30)]
        cut = [piece[:n] for piece in stream for n in [chance.randint(0, len(piece))]]
        items = decode(*cut)
        marks = sum(
            len(BOUNDARY) if isinstance(i, Boundary) else len(mark(i.offset, i.length))
            for i in items
            if not isinstance(i, Text)
        )
        assert sum(len(i.data) for i in items if isinstance(i, Text)) + marks == sum(map(len, cut))


@pytest.mark.parametrize(
    "forged",
    [
        mark(0, 10, OTHER),
        f"\x1b_ee;{NONCE};E;1\x1b\\".encode(),
        f"\x1b_ee;{NONCE};E;1;2;3\x1b\\".encode(),
        f"\x1b_ee;{NONCE};E;-1;2\x1b\\".encode(),
        f"\x1b_ee;{NONCE};E;{'9' * 400};2\x1b\\".encode(),
        f"\x1b_ee;{NONCE.upper()};B\x1b\\".encode(),
        b"\x1b_ee;;B\x1b\\",
    ],
)
def test_what_is_no_mark_of_ours_is_text(forged: bytes) -> None:
    assert decode(forged + b"rest") == [Text(forged + b"rest")]


def test_prompt_comes_out_at_once() -> None:
    decoder = Decoder(NONCE)
    assert decoder.feed(b"Password: ") == [Text(b"Password: ")]
    assert decoder.feed(b"\x1b[0m> ") == [Text(b"\x1b[0m> ")]


def test_only_what_may_become_a_mark_is_held_back() -> None:
    decoder = Decoder(NONCE)
    assert decoder.feed(b"text\x1b_ee;0011") == [Text(b"text")]
    assert decoder.feed(b"x") == [Text(b"\x1b_ee;0011x")]
    assert decoder.feed(BOUNDARY[:-1]) == []
    assert decoder.feed(BOUNDARY[-1:]) == [Boundary()]
    unfinished = f"\x1b_ee;{NONCE};E;".encode()
    held = sum(len(item.data) for item in decoder.feed(unfinished + b"1" * 1000) if isinstance(item, Text))
    assert held >= len(unfinished) + 1000 - 200


def seconds(stream: bytes, chunk: int) -> float:
    decoder = Decoder(NONCE)
    start = time.process_time()
    for i in range(0, len(stream), chunk):
        decoder.feed(stream[i : i + chunk])
    return time.process_time() - start


@pytest.mark.parametrize("unit", [b"\x1b", b"\x1b_ee;", f"\x1b_ee;{NONCE};E;".encode(), b"x", b"\n", BOUNDARY])
def test_time_is_linear_in_the_input(unit: bytes) -> None:
    small, large = unit * (200_000 // len(unit)), unit * (1_600_000 // len(unit))
    best = min(seconds(small, 4096) for _ in range(5))
    assert min(seconds(large, 4096) for _ in range(3)) < 8 * best * 4 + 0.05


def test_event_has_its_own_text_and_the_documented_order() -> None:
    spool = Spool()
    first = spool.add(pid=7, created="then", parent_uuid="parent", event_data={"host": "a"})
    second = spool.add(event="playbook_on_stats", event_data={})
    stream = BOUNDARY + b"\r\nok: [a]\r\n" + first + BOUNDARY + second
    events = assemble(spool, stream)
    assert list(events[0].items()) == [
        ("uuid", "uuid-0"),
        ("counter", 1),
        ("stdout", "\r\nok: [a]"),
        ("start_line", 0),
        ("end_line", 2),
        ("runner_ident", "job"),
        ("event", "runner_on_ok"),
        ("pid", 7),
        ("created", "then"),
        ("parent_uuid", "parent"),
        ("event_data", {"host": "a"}),
    ]
    assert events[1]["event"] == "playbook_on_stats"
    assert lines(events)[1] == ("", 2, 2)


def test_text_outside_events_is_one_verbose_event_a_line() -> None:
    spool = Spool()
    stream = b"one\r\n\r\n  two \nthree" + BOUNDARY + b"ok\n" + spool.add() + b"last \xff\n\nrest"
    events = assemble(spool, *[stream[i : i + 1] for i in range(len(stream))])
    assert lines(events) == [
        ("one", 0, 1),
        ("", 1, 2),
        ("  two ", 2, 3),
        ("three", 3, 3),
        ("ok", 3, 4),
        ("last \ufffd", 4, 5),
        ("", 5, 6),
        ("rest", 6, 6),
    ]
    assert {event["event"] for event in events} == {"verbose", "runner_on_ok"}
    assert list(events[0]) == [
        *("uuid", "counter", "stdout", "start_line", "end_line", "runner_ident", "event", "created"),
    ]
    assert [event["counter"] for event in events] == list(range(1, 9))


def test_line_outside_is_an_event_as_soon_as_it_is_complete() -> None:
    assembler = EventAssembler(ident="job", read_record=Spool().read)
    assert assembler.push(Text(b"par")) == []
    assert [event["stdout"] for event in assembler.push(Text(b"tial\nnext"))] == ["partial"]
    assert [event["stdout"] for event in assembler.close()] == ["next"]


def test_event_that_never_ends_becomes_verbose_events() -> None:
    spool = Spool()
    done = spool.add()
    died = assemble(spool, BOUNDARY + b"ok\n" + done + BOUNDARY + b"half\nway")
    assert [(event["event"], event["stdout"]) for event in died] == [
        ("runner_on_ok", "ok"),
        ("verbose", "half"),
        ("verbose", "way"),
    ]
    abandoned = assemble(spool, BOUNDARY + b"half\n" + BOUNDARY + b"ok\n" + done)
    assert [(event["event"], event["stdout"]) for event in abandoned] == [("verbose", "half"), ("runner_on_ok", "ok")]


def test_mark_without_record_gives_its_text_back_at_once() -> None:
    spool = Spool()
    assembler = EventAssembler(ident="job", read_record=spool.read)
    for item in decode(BOUNDARY + b"said\n"):
        assert assembler.push(item) == []
    assert [event["stdout"] for event in assembler.push(EventMark(0, 0))] == ["said"]
    assert assembler.close() == []


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"uuid": 1, "event": 2}',
        b'{"uuid": "a"}',
        b'{"uuid": "/../x", "event": "e"}',
        b"\xff",
    ],
)
def test_unreadable_record_is_an_error_event_with_the_text(record: bytes) -> None:
    spool = Spool()
    spool.data = record
    (event,) = assemble(spool, BOUNDARY + b"kept\n" + mark(0, 1000))
    assert (event["event"], event["stdout"]) == ("error", "kept")
    assert "could not be read" in event["event_data"]["error"]


def test_missing_spool_is_an_error_event_with_the_text() -> None:
    def fail(offset: int, length: int) -> bytes:
        raise OSError(f"no byte at {offset + length}")

    assembler = EventAssembler(ident="job", read_record=fail)
    events = [event for item in decode(BOUNDARY + b"kept\n" + mark(3, 4)) for event in assembler.push(item)]
    assert [(event["event"], event["stdout"]) for event in events] == [("error", "kept")]
    assert "no byte at 7" in events[0]["event_data"]["error"]


def test_text_of_a_stream_without_marks_comes_from_the_record() -> None:
    spool = Spool()
    stream = BOUNDARY + spool.add(stdout="[WARNING]: careful\n") + BOUNDARY + b"ok\n" + spool.add(stdout="also\n")
    assert lines(assemble(spool, stream)) == [("[WARNING]: careful", 0, 0), ("also\nok", 0, 1)]


def test_record_cannot_replace_what_the_host_knows() -> None:
    spool = Spool()
    (event,) = assemble(spool, BOUNDARY + spool.add(counter=99, start_line=7, runner_ident="x"))
    assert (event["counter"], event["start_line"], event["runner_ident"]) == (1, 0, "job")


def test_huge_text_is_cut_and_says_so() -> None:
    spool = Spool()
    events = assemble(
        spool, BOUNDARY, b"x" * 900, b"y" * 900 + b"\n\n", spool.add(), b"z" * 1500 + b"\n", max_text=1000
    )
    assert events[0]["stdout"] == "x" * 900 + "y" * 100 + "\n[ee-runner cut 802 bytes of text]"
    assert (events[0]["start_line"], events[0]["end_line"]) == (0, 2)
    assert events[1]["stdout"] == "z" * 1000 + "\n[ee-runner cut 501 bytes of text]"
    assert (events[1]["start_line"], events[1]["end_line"]) == (2, 3)
