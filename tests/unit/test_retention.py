"""Old artifacts make room by count, age and size; what runs, is lost, or is no job's stays."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from ee_runner import kinds, retention
from ee_runner.errors import ArtifactError
from ee_runner.retention import rotate
from ee_runner.workspace import places

DAY = 86400.0
BIG = 100_000


def make_job(root: Path, name: str, *, status: str | None = "successful", age: float = 0, size: int = 0) -> Path:
    job = root / name
    (job / "job_events").mkdir(parents=True)
    (job / "job_events" / "1-a.json").write_bytes(os.urandom(size))
    if status is not None:
        (job / "status").write_text(status)
        moment = time.time() - age
        os.utime(job / "status", (moment, moment))
    return job


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_the_newest_are_kept_and_the_current_one_counts(tmp_path: Path) -> None:
    for age in range(5):
        make_job(tmp_path, f"job{age}", age=age + 10)
    current = make_job(tmp_path, "current", status="running")
    removed = rotate(tmp_path, keep=3, current=current)
    assert removed == [tmp_path / "job4", tmp_path / "job3", tmp_path / "job2"]
    assert names(tmp_path) == ["current", "job0", "job1"]


def test_without_a_current_job_as_many_are_kept(tmp_path: Path) -> None:
    for age in range(3):
        make_job(tmp_path, f"job{age}", age=age)
    rotate(tmp_path, keep=2)
    assert names(tmp_path) == ["job0", "job1"]


def test_the_current_one_stays_however_old_it_is(tmp_path: Path) -> None:
    current = make_job(tmp_path, "current", age=9 * DAY, size=BIG)
    other = make_job(tmp_path, "other", age=10)
    assert rotate(tmp_path, keep=1, age=DAY, size=1000, current=current) == [other]
    assert names(tmp_path) == ["current"]


def test_a_link_that_a_job_may_have_made_to_the_artifacts_of_others_has_nothing_removed(tmp_path: Path) -> None:
    for age in range(3):
        make_job(tmp_path / "others", f"job{age}", age=age)
    (tmp_path / "artifacts").symlink_to("others")
    with pytest.raises(ArtifactError, match="artifacts leads to where this job has no artifacts"):
        rotate(tmp_path / "artifacts", keep=1, current=tmp_path / "artifacts" / "current")
    assert names(tmp_path / "others") == ["job0", "job1", "job2"]


def test_artifacts_behind_a_link_of_the_users_make_room(tmp_path: Path) -> None:
    for name in ("old", "current"):
        make_job(tmp_path / "disk", name)
    (tmp_path / "artifacts").symlink_to("disk")
    rotate(tmp_path / "artifacts", keep=1, current=tmp_path / "artifacts" / "current")
    assert names(tmp_path / "disk") == ["current"]


def test_no_limit_removes_nothing(tmp_path: Path) -> None:
    make_job(tmp_path, "old", age=9999 * DAY, size=BIG)
    assert rotate(tmp_path, keep=0, age=0, size=0) == []
    assert rotate(tmp_path / "none") == []
    assert names(tmp_path) == ["old"]


def test_jobs_of_an_age_go(tmp_path: Path) -> None:
    for days in (1, 29, 31, 400):
        make_job(tmp_path, f"days{days}", age=days * DAY)
    assert rotate(tmp_path, age=30 * DAY) == [tmp_path / "days400", tmp_path / "days31"]
    assert names(tmp_path) == ["days1", "days29"]


def test_a_job_is_as_old_as_its_end(tmp_path: Path) -> None:
    job = make_job(tmp_path, "job", age=40 * DAY)
    (job / "notes").write_text("looked at today")
    assert rotate(tmp_path, age=30 * DAY) == [job]


def test_the_newest_that_fit_together_are_kept(tmp_path: Path) -> None:
    for age in range(4):
        make_job(tmp_path, f"job{age}", age=age + 1, size=BIG)
    current = make_job(tmp_path, "current", status="running", size=BIG)
    rotate(tmp_path, size=int(3.5 * BIG), current=current)
    assert names(tmp_path) == ["current", "job0", "job1"]


def test_a_small_job_behind_one_that_does_not_fit_goes_too(tmp_path: Path) -> None:
    make_job(tmp_path, "small", age=9)
    make_job(tmp_path, "large", age=5, size=5 * BIG)
    make_job(tmp_path, "new", age=1, size=BIG)
    rotate(tmp_path, size=2 * BIG)
    assert names(tmp_path) == ["new"]


def test_every_limit_holds(tmp_path: Path) -> None:
    for days in range(6):
        make_job(tmp_path, f"days{days}", age=days * DAY + 60, size=BIG)
    rotate(tmp_path, keep=5, age=3.5 * DAY, size=9 * BIG)
    assert names(tmp_path) == ["days0", "days1", "days2", "days3"]
    rotate(tmp_path, keep=3, age=3.5 * DAY, size=int(2.5 * BIG))
    assert names(tmp_path) == ["days0", "days1"]


@pytest.mark.parametrize("status", ["running", "starting", "", "unknown"])
def test_a_job_without_a_terminal_status_stays(tmp_path: Path, status: str) -> None:
    make_job(tmp_path, "job", status=status, age=99 * DAY)
    assert rotate(tmp_path, keep=1, age=1, size=1, current=tmp_path / "other") == []
    assert names(tmp_path) == ["job"]


def test_a_job_that_is_held_stays(tmp_path: Path) -> None:
    with ExitStack() as stack:
        places.artifact_directory(tmp_path / "held", stack)
        (tmp_path / "held" / "status").write_text("failed")
        os.utime(tmp_path / "held" / "status", (0, 0))
        make_job(tmp_path, "free", age=50 * DAY)
        assert rotate(tmp_path, age=DAY) == [tmp_path / "free"]
    assert names(tmp_path) == ["held"]
    assert rotate(tmp_path, age=DAY) == [tmp_path / "held"]


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.symlink_to("../elsewhere-status")


@pytest.mark.parametrize("put", [_directory, _fifo, _link])
def test_what_has_no_status_file_is_no_job(tmp_path: Path, put: Callable[[Path], None]) -> None:
    root = tmp_path / "artifacts"
    make_job(root, "other", status=None)
    put(root / "other" / "status")
    (tmp_path / "elsewhere-status").write_text("successful")
    (root / "elsewhere-status").write_text("successful")
    assert rotate(root, age=1e-9, size=1) == []
    assert names(root) == ["elsewhere-status", "other"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    root, loot = tmp_path / "artifacts", tmp_path / "loot"
    make_job(loot, "precious", age=DAY)
    job = make_job(root, "job", age=DAY)
    (job / "link").symlink_to(loot)
    (root / "linked").symlink_to(loot / "precious")
    assert rotate(root, age=1) == [job]
    assert (loot / "precious" / "status").read_text() == "successful"
    assert names(root) == ["linked"]


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    """An artifact directory in which a job's file can not be removed, by anyone."""
    root = tmp_path / "artifacts"
    held = make_job(root, "held", age=3 * DAY) / "job_events"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", held], check=True)
    try:
        yield root
    finally:
        for mounted in root.rglob("job_events"):
            subprocess.run(["umount", mounted], check=False, capture_output=True)


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system, which root may")
def test_what_can_not_be_removed_is_said_and_the_rest_is_done(foreign: Path) -> None:
    make_job(foreign, "newer", age=2 * DAY)
    with pytest.raises(ArtifactError, match=r"can not be removed: .*job_events: another file system"):
        rotate(foreign, age=DAY)
    assert not (foreign / "newer").exists()
    assert not (foreign / "held").exists()


@pytest.fixture
def entered() -> Iterator[Path]:
    """A directory that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="ee-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which root may")
def test_another_users_files_are_said(entered: Path) -> None:
    root = entered / "artifacts"
    make_job(root, "job", age=DAY)
    for path in (root / "job", *(root / "job").rglob("*")):
        path.chmod(0o755)
    root.chmod(0o777)
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from ee_runner.errors import ArtifactError\n"
        "from ee_runner.retention import rotate\n"
        "import ee_runner.artifacts, ee_runner.cleanup.trees\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n    rotate(Path(sys.argv[1]), age=1)\n"
        "except ArtifactError as error:\n    print(error)\n"
    )
    argv = [sys.executable, "-c", program, str(root), str(Path(retention.__file__).parents[1])]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert "job: it belongs to the user 0" in done.stdout, done
    assert (root / "job" / "status").exists()


def test_a_removal_that_was_cut_short_is_finished_by_the_next(tmp_path: Path) -> None:
    begun = make_job(tmp_path, f"{retention._ASIDE}0123", status=None)
    make_job(tmp_path, "job")
    with ExitStack() as stack:
        descriptor = os.open(begun, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert rotate(tmp_path, keep=5) == []
        assert names(tmp_path) == [begun.name, "job"]
    assert rotate(tmp_path, keep=5) == []
    assert names(tmp_path) == ["job"]


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="none can not be listed"):
        rotate(tmp_path / "none", keep=1)


def test_jobs_that_rotate_at_the_same_time_do_not_trip_over_each_other(tmp_path: Path) -> None:
    for _ in range(20):
        for n in range(10):
            make_job(tmp_path, str(n), age=n)
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda _: rotate(tmp_path, keep=1, current=tmp_path / "x"), range(4)))
        assert names(tmp_path) == []
        assert sorted(path.name for removed in done for path in removed) == sorted(map(str, range(10)))


STARTS_AND_ENDS = """
import sys
from contextlib import ExitStack
from pathlib import Path
from ee_runner.workspace import places
for _ in range(int(sys.argv[2])):
    with ExitStack() as stack:
        directory = Path(sys.argv[1])
        places.artifact_directory(directory, stack)
        (directory / "job_events" / "1-a.json").write_text("{}")
        (directory / "status").write_text("successful")
        assert (directory / "job_events" / "1-a.json").exists()
"""


def test_a_job_may_begin_where_its_predecessor_is_rotated_away(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", STARTS_AND_ENDS, str(tmp_path / "nightly"), "300"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as jobs:
        removed = 0
        while jobs.poll() is None:
            removed += len(rotate(tmp_path, age=1e-9))
        assert jobs.stderr is not None
        assert jobs.returncode == 0, jobs.stderr.read()
    assert removed > 10


@pytest.mark.parametrize(
    ("kind", "value", "meant"),
    [
        (kinds.AGE, "30d", 30 * DAY),
        (kinds.AGE, " 1.5 H ", 5400),
        (kinds.AGE, "2w", 14 * DAY),
        (kinds.AGE, "0", 0),
        (kinds.AGE, 0, 0),
        (kinds.SIZE, "2G", 2 << 30),
        (kinds.SIZE, "512MiB", 512 << 20),
        (kinds.SIZE, "1.5k", 1536),
        (kinds.SIZE, "700", 700),
        (kinds.SIZE, 700, 700),
    ],
)
def test_ages_and_sizes_have_units(kind: kinds.Kind, value: object, meant: float) -> None:
    converted = kind.convert(value)
    assert kind.convert(converted) == converted
    assert (kinds.seconds(converted) if kind is kinds.AGE else converted) == meant


@pytest.mark.parametrize("value", ["30", 30, 2.5, "30y", "d", "-1d", "", True, None, "1e3s", "9" * 99 + "d"])
def test_an_age_without_a_unit_is_none(value: object) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        kinds.AGE.convert(value)


@pytest.mark.parametrize("value", ["2x", "", "-1", -1, 1.5, True, None, "9" * 99, "9" * 18 + "g", "1 0"])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        kinds.SIZE.convert(value)


def test_of_ten_thousand_jobs_only_their_status_is_read(tmp_path: Path) -> None:
    pattern = make_job(tmp_path, "0", age=DAY)
    for n in range(1, 10_000):
        (tmp_path / str(n)).mkdir()
        os.link(pattern / "status", tmp_path / str(n) / "status")
    started = time.process_time()
    assert rotate(tmp_path, keep=10_000, age=2 * DAY) == []
    assert time.process_time() - started < 0.5
    shutil.rmtree(tmp_path)
