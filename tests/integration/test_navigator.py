"""ansible-navigator, as it is published, with this package as its ansible_runner: on the host, and in containers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pytest

from tests.support import images, machine, venvs

HOST = "host"
ENGINES = tuple(name for name in os.environ.get("ENGINES", "podman docker").split() if name in ("podman", "docker"))
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
SECONDS = 60
FILES = {
    "inventory.ini": (
        "one ansible_connection=local ansible_python_interpreter='{{ ansible_playbook_python }}' answer=42\n"
    ),
    "site.yml": "- hosts: all\n  gather_facts: false\n  tasks: [{name: greet, debug: {msg: 'hello {{ answer }}'}}]\n",
    "fail.yml": "- hosts: all\n  gather_facts: false\n  tasks: [{name: refuse, fail: {msg: no luck}}]\n",
    "ask.yml": (
        "- hosts: all\n  gather_facts: false\n  vars_prompt: [{name: word, prompt: which word, private: false}]\n"
        "  tasks: [{debug: {msg: 'it was {{ word }}'}}]\n"
    ),
    "wait.yml": (
        "- hosts: all\n  gather_facts: false\n"
        "  tasks: [{name: begin, debug: {msg: begun}}, {name: wait, command: sleep 600}]\n"
    ),
}


@dataclass(frozen=True, slots=True)
class Navigator:
    """The program with a project, below `root`; `image` is None where playbooks run on the host."""

    venv: venvs.Venv
    root: Path
    engine: str
    image: str | None

    @property
    def directory(self) -> Path:
        return self.root / "project"

    @property
    def place(self) -> list[str]:
        if self.image is None:
            return ["--ee", "false"]
        return ["--ee", "true", "--ce", self.engine, "--eei", self.image, "--pp", "never"]

    @property
    def env(self) -> dict[str, str]:
        log, temporary = str(self.root / "navigator.log"), str(self.root / "tmp")
        return self.venv.environment(self.root / "home", ANSIBLE_NAVIGATOR_LOG_FILE=log, TMPDIR=temporary)

    def argv(self, subcommand: str, *arguments: str, mode: str = "stdout") -> list[str]:
        """The words of a command line; what follows ``--`` stays last."""
        position = arguments.index("--") if "--" in arguments else len(arguments)
        return [subcommand, *arguments[:position], *self.place, "--mode", mode, *arguments[position:]]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.venv.run("ansible-navigator", *self.argv(*words), cwd=self.directory, env=self.env)

    @contextlib.contextmanager
    def on_terminal(self, *words: str, mode: str = "stdout") -> Iterator[pexpect.spawn[str]]:
        """Run the program on a terminal of its own for as long as the block lasts."""
        argv = self.argv(*words, mode=mode)
        child = pexpect.spawn(
            str(self.venv.bin / "ansible-navigator"),
            argv,
            cwd=str(self.directory),
            env=self.env,
            encoding="utf-8",
            dimensions=(40, 120),
            timeout=SECONDS,
        )
        try:
            yield child
        finally:
            child.close(force=True)

    def containers(self) -> list[str]:
        """Names of the containers that are left; a label of each tells its private data directory, here in TMPDIR."""
        listing = [self.engine, "ps", "--all", "--filter", "name=ansible_runner_", "--format", "{{.Names}} {{.Labels}}"]
        listed = subprocess.run(listing, text=True, capture_output=True, check=True).stdout.splitlines()
        return [line.split()[0] for line in listed if str(self.root) in line]


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> venvs.Venv:
    return venvs.ensure(
        "ansible-core",
        "ansible-builder",
        "ansible-lint",
        "jinja2",
        "jsonschema",
        "onigurumacffi>=1.1.0,<2",
        "pyyaml",
        "setuptools",
        "tzdata",
        alone=("ansible-navigator==26.10.0",),
        scratch=tmp_path_factory.mktemp("checkout"),
    )


@pytest.fixture(scope="module")
def engine_images() -> Iterator[dict[str, str]]:
    with contextlib.ExitStack() as stack:
        machine.ensure_containers_conf()
        if "docker" in ENGINES:
            stack.enter_context(machine.docker_daemon())
        yield {engine: images.ensure(engine).default for engine in ENGINES}


@contextlib.contextmanager
def project(venv: venvs.Venv, root: Path, engine: str, image: str | None) -> Iterator[Navigator]:
    navigator = Navigator(venv, root, engine, image)
    for directory in (navigator.directory, root / "home", root / "tmp"):
        directory.mkdir()
    for name, text in FILES.items():
        (navigator.directory / name).write_text(text)
    yield navigator
    if image is not None:
        left = navigator.containers()
        assert not left, f"containers left behind: {left}"


@pytest.fixture(params=(HOST, *ENGINES))
def navigator(
    request: pytest.FixtureRequest, venv: venvs.Venv, engine_images: dict[str, str], tmp_path: Path
) -> Iterator[Navigator]:
    """The host and each engine in turn."""
    with project(venv, tmp_path, request.param, engine_images.get(request.param)) as here:
        yield here


@pytest.fixture(params=ENGINES)
def contained(
    request: pytest.FixtureRequest, venv: venvs.Venv, engine_images: dict[str, str], tmp_path: Path
) -> Iterator[Navigator]:
    """Each engine in turn."""
    with project(venv, tmp_path, request.param, engine_images[request.param]) as here:
        yield here


def test_it_runs_with_the_package_of_this_checkout_and_no_other(venv: venvs.Venv, tmp_path: Path) -> None:
    asked = "import ansible_runner, ansible_navigator.runner.command as c; print(ansible_runner.__file__)"
    done = venv.run("python", "-c", asked, cwd=tmp_path, env=venv.environment(tmp_path))
    assert Path(done.stdout.strip()).parent.parent == venv.checkout, done.stderr
    listed = venv.run("python", "-m", "pip", "list", "--format", "json", cwd=tmp_path, env=os.environ)
    names = {package["name"] for package in json.loads(listed.stdout)}
    assert "ansible-navigator" in names
    assert not names & {"ansible-runner", "ee-runner"}


def test_a_playbook_succeeds(navigator: Navigator) -> None:
    done = navigator.run("run", "site.yml", "-i", "inventory.ini", "--pae", "false")
    assert done.returncode == 0, done.stderr
    assert '"msg": "hello 42"' in done.stdout
    assert "\x1b" not in done.stdout, "the output is no terminal"


def test_a_failing_playbook_gives_its_exit_code_and_an_artifact_file(navigator: Navigator) -> None:
    artifact = navigator.directory / "artifact.json"
    done = navigator.run("run", "fail.yml", "-i", "inventory.ini", "--pae", "true", "--pas", str(artifact))
    assert done.returncode == 2, done.stderr
    assert "no luck" in done.stdout
    written = json.loads(artifact.read_text())
    assert written["status"] == "failed"
    (play,) = written["plays"]
    (task,) = play["tasks"]
    assert (task["task"], task["host"], task["res"]["msg"]) == ("refuse", "one", "no luck")
    assert play["__failed_count"] if "__failed_count" in play else task["__result"] == "Failed"
    assert COLOURS.sub("", "\n".join(written["stdout"])).strip() == COLOURS.sub("", done.stdout).strip()


def test_the_output_of_a_playbook_is_coloured_on_a_terminal(navigator: Navigator) -> None:
    with navigator.on_terminal("run", "site.yml", "-i", "inventory.ini", "--pae", "true") as child:
        child.expect(r"\x1b\[0;32mok: \[one\]")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_a_playbook_that_does_not_exist_is_ansibles_to_refuse(navigator: Navigator, enabled: str) -> None:
    done = navigator.run("run", "absent.yml", "-i", "inventory.ini", "--pae", enabled)
    assert done.returncode == 1
    assert "absent.yml could not be found" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_inventory_that_does_not_exist_is_ansibles_to_warn_of(navigator: Navigator) -> None:
    done = navigator.run("run", "site.yml", "-i", "absent.ini", "--pae", "false")
    assert done.returncode == 0, done.stderr
    assert "no hosts matched" in done.stdout


def test_the_documentation_of_a_plugin_is_printed(navigator: Navigator) -> None:
    done = navigator.run("doc", "debug")
    assert done.returncode == 0, done.stderr
    assert "prints statements during execution" in " ".join(done.stdout.split())


def test_a_plugin_that_does_not_exist_is_ansibles_to_warn_of(navigator: Navigator) -> None:
    done = navigator.run("doc", "no.such.plugin")
    assert done.returncode == 0, done.stderr
    assert "no.such.plugin was not found" in done.stderr


def test_the_inventory_is_printed(navigator: Navigator) -> None:
    done = navigator.run("inventory", "--list", "-i", "inventory.ini")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["_meta"]["hostvars"]["one"]["answer"] == 42


def test_the_configuration_is_printed(navigator: Navigator) -> None:
    (navigator.directory / "ansible.cfg").write_text("[defaults]\nforks = 17\n")
    done = navigator.run("config", "dump")
    assert done.returncode == 0, done.stderr
    forks = next(line for line in done.stdout.splitlines() if line.startswith("DEFAULT_FORKS("))
    assert forks.endswith("= 17")


def test_a_command_gives_its_output_and_its_exit_code(contained: Navigator) -> None:
    done = contained.run("exec", "--", "echo said; echo wrong >&2; test -t 0 || exit 3")
    assert (done.returncode, done.stdout.strip(), done.stderr.splitlines()[0]) == (3, "said", "wrong")


def test_a_command_that_does_not_exist_says_so(contained: Navigator) -> None:
    done = contained.run("exec", "--exshell", "false", "--", "no-such-command")
    assert done.returncode == 127
    assert "no-such-command" in done.stderr


def test_a_command_finds_the_callers_directory_and_variables(contained: Navigator) -> None:
    words = ("--senv", "TOLD=by-the-caller", "--", "ls *.yml; echo $TOLD; pwd")
    done = contained.run("exec", *words)
    assert done.returncode == 0, done.stderr
    playbooks = sorted(name for name in FILES if name.endswith(".yml"))
    assert done.stdout.split() == [*playbooks, "by-the-caller", str(contained.directory)]


def test_a_command_has_the_callers_terminal(contained: Navigator) -> None:
    words = "test -t 0 && test -t 1 && echo joined; read word; echo got $word"
    with contained.on_terminal("exec", "--", words) as child:
        child.expect("joined")
        child.sendline("abc")
        child.expect("got abc")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0


def test_a_prompt_is_answered_from_the_terminal(navigator: Navigator) -> None:
    with navigator.on_terminal("run", "ask.yml", "-i", "inventory.ini", "--pae", "false") as child:
        child.expect("which word")
        child.sendline("swordfish")
        child.expect("it was swordfish")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0


def test_an_interrupt_ends_the_job(navigator: Navigator) -> None:
    with navigator.on_terminal("run", "wait.yml", "-i", "inventory.ini", "--pae", "true") as child:
        child.expect(r"TASK \[wait\]")
        assert navigator.image is None or len(navigator.containers()) == 1
        child.sendintr()
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 254


def test_the_screen_of_the_configuration_is_filled(navigator: Navigator) -> None:
    with navigator.on_terminal("config", mode="interactive") as child:
        child.expect("Ansible pipelining")
        child.send("\x1b")
        child.expect(pexpect.EOF)


def test_the_screen_of_the_inventory_is_filled(navigator: Navigator) -> None:
    with navigator.on_terminal("inventory", "-i", "inventory.ini", mode="interactive") as child:
        child.expect("Browse hosts")
        child.send("1")
        child.expect("one")
        child.send("\x1b")
        child.expect("Browse groups")
        child.send("\x1b")
        child.expect(pexpect.EOF)


def test_the_screen_of_a_plugins_documentation_is_filled(navigator: Navigator) -> None:
    with navigator.on_terminal("doc", "debug", mode="interactive") as child:
        child.expect("action plugin so some parts")
        child.send("\x1b")
        child.expect(pexpect.EOF)
