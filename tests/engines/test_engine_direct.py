"""The engine layer by itself: small real commands on real engines, without Ansible and without the pipeline."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from ee_runner.engines import registry
from ee_runner.engines.base import ContainerEngine
from ee_runner.errors import EngineError, EngineUnavailable, ImageError, MountRefused
from ee_runner.executor import Cancellation
from ee_runner.job import ContainerSpec, Limits, Mount, Outcome, RegistryAuth, SandboxSpec, Terminal
from ee_runner.plan import ExecutionPlan
from ee_runner.secrets import Secret
from tests.engines.conftest import ENGINES
from tests.engines.place import CONTAINERS
from tests.support import machine
from tests.support.images import ImageSet
from tests.support.registry import serve
from tests.support.rootless import RootlessUser

HERE = tuple(engine for engine in ENGINES if engine != "podman-rootless")
OCI = tuple(engine for engine in HERE if engine in CONTAINERS)
SLEEPER = "import os, time; os.write(1, b'up\\n'); time.sleep(60)"
TERM_TELLER = (
    "import os, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit('ended by TERM'));"
    "os.write(1, b'up\\n'); time.sleep(60)"
)


class Output:
    def __init__(self) -> None:
        self.out = b""
        self.err = b""
        self.up = threading.Event()

    def stdout(self, data: bytes) -> None:
        self.out += data
        if b"up" in self.out:
            self.up.set()

    def stderr(self, data: bytes) -> None:
        self.err += data

    @property
    def lines(self) -> list[str]:
        return self.out.decode().replace("\r", "").splitlines()


@dataclass
class Bench:
    """One engine, a private data directory, and what ran there."""

    engine: ContainerEngine
    image: str | None
    directory: Path
    ident: str = field(default_factory=lambda: f"direct-{os.urandom(4).hex()}")

    @property
    def inside(self) -> str:
        return "/runner" if self.engine.capabilities.own_root else str(self.directory)

    @property
    def name(self) -> str:
        return self.engine.container_name(self.ident)

    def plan(self, *argv: str, **changes: Any) -> ExecutionPlan:
        run_dir = self.directory / "run"
        run_dir.mkdir(mode=0o700, exist_ok=True)
        inside = PurePosixPath(self.inside)
        plan = ExecutionPlan(
            ident=self.ident,
            private_data_dir=self.directory,
            argv=argv,
            env={},
            cwd=inside,
            mounts=(Mount(self.directory, inside),),
            container=ContainerSpec(image=self.image, pull="never"),
            limits=Limits(grace=5),
            run_dir=run_dir,
        )
        return replace(plan, **changes)

    def run(self, *argv: str, **changes: Any) -> tuple[Outcome, Output]:
        output = Output()
        return self.engine.run(self.plan(*argv, **changes), output, Cancellation()), output

    def sh(self, script: str, **changes: Any) -> list[str]:
        outcome, output = self.run("sh", "-c", script, **changes)
        assert outcome.rc == 0, (outcome, output.out, output.err)
        return output.lines


@contextlib.contextmanager
def bench_of(engine: str, images: Mapping[str, ImageSet]) -> Iterator[Bench]:
    directory = Path(tempfile.mkdtemp(prefix="direct-"))
    here = Bench(registry.get(engine), images[engine].default if engine in images else None, directory)
    yield here
    left = here.engine.stop(here.name, 0)
    shutil.rmtree(directory)
    assert not left, f"{here.name} was left behind"


@pytest.fixture(params=HERE)
def bench(request: pytest.FixtureRequest, prepared: dict[str, ImageSet]) -> Iterator[Bench]:
    with bench_of(request.param, prepared) as here:
        yield here


@pytest.fixture(params=OCI)
def oci(request: pytest.FixtureRequest, prepared: dict[str, ImageSet]) -> Iterator[Bench]:
    with bench_of(request.param, prepared) as here:
        yield here


@pytest.fixture
def bwrap(prepared: dict[str, ImageSet]) -> Iterator[Bench]:
    if "bwrap" not in ENGINES:
        pytest.skip("bwrap is left out of ENGINES")
    with bench_of("bwrap", prepared) as here:
        yield here


# What a job gets


def test_output_exit_code_and_directory(bench: Bench) -> None:
    outcome, output = bench.run("sh", "-c", "pwd; exit 3")
    assert (outcome.status, outcome.rc, outcome.reason) == ("failed", 3, "exited")
    assert output.lines == [bench.inside]


def test_environment_arrives_whole_and_steers_no_client(bench: Bench) -> None:
    env = {
        "LINES_OF": "one\ntwo\n\ttab 'quote' \"double\" $dollar",
        "EMPTY": "",
        "TMPDIR": "/nonexistent",
        "DOCKER_HOST": "tcp://192.0.2.1:1",
        "CONTAINER_HOST": "tcp://192.0.2.1:1",
        "https_proxy": "http://192.0.2.1:1",
    }
    shown = bench.sh("env -0 | tr '\\0\\n' '\\n|'", env=env)
    pairs = dict(line.split("=", 1) for line in shown if "=" in line)
    assert {name: pairs[name] for name in env} == {name: value.replace("\n", "|") for name, value in env.items()}


def test_values_are_not_on_the_command_line(oci: Bench) -> None:
    plan = oci.plan("true", env={"TOKEN": "value-of-token", "HTTPS_PROXY": "http://user:value-of-proxy@h"})
    with oci.engine.invocation(plan) as invocation:
        assert not [text for text in (*invocation.argv, *invocation.env.values()) if "value-of" in text]
        (pipe,) = plan.run_dir.glob("*/secrets")
        assert pipe.is_fifo()
    assert not pipe.exists()


def test_a_client_that_speaks_before_it_reads_gets_the_environment_file(oci: Bench) -> None:
    wrapper = oci.directory / f"{oci.engine.name}-wrapper"
    real = oci.engine.executable
    wrapper.write_text(
        f'#!/bin/sh\nif [ "$1" = run ] || [ "$2" = run ]; then echo speaks; sleep 1; fi\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    wrapped = replace(oci, engine=registry.get(str(wrapper)))
    assert wrapped.sh("echo $HTTPS_PROXY", env={"HTTPS_PROXY": "http://h"}) == ["speaks", "http://h"]
    assert list((oci.directory / "run").iterdir()) == []


def test_a_name_with_an_asterisk_copies_nothing_of_the_hosts(oci: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EE_TESTS_OF_THE_HOST", "secret")
    outcome, output = oci.run("env", env={"EE_TESTS_OF*": "own"})
    assert outcome.rc == 0
    assert [line for line in output.lines if line.startswith("EE_TESTS_OF")] == ["EE_TESTS_OF*=own"]


def test_the_callers_own_environment_file_stays(oci: Bench) -> None:
    own = oci.directory / "own.env"
    own.write_text("OWN=1\n")
    container = ContainerSpec(image=oci.image, pull="never", options=("--env-file", str(own)))
    assert oci.sh("echo $OWN$HTTPS_PROXY", container=container, env={"HTTPS_PROXY": "2"}) == ["12"]
    assert oci.sh("echo $OWN", container=container) == ["1"]
    assert own.exists()


@pytest.mark.parametrize(("terminal", "tty"), [(Terminal.PTY, True), (Terminal.PIPES, False)])
def test_terminal(bench: Bench, terminal: Terminal, tty: bool) -> None:
    script = "test -t 0 && echo in; test -t 1 && echo out; test -t 2 && echo err; :"
    assert bench.sh(script, terminal=terminal) == (["in", "out", "err"] if tty else [])


def test_pipes_keep_error_output_apart(bench: Bench) -> None:
    outcome, output = bench.run("sh", "-c", "echo one; echo two >&2", terminal=Terminal.PIPES)
    assert (outcome.rc, output.out, output.err) == (0, b"one\n", b"two\n")


def test_pipes_hand_input_on(bench: Bench) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"line\n")
    os.close(writer)
    output = Output()
    try:
        outcome = bench.engine.run(bench.plan("cat", terminal=Terminal.PIPES), output, Cancellation(), stdin=reader)
    finally:
        os.close(reader)
    assert (outcome.rc, output.out) == (0, b"line\n")


def test_password_is_typed_at_the_prompt(bench: Bench) -> None:
    script = "import getpass; print('got', getpass.getpass('Speak friend: '))"
    outcome, output = bench.run("python3", "-c", script, passwords={"Speak friend: ": Secret("mellon")})
    assert outcome.rc == 0
    assert output.lines[-1] == "got mellon"


def test_much_output_is_whole(bench: Bench) -> None:
    lines = bench.sh("seq 1 50000")
    assert len(lines) == 50000
    assert lines[-1] == "50000"


def test_home_user_and_ssh_agree(bench: Bench) -> None:
    script = (
        "import getpass, os, pathlib, pwd; entry = pwd.getpwuid(os.getuid());"
        "home = pathlib.Path.home(); (home / '.probe').write_text('');  (home / '.probe').unlink();"
        "print(getpass.getuser() == entry.pw_name, str(home) == entry.pw_dir)"
    )
    environ = dict(os.environ)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        environ.pop(name, None)
    assert bench.run("python3", "-c", script)[1].lines == ["True True"]


# Mounts


def test_mounts_are_read_only_when_asked_and_bear_odd_names(bench: Bench) -> None:
    if bench.engine.name == "local":
        pytest.skip("the local engine mounts nothing")
    names = ["plain", "with space", "with,comma", "with:colon", 'a,b:"c"', "ünïcode"]
    sources = [bench.directory / "outside" / name for name in names]
    for source in sources:
        source.mkdir(parents=True)
        (source / "file").write_text(source.name)
    targets = [PurePosixPath("/mounted") / name for name in names]
    mounts = tuple(Mount(s, t, read_only=True) for s, t in zip(sources, targets, strict=True))
    script = 'for d in /mounted/*; do cat "$d/file"; echo; touch "$d/new" 2>/dev/null && echo WRITABLE; done; :'
    lines = bench.sh(script, container=ContainerSpec(image=bench.image, pull="never", volume_mounts=mounts))
    assert sorted(lines) == sorted(names)


def test_a_mount_below_another_is_seen_whatever_their_order(oci: Bench) -> None:
    inner = oci.directory / "elsewhere"
    inner.mkdir()
    (inner / "deep").write_text("")
    (oci.directory / "below").mkdir()
    mounts = (Mount(inner, PurePosixPath("/runner/below")), Mount(oci.directory, PurePosixPath("/runner")))
    assert oci.sh("ls /runner/below", mounts=mounts) == ["deep"]


def test_a_linked_source_is_followed(bench: Bench) -> None:
    if bench.engine.name == "local":
        pytest.skip("the local engine mounts nothing")
    (bench.directory / "real").mkdir()
    (bench.directory / "real" / "file").write_text("")
    (bench.directory / "link").symlink_to("real")
    mounts = (*bench.plan().mounts, Mount(bench.directory / "link", PurePosixPath("/seen")))
    assert bench.sh("ls /seen", mounts=mounts) == ["file"]


def test_a_missing_source_is_refused_by_name(bench: Bench) -> None:
    if bench.engine.name == "local":
        pytest.skip("the local engine mounts nothing")
    with pytest.raises(MountRefused, match="/no/such/path"):
        bench.run("true", mounts=(Mount(Path("/no/such/path"), PurePosixPath("/x")),))


# The ssh-agent and ~/.ssh


@contextlib.contextmanager
def agent(directory: Path) -> Iterator[Path]:
    path = directory / "agent.sock"
    child = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    key = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "probe-key", "-f", key], check=True)
    while not path.exists():
        time.sleep(0.01)
    subprocess.run(["ssh-add", "-q", key], env={**os.environ, "SSH_AUTH_SOCK": str(path)}, check=True)
    try:
        yield path
    finally:
        child.terminate()
        child.wait()


def test_the_agent_answers_inside(bench: Bench) -> None:
    with agent(Path(tempfile.mkdtemp(dir=bench.directory))) as path:
        (line,) = bench.sh("ssh-add -l", agent_socket=path)
    assert "probe-key" in line


def test_ssh_directory_is_there_and_read_only(bench: Bench) -> None:
    if bench.engine.name == "local":
        pytest.skip("the local engine mounts nothing")
    ssh = bench.directory / "dot-ssh"
    ssh.mkdir()
    (ssh / "config").write_text("Host probe\n  HostName 192.0.2.7\n")
    script = "touch ~/.ssh/new 2>/dev/null && echo WRITABLE; ssh -G probe | grep ^hostname"
    assert bench.sh(script, ssh_directory=ssh) == ["hostname 192.0.2.7"]


# Stopping


def canceled(bench: Bench, program: str, *, grace: float = 5.0) -> tuple[Outcome, Output, float]:
    output, cancel = Output(), Cancellation()

    def cancel_when_up() -> None:
        output.up.wait(60)
        cancel.request()

    threading.Thread(target=cancel_when_up, daemon=True).start()
    plan = bench.plan("python3", "-c", program, limits=Limits(grace=grace))
    outcome = bench.engine.run(plan, output, cancel)
    return outcome, output, time.monotonic()


def test_a_canceled_job_hears_sigterm(bench: Bench) -> None:
    outcome, output, _ = canceled(bench, TERM_TELLER)
    assert (outcome.status, outcome.rc, outcome.reason) == ("canceled", 254, "canceled")
    assert output.lines == ["up", "ended by TERM"]


def test_a_plain_program_ends_at_once(bench: Bench) -> None:
    start = time.monotonic()
    outcome, _, end = canceled(bench, SLEEPER, grace=20.0)
    assert outcome.status == "canceled"
    assert end - start < 15


def test_a_deaf_program_is_killed_after_the_grace(bench: Bench) -> None:
    deaf = "import signal; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGTERM, signal.SIGINT)];" + SLEEPER
    outcome, _, _ = canceled(bench, deaf, grace=1.0)
    assert outcome.status == "canceled"
    assert not bench.engine.stop(bench.name, 0)


def test_the_job_limit_ends_the_container(bench: Bench) -> None:
    outcome, _ = bench.run("sleep", "60", limits=Limits(job_timeout=2, grace=5))
    assert (outcome.status, outcome.rc, outcome.reason) == ("timeout", 254, "job_timeout")


def test_a_cancel_before_the_start_leaves_nothing(bench: Bench) -> None:
    cancel = Cancellation()
    cancel.request()
    outcome = bench.engine.run(bench.plan("sleep", "60"), Output(), cancel)
    assert outcome.status == "canceled"


@pytest.mark.parametrize("delay", [0.02, 0.15, 0.3, 0.6])
def test_a_cancel_while_the_container_is_made_leaves_nothing(bench: Bench, delay: float) -> None:
    cancel = Cancellation()
    threading.Timer(delay, cancel.request).start()
    start = time.monotonic()
    outcome = bench.engine.run(bench.plan("sleep", "60"), Output(), cancel)
    assert outcome.status == "canceled"
    assert time.monotonic() - start < 20


def test_a_raising_sink_leaves_nothing(bench: Bench) -> None:
    class Full(Output):
        def stdout(self, data: bytes) -> None:
            raise OSError(f"no space for {data!r}")

    with pytest.raises(OSError, match="no space"):
        bench.engine.run(bench.plan("sh", "-c", "echo x; sleep 60"), Full(), Cancellation())


@contextlib.contextmanager
def running(bench: Bench) -> Iterator[Output]:
    """A job of the bench for the length of the block; it must run until its end, and hear the cancel."""
    output, cancel = Output(), Cancellation()
    outcomes: list[Outcome] = []
    plan = bench.plan("python3", "-c", TERM_TELLER)
    job = threading.Thread(target=lambda: outcomes.append(bench.engine.run(plan, output, cancel)))
    job.start()
    assert output.up.wait(60)
    try:
        yield output
        time.sleep(0.5)  # a job that was killed would be seen to end
        assert job.is_alive(), outcomes
    finally:
        cancel.request()
        job.join()
    assert (outcomes[0].status, output.lines) == ("canceled", ["up", "ended by TERM"])


def test_a_job_that_can_not_start_leaves_the_idents_other_job_alone(bench: Bench) -> None:
    if bench.engine.name == "local":
        pytest.skip("the local engine mounts nothing")
    with running(bench), pytest.raises(MountRefused):
        bench.run("true", mounts=(Mount(Path("/no/such/path"), PurePosixPath("/x")),))


@pytest.mark.parametrize("delay", [0.05, 0.5])
def test_a_canceled_job_leaves_the_idents_other_job_alone(bench: Bench, delay: float) -> None:
    cancel = Cancellation()
    with running(bench):
        threading.Timer(delay, cancel.request).start()
        with contextlib.suppress(EngineError):  # podman and docker refuse a second container of the name
            assert bench.engine.run(bench.plan("sleep", "60"), Output(), cancel).status == "canceled"


def test_a_failing_sink_leaves_the_idents_other_job_alone(bench: Bench) -> None:
    class Full(Output):
        def stdout(self, data: bytes) -> None:
            raise OSError(f"no space for {data!r}")

    with running(bench), pytest.raises(OSError, match="no space"):
        bench.engine.run(bench.plan("sh", "-c", "echo x; sleep 60"), Full(), Cancellation())


def test_an_error_of_the_clearing_does_not_replace_the_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(Output):
        def stdout(self, data: bytes) -> None:
            monkeypatch.setattr(type(bench.engine), "clear", gone)
            raise ValueError(data)

    def gone(_: ContainerEngine, mark: str) -> None:
        raise EngineUnavailable(f"the program is gone: {mark}")

    with pytest.raises(ValueError, match="x"):
        bench.engine.run(bench.plan("sh", "-c", "echo x; sleep 60"), Full(), Cancellation())
    assert "the program is gone" in caplog.text


def test_a_killed_client_leaves_no_container(oci: Bench) -> None:
    output = Output()

    def kill_client() -> None:
        output.up.wait(60)
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = entry.read_bytes().split(b"\0")
                if oci.name.encode() in words and words[0].endswith((b"podman", b"docker")):
                    os.kill(int(entry.parent.name), signal.SIGKILL)

    threading.Thread(target=kill_client, daemon=True).start()
    with pytest.raises(EngineError, match=r"client of \w+ was killed by SIGKILL"):
        oci.engine.run(oci.plan("python3", "-c", SLEEPER), output, Cancellation())


def test_labels_say_whose_the_container_is(oci: Bench) -> None:
    from ee_runner.engines.oci import OciEngine

    engine = oci.engine
    assert isinstance(engine, OciEngine)
    output, cancel = Output(), Cancellation()
    found: list[Any] = []

    def look() -> None:
        output.up.wait(60)
        found.extend(container for container in engine.list_containers() if container.ident == oci.ident)
        cancel.request()

    threading.Thread(target=look, daemon=True).start()
    engine.run(oci.plan("python3", "-c", SLEEPER), output, cancel)
    (container,) = found
    assert (container.name, container.running, container.abandoned) == (oci.name, True, False)
    assert (container.private_data_dir, container.supervisor.pid) == (oci.directory, os.getpid())
    other = container.supervisor._replace(pid=1)  # a process that was started long before
    assert replace(container, supervisor=other).abandoned


# What keeps a job from running


def test_an_unknown_command_is_an_outcome(bench: Bench) -> None:
    if bench.engine.name == "local":
        pytest.skip("the executor says so")
    outcome, _ = bench.run("no-such-command")
    assert (outcome.status, outcome.rc, outcome.reason) == ("failed", 127, "launch")
    assert "no-such-command" in outcome.detail


@pytest.mark.parametrize("rc", [1, 125, 126, 127])
@pytest.mark.parametrize("terminal", [Terminal.PTY, Terminal.PIPES])
def test_the_jobs_own_exit_codes_are_its_own(bench: Bench, rc: int, terminal: Terminal) -> None:
    outcome, _ = bench.run("sh", "-c", f"echo 'Error: mine'; exit {rc}", terminal=terminal)
    assert (outcome.status, outcome.rc, outcome.reason, outcome.detail) == ("failed", rc, "exited", "")


@pytest.mark.parametrize("terminal", [Terminal.PTY, Terminal.PIPES])
def test_an_engine_failure_is_an_error_in_its_words(oci: Bench, terminal: Terminal) -> None:
    container = ContainerSpec(image=oci.image, pull="never", options=("--no-such-option",))
    with pytest.raises(EngineError, match="no-such-option"):
        oci.run("true", container=container, terminal=terminal)


def test_a_second_job_of_the_ident_fails_and_leaves_the_first_alone(oci: Bench) -> None:
    output, cancel = Output(), Cancellation()
    outcomes: list[Outcome] = []
    plan = oci.plan("python3", "-c", TERM_TELLER)
    first = threading.Thread(target=lambda: outcomes.append(oci.engine.run(plan, output, cancel)))
    first.start()
    assert output.up.wait(60)
    with pytest.raises(EngineError, match="another ident"):
        oci.run("true")
    assert first.is_alive()
    cancel.request()
    first.join()
    assert output.lines == ["up", "ended by TERM"]


def test_of_two_jobs_of_the_ident_at_once_one_runs(oci: Bench) -> None:
    ended: list[Outcome | EngineError] = []

    def job() -> None:
        try:
            ended.append(oci.run("sleep", "2")[0])
        except EngineError as error:
            ended.append(error)

    jobs = [threading.Thread(target=job) for _ in range(2)]
    for thread in jobs:
        thread.start()
    for thread in jobs:
        thread.join()
    refused, ran = ended
    assert "another ident" in str(refused)
    assert isinstance(ran, Outcome)
    assert ran.rc == 0


def test_a_missing_image_is_named(oci: Bench) -> None:
    with pytest.raises(ImageError, match="localhost/no-such") as raised:
        oci.run("true", container=ContainerSpec(image="localhost/no-such:1", pull="never"))
    assert (raised.value.image, raised.value.cause) == ("localhost/no-such:1", "missing")


def test_a_daemon_that_is_down_is_named(oci: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    monkeypatch.setenv("CONTAINER_HOST", "unix:///nonexistent.sock")
    engine = registry.get({"podman": "podman", "docker": "docker"}[oci.engine.name])
    if engine.name == "podman":
        pytest.skip("podman has no daemon")
    with pytest.raises(EngineUnavailable, match="does not answer"):
        engine.check()
    with pytest.raises(EngineUnavailable, match="does not answer"):
        engine.ensure_image(ContainerSpec(image=oci.image))


def test_check_tells_what_it_found(bench: Bench) -> None:
    info = bench.engine.check()
    assert info.name == bench.engine.name
    assert info.version
    assert info.executable.exists()


# Pulling


class Shown:
    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.state = ""

    def start(self, image: str) -> None:
        self.state = f"started {image}"

    def update(self, text: str, current: int, total: int) -> None:
        self.steps.append((text, current, total))

    def finish(self) -> None:
        self.state = "finished"


@pytest.fixture
def published(oci: Bench) -> Iterator[tuple[Any, str]]:
    with serve(auth=True) as server:
        image = server.publish("probe")
        yield server, image
        subprocess.run([oci.engine.name, "image", "rm", "-f", image], capture_output=True, check=False)


def pull(bench: Bench, image: str, auth: RegistryAuth | None, policy: Any = "missing") -> Shown:
    shown = Shown()
    bench.engine.ensure_image(ContainerSpec(image=image, pull=policy, auth=auth), shown)
    return shown


def credentials(server: Any, *, password: str | None = None) -> RegistryAuth:
    return RegistryAuth(server.address, server.username, Secret(password or server.password), verify_ssl=False)


def test_a_pull_takes_credentials_shows_progress_and_leaves_no_secret(
    oci: Bench, published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, image = published
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    shown = pull(oci, image, credentials(server))
    assert shown.state == "finished"
    assert shown.steps
    assert not pull(oci, image, None).steps, "an image that is present is not pulled"
    assert pull(oci, image, credentials(server), "always").steps
    assert pull(oci, image, credentials(server), "newer").steps
    assert not list(tmp_path.rglob("ee_runner_*"))
    config = Path.home() / ".docker" / "config.json"
    assert not config.exists() or server.address not in config.read_text()


def test_podmans_service_pulls_and_runs(
    prepared: dict[str, ImageSet], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if "podman" not in ENGINES:
        pytest.skip("podman is left out of ENGINES")
    with machine.podman_service() as url, serve(auth=True) as server:
        monkeypatch.setenv("CONTAINER_HOST", url)
        with bench_of("podman", prepared) as here:
            image = server.publish("probe")
            assert pull(here, image, credentials(server)).steps
            with pytest.raises(ImageError, match="refused access"):
                pull(here, image, credentials(server, password="wrong"), "always")
            subprocess.run(["podman", "image", "rm", "-f", image], capture_output=True, check=True)
            assert here.sh("id -u") == ["0"]
            assert canceled(here, TERM_TELLER)[1].lines == ["up", "ended by TERM"]
    assert server.password not in "".join(capfd.readouterr())


def test_newer_keeps_what_is_there_when_the_registry_is_gone(oci: Bench, published: Any) -> None:
    server, image = published
    pull(oci, image, credentials(server))
    pull(oci, image, credentials(server, password="wrong"), "newer")


@pytest.mark.parametrize(("kind", "cause"), [("password", "forbidden"), ("none", "forbidden"), ("tag", "missing")])
def test_a_refused_pull_says_why(oci: Bench, published: Any, kind: str, cause: str) -> None:
    server, image = published
    auth = {"password": credentials(server, password="wrong"), "none": replace(credentials(server), username=None)}
    wanted = image.replace(":latest", ":other") if kind == "tag" else image
    with pytest.raises(ImageError) as raised:
        pull(oci, wanted, auth.get(kind, credentials(server)))
    assert (raised.value.cause, raised.value.image) == (cause, wanted)
    assert server.address in str(raised.value)
    assert server.password not in str(raised.value)


def test_an_unreachable_registry_says_so(oci: Bench) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ImageError, match=f"127.0.0.1:{port}") as raised:
        pull(oci, f"127.0.0.1:{port}/probe:1", None)
    assert raised.value.cause == "unreachable"


def test_a_silent_registry_is_not_waited_for(oci: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from ee_runner.engines import pulls

    monkeypatch.setattr(pulls, "PATIENCE", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        image = f"127.0.0.1:{silent.getsockname()[1]}/probe:1"
        with pytest.raises(ImageError, match=f"{image}.* gave no answer within 1 s") as raised:
            pull(oci, image, None)
    assert raised.value.cause == "unreachable"


def test_a_pull_can_be_canceled(oci: Bench) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        image = f"127.0.0.1:{silent.getsockname()[1]}/probe:1"
        cancel = Cancellation()
        threading.Timer(1, cancel.request).start()
        start = time.monotonic()
        plan = oci.plan("true", container=ContainerSpec(image=image))
        outcome = oci.engine.run(plan, Output(), cancel)
    assert outcome.status == "canceled"
    assert time.monotonic() - start < 10


# Who the job is

PROGRAM = """
import json, os, sys, threading, time
from pathlib import Path, PurePosixPath
from ee_runner.engines import registry
from ee_runner.executor import Cancellation
from ee_runner.job import ContainerSpec, Limits, Mount, Terminal
from ee_runner.plan import ExecutionPlan

asked = json.load(sys.stdin)
engine = registry.get(asked["engine"])
directory = Path(asked["directory"])
(directory / "run").mkdir(mode=0o700, exist_ok=True)
inside = PurePosixPath("/runner" if engine.capabilities.own_root else directory)
ssh = directory / "dot-ssh"
plan = ExecutionPlan(
    ident="direct-user", private_data_dir=directory, argv=tuple(asked["argv"]), env={}, cwd=inside,
    mounts=(Mount(directory, inside),), container=ContainerSpec(image=asked["image"], pull="never"),
    limits=Limits(grace=5), run_dir=directory / "run", ssh_directory=ssh if ssh.is_dir() else None,
)
class Sink:
    out = b""
    def stdout(self, data): self.out += data
    stderr = stdout
sink = Sink()
cancel = Cancellation()
if asked["cancel"]:
    def watch():
        while b"up" not in sink.out: time.sleep(0.01)
        cancel.request()
    threading.Thread(target=watch, daemon=True).start()
outcome = engine.run(plan, sink, cancel)
left = engine.stop(engine.container_name("direct-user"), 0)
lines = sink.out.decode().replace("\\r", "").splitlines()
print(json.dumps({"rc": outcome.rc, "reason": outcome.reason, "out": lines, "left": left}))
"""

WHO = """
import getpass, os, pathlib, pwd
os.makedirs("made/below"); pathlib.Path("made/below/file").write_text("x")
home = pathlib.Path.home(); (home / ".probe").write_text("")
entry = pwd.getpwuid(os.getuid())
print(os.getuid()); print(entry.pw_name == getpass.getuser(), entry.pw_dir == str(home))
os.execvp("sh", ["sh", "-c", "ssh -G probe | grep ^hostname"])
"""


def run_as(
    user: RootlessUser | None,
    engine: str,
    image: str | None,
    directory: Path,
    *,
    program: str = WHO,
    cancel: bool = False,
) -> dict[str, Any]:
    asked = {"engine": engine, "image": image, "directory": str(directory), "cancel": cancel}
    text = json.dumps({**asked, "argv": ["python3", "-c", program]})
    if user is None:
        import sys

        done = subprocess.run([sys.executable, "-c", PROGRAM], input=text, capture_output=True, text=True, check=False)
    else:
        done = subprocess.run(
            [user.python, "-c", PROGRAM],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            user=user.uid,
            group=user.gid,
            extra_groups=[grp.getgrnam("docker").gr_gid] if engine == "docker" else [],
            env=user.environ(),
            cwd=user.home,
        )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


CASES = [
    *(
        (engine, who, kind)
        for engine, who in (("podman", "root"), ("docker", "root"))
        for kind in ("default", "user", "uid")
    ),
    *(
        (engine, who, kind)
        for engine, who in (("podman-rootless", "user"), ("docker", "user"))
        for kind in ("default", "user", "uid")
    ),
    ("bwrap", "root", "default"),
    ("bwrap", "user", "default"),
]


@pytest.mark.parametrize(("engine", "who", "kind"), CASES)
def test_what_a_job_writes_belongs_to_the_caller(
    engine: str, who: str, kind: str, prepared: dict[str, ImageSet], request: pytest.FixtureRequest
) -> None:
    if engine not in ENGINES:
        pytest.skip(f"{engine} is left out of ENGINES")
    user: RootlessUser | None = request.getfixturevalue("rootless") if who == "user" else None
    images = prepared.get(engine)
    image = getattr(images, kind) if images is not None else None
    directory = Path(tempfile.mkdtemp(prefix="direct-"))
    (directory / "dot-ssh").mkdir()
    (directory / "dot-ssh" / "config").write_text("Host probe\n  HostName 192.0.2.7\n")
    if user is not None:
        user.own(directory)
    try:
        answer = run_as(user, engine.partition("-")[0], image, directory)
        assert answer["rc"] == 0, answer["out"]
        assert answer["out"][1:] == ["True True", "hostname 192.0.2.7"]
        assert not answer["left"]
        uid = user.uid if user is not None else os.getuid()
        made = [directory / "made", directory / "made" / "below", directory / "made" / "below" / "file"]
        assert {path.stat().st_uid for path in made} == {uid}
        assert made[2].stat().st_mode & 0o777 == 0o644
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("engine", ["podman-rootless", "docker", "bwrap"])
@pytest.mark.parametrize("kind", ["default", "user"])
def test_an_ordinary_user_cancels(
    engine: str, kind: str, prepared: dict[str, ImageSet], rootless: RootlessUser
) -> None:
    if engine not in ENGINES:
        pytest.skip(f"{engine} is left out of ENGINES")
    image = getattr(prepared[engine], kind) if engine in prepared else None
    with rootless.scratch() as directory:
        answer = run_as(rootless, engine.partition("-")[0], image, directory, program=TERM_TELLER, cancel=True)
    assert (answer["rc"], answer["reason"], answer["left"]) == (254, "canceled", False)
    assert answer["out"] == ["up", "ended by TERM"]


def test_the_callers_own_user_option_stays(prepared: dict[str, ImageSet]) -> None:
    if "podman" not in ENGINES:
        pytest.skip("podman is left out of ENGINES")
    with bench_of("podman", prepared) as here:
        container = ContainerSpec(image=prepared["podman"].user, pull="never", options=("--user", "4321:0"))
        assert here.sh("id -u", container=container) == ["4321"]


# bwrap's own rules


def test_bwrap_hides_and_shows(bwrap: Bench) -> None:
    outside = bwrap.directory.parent / f"{bwrap.directory.name}-outside"
    for name in ("hidden/deep", "shown", "read-only"):
        (outside / name).mkdir(parents=True)
        (outside / name / "file").write_text("")
    secret = bwrap.directory / "secret"
    secret.write_text("secret")
    sandbox = SandboxSpec(
        staging=bwrap.directory.parent,
        hide_paths=(outside / "hidden", secret, Path("/no/such/path")),
        show_paths=(outside / "shown",),
        ro_paths=(outside / "read-only", outside / "hidden" / "deep"),
    )
    script = (
        f"cat {secret}; cd {outside} && find . -type f | sort;"
        "touch shown/new && echo wrote; touch read-only/new 2>/dev/null && echo WROTE; ls -A /tmp ~ | grep -v direct-"
    )
    try:
        lines = bwrap.run("sh", "-c", script, sandbox=sandbox)[1].lines
        assert lines[:4] == ["./hidden/deep/file", "./read-only/file", "./shown/file", "wrote"]
        assert "WROTE" not in lines
        assert (outside / "shown" / "new").exists()
    finally:
        shutil.rmtree(outside)


def test_bwrap_shows_nothing_else(bwrap: Bench) -> None:
    with tempfile.NamedTemporaryFile(prefix="visible-", dir="/tmp") as there:
        assert bwrap.sh(f"test -e {there.name} || echo hidden; touch /usr/x 2>/dev/null || echo sealed") == [
            "hidden",
            "sealed",
        ]


def test_bwrap_does_not_stumble_over_another_users_sandbox(bwrap: Bench, rootless: RootlessUser) -> None:
    with running(replace(bwrap, ident="direct-user")), rootless.scratch() as directory:
        answer = run_as(rootless, "bwrap", None, directory, program=TERM_TELLER, cancel=True)
    assert (answer["reason"], answer["out"], answer["left"]) == ("canceled", ["up", "ended by TERM"], False)


def test_bwrap_removes_what_it_staged(bwrap: Bench) -> None:
    staging = bwrap.directory / "staging"
    staging.mkdir()
    sandbox = SandboxSpec(staging=staging)
    assert bwrap.sh("echo x > /tmp/file; cat /tmp/file", sandbox=sandbox) == ["x"]
    with pytest.raises(MountRefused):
        bwrap.run("true", sandbox=sandbox, mounts=(Mount(Path("/no/such"), PurePosixPath("/x")),))
    assert list(staging.iterdir()) == []


def test_bwrap_finds_what_ansible_needs(bwrap: Bench) -> None:
    import sys

    ansible = Path(sys.executable).parent / "ansible-playbook"
    outcome, output = bwrap.run(str(ansible), "--version")
    assert outcome.rc == 0, output.out
    assert output.lines[0].startswith("ansible-playbook [core")


def test_bwrap_takes_daemons_along(bwrap: Bench) -> None:
    marker = f"61{os.getpid()}"
    bwrap.sh(f"setsid sleep {marker} >/dev/null 2>&1 & sleep 0.2; echo done")
    time.sleep(0.2)
    listed = subprocess.run(["pgrep", "-f", f"sleep {marker}"], capture_output=True, text=True, check=False)
    assert listed.stdout == ""
