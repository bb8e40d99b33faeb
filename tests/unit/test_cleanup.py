"""Cleaning up removes what jobs left, and never what a job uses, what is no job's, or what a link leads to."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_runner import cleanup as drop_in
from ansible_runner import defaults
from ee_runner import cleanup
from ee_runner.cleanup import trees, usage
from ee_runner.engines import docker, podman  # noqa: F401 - a process of another user may not read them later
from ee_runner.errors import ArtifactError, ConfigurationError
from tests.support.processes import NOBODY, as_a_user


@pytest.fixture(autouse=True)
def no_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What containers keep is told in tests/engines."""
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Where the private data directories are."""
    (tmp_path / "jobs").mkdir()
    return tmp_path / "jobs"


def job(base: Path, name: str, *idents: str) -> Path:
    directory = base / name
    (directory / "project").mkdir(parents=True)
    (directory / "project" / "site.yml").write_text("[]")
    for ident in idents:
        (directory / "artifacts" / ident / "job_events").mkdir(parents=True)
    return directory


def run(pattern: str | Path, **options: Any) -> list[str]:
    """Clean up without a grace period and return the lines."""
    lines: list[str] = []
    changed = cleanup.run(file_pattern=str(pattern), say=lines.append, **{"grace_period": 0, **options})
    assert lines[-1] == f"(changed: {changed})"
    return lines


def left(base: Path) -> set[str]:
    return {path.name for path in base.iterdir()}


@contextmanager
def process(code: str, *arguments: str | Path, cwd: Path | None = None) -> Iterator[None]:
    """Run a program that prints a line when it is ready, until the block ends."""
    program = textwrap.dedent(code) + "\nprint('ready', flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", "import fcntl, os, sys\n" + program, *map(str, arguments)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=cwd) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield
        child.communicate()


HOLDS = "fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)"


# What it says and does, as ansible-runner 2.4 says it


def test_where_nothing_matches_nothing_is_changed(base: Path) -> None:
    assert run(base / "awx_*") == ["(changed: False)"]


def test_directories_are_removed_and_counted(base: Path) -> None:
    for number in "12":
        job(base, f"awx_{number}_x", number)
    job(base, "other", "3")
    assert run(base / "awx_*_*") == [
        f"Removed 2 private data dir(s) in pattern {base}/awx_*_*",
        "(changed: True)",
    ]
    assert left(base) == {"other"}


def test_what_changed_within_the_grace_period_stays(base: Path) -> None:
    old, new = job(base, "awx_old"), job(base, "awx_new")
    minutes = 60
    os.utime(old, (time.time() - 61 * minutes,) * 2)
    os.utime(new, (time.time() - 59 * minutes,) * 2)
    assert run(base / "awx_*", grace_period=60)[-1] == "(changed: True)"
    assert left(base) == {"awx_new"}
    assert run(base / "awx_*", grace_period=58.5)[-1] == "(changed: True)"


def test_the_grace_period_is_an_hour_unless_said_otherwise(base: Path) -> None:
    job(base, "awx_new")
    lines: list[str] = []
    assert not cleanup.run(file_pattern=f"{base}/awx_*", say=lines.append)
    assert (lines, left(base)) == (["(changed: False)"], {"awx_new"})


def test_what_has_an_exclude_string_in_its_path_stays(base: Path) -> None:
    for number in (1, 2, 4242):
        job(base, f"awx_{number}_x")
    run(base / "awx_*", exclude_strings=["awx_1_", 4242])
    assert left(base) == {"awx_1_x", "awx_4242_x"}


def test_exclude_strings_in_one_word_are_as_many_and_an_empty_one_is_none(base: Path) -> None:
    for number in "123":
        job(base, f"awx_{number}_x")
    run(base / "awx_*", exclude_strings=["awx_1_ awx_3_", ""])
    assert left(base) == {"awx_1_x", "awx_3_x"}


def test_files_stay(base: Path) -> None:
    (base / "awx_file").touch()
    assert run(base / "awx_*") == ["(changed: False)"]
    assert left(base) == {"awx_file"}


def test_without_anything_to_do_it_says_so() -> None:
    lines: list[str] = []
    assert not cleanup.run(say=lines.append)
    assert lines == ["(changed: False)"]


def test_a_name_can_not_forge_a_line(base: Path) -> None:
    (base / "awx_1").symlink_to(base / "nowhere")
    (base / "awx_1").rename(base / "awx_\n(changed: True)\n")
    assert run(base / "awx_*") == [
        f"Excluding the symbolic link {base}/awx_?(changed: True)? from cleanup",
        "(changed: False)",
    ]


def test_a_negative_grace_period_is_refused(base: Path) -> None:
    with pytest.raises(ConfigurationError, match="grace_period: 0 or more minutes"):
        run(base / "awx_*", grace_period=-1)


# What runs


def assert_kept(directory: Path) -> None:
    assert run(directory) == [f"Excluding running project {directory} from cleanup", "(changed: False)"]
    assert (directory / "project" / "site.yml").exists()


def assert_removed(directory: Path) -> None:
    assert run(directory)[-1] == "(changed: True)"
    assert not directory.exists()


def test_the_directory_of_a_running_job_stays_until_the_job_ends(base: Path) -> None:
    directory = job(base, "awx_1", "old", "running")
    with process(HOLDS, directory / "artifacts" / "running"):
        assert_kept(directory)
    assert_removed(directory)


def test_a_locked_artifact_directory_alone_keeps_it(base: Path) -> None:
    directory = job(base, "awx_1", "old", "running")
    descriptor = os.open(directory / "artifacts" / "running", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert_kept(directory)
    finally:
        os.close(descriptor)
    assert_removed(directory)


def test_a_worker_that_holds_the_directory_keeps_it(base: Path) -> None:
    directory = job(base, "awx_1")
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert_kept(directory)
    finally:
        os.close(descriptor)
    assert_removed(directory)


def test_a_live_pid_keeps_it(base: Path) -> None:
    directory = job(base, "awx_1")
    (directory / "pid").write_text(f"{os.getpid()}\n")
    assert_kept(directory)


def ended_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.mark.parametrize("text", [None, "", "no number", "0", "-1", "99999999999999999999"])
def test_a_pid_that_is_no_live_process_does_not(base: Path, text: str | None) -> None:
    directory = job(base, "awx_1")
    (directory / "pid").write_text(str(ended_pid()) if text is None else text)
    assert_removed(directory)


def test_a_pipe_named_pid_is_no_trap(base: Path) -> None:
    directory = job(base, "awx_1")
    os.mkfifo(directory / "pid")
    assert_removed(directory)


@pytest.mark.parametrize("how", ["its directory", "an open file", "an argument", "a variable"])
def test_a_process_that_works_in_it_keeps_it(base: Path, how: str) -> None:
    directory = job(base, "awx_1")
    inside = directory / "project"
    works: dict[str, tuple[str, tuple[str, ...], Path | None]] = {
        "its directory": ("", (), inside),
        "an open file": ("file = open('site.yml'); os.chdir('/')", (), inside),
        "an argument": ("", (f"--volume={inside}:/runner/project",), None),
        "a variable": ("os.execve(sys.executable, [*sys.orig_argv[:2], sys.argv[1]], {'A': sys.argv[2]})", (), None),
    }
    code, arguments, cwd = works[how]
    if how == "a variable":
        arguments = ("import sys; print('ready', flush=True); sys.stdin.read()", f"x:{inside}")
    with process(code, *arguments, cwd=cwd):
        assert_kept(directory)
    assert_removed(directory)


def test_the_processes_that_started_the_cleanup_do_not_count(base: Path) -> None:
    directory = job(base, "awx_1")
    code = "import sys; from ee_runner import cleanup; cleanup.run(file_pattern=sys.argv[1], grace_period=0, say=print)"
    shell = f'cd "$2"; "{sys.executable}" -c "$1" "$2"; exit $?'
    argv = ["/bin/sh", "-c", shell, "sh", code, str(directory)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "OLDPWD": str(base)})
    assert (done.stdout.splitlines()[-1:], done.stderr) == (["(changed: True)"], "")


def test_a_run_directory_stays_while_its_process_lives(base: Path) -> None:
    living, dead = job(base, f"ee_runner_{os.getpid()}_abc"), job(base, f"ee_runner_{ended_pid()}_abc")
    run(base / "ee_runner_*")
    assert (living.exists(), dead.exists()) == (True, False)


def test_where_something_is_mounted_is_known() -> None:
    told = usage.Usage("podman")
    assert told.by_mount(Path("/proc"))
    assert told.by_mount(Path("/"))
    assert not told.by_mount(Path("/proc/self"))


# Links


def test_a_link_is_not_followed(base: Path, tmp_path: Path) -> None:
    kept = job(tmp_path, "elsewhere", "1")
    (base / "awx_link").symlink_to(kept)
    (base / "awx_dangling").symlink_to(base / "nowhere")
    for pattern in (base / "awx_*", f"{base}/awx_*/"):
        assert run(pattern)[-1] == "(changed: False)"
    assert (kept / "project/site.yml").exists()
    assert left(base) == {"awx_link", "awx_dangling"}


def test_links_inside_are_removed_and_what_they_lead_to_stays(base: Path, tmp_path: Path) -> None:
    kept = job(tmp_path, "elsewhere", "1")
    directory = job(base, "awx_1")
    (directory / "artifacts").symlink_to(kept / "artifacts")
    (directory / "project" / "roles").symlink_to(kept)
    (directory / "project" / "file").symlink_to(kept / "project" / "site.yml")
    assert_removed(directory)
    assert (kept / "project" / "site.yml").read_text() == "[]"
    assert (kept / "artifacts" / "1" / "job_events").is_dir()


# Patterns


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "/",
            "//",
            "/*",
            "/etc",
            "/etc/",
            "/et?",
            "/etc/*",
            "/usr/lib/*",
            "/usr/../etc",
            "/bin",
            "/dev/shm",
            "/dev/*",
        ),
        *("/var/*", "/var/lib/*", "/home", "/run/user", "/proc/self", "/sys/*", "/tmp", "/root"),
    ],
)
def test_a_pattern_that_matches_the_system_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="which no job made"):
        run(pattern, exclude_strings=["/"])


def test_with_one_directory_of_the_system_nothing_is_removed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = job(base, "awx_1")
    for name in ("home", "tmp"):
        (base / name / "deep").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(base / "home" / "deep"))
    monkeypatch.setattr(tempfile, "tempdir", str(base / "tmp"))
    for pattern in ("*", "home", "home/*", "tmp", "tmp/."):
        with pytest.raises(ConfigurationError, match=r"Nothing was removed.*such as .*/\.ansible-runner-\*"):
            run(base / pattern if pattern != "tmp/." else f"{base}/tmp/.")
    assert mine.is_dir()
    run(base / "tmp" / "*")
    assert left(base) == {"awx_1", "home", "tmp"}
    assert left(base / "tmp") == set()


def test_the_system_behind_a_link_is_refused(base: Path) -> None:
    (base / "link").symlink_to("/usr")
    with pytest.raises(ConfigurationError, match="which no job made"):
        run(base / "link" / "*")
    with pytest.raises(ConfigurationError, match="which no job made"):
        run(f"{base}/link/../etc")


def test_a_relative_pattern_counts_from_here(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job(base, "awx_1")
    monkeypatch.chdir(base)
    assert run("awx_*")[0] == "Removed 1 private data dir(s) in pattern awx_*"


# Registry credentials


def test_credentials_of_the_jobs_that_are_gone_go_too(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for name in ("1_abcd_ef0", "1_zz", "1_2_abcdefgh", "3_abcdefgh"):
        job(tmp_path / "tmp", f"ansible_runner_registry_{name}")
    (tmp_path / "tmp" / "ansible_runner_registry_1_linkedxx").symlink_to(job(tmp_path, "kept"))
    job(base, "awx_1", "1")
    running = job(base, "awx_3", "3")
    (running / "pid").write_text(str(os.getpid()))
    prefix = f"{tmp_path}/tmp/ansible_runner_registry_"
    assert run(base / "awx_*") == [
        f"Excluding running project {running} from cleanup",
        f"Removed associated registry auth dir {prefix}1_abcd_ef0",
        f"Removed associated registry auth dir {prefix}1_zz",
        f"Removed 1 private data dir(s) in pattern {base}/awx_*",
        "(changed: True)",
    ]
    assert left(tmp_path / "tmp") == {
        f"ansible_runner_registry_{name}" for name in ("1_2_abcdefgh", "3_abcdefgh", "1_linkedxx")
    }
    assert (tmp_path / "kept/project/site.yml").exists()


# Trees


@contextmanager
def place_of_a_user() -> Iterator[Path]:
    """Give a directory of an unprivileged user: of this one, or of nobody when this one is root."""
    with tempfile.TemporaryDirectory(prefix="ee-cleanup-") as name:
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def removed(path: Path) -> list[str]:
    with trees.opened(path) as directory:
        return trees.remove(directory, path)


def test_directories_that_nobody_may_write_or_read_are_removed() -> None:
    def work() -> None:
        directory = job(place, "job", "1")
        (directory / "closed" / "deeper").mkdir(parents=True)
        for path, mode in (("closed/deeper", 0), ("closed", 0), ("project/site.yml", 0), ("project", 0o500)):
            (directory / path).chmod(mode)
        directory.chmod(0o500)
        assert removed(directory) == []
        assert not directory.exists()

    with place_of_a_user() as place:
        as_a_user(work)


def test_what_can_not_be_removed_is_named_and_the_rest_goes() -> None:
    def work() -> None:
        first, last = job(place / "held", "awx_1"), job(place, "awx_2")
        (place / "held").chmod(0o500)
        lines: list[str] = []
        with pytest.raises(ArtifactError, match=r"Not removed: .*/held/awx_1\. Remove them as the user"):
            cleanup.run(file_pattern=f"{place}/*/awx_*", grace_period=0, say=lines.append)
        with pytest.raises(ArtifactError, match="Not removed"):
            cleanup.run(file_pattern=f"{place}/[h]*/awx_*", grace_period=0, say=lines.append)
        assert lines == [f"Could not remove {first}: {first}: permission denied", "(changed: False)"] * 2
        (place / "held").rename(place / "awx_0")
        (place / "awx_0").chmod(0o500)
        lines.clear()
        assert cleanup.run(file_pattern=f"{place}/awx_*", grace_period=0, say=lines.append)
        assert lines == [f"Removed 2 private data dir(s) in pattern {place}/awx_*", "(changed: True)"]
        assert not last.exists()

    with place_of_a_user() as place:
        as_a_user(work)


def test_where_directories_can_not_be_opened_by_path_alone_trees_go_all_the_same(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "_HANDLE", os.O_RDONLY)
    directory = job(base, "a", "x")
    (directory / "link").symlink_to("/etc")
    (directory / "project").chmod(0o500)
    assert trees.discard(str(directory))
    assert left(base) == set()
    assert not trees.discard(str(directory))


def test_a_tree_deeper_than_any_path_is_removed(base: Path) -> None:
    directory = job(base, "awx_1")
    top = inner = os.open(directory, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("deep" * 20, dir_fd=inner)
        below = os.open("deep" * 20, os.O_RDONLY, dir_fd=inner)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=below))
        if inner != top:
            os.close(inner)
        inner = below
    os.close(inner)
    os.close(top)
    assert_removed(directory)


# For programs


def test_programs_find_it_by_ansible_runners_names(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2, 4242):
        job(base, f"awx_{number}_x")
    options = {"file_pattern": f"{base}/awx_*", "exclude_strings": ["awx_2_", "awx_4242_"], "grace_period": 0}
    drop_in.run_cleanup(options)
    assert capsys.readouterr().out == f"Removed 1 private data dir(s) in pattern {base}/awx_*\n(changed: True)\n"
    assert drop_in.cleanup_dirs(f"{base}/awx_*", exclude_strings=[4242], grace_period=0) == 1
    assert drop_in.cleanup_dirs(f"{base}/awx_*") == 0
    drop_in.run_cleanup({"file_pattern": ""})
    assert capsys.readouterr().out == "(changed: False)\n"
    assert left(base) == {"awx_4242_x"}


def test_its_defaults_are_ansible_runners() -> None:
    assert {name: getattr(defaults, name) for name in defaults.__all__ if name != "default_container_image"} == {
        "AUTO_CREATE_DIR": None,
        "AUTO_CREATE_NAMING": ".ansible-runner-",
        "GRACE_PERIOD_DEFAULT": 60,
        "default_process_isolation_executable": "podman",
        "registry_auth_prefix": "ansible_runner_registry_",
    }
