"""What is wrong is said in one paragraph with its own exit code, and nothing is left half done."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.engines.conftest import placed
from tests.engines.place import Place, Result
from tests.engines.projects import INVENTORY
from tests.support import images, registry
from tests.support.processes import free_port
from tests.support.rootless import RootlessUser

SITE = "- hosts: one\n  gather_facts: false\n  tasks: [{ping: }]\n"


@pytest.fixture(params=["local"])
def host(request: pytest.FixtureRequest, prepared: dict[str, images.ImageSet]) -> Iterator[Place]:
    """What does not depend on the engine is tried without one."""
    with placed(request, prepared) as here:
        yield here


def job(place: Place, **extra: str) -> Path:
    files = {"project/site.yml": SITE, "inventory/hosts": INVENTORY}
    return place.write({**files, **{name.replace("__", "/"): text for name, text in extra.items()}}, under="pdd")


def refused(result: Result, code: int, *words: str) -> None:
    """One paragraph on standard error, with these words in it, this code, no traceback, no artifacts half made."""
    assert result.rc == code, result
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Pulling ")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("ansible-runner: ")
    for word in words:
        assert word in result.stderr, result.stderr
    assert not result.artifacts.exists() or result.status == "error"


class TestTheRequest:
    def test_a_missing_playbook_and_the_nearest_one(self, host: Place) -> None:
        refused(host.run(job(host), "-p", "sit.yml"), 78, "sit.yml", "site.yml")

    def test_a_missing_private_data_dir(self, host: Place) -> None:
        refused(host.run(host.root / "nowhere", "-p", "site.yml"), 78, "nowhere")

    def test_malformed_yaml_with_its_line(self, host: Place) -> None:
        refused(host.run(job(host, env__extravars="a: 1\nb: [1,\n"), "-p", "site.yml"), 78, "env/extravars:")

    def test_a_list_where_a_mapping_must_be(self, host: Place) -> None:
        refused(host.run(job(host, env__envvars="- A\n"), "-p", "site.yml"), 78, "env/envvars", "mapping")

    def test_an_unknown_settings_key_and_the_nearest(self, host: Place) -> None:
        directory = job(host, env__settings="---\nidle_timout: 3\n")
        refused(host.run(directory, "-p", "site.yml"), 78, "env/settings:2", "idle_timout", "idle_timeout")

    def test_a_settings_value_of_the_wrong_type(self, host: Place) -> None:
        refused(host.run(job(host, env__settings="job_timeout: soon\n"), "-p", "site.yml"), 78, "job_timeout", "soon")

    def test_a_pattern_that_is_none(self, host: Place) -> None:
        refused(host.run(job(host, env__passwords='"(": x\n'), "-p", "site.yml"), 78, "env/passwords:1", "(")

    def test_unbalanced_quotes_in_the_command_line_file(self, host: Place) -> None:
        refused(host.run(job(host, env__cmdline="--tags 'one"), "-p", "site.yml"), 78, "env/cmdline")

    def test_a_directory_where_a_file_must_be(self, host: Place) -> None:
        refused(host.run(job(host, env__extravars__oops="x"), "-p", "site.yml"), 78, "env/extravars", "directory")

    def test_an_unreadable_file(self, rootless: RootlessUser) -> None:
        with rootless.scratch() as root:
            place = Place("local", None, rootless, root)
            directory = job(place, env__extravars="a: 1\n")
            os.chown(directory / "env/extravars", 0, 0)
            (directory / "env/extravars").chmod(0o600)
            refused(place.run(directory, "-p", "site.yml"), 78, "env/extravars", "ermission")

    def test_binary_where_text_must_be(self, host: Place) -> None:
        directory = job(host)
        (directory / "env").mkdir()
        (directory / "env/envvars").write_bytes(b"\xff\xfe\0\0")
        refused(host.run(directory, "-p", "site.yml"), 78, "env/envvars")

    def test_an_unknown_option_names_the_nearest(self, host: Place) -> None:
        rc, _, err = host.ansible_runner("run", job(host), "--container-imge", "x")
        assert rc == 2
        assert "--container-image" in err

    def test_an_unknown_subcommand_names_the_nearest(self, host: Place) -> None:
        rc, _, err = host.ansible_runner("playbok", "site.yml")
        assert rc == 2
        assert "playbook" in err

    def test_no_such_ansible(self, host: Place) -> None:
        result = host.run(job(host), "-p", "site.yml", "--binary", "/nowhere/ansible-playbook")
        assert result.rc == 127, result
        assert "/nowhere/ansible-playbook" in result.stderr
        assert result.status == "failed"
        assert (result.artifacts / "rc").read_text() == "127"
        assert ["ansible-playbook is not there" in event["stdout"] for event in result.events] == [True]

    def test_a_traceback_only_with_debug(self, host: Place) -> None:
        result = host.run(job(host), "-p", "sit.yml", "--debug")
        assert result.rc == 78
        assert "Traceback" in result.stderr


class TestArtifacts:
    def test_a_full_disk(self, host: Place) -> None:
        small = host.root / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], check=True)
        try:
            loud = "- hosts: one\n  gather_facts: false\n  tasks: [{debug: {msg: \"{{ 'x' * 9000 }}\"}}] \n" * 30
            directory = host.write({"project/site.yml": loud, "inventory/hosts": INVENTORY}, under="pdd")
            rc, _, err = host.ansible_runner("run", directory, "-p", "site.yml", "--artifact-dir", small, "-i", "job")
            assert rc == 74, err
            assert "the disk is full" in err
            assert "Traceback" not in err
            assert (small / "job/status").read_text() == "error"
        finally:
            subprocess.run(["umount", small], check=True)

    def test_a_read_only_artifact_directory(self, host: Place) -> None:
        frozen = host.root / "frozen"
        frozen.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", frozen], check=True)
        try:
            directory = job(host)
            rc, _, err = host.ansible_runner("run", directory, "-p", "site.yml", "--artifact-dir", frozen, "-i", "job")
            assert rc == 74, err
            assert "read-only" in err
            assert str(frozen) in err
        finally:
            subprocess.run(["umount", frozen], check=True)

    def test_a_file_in_the_way(self, host: Place) -> None:
        directory = job(host, artifacts="in the way")
        rc, _, err = host.ansible_runner("run", directory, "-p", "site.yml", "-i", "job")
        assert rc == 74, err
        assert "artifacts" in err


class TestMounts:
    @pytest.mark.parametrize("mount", ["/:/host", "/etc:/usr", "/no/such/place:/data", "/etc:/"])
    def test_a_mount_that_must_not_be(self, contained: Place, mount: str) -> None:
        result = contained.run(job(contained), "-p", "site.yml", "--container-volume-mount", mount)
        refused(result, 77, mount.partition(":")[0])

    def test_the_root_as_working_directory(self, contained: Place) -> None:
        contained.write({"site.yml": SITE})
        result = contained.emulate("playbook", str(contained.root / "site.yml"), cwd=Path("/"))
        refused(result, 77, "/")


class TestTheEngine:
    def test_an_engine_that_is_not_installed(self, host: Place) -> None:
        result = host.run(
            job(host), "-p", "site.yml", "--container-image", "x", "--engine", "podman", env={"PATH": "/nowhere"}
        )
        refused(result, 69, "podman", "not installed")

    def test_an_unknown_engine_names_the_nearest(self, host: Place) -> None:
        refused(
            host.run(job(host), "-p", "site.yml", "--process-isolation", "--engine", "podmn"), 78, "podmn", "podman"
        )

    def test_a_daemon_that_is_down(self, host: Place) -> None:
        arguments = ("-p", "site.yml", "--container-image", "x", "--engine", "docker")
        result = host.run(job(host), *arguments, env={"DOCKER_HOST": "unix:///nowhere/docker.sock"})
        refused(result, 69, "docker", "daemon")

    def test_no_engine_at_all_says_why_of_each(self, host: Place) -> None:
        result = host.run(job(host), "-p", "site.yml", "--container-image", "x", env={"PATH": "/nowhere"})
        refused(result, 69, "podman", "docker")


def everything(terminal: int) -> str:
    """Read a terminal until its other end is closed."""
    data = b""
    with contextlib.suppress(OSError):  # EIO is its end
        while piece := os.read(terminal, 65536):
            data += piece
    return data.decode(errors="replace")


@pytest.fixture(scope="module")
def server() -> Iterator[registry.Registry]:
    with registry.serve() as running:
        yield running


@pytest.fixture(scope="module")
def locked() -> Iterator[registry.Registry]:
    with registry.serve(auth=True) as running:
        yield running


class TestTheImage:
    def pull(self, place: Place, image: str, *more: str, auth: Mapping[str, object] | None = None) -> Result:
        """Run a job with the image; these registries speak plain HTTP, which podman must be told."""
        credentials = {"host": image.partition("/")[0], "verify_ssl": False, **(auth or {})}
        settings = json.dumps({"container_auth_data": credentials})
        directory = job(place, env__settings=settings)
        done = place.ansible_runner(
            *("run", directory, "-p", "site.yml", "-i", "job", "--engine", place.engine, "--container-image", image),
            *more,
        )
        return Result(*done, directory / "artifacts/job")

    def test_never_pulled_and_not_there(self, contained: Place) -> None:
        refused(self.pull(contained, "localhost/no-such:1", "--pull", "never"), 66, "localhost/no-such:1")

    def test_missing_in_its_registry(self, contained: Place, server: registry.Registry) -> None:
        image = server.name("no/such")
        refused(self.pull(contained, image), 66, image, f"{server.address} has no such image")

    def test_a_registry_that_can_not_be_reached(self, contained: Place) -> None:
        address = f"127.0.0.1:{free_port()}"
        refused(self.pull(contained, f"{address}/a/b:1"), 66, f"{address} can not be reached")

    def test_a_registry_that_forbids(self, contained: Place, locked: registry.Registry) -> None:
        image = locked.publish("private/image")
        refused(self.pull(contained, image), 66, image, f"{locked.address} refused access")
        wrong = {"username": locked.username, "password": "wrong-0123"}
        result = self.pull(contained, image, auth=wrong)
        refused(result, 66, "refused access")
        assert "wrong-0123" not in result.stderr

    def test_a_pull_shows_its_progress_on_a_terminal(self, contained: Place, server: registry.Registry) -> None:
        image = server.push("localhost/ee-runner-test:latest", f"shown/{contained.name}")
        settings = json.dumps({"container_auth_data": {"host": server.address, "verify_ssl": False}})
        ours, inner = os.openpty()
        try:
            child = contained.start(
                *("run", str(job(contained, env__settings=settings)), "-p", "site.yml", "-i", "job"),
                *("--engine", contained.engine, "--container-image", image),
                stdout=subprocess.DEVNULL,
                stderr=inner,
                env={"COLUMNS": "100"},
            )
            os.close(inner)
            shown = everything(ours)
            assert child.wait(timeout=60) == 0
        finally:
            os.close(ours)
            contained.command([contained.engine, "rmi", "-f", image])
        assert f"Pulling {image}" in shown
        assert "\x1b[" in shown

    def test_an_image_that_is_pulled_with_credentials_which_stay_nowhere(
        self, contained: Place, locked: registry.Registry
    ) -> None:
        assert contained.images is not None
        image = locked.push("localhost/ee-runner-test:latest", f"ee/{contained.name}")
        auth = {"username": locked.username, "password": locked.password}
        try:
            result = self.pull(contained, image, auth=auth)
            assert result.rc == 0, result
            assert f"Pulling {image}" in result.stderr
            again = self.pull(contained, image)
            assert (again.rc, "Pulling" in again.stderr) == (0, False)
            for policy in ("always", "newer"):
                assert self.pull(contained, image, "--pull", policy, auth=auth).rc == 0
        finally:
            contained.command([contained.engine, "rmi", "-f", image])
        home = contained.user.home if contained.user else Path.home()
        runtime = contained.user.runtime if contained.user else Path("/run")
        for place in (home / ".docker", runtime / "containers", home / ".config/containers"):
            for path in place.rglob("auth.json") if place.is_dir() else ():
                assert locked.address not in path.read_text()
