"""What a node tells a controller: its size within the limits that it is under, and an identifier that it keeps."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ee_runner import node
from ee_runner.errors import ArtifactError, RunnerError

V1 = "4:memory:{0}\n3:cpuset:/\n2:cpu,cpuacct:{0}\n1:name=systemd:/\n0::/\n"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:29 {0} /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {0} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
V2_MOUNTS = "29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
GIGABYTE = 1 << 30


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with the memory of a machine, and cgroups of no kind yet."""
    write(tmp_path, {"proc/meminfo": "MemFree: 1 kB\nMemTotal:       16777216 kB\nMemAvailable: 2 kB\n"})
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def v1(root: Path, *, own: str = "/", mounted: str = "/") -> None:
    write(root, {"proc/self/cgroup": V1.format(own), "proc/self/mountinfo": V1_MOUNTS.format(mounted)})


def v2(root: Path, *, own: str = "/") -> None:
    write(root, {"proc/self/cgroup": f"0::{own}\n", "proc/self/mountinfo": V2_MOUNTS})


# Limits


def test_a_machine_without_cgroups_has_all_its_memory_and_processors(tree: Path) -> None:
    assert node.memory(tree) == 16 * GIGABYTE
    assert (node.cpu_limit(tree), node.memory_limit(tree)) == (None, None)
    assert node.cpu_count(tree) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "processors"),
    [("150000 100000", 2), ("200000 100000", 2), ("1000 100000", 1), ("50000", 1), ("max 100000", None), ("", None)],
)
def test_a_quota_of_version_2_is_rounded_up_to_whole_processors(tree: Path, quota: str, processors: int | None) -> None:
    v2(tree)
    write(tree, {"sys/fs/cgroup/cpu.max": f"{quota}\n"})
    assert node.cpu_limit(tree) == processors


@pytest.mark.parametrize(("quota", "processors"), [(250000, 3), (100000, 1), (-1, None)])
def test_a_quota_of_version_1_is_rounded_up_to_whole_processors(tree: Path, quota: int, processors: int | None) -> None:
    v1(tree)
    place = "sys/fs/cgroup/cpu,cpuacct"
    write(tree, {f"{place}/cpu.cfs_quota_us": f"{quota}\n", f"{place}/cpu.cfs_period_us": "100000\n"})
    assert node.cpu_limit(tree) == processors


def test_no_more_processors_are_told_than_this_process_may_use(tree: Path) -> None:
    v2(tree)
    write(tree, {"sys/fs/cgroup/cpu.max": "6400000 100000\n"})
    assert node.cpu_limit(tree) == 64
    assert node.cpu_count(tree) == len(os.sched_getaffinity(0))


def test_the_tightest_limit_on_the_way_up_counts_in_version_2(tree: Path) -> None:
    v2(tree, own="/jobs.slice/worker/own")
    base = "sys/fs/cgroup"
    write(
        tree,
        {
            f"{base}/jobs.slice/worker/own/memory.max": "max\n",
            f"{base}/jobs.slice/worker/own/cpu.max": "800000 100000\n",
            f"{base}/jobs.slice/worker/cpu.max": "max 100000\n",
            f"{base}/jobs.slice/memory.max": f"{2 * GIGABYTE}\n",
            f"{base}/jobs.slice/cpu.max": "300000 100000\n",
            f"{base}/other/memory.max": "4096\n",
        },
    )
    assert (node.memory(tree), node.cpu_limit(tree)) == (2 * GIGABYTE, 3)


def test_the_tightest_limit_on_the_way_up_counts_in_version_1(tree: Path) -> None:
    v1(tree, own="/a/b")
    memory = "sys/fs/cgroup/memory"
    write(
        tree,
        {
            f"{memory}/memory.limit_in_bytes": "9223372036854771712\n",
            f"{memory}/a/memory.limit_in_bytes": f"{3 * GIGABYTE}\n",
            f"{memory}/a/b/memory.limit_in_bytes": f"{4 * GIGABYTE}\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n",
        },
    )
    assert (node.memory(tree), node.cpu_limit(tree)) == (3 * GIGABYTE, 4)


def test_a_limit_above_what_the_machine_has_is_none(tree: Path) -> None:
    v1(tree)
    write(tree, {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert node.memory(tree) == 16 * GIGABYTE


def test_in_a_container_whose_own_cgroup_alone_is_mounted_its_limits_are_found(tree: Path) -> None:
    v1(tree, own="/docker/0123", mounted="/docker/0123")
    write(tree, {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIGABYTE}\n"})
    assert node.memory(tree) == GIGABYTE


def test_a_cgroup_outside_of_what_is_mounted_is_taken_for_that(tree: Path) -> None:
    v1(tree, own="/elsewhere/0123", mounted="/docker/0123")
    write(tree, {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIGABYTE}\n"})
    assert node.memory(tree) == GIGABYTE


def test_a_memory_that_is_not_told_is_said_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match=r"memory is unknown: .*/proc/meminfo: No such file"):
        node.memory(tmp_path)
    write(tmp_path, {"proc/meminfo": "MemFree: 1 kB\n"})
    with pytest.raises(RunnerError, match=r"/proc/meminfo has no MemTotal"):
        node.memory(tmp_path)


@contextlib.contextmanager
def real_cgroup(**limits: str) -> Iterator[list[Path]]:
    """Make a cgroup with these limits, and one below it without; give the files that take a process into the latter."""
    tops = [Path("/sys/fs/cgroup", name) for name in ("cpu", "memory")]
    if not all(os.access(top / "cgroup.procs", os.W_OK) for top in tops):
        tops = [Path("/sys/fs/cgroup")]
    if not all(os.access(top / "cgroup.procs", os.W_OK) for top in tops):
        pytest.skip("this user can make no cgroup; tests/engines has the same with containers")
    made = []
    try:
        for top in tops:
            for place in (top / f"ee_runner_test_{os.getpid()}", top / f"ee_runner_test_{os.getpid()}" / "below"):
                place.mkdir()
                made.append(place)
        for place in made[::2]:
            for name, value in limits.items():
                file = place / name.replace("__", ".")
                if file.exists():
                    file.write_text(value)
        yield [place / "cgroup.procs" for place in made[1::2]]
    finally:
        for place in reversed(made):
            place.rmdir()


def test_a_process_in_a_limited_cgroup_sees_the_limits() -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "for file in sys.argv[1:]: Path(file).write_text(str(os.getpid()))\n"
        "from ee_runner import node; print(node.cpu_limit(), node.memory())"
    )
    limits = {
        "cpu__cfs_quota_us": "150000",
        "memory__limit_in_bytes": str(GIGABYTE),
        "cpu__max": "150000 100000",
        "memory__max": str(GIGABYTE),
    }
    with real_cgroup(**limits) as entries:
        done = subprocess.run([sys.executable, "-c", code, *entries], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"2 {GIGABYTE}\n", "")


# The identifier


def test_the_identifier_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "id"
    made = node.identifier(path)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made)
    assert (node.identifier(path), path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (made, made, 0o600)


def test_one_that_others_could_read_is_made_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "id"
    path.write_text("a-node-of-old\n")
    path.chmod(0o644)
    assert node.identifier(path) == "a-node-of-old"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_empty_file_that_a_crash_left_gets_an_identifier(tmp_path: Path) -> None:
    path = tmp_path / "id"
    path.touch()
    assert len(node.identifier(path)) == 36
    assert node.identifier(path) == path.read_text()


def test_processes_that_ask_at_once_agree(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from ee_runner import node; print(node.identifier(Path(sys.argv[1])))"
    asking = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "id"], stdout=subprocess.PIPE) for _ in range(6)]
    told = {process.communicate(timeout=60)[0] for process in asking}
    assert told == {(tmp_path / "id").read_bytes() + b"\n"}


@pytest.mark.parametrize("content", [b"two words", b"\xff\xfe", b"x" * 300])
def test_a_file_that_holds_something_else_is_left_alone_and_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "id"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"id holds no identifier"):
        node.identifier(path)
    assert path.read_bytes() == content


def test_a_pipe_in_its_place_is_no_trap(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "id")
    with pytest.raises(ArtifactError, match="can not be kept"):
        node.identifier(tmp_path / "id")


# The whole


def test_what_is_told_has_the_keys_that_controllers_read(tmp_path: Path, tree: Path) -> None:
    v2(tree)
    told = node.info({"HOME": str(tmp_path)}, root=tree)
    assert told == {
        "errors": [],
        "mem_in_bytes": 16 * GIGABYTE,
        "cpu_count": len(os.sched_getaffinity(0)),
        "runner_version": "2.4.3",
        "uuid": (tmp_path / ".ansible_runner_uuid").read_text(),
    }


def test_what_can_not_be_told_is_none_with_an_error_in_words(tmp_path: Path) -> None:
    write(tmp_path, {"file": ""})
    told = node.info({"HOME": str(tmp_path / "file")}, root=tmp_path)
    assert (told["uuid"], told["mem_in_bytes"]) == (None, None)
    errors = told["errors"]
    assert isinstance(errors, list)
    assert [bool(re.search(word, text)) for word, text in zip(("meminfo", "set HOME"), errors, strict=True)] == [
        True
    ] * 2


def test_it_is_printed_as_ansible_runner_prints_it() -> None:
    told = {
        "errors": [],
        "mem_in_bytes": 25276502016,
        "cpu_count": 2,
        "runner_version": "2.4.3",
        "uuid": "52a033c2-d8d5-4aee-9708-483a2a17b055",
    }
    line = (
        "{cpu_count: 2, errors: [], mem_in_bytes: 25276502016, runner_version: 2.4.3, "
        "uuid: 52a033c2-d8d5-4aee-9708-483a2a17b055}\n"
    )
    assert node.as_yaml(told) == line == yaml.safe_dump(told, default_flow_style=True, width=1000)


@pytest.mark.parametrize(
    "text",
    [
        "plain words",
        "a: b, [c] {d} # e",
        "quotes ' and \" and \\",
        "lines\nand\ttabs \x00\x7f\x85\u2028\ufeff",
        "Grüße 🙂 \ud83d",
        "2024-01-01",
        "1e3",
        "null",
        "",
        "1.2",
    ],
)
def test_whatever_an_error_says_it_is_read_back_the_same(text: str) -> None:
    told = {"errors": [text, "other"], "mem_in_bytes": None, "uuid": text}
    assert yaml.safe_load(node.as_yaml(told)) == told


def test_versions_and_identifiers_of_digits_stay_text() -> None:
    told = {"runner_version": "2.4.3", "uuid": "12345678-1234-1234-1234-123456789012"}
    assert yaml.safe_load(node.as_yaml(told)) == told
