"""What engines' failures are taken for."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from ee_runner.engines import endings, faults
from ee_runner.engines.podman import PodmanEngine
from ee_runner.errors import EngineError
from ee_runner.job import ContainerSpec, Outcome
from ee_runner.plan import ExecutionPlan


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("manifest for localhost:5000/x:1 not found: manifest unknown: manifest unknown", "missing"),
        ("reading manifest 1 in quay.io/x: manifest unknown", "missing"),
        ("Head http://127.0.0.1:5000/v2/x/manifests/1: no basic auth credentials", "forbidden"),
        ("unauthorized: authentication required", "forbidden"),
        ("pull access denied for x, repository does not exist or may require 'docker login'", "forbidden"),
        ("dial tcp 127.0.0.1:1: connect: connection refused", "unreachable"),
        ("dial tcp: lookup registry.invalid: no such host", "unreachable"),
        ("net/http: request canceled while waiting for connection (Client.Timeout exceeded)", "unreachable"),
        ("http: server gave HTTP response to HTTPS client", "unreachable"),
        ("x509: certificate signed by unknown authority", "unreachable"),
        ("something new", "unknown"),
    ],
)
def test_causes_of_failed_pulls(words: str, cause: str) -> None:
    error = faults.image_fault("docker", "reg.example:5000/x:1", words)
    assert (error.cause, error.image) == (cause, "reg.example:5000/x:1")
    assert "reg.example:5000/x:1" in str(error)
    assert words in str(error)


def test_an_insecure_registry_is_the_daemons_setting_in_docker_only() -> None:
    words = "http: server gave HTTP response to HTTPS client"
    assert "insecure-registries" in str(faults.image_fault("docker", "r.example/x", words))
    assert "verify_ssl" in str(faults.image_fault("podman", "r.example/x", words))


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("x", "docker.io"),
        ("user/x:1", "docker.io"),
        ("quay.io/u/x", "quay.io"),
        ("localhost/x", "localhost"),
        ("h:5000/x@sha256:1", "h:5000"),
    ],
)
def test_the_registry_of_an_image(image: str, registry: str) -> None:
    assert faults.registry_of(image) == registry


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("error setting rlimits for container: setrlimit RLIMIT_NOFILE: Operation not permitted", "default_ulimits"),
        ("Error: OCI runtime error: crun: cgroups in hybrid mode not supported, drop all controllers", "runc"),
        ("Error: stat /dev/mqueue: no such file or directory", "mkdir /dev/mqueue"),
        ("cannot find UID/GID for user u: no subuid ranges found for user", "usermod --add-subuids"),
        ('exec: "docker-init": executable file not found in $PATH', "docker-init"),
        ('the container name "/ansible_runner_x" is already in use by container "1"', "another ident"),
        ('/usr/bin/slirp4netns failed: open("/dev/net/tun"): Permission denied', "--network=host"),
    ],
)
def test_known_faults_of_the_machine_have_a_remedy(words: str, remedy: str) -> None:
    said = faults.diagnosis("podman", words)
    assert said is not None
    assert remedy in said
    assert words in said


def test_other_words_have_no_diagnosis() -> None:
    assert faults.diagnosis("podman", "Error: no such volume") is None
    assert faults.daemon_fault("docker", "Error: No such image: x") is None


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
            "Start it",
        ),
        ("permission denied while trying to connect to the Docker daemon socket", "group"),
    ],
)
def test_faults_of_the_daemon(words: str, remedy: str) -> None:
    assert remedy in str(faults.daemon_fault("docker", words))


def test_long_words_are_cut_at_their_beginning() -> None:
    assert faults.one_line("a\n b\n") == "a b"
    assert len(faults.one_line("x" * 5000 + " end")) < 700
    assert faults.one_line("x" * 5000 + " end").endswith("end")


def _plan() -> ExecutionPlan:
    return ExecutionPlan(
        ident="1",
        private_data_dir=Path("/nowhere"),
        argv=("true",),
        env={},
        cwd=PurePosixPath("/"),
        mounts=(),
        container=ContainerSpec(image="x"),
    )


def test_a_network_that_can_not_be_made_is_no_missing_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Podman's own words where cron's PATH lacks iptables; which words come depends on the machine's network stack."""
    words = (
        'Error: plugin type="bridge" failed (add): cni plugin bridge failed: failed to locate iptables: '
        'exec: "iptables": executable file not found in $PATH\n'
    )
    monkeypatch.setattr(PodmanEngine, "clear", lambda *_: None)
    with pytest.raises(EngineError, match="failed to locate iptables"):
        PodmanEngine()._judge_ambiguous(_plan(), Outcome("failed", 127, "exited"), words, endings.Told())


def test_a_limit_that_the_machine_does_not_know_is_refused_by_its_option() -> None:
    said = faults.unlimited("podman", ["memory", "pids_limit"])
    assert said.startswith("--memory, --pids-limit: podman")
    assert "Delegate" in said


def test_a_client_that_is_killed_is_the_engines_end_and_not_the_jobs() -> None:
    killed = Outcome("failed", 137, "killed", "killed by SIGKILL")
    with pytest.raises(EngineError, match="client of podman was killed by SIGKILL"):
        PodmanEngine()._judge(_plan(), killed, "", since=0.0)


def test_a_job_that_was_stopped_is_not_judged() -> None:
    """No engine is asked: there need not be one."""
    for outcome in (
        Outcome("canceled", 254, "canceled"),
        Outcome("successful", 0, "exited"),
        Outcome("failed", 2, "exited"),
    ):
        assert PodmanEngine("no-such-engine")._judge(_plan(), outcome, "", since=0.0) is outcome
