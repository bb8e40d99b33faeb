"""Archives that no sender of good will makes: zips built byte by byte, any field of which may lie."""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STORED, DEFLATED = 0, 8
FILE, DIRECTORY, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
_DATE, _TIME = (2024 - 1980) << 9 | 5 << 5 | 17, 12 << 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One entry; `extra` is there in both records, `local` and `central` replace fields of one of them.

    The fields: name, flags, method, crc, packed, size, extra; and mode, offset, comment in the central directory.
    `descriptor` follows the content; `before` are bytes that belong to no record; an entry that is `hidden` has no
    record in the central directory, and a `ghost` nothing but that.
    """

    name: bytes
    content: bytes = b""
    mode: int = FILE
    method: int = STORED
    flags: int = 0
    packed: bytes | None = None
    extra: bytes = b""
    descriptor: bytes = b""
    before: bytes = b""
    local: Mapping[str, Any] = field(default_factory=dict)
    central: Mapping[str, Any] = field(default_factory=dict)
    hidden: bool = False
    ghost: bool = False

    def body(self) -> bytes:
        if self.packed is not None:
            return self.packed
        return deflated(self.content) if self.method == DEFLATED else self.content

    def fields(self) -> dict[str, Any]:
        flags = self.flags | (0 if self.name.isascii() else 0x0800)
        numbers = {"crc": zlib.crc32(self.content), "packed": len(self.body()), "size": len(self.content)}
        return {"name": self.name, "flags": flags, "method": self.method, "extra": self.extra, **numbers}


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def own(
    mode: int,
    *,
    size: int = 0,
    mtime_ns: int = 1_700_000_000_123_456_789,
    digest: bytes | None = None,
    absent: bool = False,
    link: bytes | None = None,
    raw_name: bytes | None = None,
) -> bytes:
    """Return the extra field by which our own ends say what zip can not."""
    flags = (digest is not None) << 1 | absent << 2 | (link is not None) << 3 | (raw_name is not None)
    tail = (digest or b"") + (len(link).to_bytes(2, "little") + link if link is not None else b"") + (raw_name or b"")
    body = struct.pack("<BBIqQ", 1, flags, mode, mtime_ns, size) + tail
    return struct.pack("<2H", 0x4545, len(body)) + body


def descriptor(content: bytes, *, packed: int | None = None) -> bytes:
    size = len(content)
    return struct.pack("<4s3L", b"PK\x07\x08", zlib.crc32(content), size if packed is None else packed, size)


def archive(*entries: Made, comment: bytes = b"", between: bytes = b"", after: bytes = b"", **end: int) -> bytes:
    """Return a zip; `end` replaces count, size or offset in its last record."""
    data, central, count = bytearray(), bytearray(), 0
    for entry in entries:
        offset = len(data) + len(entry.before)
        if not entry.ghost:
            data += entry.before + _local(entry) + entry.body() + entry.descriptor
        if not entry.hidden:
            central += _central(entry, offset)
            count += 1
    said = {"count": count, "size": len(central), "offset": len(data) + len(between), **end}
    last = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, said["count"], said["count"], said["size"], said["offset"], len(comment)
    )
    return b"".join((data, between, central, last, comment, after))


def _local(entry: Made) -> bytes:
    said = entry.fields()
    if entry.flags & 8:
        said.update(crc=0, packed=0, size=0)
    said.update(entry.local)
    head = (b"PK\x03\x04", 20, said["flags"], said["method"], _TIME, _DATE, said["crc"], said["packed"], said["size"])
    lengths = (len(said["name"]), len(said["extra"]))
    return bytes(struct.pack("<4s5H3L2H", *head, *lengths) + said["name"] + said["extra"])


def _central(entry: Made, offset: int) -> bytes:
    said = {**entry.fields(), "mode": entry.mode, "offset": offset, "comment": b"", "system": 3, **entry.central}
    head = (b"PK\x01\x02", 45, said["system"], 20, 0, said["flags"], said["method"], _TIME, _DATE)
    numbers = (said["crc"], said["packed"], said["size"])
    lengths = (len(said["name"]), len(said["extra"]), len(said["comment"]))
    rest = (0, 0, said["mode"] << 16, said["offset"])
    packed = struct.pack("<4s4B4H3L3H2H2L", *head, *numbers, *lengths, *rest)
    return bytes(packed + said["name"] + said["extra"] + said["comment"])


def file(name: bytes, content: bytes = b"hostile\n", **more: Any) -> Made:
    return Made(name=name, content=content, **more)


def directory(name: bytes, **more: Any) -> Made:
    return Made(name=name, mode=DIRECTORY, **more)


def link(name: bytes, target: bytes, **more: Any) -> Made:
    return Made(name=name, content=target, mode=LINK, **more)


def own_link(name: bytes, target: bytes) -> Made:
    return link(name, target, extra=own(LINK, size=len(target)))


@dataclass(frozen=True, slots=True)
class Case:
    """A hostile job: archives that come one after another, and a part of the words that refuse them."""

    id: str
    archives: tuple[bytes, ...]
    says: str
    prepare: Callable[[Path], object] = lambda _: None
    """Puts something into the target before; the sibling directory `../outside` is there."""


def corpus() -> tuple[Case, ...]:
    """Return every hostile job."""
    groups = (_names, _repetitions, _links, _kinds, _contradictions, _contents, _structures)
    return tuple(case for group in groups for case in group())


def _case(name: str, says: str, *entries: Made, prepare: Callable[[Path], object] = lambda _: None) -> Case:
    return Case(name, (archive(*entries),), says, prepare)


def _names() -> Iterator[Case]:
    said = {
        "absolute": (b"/outside/evil", "absolute"),
        "absolute directory": (b"/outside/evil/", "absolute"),
        "up": (b"../outside/evil", r"'\.\.'"),
        "up from within": (b"a/../../outside/evil", r"'\.\.'"),
        "up at the end": (b"a/..", r"'\.\.'"),
        "up alone": (b"..", r"'\.\.'"),
        "up as a directory": (b"../", r"'\.\.'"),
        "up behind the dot": (b"./../outside/evil", r"'\.\.'"),
        "absolute behind the dot": (b".//outside/evil", "absolute"),
        "the directory itself": (b".", "'.'"),
        "the directory itself, once more": (b"./", "empty"),
        "a dot within": (b"a/./b", "'.'"),
        "two dots in front": (b"././b", "'.'"),
        "an empty part": (b"a//b", "empty"),
        "two slashes at the end": (b"a//", "empty"),
        "no name": (b"", "empty"),
        "a zero byte": (b"good\0/../../outside/evil", "zero"),
        "a part that is too long": (b"x" * 256, "255 in a part"),
        "a name that is too long": (b"/".join([b"x" * 200] * 25), "4096 bytes"),
        "too deep": (b"x/" * 257 + b"evil", "deeper"),
        "text that is none": (b"\xff\xfe", "UTF-8"),
    }
    for name, (spelled, says) in said.items():
        mode = DIRECTORY if spelled.endswith(b"/") else FILE
        content = b"" if mode == DIRECTORY else b"hostile\n"
        yield _case(f"name: {name}", says, Made(name=spelled, content=content, mode=mode))
        if spelled.isascii():
            extra = own(mode, size=len(content), raw_name=spelled)
            innocent = b"innocent/" if mode == DIRECTORY else b"innocent"
            entry = Made(name=innocent, content=content, mode=mode, extra=extra)
            says = {"./": "'.'", ".//outside/evil": "'.'"}.get(spelled.decode(), says)
            yield _case(f"raw name: {name}", says, entry)


def _repetitions() -> Iterator[Case]:
    twice = "twice, or is a directory"
    yield _case("twice: a file", twice, file(b"a"), file(b"a", b"other"))
    yield _case("twice: spelled otherwise", twice, file(b"a"), file(b"./a", b"other"))
    yield _case("twice: a file and a directory", twice, file(b"a"), directory(b"a/"))
    yield _case("twice: a directory and a file", twice, directory(b"a/"), file(b"a"))
    yield _case("twice: an implied directory and a file", twice, file(b"a/b"), file(b"a"))
    yield _case("twice: a link and a file", twice, link(b"a", b"b"), file(b"a"))
    yield _case("twice: two links of our own end", twice, own_link(b"a", b"b"), own_link(b"a", b"../outside"))
    yield Case("twice: in two archives", (archive(file(b"a")), archive(file(b"a", b"other"))), twice)
    yield _case("below: a file", "no directory", file(b"a"), file(b"a/b"))
    yield _case("below: a file, deep", "no directory", file(b"a/b"), file(b"a/b/c/d"))
    yield _case("below: a link", "no directory", link(b"a", b"../outside"), file(b"a/evil"))
    yield _case("below: a link of our own end", "no directory", own_link(b"a", b"../outside"), file(b"a/evil"))
    yield _case("below: a link, a directory", "no directory", own_link(b"a", b"../outside"), directory(b"a/evil/"))
    archives = (archive(own_link(b"a", b"../outside")), archive(file(b"a/evil")))
    yield Case("below: a link, in two archives", archives, "no directory")
    stands = "a symbolic link, which is not followed"
    for name, entry in {
        "a file": file(b"way/evil"),
        "a directory": directory(b"way/"),
        "deep": file(b"way/a/b"),
    }.items():
        yield _case(f"existing link, {name}", stands, entry, prepare=_link("way", "../outside"))
    yield _case("existing link: deep", stands, file(b"a/way/evil"), prepare=_link("a/way", "../../outside"))
    yield _case("existing link: absolute", stands, file(b"way/evil"), prepare=_link("way", "/"))
    yield _case("existing: a file for a directory", "no directory", file(b"a/b"), prepare=_write("a"))
    yield _case("existing: a directory for a file", "a directory stands", file(b"a"), prepare=_write("a/b"))
    yield _case("existing: a directory for a link", "a directory stands", own_link(b"a", b"b"), prepare=_write("a/b"))


def _links() -> Iterator[Case]:
    targets = {
        "absolute": (b"/outside", "absolute"),
        "to the root": (b"/", "absolute"),
        "up": (b"../outside/secret", "leads out"),
        "up alone": (b"..", "leads out"),
        "down and up": (b"d/../../outside", "leads out"),
        "dots and slashes": (b".//.././/outside", "leads out"),
        "nothing": (b"", "to nothing"),
        "a zero byte": (b"a\0b", "zero"),
        "too long": (b"x" * 4096, "4095"),
    }
    for name, (target, says) in targets.items():
        yield _case(f"link: {name}", says, directory(b"d/"), link(b"evil", target))
        yield _case(f"link, compressed: {name}", says, directory(b"d/"), link(b"evil", target, method=DEFLATED))
        yield _case(f"own link: {name}", says, directory(b"d/"), own_link(b"evil", target))
    raw = Made(name=b"evil", content=b"good", mode=LINK, extra=own(LINK, size=4, link=b"../outside"))
    yield _case("own link: the raw target", "leads out", raw)
    yield _case("link: up from a directory", "leads out", link(b"a/b/evil", b"../../../outside"))
    chains = {
        "up behind a link": ({b"d/up": b"..", b"evil": b"d/up/.."}, "no directory"),
        "up behind a link, first": ({b"a": b"d/up/..", b"d/up": b".."}, "no directory"),
        "up behind two links": ({b"d/a": b"b", b"d/b": b"..", b"evil": b"d/a/.."}, "no directory"),
        "up behind a missing one": ({b"evil": b"missing/../outside"}, "no directory"),
        "up behind a file": ({b"evil": b"d/file/../../d"}, "no directory"),
        "up behind a part of a link": ({b"d/e/up": b"../..", b"evil": b"d/e/up/d/../.."}, "no directory"),
        "down and up through one another": ({b"a": b"b/..", b"b": b"d/e/../.."}, "no directory"),
    }
    for name, (made, says) in chains.items():
        entries = [directory(b"d/"), directory(b"d/e/"), file(b"d/file")]
        yield _case(f"chain: {name}", says, *entries, *(link(at, target) for at, target in made.items()))
        yield _case(f"own chain: {name}", says, *entries, *(own_link(at, target) for at, target in made.items()))
    archives = (archive(directory(b"d/"), link(b"a", b"d/up/..")), archive(link(b"d/up", b"..")))
    yield Case("chain: over two archives", archives, "no directory")
    through = {"relative": ("../outside", "leads out"), "absolute": ("/", "absolute")}
    for name, (existing, says) in through.items():
        case = link(b"evil", b"way/secret")
        yield _case(f"through an existing link: {name}", says, case, prepare=_link("way", existing))
    yield _case("through two existing links", "leads out", link(b"evil", b"one"), prepare=_two_links)
    labyrinth = [link(b"l%d" % n, b"l%d/l%d" % (n + 1, n + 1)) for n in range(30)]
    yield _case("link: a labyrinth", "without end|leads", *labyrinth, link(b"l30", b"../outside"))


def _kinds() -> Iterator[Case]:
    for name, kind in {
        "device": stat.S_IFCHR,
        "disk": stat.S_IFBLK,
        "fifo": stat.S_IFIFO,
        "socket": stat.S_IFSOCK,
    }.items():
        yield _case(f"kind: {name}", "a device, a fifo or a socket", file(b"evil", b"", mode=kind | 0o666))
        extra = own(kind | 0o666)
        yield _case(f"own kind: {name}", "a device, a fifo or a socket", file(b"evil", b"", extra=extra))
    yield _case("kind: none that is known", "a device", file(b"evil", mode=0o030644))
    yield _case("kind: a directory by its mode alone", "not by the other", file(b"a", b"", mode=DIRECTORY))
    yield _case("kind: a directory by its name alone", "not by the other", file(b"a/", b"", mode=FILE))
    yield _case("kind: a link by its mode, a directory by its name", "not by the other", file(b"a/", b"", mode=LINK))
    yield _case("own kind: a directory by its mode alone", "disagree", file(b"a", b"", extra=own(DIRECTORY)))
    yield _case("own kind: a directory by its name alone", "disagree", file(b"a/", b"", extra=own(FILE)))
    yield _case("kind: a directory with content", "with content", file(b"a/", mode=DIRECTORY))
    packed = file(b"a/", b"", mode=DIRECTORY, method=DEFLATED)
    yield _case("kind: a directory with compressed nothing", "with content", packed)


def _contradictions() -> Iterator[Case]:
    differ = "not the same"
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "name": ({"name": b"evil"}, differ),
        "name that leads out": ({"name": b"../outside/evil"}, differ),
        "checksum": ({"crc": 1}, differ),
        "sizes": ({"packed": 1, "size": 1}, differ),
        "method": ({"method": DEFLATED}, differ),
        "flags": ({"flags": 0x0800}, differ),
        "place": ({"offset": 1}, differ),
        "our field": ({"extra": own(FILE, size=8)}, differ),
        "comment": ({"comment": b"x" * 60000}, "comment|cut"),
    }
    for name, (change, says) in changes.items():
        yield _case(f"central directory: another {name}", says, file(b"good", central=change))
    mode = file(b"good", extra=own(FILE, size=8), mode=LINK)
    yield _case("central directory: another mode of our own", "two modes|not the same", mode)
    for what, extra in {"mode": own(FILE | 0o111, size=8), "time": own(FILE, size=8, mtime_ns=5)}.items():
        entry = file(b"good", extra=own(FILE, size=8), central={"extra": extra})
        yield _case(f"central directory: another {what} than in our field", "two modes|not the same", entry)
    yield _case("central directory: one less", "central directory's entry 2", file(b"a"), file(b"b", hidden=True))
    yield _case("central directory: one more", "an entry or the end", file(b"a"), file(b"b", ghost=True))
    yield _case(
        "central directory: the same twice", differ, file(b"a"), file(b"b", central={"name": b"a", "offset": 0})
    )
    yield _case("central directory: missing", "central directory's entry 1", file(b"a", hidden=True))
    swapped = (file(b"a", central={"name": b"b"}), file(b"b", central={"name": b"a"}))
    yield _case("central directory: in another order", differ, *swapped)


def _contents() -> Iterator[Case]:
    text = b"some text, " * 100
    damaged = "checksum"
    yield _case("content: another checksum", damaged, file(b"a", local={"crc": 5}, central={"crc": 5}))
    compressed = file(b"a", text, method=DEFLATED, local={"crc": 5}, central={"crc": 5})
    yield _case("content: another checksum, compressed", damaged, compressed)
    digest = own(FILE, size=8, digest=bytes(32))
    yield _case("content: another digest", damaged, file(b"a", extra=digest))
    shifts = {"more": (1, "1100 bytes of content instead"), "less": (-1, "more content than the 1099 bytes")}
    for name, (by, says) in shifts.items():
        size = {"size": len(text) + by}
        entry = file(b"a", text, method=DEFLATED, local=size, central=size)
        yield _case(f"content: {name} is announced than is in it", says, entry)
    ends = "announces|decompressed"
    yield _case("content: cut", ends, file(b"a", text, method=DEFLATED, packed=deflated(text)[:-3]))
    yield _case("content: followed by garbage", ends, file(b"a", text, method=DEFLATED, packed=deflated(text) + b"xx"))
    yield _case("content: no deflate at all", ends, file(b"a", text, method=DEFLATED, packed=b"\xff" * 50))
    yield _case("content: nothing at all", ends, file(b"a", text, method=DEFLATED, packed=b""))
    yield _case("content: stored with two sizes", "two sizes", file(b"a", local={"size": 5}, central={"size": 5}))
    own_size = own(FILE, size=5)
    yield _case("content: our field has another size", "two sizes", file(b"a", extra=own_size))
    for method in (1, 12, 14, 93, 99):
        yield _case(f"method {method}", "method", file(b"a", method=method))
    for flags in (0x0001, 0x0020, 0x0040, 0x2000):
        yield _case(f"flags {flags:#x}", "flags", file(b"a", flags=flags))
    yield _case(
        "streamed: stored, of unknown size", "end can not be found", file(b"a", flags=8, descriptor=descriptor(b""))
    )
    for name, wrong in {"checksum": descriptor(b"hostilf\n"), "size": descriptor(b"hostile\n", packed=7)}.items():
        entry = file(b"a", flags=8, extra=own(FILE, size=8), descriptor=wrong)
        yield _case(f"streamed: another {name}", damaged, entry)
    unsigned = file(b"a", flags=8, extra=own(FILE, size=8), descriptor=descriptor(b"hostile\n")[4:] + b"PK\x03\x04")
    yield _case("streamed: no signature", "begin", unsigned)
    both = file(b"a", flags=8, extra=own(FILE, size=8), local={"crc": 7}, descriptor=descriptor(b"hostile\n"))
    yield _case("streamed: a checksum before and after", "before and after", both)
    huge = struct.pack("<2H2Q", 1, 16, 1 << 63, 1 << 63)
    wide = {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF, "extra": huge}
    yield _case("size: beyond all limits", "limit of", file(b"a", local=wide, central=wide))
    yield _case("size: missing", "32 bits", file(b"a", local={"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF}))
    absent = own(FILE, size=8, digest=bytes(32), absent=True)
    yield _case("absent: and no cache here", "--cache", file(b"a", b"", extra=absent))
    yield _case("absent: with content", "absent|two sizes", file(b"a", extra=absent))
    yield _case("absent: without a digest", "digest", file(b"a", b"", extra=own(FILE, absent=True)))


def _structures() -> Iterator[Case]:
    good = archive(file(b"a"), file(b"b"))
    says = "begin"
    yield Case("structure: garbage before", (b"MZ" + good,), says)
    yield Case("structure: garbage after", (good + b"x",), "follow")
    yield Case("structure: two in one", (good + good,), "follow")
    yield _case("structure: garbage between entries", says, file(b"a"), file(b"b", before=b"garbage"))
    yield Case("structure: garbage before the directory", (archive(file(b"a"), between=b"garb"),), says)
    yield Case("structure: a comment", (archive(file(b"a"), comment=b"x" * 65535),), "comment")
    yield Case("structure: another count", (archive(file(b"a"), count=2),), "end says 2")
    yield Case("structure: a count that is too large", (archive(file(b"a"), count=0xFFFF),), "end says")
    yield Case("structure: another size", (archive(file(b"a"), size=7),), "end says 7")
    yield Case("structure: another place", (archive(file(b"a"), offset=0),), "end says 0")
    yield Case("structure: no zip", (b"\x7fELF" + bytes(200),), says)
    extras = {
        "cut": (b"\x45\x45\xff\xff", "cut"),
        "of an unknown version": (struct.pack("<2H", 0x4545, 22) + b"\x09" + bytes(21), "version"),
        "twice": (own(FILE, size=8) * 2, "twice"),
        "too long": (struct.pack("<2H", 0x4545, 26) + own(FILE, size=8)[4:] + b"more", "too long"),
    }
    for name, (extra, words) in extras.items():
        yield _case(f"structure: our field, {name}", words, file(b"a", extra=extra))


def _link(name: str, target: str) -> Callable[[Path], object]:
    def make(directory: Path) -> None:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).symlink_to(target)

    return make


def _two_links(directory: Path) -> None:
    (directory / "one").symlink_to("two")
    (directory / "two").symlink_to("../outside")


def _write(name: str) -> Callable[[Path], object]:
    def make(directory: Path) -> None:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("was there before")

    return make


Seen = tuple[str, int, int, int, bytes]


def seen(directory: Path, *, apart_from: Path | None = None) -> list[Seen]:
    """Return all that can be seen of a directory tree, following no link: names, modes, sizes, times and contents."""
    found = []
    for place, directories, files in os.walk(directory):
        if apart_from is not None and Path(place) == apart_from:
            directories.clear()
            continue
        for name in (".", *files, *directories):
            path = Path(place, name)
            if apart_from is None or path != apart_from:
                found.append(_seen(path, str(path.relative_to(directory))))
    return sorted(found)


def _seen(path: Path, name: str) -> Seen:
    status = path.lstat()
    content = b""
    if stat.S_ISLNK(status.st_mode):
        content = os.fsencode(path.readlink())
    elif stat.S_ISREG(status.st_mode):
        content = path.read_bytes()
    return name, status.st_mode, status.st_size, status.st_mtime_ns, content
