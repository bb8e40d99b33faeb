"""Feeds the stream decoder with damaged and random streams, for as long as it is asked to.

    python bench/fuzz_frames.py --minutes 10
    python bench/fuzz_frames.py --seed 4711       one stream again, that of a failure

Each stream is made from a seed of its own: records in one of the forms (lines, sealed lines, frames), damaged in one to
eight places or replaced by random pieces, and fed whole and in pieces. It must end with END, BadFrame or
TruncatedStream, the same way both times, and no numbered message may come out that was not put in. Prints the streams
per second, and the seed of the first that fails.
"""

from __future__ import annotations

import argparse
import base64
import random
import sys
import time
import traceback
import zlib
from collections.abc import Iterable
from typing import Any

from ee_runner.errors import BadFrame, TruncatedStream
from ee_runner.stream.decoder import StreamDecoder
from ee_runner.stream.frames import MAGIC, FrameEncoder
from ee_runner.stream.lines import Item, LineEncoder
from ee_runner.stream.records import Encoder, Hello, Kind, Noise, Record, hello_line

FORMS = ("lines", "sealed", "frames")
END = {"eof": True}
SEAL = b'{"event":"keepalive","counter":0,"uuid":0,"ee_runner":{"seq":%d,"crc":"%08x"}}\n'
PIECES = (
    b"\n",
    b"\r\n",
    b"{",
    b"}",
    b'{"',
    b"}\n",
    b'"',
    b"\\",
    b"\\ud800",
    b"NaN",
    b"9" * 400,
    b"=",
    b"==",
    b" " * 9,
    b"\xff",
    b"[" * 3000,
    b'{"a":' * 3000,
    b'{"eof": true}\n',
    b'{"zipfile": 5}\n',
    b'{"zipfile": true}\n',
    b'{"zipfile":99999999999999999999}\n',
    b'{"kwargs": {}}\n',
    b'{"event":"keepalive","counter":0,"uuid":0,"ee_runner":',
    b'{"event":"keepalive","counter":0,"uuid":0}\n',
    b'"version":2',
    b'"seq":1',
    b"\x28\xb5\x2f\xfd",
    b"\x50\x2a\x4d\x18\x01\0\0\0x",
    MAGIC,
    MAGIC[:2],
    hello_line(Hello()),
    hello_line(Hello(frames=True)),
    hello_line(Hello(version=2)),
)


def start(form: str) -> tuple[bytes, Encoder]:
    if form == "frames":
        return hello_line(Hello(frames=True)), FrameEncoder()
    return (hello_line(Hello()) if form == "sealed" else b""), LineEncoder(sealed=form == "sealed")


def value(dice: random.Random, depth: int = 0) -> Any:
    if depth < 3 and dice.random() < 0.3:
        return {str(dice.random()): value(dice, depth + 1) for _ in range(dice.randrange(4))}
    return dice.choice(
        (None, True, dice.getrandbits(80), dice.random(), "a\n\x1bé\U0001f600", "x" * dice.randrange(300))
    )


def some_record(dice: random.Random, encoder: Encoder) -> bytes:
    draw = dice.randrange(6)
    if draw == 0:
        return encoder.keepalive()
    if draw == 1:
        data = dice.randbytes(dice.choice((0, 1, 2, 3, 50, 3000)))
        pieces = [data[i : i + 700] for i in range(0, len(data), 700)]
        return b"".join([encoder.archive(len(data)), *map(encoder.content, pieces), encoder.archive_end()])
    kind, key = dice.choice(((Kind.REQUEST, "kwargs"), (Kind.STATUS, "status"), (Kind.EVENT, "event")))
    return encoder.message(kind, {"counter": dice.randrange(99), key: value(dice)})


def odd_record(dice: random.Random, number: int, form: str) -> bytes:
    """One whose checksums fit, and whose content is any: what a hostile end would send."""
    payload = dice.choice((*PIECES, dice.randbytes(40), b'{"size":%d}' % dice.randrange(99), b'{"status":1}', b""))
    if form == "frames":
        kind, flags = dice.choice((*range(9), 255)), dice.choice((0, 0, 1, 2))
        length = dice.choice((len(payload), len(payload), 1 << 20, 1 << 31))
        fields = MAGIC + bytes((kind, flags, 0, 0)) + number.to_bytes(8, "big") + length.to_bytes(4, "big")
        fields += zlib.crc32(payload).to_bytes(4, "big")
        return fields + zlib.crc32(fields).to_bytes(4, "big") + payload
    line = payload.replace(b"\n", b"")
    text = b'{"zipfile":%d}\n' % len(payload) + base64.b64encode(payload)
    return dice.choice((text, line + b"\n" + SEAL % (number, zlib.crc32(line)) if form == "sealed" else line + b"\n"))


def damage(dice: random.Random, data: bytearray) -> None:
    at = dice.randrange(len(data) + 1)
    length = dice.choice((0, 1, 1, 4, 28, 200))
    draw = dice.randrange(6)
    if draw == 0:
        data[at : at + length] = dice.randbytes(length)
    elif draw == 1:
        data[at : at + length] = b""
    elif draw == 2:
        data[at:at] = dice.choice(PIECES)
    elif draw == 3:
        other = dice.randrange(len(data) + 1)
        data[at:at] = data[other : other + length]
    elif draw == 4 and at < len(data):
        data[at] ^= 1 << dice.randrange(8)
    else:
        data[at : at + length] = dice.choice(PIECES)


def stream(dice: random.Random) -> tuple[bytes, list[bytes], str]:
    """A stream, the parts from which it was made, and its form; without parts where they prove nothing."""
    form = dice.choice(FORMS)
    greeting, encoder = start(form)
    if dice.random() < 0.1:
        return greeting + b"".join(dice.choices((*PIECES, dice.randbytes(30)), k=dice.randrange(1, 30))), [], form
    parts = [some_record(dice, encoder) for _ in range(dice.randrange(6))]
    if dice.random() < 0.3:
        return greeting + b"".join((*parts, odd_record(dice, encoder.next, form))), [], form
    parts.append(encoder.message(Kind.END, END))
    data = bytearray(b"".join(parts))
    for _ in range(dice.randrange(9)):
        damage(dice, data)
    return greeting + bytes(data), [greeting, *parts], form


def outcome(chunks: Iterable[bytes]) -> tuple[list[Item], bytes, str]:
    """What is no content, the content, and how it ended."""
    decoder, items, content = StreamDecoder(), [], []
    ending = "ended"
    try:
        for chunk in chunks:
            items += decoder.feed(chunk)
        items += decoder.close()
    except (BadFrame, TruncatedStream) as error:
        ending = str(error)
    content = [item.body for item in items if isinstance(item, Record) and isinstance(item.body, bytes)]
    rest = [item for item in items if not (isinstance(item, Record) and item.kind is Kind.CONTENT)]
    return rest, b"".join(content), f"{ending} {decoder.count} {decoder.leftover} {decoder.position}"


def pieces(dice: random.Random, data: bytes) -> Iterable[bytes]:
    at, most = 0, dice.choice((1, 2, 50, 5000))
    while at < len(data):
        size = dice.randint(1, most)
        yield data[at : at + size]
        at += size


def check(seed: int) -> tuple[str, str]:
    """Feed the stream of a seed; AssertionError, or whatever the decoder raised, if it fails."""
    dice = random.Random(seed)  # noqa: S311
    data, parts, form = stream(dice)
    whole = outcome([data])
    cut = outcome(pieces(dice, data))
    if repr(whole) != repr(cut):  # NaN is not equal to itself
        raise AssertionError(f"cut, it gives\n{cut}\nwhole, it gives\n{whole}")
    if parts and form != "lines":
        sent = {item.sequence: item for item in outcome(parts)[0] if isinstance(item, Record)}
        for item in whole[0]:
            genuine = not isinstance(item, Record) or not item.sequence or item.kind is Kind.ARCHIVE
            if not genuine and item != sent.get(item.sequence):
                raise AssertionError(f"{item} came out, which was not put in")
    if any(isinstance(item, Noise) and (not item.size or len(item.data) > 1000) for item in whole[0]):
        raise AssertionError("noise of no size, or with more of it than its beginning")
    return form, whole[2].partition(":")[2].strip()[:12] or whole[2].split(" ")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to go on")
    parser.add_argument("--seed", type=int, help="feed the one stream of this seed")
    arguments = parser.parse_args()
    first = arguments.seed if arguments.seed is not None else time.time_ns()
    begin, done = time.monotonic(), 0
    endings: dict[str, int] = {}
    while done == 0 or (arguments.seed is None and time.monotonic() - begin < arguments.minutes * 60):
        try:
            form, ending = check(first + done)
        except BaseException:
            traceback.print_exc()
            print(f"failed: python {sys.argv[0]} --seed {first + done}")
            return 1
        key = f"{form}: {'ended' if ending == 'ended' else 'cut' if ending == 'The' else 'refused'}"
        endings[key] = endings.get(key, 0) + 1
        done += 1
    seconds = time.monotonic() - begin
    print(f"{done} streams in {seconds:.0f} s, {done / seconds:.0f} a second, none failed")
    print(", ".join(f"{key} {endings[key]}" for key in sorted(endings)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
