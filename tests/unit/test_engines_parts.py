"""The small parts of the drivers: hand-over of values, labels, what a program needs, the tail of an output."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ee_runner import processes
from ee_runner.engines import handover, labels, mounts, needs
from ee_runner.engines.base import Caller, ImageInfo, TailSink
from ee_runner.engines.images import ImageStore
from ee_runner.errors import ConfigurationError, MountRefused
from ee_runner.executor import Completed
from ee_runner.processes import Identity


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


# Values


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "DOCKER_HOST", "CONTAINER_HOST", "XDG_RUNTIME_DIR", "LD_PRELOAD", "https_proxy", "TMPDIR"]
)
def test_what_would_steer_the_client_goes_into_a_file(name: str) -> None:
    assert handover.split_environment({name: "x", "OTHER": "a\nb"}) == ({"OTHER": "a\nb"}, {name: "x"})


@pytest.mark.parametrize("name", ["*", "SECRET_*", "A*B"])
def test_what_podman_would_take_for_a_wildcard_goes_into_a_file(name: str) -> None:
    assert handover.split_environment({name: "x"}) == ({}, {name: "x"})


def test_a_shells_exported_function_keeps_its_lines() -> None:
    exported = {"BASH_FUNC_which%%": "() {\n true\n}"}
    assert handover.split_environment(exported) == (exported, {})


@pytest.mark.parametrize(
    "env", [{"": "x"}, {"A=B": "x"}, {"A": "x\0"}, {"HTTP_PROXY": "a\nb"}, {"#A": "x"}, {" A": "x"}, {"A*": "a\nb"}]
)
def test_impossible_variables_are_refused(env: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="environment variable"):
        handover.split_environment(env)


def test_scratch_is_private_and_goes(tmp_path: Path) -> None:
    def failing() -> None:
        with handover.scratch(tmp_path) as scratch:
            path = scratch.write("env", "A=1\n")
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.parent.parent == tmp_path
            assert path.parent.stat().st_mode & 0o777 == 0o700
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert list(tmp_path.iterdir()) == []


# A caller without a home


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)


@pytest.mark.usefixtures("homeless")
def test_a_caller_without_a_home_is_known_by_the_uid() -> None:
    assert Caller.current() == Caller(os.getuid(), os.getgid(), f"user{os.getuid()}", Path("/"))


@pytest.mark.usefixtures("homeless")
def test_an_images_passwd_is_read_without_a_home_to_keep_it_in() -> None:
    def control(*words: str, **_: object) -> Completed:
        if words[0] == "cp":
            Path(words[2]).write_text("root:x:0:0::/root:/bin/sh\n")
        return Completed(0, "container\n", "")

    assert ImageStore("podman", control).passwd(ImageInfo("image")) == "root:x:0:0::/root:/bin/sh\n"


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("host", ["~/data", "~no-such-user/data"])
def test_a_mount_from_an_unknown_home_is_refused_in_words(host: str, tmp_path: Path) -> None:
    with pytest.raises(MountRefused, match=f"{host} has no known home"):
        mounts.parse(f"{host}:/data", cwd=tmp_path, environ={})


# Labels


def test_labels_come_back() -> None:
    pairs = labels.of_job("a b", Path("/data,=dir"))
    entry = {"Id": "1", "Name": "/n", "State": {"Running": True}, "Config": {"Labels": pairs}}
    container = labels.read(entry)
    assert (container.ident, container.private_data_dir, container.name) == ("a b", Path("/data,=dir"), "n")
    assert not container.abandoned
    pid, born = container.supervisor
    started, _, namespace = born.partition("@")
    assert replace(container, supervisor=Identity(pid, f"{started}1@{namespace}")).abandoned
    assert not replace(container, supervisor=Identity(pid, f"{started}1@1")).abandoned, "another pid namespace"
    assert not replace(container, supervisor=Identity(0, "")).abandoned, "no labels of ours"


def test_a_container_without_labels_is_read() -> None:
    assert labels.read({"Id": "1", "Name": "n", "State": {"Running": False}, "Config": {"Labels": None}}).ident == ""


def test_the_start_of_a_process_tells_it_from_another_of_its_pid() -> None:
    with subprocess.Popen(["sleep", "30"]) as child:
        assert processes.start_time(child.pid) != processes.start_time(os.getpid())
        child.kill()
    assert processes.start_time(child.pid) == ""


# Processes


def test_processes_are_found_by_an_argument() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 30 & wait", "a-word-of-its-own"]) as child:
        deadline = time.monotonic() + 10
        while [Path(f"/proc/{pid}/comm").read_text() for pid in processes.children(child.pid)] != ["sleep\n"]:
            assert time.monotonic() < deadline
        assert processes.with_argument("a-word-of-its-own") == [child.pid]
        (below,) = processes.children(child.pid)
        os.kill(below, 9)
        child.kill()


# What a program needs


def test_a_program_that_is_not_there_needs_nothing() -> None:
    assert needs.of_program("no-such-program", {"PATH": "/usr/bin"}) == ()


def test_a_script_needs_its_interpreters_prefixes_and_modules(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    (tmp_path / "editable").mkdir()
    (packages / "link.pth").write_text(f"{tmp_path / 'editable'}\n")
    tool = script(tmp_path / "bin" / "tool", f"#!{venv}/bin/python\n")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "tool").symlink_to(tool)
    found = needs.of_program("tool", {"PATH": str(tmp_path / "links")})
    assert {tmp_path / "links" / "tool", tool, venv, tmp_path / "editable"} <= set(found)
    assert Path(sys.base_prefix) in found
    assert not [path for path in found if any(parent in found for parent in path.parents)]


@pytest.mark.parametrize(
    "first",
    ["#!/usr/bin/env python3", "#!/usr/bin/env -S python3 -s", "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''"],
)
def test_other_forms_of_the_first_line(tmp_path: Path, first: str) -> None:
    tool = script(tmp_path / "tool", first.replace("{python}", sys.executable) + "\n")
    path = f"{tmp_path}:{Path(sys.executable).parent}"
    assert Path(sys.base_prefix) in needs.of_program(tool.name, {"PATH": path})


def test_a_shim_needs_its_version_manager(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    script(tmp_path / "shims" / "tool", "#!/bin/sh\n")
    assert tmp_path in needs.of_program("tool", {"PATH": str(tmp_path / "shims")})


# The tail


class Everything:
    def __init__(self) -> None:
        self.data = b""

    def stdout(self, data: bytes) -> None:
        self.data += data

    stderr = stdout


def test_the_tail_is_bounded_and_all_is_handed_on() -> None:
    everything = Everything()
    tail = TailSink(everything)
    for _ in range(100):
        tail.stdout(b"x" * 100)
    tail.stderr(b"last\r\n")
    assert len(everything.data) == 10006
    assert len(tail.text) <= 4096
    assert tail.text.endswith("xlast\n")
