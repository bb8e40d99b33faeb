"""The worker's cache of files and the sender's ledger: right content or none, many processes, damage, other users."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ee_runner.errors import ArtifactError, BadFrame, ConfigurationError
from ee_runner.stream.cache import BlobStore
from ee_runner.stream.ledger import Ledger

OLD = Path(os.__file__).parent
"""The standard library: files that nobody has changed for a while."""


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def numbered(count: int, *, seed: int = 1) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(32) for _ in range(count)]


def put(store: BlobStore, data: bytes) -> bytes:
    with store.add(digest(data)) as writer:
        writer.write(data)
    return digest(data)


def content(store: BlobStore, which: bytes) -> bytes:
    with os.fdopen(store.open(which), "rb") as file:
        return file.read()


def files(directory: Path) -> dict[str, Path]:
    return {str(path.relative_to(directory)): path for path in directory.rglob("*") if path.is_file()}


def blobs(directory: Path) -> set[str]:
    return {path.name for path in files(directory).values()} - {"name"}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def program(text: str, *arguments: object) -> subprocess.Popen[bytes]:
    argv = (sys.executable, "-c", text, *map(str, arguments))
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def succeeded(*processes: subprocess.Popen[bytes]) -> list[bytes]:
    answers = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return answers


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "cache")


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Let no file of this process grow beyond 1000 bytes in the block; the report of the tests may be one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_blob_is_there_as_a_whole_once_its_block_has_ended(store: BlobStore, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    with store.add(digest(data)) as writer:
        writer.write(data[:100_000])
        writer.write(memoryview(data)[100_000:])
        assert digest(data) not in store
    assert digest(data) in store
    assert content(store, digest(data)) == data
    name = digest(data).hex()
    place = tmp_path / "cache" / name[:2] / name
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in (place.parent, place.parent.parent)} == {0o700}


def test_an_empty_file_is_a_blob_like_any_other(store: BlobStore) -> None:
    assert content(store, put(store, b"")) == b""


def test_content_of_another_digest_is_refused_and_nothing_of_it_stays(store: BlobStore, tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(BadFrame, match=digest(b"announced").hex()), store.add(digest(b"announced")) as writer:
        writer.write(b"something else")
    assert digest(b"announced") not in store
    assert blobs(tmp_path / "cache") == set()
    assert descriptors() == before


def test_nothing_stays_of_a_block_that_fails(store: BlobStore, tmp_path: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), store.add(digest(b"whole")) as writer:
        writer.write(b"whole")
        raise ZeroDivisionError
    assert digest(b"whole") not in store
    assert blobs(tmp_path / "cache") == set()


def test_a_full_disk_is_said_in_words_and_nothing_stays(store: BlobStore, tmp_path: Path) -> None:
    data = bytes(5000)
    said = pytest.raises(ArtifactError, match=r"The cache .* can not be used")
    with full_disk(), said, store.add(digest(data)) as writer:
        writer.write(data)
    assert blobs(tmp_path / "cache") == set()


def test_a_blob_that_is_absent_is_a_key_error(store: BlobStore) -> None:
    assert digest(b"x") not in store
    with pytest.raises(KeyError, match=digest(b"x").hex()):
        store.open(digest(b"x"))


@pytest.mark.parametrize("wrong", [b"short", "text", None, bytes(33)])
def test_what_is_no_digest_is_not_there(store: BlobStore, wrong: object) -> None:
    assert wrong not in store


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_what_is_no_file_is_no_blob(store: BlobStore, tmp_path: Path, kind: str) -> None:
    name = digest(b"x").hex()
    place = tmp_path / "cache" / name[:2] / name
    place.parent.mkdir()
    make: dict[str, Any] = {
        "link": lambda: place.symlink_to("/etc/passwd"),
        "pipe": lambda: os.mkfifo(place),
        "directory": place.mkdir,
    }
    make[kind]()
    before = descriptors()
    assert digest(b"x") not in store
    with pytest.raises(KeyError):
        store.open(digest(b"x"))
    assert descriptors() == before


def test_adding_a_blob_again_makes_a_damaged_one_good(store: BlobStore, tmp_path: Path) -> None:
    which = put(store, b"content")
    (tmp_path / "cache" / which.hex()[:2] / which.hex()).write_bytes(b"")
    put(store, b"content")
    assert content(store, which) == b"content"


def test_a_reader_keeps_what_it_has_open(store: BlobStore) -> None:
    which = put(store, b"content")
    with os.fdopen(store.open(which), "rb") as file:
        put(store, b"content")
        assert file.read() == b"content"


ADDS = """
import hashlib, sys
from pathlib import Path
from ee_runner.stream.cache import BlobStore
store = BlobStore(Path(sys.argv[1]))
sys.stdin.read()
for number in range(150):
    data = (b"%d," % number) * 20_000
    with store.add(hashlib.sha256(data).digest()) as writer:
        for start in range(0, len(data), 16_384):
            writer.write(data[start : start + 16_384])
print(store.name, end="")
"""


def test_workers_that_add_the_same_blobs_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    writers = [program(ADDS, tmp_path / "cache") for _ in range(3)]
    names = succeeded(*writers)
    store = BlobStore(tmp_path / "cache")
    wanted = [(b"%d," % number) * 20_000 for number in range(150)]
    assert all(content(store, digest(data)) == data for data in wanted)
    assert blobs(tmp_path / "cache") == {digest(data).hex() for data in wanted}
    assert {name.decode() for name in names} == {store.name}


ADDS_FOREVER = """
import sys
from pathlib import Path
from ee_runner.stream.cache import BlobStore
with BlobStore(Path(sys.argv[1])).add(bytes(32)) as writer:
    writer.write(b"a part")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_worker_wrote_is_no_blob_and_is_pruned_a_day_later(tmp_path: Path) -> None:
    with program(ADDS_FOREVER, tmp_path / "cache") as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"writing\n"
        worker.kill()
    store = BlobStore(tmp_path / "cache")
    assert bytes(32) not in store
    (part,) = (path for path in files(tmp_path / "cache").values() if path.read_bytes() == b"a part")
    store.prune(0)
    assert part.exists()
    os.utime(part, (time.time() - 25 * 3600,) * 2)
    store.prune(10**9)
    assert not part.exists()


def test_pruning_removes_what_was_not_used_for_longest(store: BlobStore, tmp_path: Path) -> None:
    stored = [put(store, bytes([number]) * 1000) for number in range(6)]
    for number, which in enumerate(stored):
        path = tmp_path / "cache" / which.hex()[:2] / which.hex()
        os.utime(path, (time.time() - (10 - number) * 4000,) * 2)
    os.close(store.open(stored[0]))  # the oldest is used now
    store.prune(3000)
    assert [which in store for which in stored] == [True, False, False, False, True, True]


def test_pruning_spares_what_was_used_within_the_hour(store: BlobStore, tmp_path: Path) -> None:
    stored = [put(store, bytes([number]) * 1000) for number in range(3)]
    path = tmp_path / "cache" / stored[1].hex()[:2] / stored[1].hex()
    os.utime(path, (time.time() - 3700,) * 2)
    store.prune(0)
    assert [which in store for which in stored] == [True, False, True]


def test_pruning_leaves_what_is_no_blob_alone(store: BlobStore, tmp_path: Path) -> None:
    put(store, b"x")
    (tmp_path / "cache" / "ab").mkdir(exist_ok=True)
    strange = [tmp_path / "cache" / "ab" / name for name in ("notes", "ab", "AB" * 32)]
    for path in strange:
        path.write_text("mine")
        os.utime(path, (0, 0))
    store.prune(0)
    assert all(path.read_text() == "mine" for path in strange)
    assert BlobStore(tmp_path / "cache").name == store.name


def test_a_cache_keeps_its_name_and_no_other_has_it(tmp_path: Path) -> None:
    names = {BlobStore(tmp_path / each).name for each in ("a", "b", "a")}
    assert len(names) == 2
    assert BlobStore(tmp_path / "a").name in names


def test_a_cache_whose_name_was_damaged_gets_another(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "cache" / "name").write_text("nonsense")
    renamed = BlobStore(tmp_path / "cache").name
    assert renamed not in (store.name, "nonsense")
    assert BlobStore(tmp_path / "cache").name == renamed


def test_all_who_come_first_agree_on_the_name(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: BlobStore(tmp_path / "cache").name, range(32)))) == 1


def anothers(tmp_path: Path) -> Path:
    """Return a directory of another user's: made over to one by root, root's own for everybody else."""
    if os.geteuid():
        return Path("/usr")
    os.chown(tmp_path / "cache", 12345, 12345)
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", [BlobStore, Ledger])
def test_a_directory_of_another_user_is_refused(tmp_path: Path, kind: Callable[[Path], object]) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        kind(anothers(tmp_path))


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
@pytest.mark.parametrize("kind", [BlobStore, Ledger])
def test_a_directory_that_others_can_write_is_refused(
    tmp_path: Path, kind: Callable[[Path], object], mode: int
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod go-w"):
        kind(tmp_path / "cache")
    assert files(tmp_path / "cache") == {}


def test_a_link_to_a_directory_of_ones_own_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "cache").symlink_to("disk")
    store = BlobStore(tmp_path / "cache")
    assert content(store, put(store, b"x")) == b"x"
    assert len(files(tmp_path / "disk")) == 2


def test_a_file_in_the_place_of_the_directory_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(ArtifactError, match="is not a directory"):
        BlobStore(tmp_path / "cache")


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def ledger(tmp_path: Path, told: list[str]) -> Iterator[Ledger]:
    with Ledger(tmp_path / "cache", explain=told.append) as ledger:
        yield ledger


def test_what_was_sent_is_known_once_it_is_confirmed(ledger: Ledger, told: list[str]) -> None:
    digests = numbered(50)
    ledger.sent("request", reversed(digests))
    assert not any(each in ledger.known() for each in digests)
    ledger.confirmed("request", "cache")
    assert all(each in ledger.known() for each in digests)
    assert not any(each in ledger.known() for each in [*numbered(50, seed=2), bytes(32), b"\xff" * 32])
    assert told == []


def test_what_another_process_noted_is_known_too(ledger: Ledger, tmp_path: Path) -> None:
    ledger.sent("request", [bytes(32)])
    with Ledger(tmp_path / "cache") as process:
        process.confirmed("request", "cache")
    assert bytes(32) in ledger.known()


def test_requests_to_one_cache_add_up_and_each_digest_is_kept_once(ledger: Ledger, tmp_path: Path) -> None:
    first, second = numbered(10), numbered(10, seed=2)
    for number, digests in enumerate([first, second + first, first]):
        ledger.sent(str(number), digests)
        ledger.confirmed(str(number), "cache")
    assert all(each in ledger.known() for each in first + second)
    assert (tmp_path / "cache" / "ledger" / "held").stat().st_size == (2 + 20) * 32


def test_another_cache_holds_only_what_it_was_sent(ledger: Ledger) -> None:
    first, second = numbered(10), numbered(10, seed=2)
    ledger.sent("one", first)
    ledger.confirmed("one", "cache")
    ledger.sent("two", second)
    ledger.confirmed("two", "other")
    assert not any(each in ledger.known() for each in first)
    assert all(each in ledger.known() for each in second)


def test_a_forgotten_cache_holds_nothing_until_it_is_confirmed_again(ledger: Ledger, told: list[str]) -> None:
    ledger.sent("one", [bytes(32)])
    ledger.confirmed("one", "cache")
    ledger.forget()
    ledger.forget()
    assert bytes(32) not in ledger.known()
    ledger.sent("two", [bytes(32)])
    ledger.confirmed("two", "cache")
    assert bytes(32) in ledger.known()
    assert told == []


def test_a_request_that_was_never_sent_confirms_nothing(ledger: Ledger, told: list[str]) -> None:
    ledger.sent("one", [bytes(32)])
    ledger.confirmed("other", "cache")
    assert bytes(32) not in ledger.known()
    assert len(told) == 1


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "", "x" * 10_000, "\0", "\ud800"])
def test_a_request_of_any_name_stays_in_the_ledger(ledger: Ledger, tmp_path: Path, name: str) -> None:
    ledger.sent(name, [bytes(32)])
    assert all(path.startswith("cache/ledger/") for path in files(tmp_path))
    ledger.confirmed(name, name)
    assert bytes(32) in ledger.known()


def test_the_newest_twenty_requests_may_still_be_confirmed(ledger: Ledger, tmp_path: Path) -> None:
    for number in range(25):
        ledger.sent(str(number), [bytes([number]) * 32])
        for path in (tmp_path / "cache" / "ledger" / "pending").iterdir():
            os.utime(path, (path.stat().st_mtime - 10,) * 2)
    for number in range(25):
        ledger.confirmed(str(number), "cache")
    assert [bytes([number]) * 32 in ledger.known() for number in range(25)] == [False] * 5 + [True] * 20


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"ee_runner held 1".ljust(32), bytes(320)])
def test_a_damaged_ledger_knows_nothing_says_so_and_is_replaced(
    ledger: Ledger, tmp_path: Path, told: list[str], damage: bytes
) -> None:
    ledger.sent("one", [bytes(32)])
    ledger.confirmed("one", "cache")
    (tmp_path / "cache" / "ledger" / "held").write_bytes(damage)
    assert bytes(32) not in ledger.known()
    assert len(told) == 1
    ledger.sent("two", [bytes(32)])
    ledger.confirmed("two", "cache")
    assert bytes(32) in ledger.known()
    assert len(told) == 1


def test_a_ledger_that_can_not_be_written_fails_nothing(ledger: Ledger, tmp_path: Path, told: list[str]) -> None:
    ledger.sent("one", numbered(10))
    ledger.confirmed("one", "cache")
    with full_disk():
        ledger.sent("two", numbered(100, seed=2))
    assert len(told) == 1
    assert all(each in ledger.known() for each in numbered(10))
    assert list((tmp_path / "cache" / "ledger" / "pending").iterdir()) == []


CONFIRMS = """
import sys
from pathlib import Path
from ee_runner.stream.ledger import Ledger
with Ledger(Path(sys.argv[1]), explain=sys.exit) as ledger:
    for number in range(100):
        request = sys.argv[2] + str(number)
        ledger.sent(request, [request.encode().ljust(32)])
        ledger.confirmed(request, "cache")
"""


def test_processes_that_confirm_at_once_lose_nothing(ledger: Ledger, tmp_path: Path) -> None:
    succeeded(*(program(CONFIRMS, tmp_path / "cache", name) for name in "abc"))
    known = ledger.known()
    assert all(f"{name}{number}".encode().ljust(32) in known for name in "abc" for number in range(100))


MANY = """
import os, re, sys
from pathlib import Path
from ee_runner.stream.ledger import Ledger
def peak():
    return int(re.search("VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
with Ledger(Path(sys.argv[1]), explain=sys.exit) as ledger:
    ledger.sent("large", (os.urandom(32) for _ in range(400_000)))
    ledger.confirmed("large", "cache")
    ledger.sent("small", [b"x" * 32])
    ledger.confirmed("small", "cache")
    assert b"x" * 32 in ledger.known()
print(peak() - before)
"""


def test_a_digest_takes_a_hundred_bytes_of_memory(tmp_path: Path) -> None:
    (kilobytes,) = succeeded(program(MANY, tmp_path / "cache"))
    assert (tmp_path / "cache" / "ledger" / "held").stat().st_size == (2 + 400_001) * 32
    assert 12_800 < int(kilobytes) < 50_000


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of files that were changed more than two seconds ago: their times can not be set back."""
    directory = tmp_path_factory.mktemp("settled")
    for name in ("same", "content", "size", "replaced"):
        (directory / name).write_bytes(name.encode() * 1000)
    time.sleep(2.1)
    return directory


def summed(ledger: Ledger, path: Path, *, readable: bool = True) -> bytes:
    """Ask for the digest of a file, if need be through a descriptor that nothing can be read from."""
    descriptor = os.open(path, os.O_RDONLY if readable else os.O_PATH)
    try:
        return ledger.digest(descriptor, os.fstat(descriptor))
    finally:
        os.close(descriptor)


def test_a_file_that_did_not_change_is_read_once(ledger: Ledger, tmp_path: Path, settled: Path) -> None:
    path = settled / "same"
    assert summed(ledger, path) == digest(path.read_bytes())
    assert summed(ledger, path, readable=False) == digest(path.read_bytes())
    ledger.close()
    with Ledger(tmp_path / "cache") as later:
        assert summed(later, path, readable=False) == digest(path.read_bytes())


@pytest.mark.parametrize("change", ["content", "size", "replaced"])
def test_a_file_that_changed_is_read_again(ledger: Ledger, settled: Path, change: str) -> None:
    path = settled / change
    before = path.stat()
    summed(ledger, path)
    other = settled / "other"
    if change == "replaced":
        other.write_bytes(b"x" * before.st_size)
        other.rename(path)
    else:
        path.write_bytes(b"x" * (before.st_size + (change == "size")))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert summed(ledger, path) == digest(path.read_bytes())


def test_a_file_that_has_just_changed_is_read_each_time(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "fresh").write_bytes(b"content")
    assert summed(ledger, tmp_path / "fresh") == digest(b"content")
    with pytest.raises(OSError, match="descriptor"):
        summed(ledger, tmp_path / "fresh", readable=False)


def test_the_descriptor_stays_where_it_is(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789" * 100_000)
    with (tmp_path / "file").open("rb") as file:
        file.seek(7)
        assert ledger.digest(file.fileno(), os.fstat(file.fileno())) == digest(b"0123456789" * 100_000)
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 7


def index(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "ledger" / "digests-1.sqlite"


def test_a_damaged_index_is_no_failure_said_once_and_made_anew(tmp_path: Path, told: list[str]) -> None:
    path = OLD / "os.py"
    with Ledger(tmp_path / "cache", explain=told.append) as ledger:
        summed(ledger, path)
    index(tmp_path).write_bytes(b"nonsense" * 1000)
    with Ledger(tmp_path / "cache", explain=told.append) as ledger:
        assert summed(ledger, path) == summed(ledger, path) == digest(path.read_bytes())
    assert len(told) == 1
    for readable in (True, False):
        with Ledger(tmp_path / "cache", explain=told.append) as ledger:
            assert summed(ledger, path, readable=readable) == digest(path.read_bytes())
    assert len(told) == 1


def test_a_row_that_was_damaged_is_not_believed(tmp_path: Path) -> None:
    path = OLD / "os.py"
    with Ledger(tmp_path / "cache") as ledger:
        summed(ledger, path)
    with sqlite3.connect(index(tmp_path)) as connection:
        ((note,),) = connection.execute("SELECT note FROM files").fetchall()
        changed = bytearray(note)
        changed[30] ^= 1
        connection.execute("UPDATE files SET note = ?", (bytes(changed),))
    connection.close()
    with Ledger(tmp_path / "cache") as ledger:
        assert summed(ledger, path) == digest(path.read_bytes())


def test_the_index_is_private_and_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = descriptors()
    with Ledger(tmp_path / "cache") as ledger:
        summed(ledger, OLD / "os.py")
    ledger.close()
    assert stat.S_IMODE(index(tmp_path).stat().st_mode) == 0o600
    assert descriptors() == before


SUMS = """
import os, sys
from pathlib import Path
from ee_runner.stream import ledger as module
module._BATCH = 50
with module.Ledger(Path(sys.argv[1]), explain=sys.exit) as ledger:
    for number, path in enumerate(sorted(Path(os.__file__).parent.glob("*.py"))):
        if sys.argv[2:] and number == 90:
            os.kill(os.getpid(), 9)
        descriptor = os.open(path, os.O_RDONLY)
        ledger.digest(descriptor, os.fstat(descriptor))
        os.close(descriptor)
"""


def test_several_transmits_use_one_index_at_once_and_one_that_is_killed_does_no_harm(
    tmp_path: Path, told: list[str]
) -> None:
    killed = program(SUMS, tmp_path / "cache", "killed")
    succeeded(*(program(SUMS, tmp_path / "cache") for _ in range(3)))
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    with Ledger(tmp_path / "cache", explain=told.append) as ledger:
        for path in OLD.glob("*.py"):
            assert summed(ledger, path, readable=False) == digest(path.read_bytes())
    assert told == []
