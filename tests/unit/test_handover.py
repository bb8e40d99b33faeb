"""Variables on their way to a container: what may be seen, and what a shell reads from a pipe."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ee_runner import pipes
from ee_runner.engines import handover
from ee_runner.engines.handover import Scratch
from ee_runner.errors import ConfigurationError
from ee_runner.job import ContainerSpec
from ee_runner.plan import ExecutionPlan
from ee_runner.secrets import Secret

PLAN = ExecutionPlan(
    ident="1", private_data_dir=Path("/p"), argv=("job", "word"), env={}, cwd=PurePosixPath("/"), mounts=()
)


def handed(plan: ExecutionPlan, *, engine: str = "podman") -> tuple[handover.Handed, bytes]:
    """Return how the plan's variables go, and what is in the pipe."""
    with handover.scratch() as scratch:
        found = handover.environment(plan, scratch, engine=engine)
        return found, found.mounts[0].source.read_bytes() if found.mounts else b""


def test_without_secrets_the_job_is_what_the_container_runs() -> None:
    found, _ = handed(replace(PLAN, env={"A": "1", "PATH": "/bin"}))
    assert found.argv == ("job", "word")
    assert found.client == {"A": "1"}
    assert (found.options[0], found.options[2:]) == ("--env-file", ("--env", "A"))
    assert found.mounts == ()


def test_secrets_are_in_no_word_and_not_in_the_clients_environment() -> None:
    env = {
        "A": "1",
        "TOKEN": "hunter2",
        "URL": "http://u:hunter2@h/",
        "SAID": "it is hunter3",
        "HTTPS_PROXY": "u://a:hunter2@b",
    }
    found, piped = handed(replace(PLAN, env=env, passwords={"^x": Secret("hunter3")}))
    assert "hunter" not in repr((found.options, found.client, found.argv))
    assert found.client == {"A": "1"}
    assert found.argv[0] == "/bin/sh"
    assert found.argv[-2:] == ("job", "word")
    assert [line.split(b"=")[0] for line in piped.splitlines()] == [
        b"export TOKEN", b"export URL", b"export SAID", b"export HTTPS_PROXY",
    ]  # fmt: skip


def test_variables_that_a_shell_drops_are_set_behind_it() -> None:
    found, _ = handed(replace(PLAN, env={"TOKEN": "hunter2", "a.b": "odd", "C": "1"}))
    assert found.argv[-4:] == ("env", "a.b=odd", "job", "word")


@pytest.mark.parametrize("name", ["my-token", "token.x", "1token", "tökenpassword"])
def test_a_secret_that_no_shell_can_set_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}.* seems to hold a secret"):
        handed(replace(PLAN, env={name: "hunter2"}))


def test_where_another_kernel_runs_the_job_they_go_as_they_are() -> None:
    plan = replace(PLAN, env={"TOKEN": "hunter2"}, container=ContainerSpec(options=("--runtime=kata-runtime",)))
    found, _ = handed(plan)
    assert (found.argv, found.client) == (("job", "word"), {"TOKEN": "hunter2"})


@given(
    st.dictionaries(
        st.from_regex("[A-Z_]{1,9}_TOKEN", fullmatch=True), st.text(min_size=1).filter(lambda t: "\0" not in t)
    )
)
@settings(max_examples=50, deadline=None)
def test_any_value_comes_out_of_the_shell_as_it_went_in(env: dict[str, str]) -> None:
    env = {name: value.encode("utf-8", "ignore").decode() for name, value in env.items()}
    _, piped = handed(replace(PLAN, env=env))
    shown = subprocess.run(
        ["sh", "-c", ". /dev/stdin; exec env -0"], input=piped, capture_output=True, check=True, env={}
    ).stdout
    told = dict(entry.split(b"=", 1) for entry in shown.rstrip(b"\0").split(b"\0"))
    assert {name: told[name.encode()].decode() for name, value in env.items() if value} == {
        n: v for n, v in env.items() if v
    }


@pytest.mark.parametrize(
    ("engine", "options", "environ", "reached"),
    [
        ("podman", (), {}, True),
        ("podman", ("--runtime", "crun"), {}, True),
        ("podman", ("--runtime", "/usr/bin/runsc"), {}, False),
        ("podman", ("--runtime=krun",), {}, False),
        ("podman", (), {"CONTAINER_HOST": "ssh://core@127.0.0.1:1/run/podman.sock"}, False),
        ("podman", (), {"CONTAINER_HOST": "unix:///run/podman/podman.sock"}, True),
        ("docker", (), {"DOCKER_HOST": "unix:///var/run/docker.sock"}, True),
        ("docker", (), {"DOCKER_HOST": "unix:///home/me/.docker/desktop/docker.sock"}, False),
        ("docker", (), {"DOCKER_CONTEXT": "desktop-linux"}, False),
        ("docker", (), {"DOCKER_CONTEXT": "default"}, True),
        ("bwrap", (), {"DOCKER_CONTEXT": "desktop-linux"}, True),
    ],
)  # fmt: skip
def test_a_pipe_reaches_what_runs_under_this_kernel(
    engine: str, options: tuple[str, ...], environ: dict[str, str], reached: bool
) -> None:
    assert pipes.reach(engine, options, environ) is reached


def test_the_clients_chosen_context_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"currentContext": "desktop-linux"}')
    assert not pipes.reach("docker", (), {"DOCKER_CONFIG": str(tmp_path)})
    (tmp_path / "config.json").write_text('{"auths": {}}')
    assert pipes.reach("docker", (), {"DOCKER_CONFIG": str(tmp_path)})


def test_a_private_text_is_a_pipe_and_a_public_one_a_file() -> None:
    with handover.scratch() as scratch:
        private, public = scratch.write("a", "hunter2\udcff"), scratch.write("b", "seen", mode=0o644)
        assert isinstance(scratch, Scratch)
        assert private.is_fifo()
        assert public.is_file()
        assert [private.read_bytes() for _ in range(3)] == [b"hunter2\xff"] * 3
    assert not private.parent.exists()


def test_the_end_of_a_fork_leaves_the_pipes_of_its_parent(tmp_path: Path) -> None:
    stack = ExitStack()
    with stack:
        path = stack.enter_context(pipes.handed_out(tmp_path / "pipe", b"hunter2"))
        child = os.fork()
        if not child:
            stack.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert path.read_bytes() == b"hunter2"
    assert not list(tmp_path.iterdir())


REPLACED: dict[str, Callable[[Path], object]] = {
    "gone": str,
    "a directory": Path.mkdir,
    "another pipe": os.mkfifo,
    "gone with its directory": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("what", REPLACED)
def test_a_pipe_whose_name_a_job_has_taken_away_leaves_no_thread(tmp_path: Path, what: str, *, again: bool) -> None:
    (tmp_path / "run").mkdir()
    before = threading.active_count()
    with pipes.handed_out(tmp_path / "run" / "pipe", b"hunter2", again=again) as path:
        path.unlink()
        REPLACED[what](path)
    assert threading.active_count() == before


def test_a_link_in_the_place_of_a_pipe_is_not_written_through(tmp_path: Path) -> None:
    (precious := tmp_path / "precious").write_text("precious")
    data = b"x" * 200_000
    with pipes.handed_out(tmp_path / "pipe", data, again=True) as path:
        with path.open("rb") as reader:
            read = reader.read(100_000)  # the name is another pipe's by now, the writer is here still
            (following := path.with_name("following")).hardlink_to(path)
            path.unlink()
            path.symlink_to(precious)
            read += reader.read()
        assert read == data
        with ExitStack() as stack:
            descriptor = os.open(following, os.O_RDONLY | os.O_NONBLOCK)
            stack.callback(os.close, descriptor)
            written, _, _ = select.select([descriptor], [], [], 10)
        assert precious.read_text() == "precious"
        assert written
    assert not path.is_symlink()


def test_many_pipes_leave_nothing_open(tmp_path: Path) -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before, threads = opened(), threading.active_count()
    for number in range(100):
        with pipes.handed_out(tmp_path / "pipe", b"hunter2", again=bool(number % 2)) as path:
            if number % 3:
                path.read_bytes()
    assert (opened(), threading.active_count()) == (before, threads)
