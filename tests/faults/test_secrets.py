"""What is given to a job in confidence is found nowhere, whoever looks: while it runs, and after it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ee_runner.engines import registry as registry_of_engines
from ee_runner.job import ContainerSpec, RegistryAuth
from ee_runner.secrets import Secret
from tests.engines.conftest import ENGINES
from tests.engines.programs import engine_keywords
from tests.faults import observe
from tests.faults.scene import BOUND, Scene
from tests.support import registry, secretive
from tests.support.bytesearch import Searcher, core
from tests.support.machine import command_line
from tests.support.processes import RUN, descendants

_SHARED = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
_OF_ENGINES = (
    "/run/containers",
    "/run/docker",
    "/run/libpod",
    "/run/crun",
    "/run/runc",
    "/var/lib/containers/storage/overlay-containers",
    "/var/lib/containers/storage/libpod",
    "/var/lib/docker/containers",
    "/var/lib/containerd",
)
_OF_USERS = (".local/share/containers/storage/overlay-containers", ".local/share/containers/storage/libpod")
_OF_TESTS = ("contract-", "pytest-of-", "ee-tests", "direct-")
_LOOK = 0.05

ROLE = """\
- debug: {msg: "the token has {{ token | length }} letters, the password {{ ansible_password | length }}"}
- assert: {that: "lookup('env', 'ROLE_TOKEN') | length == 32"}
- command: cat {{ playbook_dir }}/{{ item }}
  loop: "{{ gates }}"
"""

HERE = [name for name in ENGINES if name == "local"]
"""Where the engine makes no difference."""

GATES = ("gate-1", "gate-2")

INVENTORY = """\
web ansible_connection=local
[all:vars]
ansible_python_interpreter="{{ ansible_playbook_python }}"
"""

PLAYBOOK = """\
- hosts: all
  gather_facts: false
  vars_files: [digests.yml, vaulted.yml]
  vars_prompt: [{name: asked, prompt: The gate word, private: true}]
  tasks:
    - name: all has arrived
      assert: {that: "lookup('vars', item, default=lookup('env', item)) | hash('sha256') == digests[item]"}
      loop: "{{ digests | list }}"
      no_log: true
    - name: said without a log
      command: cat
      args: {stdin: "{{ in_vault }} {{ asked }} {{ own_password }} {{ file_token }}"}
      register: said
      no_log: true
    - name: failed without a log
      fail: {msg: "{{ said.stdout }}"}
      ignore_errors: true
      no_log: true
    - name: tried again without a log
      debug: {msg: "{{ said.stdout }}"}
      until: false
      retries: 1
      delay: 0
      ignore_errors: true
      no_log: true
    - name: the agent has the key
      command: ssh-add -l
    - name: a variable that can not be made out
      debug: {msg: "{{ broken_note }}"}
      ignore_errors: true
    - name: wait
      command: cat {{ playbook_dir }}/gate-1
    - name: wait once more
      command: cat {{ playbook_dir }}/gate-2
"""


@dataclass
class Secrets:
    """What a job is given, and what is looked for."""

    cores: dict[str, str] = field(default_factory=dict)

    def new(self, name: str, *, before: str = "", after: str = "") -> str:
        """Return a secret of this name; what is before and after its core wants quoting."""
        self.cores[name] = core()
        return f"{before}{self.cores[name]}{after}"

    def as_it_was_given(self, name: str, text: str) -> str:
        """Look for a text that something else has made."""
        self.cores[name] = text
        return text


@dataclass
class Job:
    """A job that is given secrets of all kinds, on a scene's stage."""

    scene: Scene
    secrets: Secrets
    keywords: dict[str, Any]
    since: float

    @property
    def searcher(self) -> Searcher:
        return Searcher(self.secrets.cores, self.since)

    @property
    def own_files(self) -> list[Path]:
        """Where the user put them."""
        return [*(self.scene.directory / "env").iterdir()]

    def look(self, pids: Sequence[int] = ()) -> list[str]:
        """Search all that can be seen of the job now; `pids` are its supervisor and all below that."""
        searcher, place = self.searcher, self.scene.place
        runtime = [Path(f"/run/user/{place.uid}"), *([place.user.runtime] if place.user else [])]
        of_user = [place.user.home / name for name in _OF_USERS] if place.user else []
        roots = [self.scene.root, *runtime, *map(Path, _OF_ENGINES), *of_user]
        found = searcher.in_trees([*roots, *self._new_in_shared()], apart=self.own_files)
        found += searcher.in_open_files(pids, apart=self.own_files)
        found += searcher.in_command_lines()
        for what, text in self._told_by_engine().items():
            found += [f"{what}: {each}" for each in searcher.in_bytes(text)]
        return found

    def _new_in_shared(self) -> list[Path]:
        """Return what was made in the directories that all users share, and by no test."""
        entries = [entry for base in _SHARED for entry in base.iterdir()]
        return [entry for entry in entries if not entry.name.startswith(_OF_TESTS) and _changed(entry) >= self.since]

    def _told_by_engine(self) -> Mapping[str, bytes]:
        place = self.scene.place
        if not place.contained:
            return {}
        names = [line.split()[0] for line in observe.containers(place, self.scene.ident)]
        since = [
            "--since",
            str(int(self.since)),
            *(["--until", "0s"] if place.engine == "docker" else ["--stream=false"]),
        ]
        asked = {"events": [place.engine, "events", *since]}
        for name in names:
            asked[f"inspect {name}"] = [place.engine, "container", "inspect", name]
            asked[f"logs {name}"] = [place.engine, "logs", name]
        told = {what: place.command(argv) for what, argv in asked.items()}
        texts = {what: (done.stdout + done.stderr).encode() for what, done in told.items()}
        log = RUN / "dockerd.log"
        return {**texts, "daemon log": log.read_bytes() if log.exists() else b""}


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_ctime
    except OSError:
        return 0.0


@pytest.fixture
def job(scene: Scene, tmp_path: Path) -> Job:
    since, secrets = time.time() - 1, Secrets()
    vault = secrets.new("vault password")
    digests: dict[str, str] = {}
    env = {"SERVICE_TOKEN": secrets.new("env/envvars", before="two\nlines'", after='\\ "$HOME"\n')}
    envvars = {
        "API_KEY": secrets.new("envvars", before="`x`\n"),
        "DB_PASSWORD": secrets.new("envvars, next to others", after="%/?#"),
        "NO_ECHO": "seen",
        "PROXY_URL": f"http://user:{secrets.new('password in a URL')}@proxy.invalid/",
    }
    extravars = {"own_password": secrets.new("extravars", before="\"'"), "broken_note": "{{ nothing_of_this_name }}"}
    file_token, asked = secrets.new("env/extravars"), secrets.new("vars_prompt")
    in_vault = secrets.new("vaulted file")
    passphrase = secrets.new("passphrase")
    key = _key(tmp_path / "key", passphrase)
    secrets.as_it_was_given("key", key.splitlines()[3])
    env_passwords = {r"^The gate word.*": asked, r"^Vault password.*": vault}
    passwords = {
        "Enter passphrase for .*": passphrase,
        r"^SSH password.*": secrets.new("ssh password", before="p w"),
        r"^BECOME password.*": secrets.new("become password"),
    }
    for name, value in {**env, **envvars, **extravars, "file_token": file_token, "asked": asked}.items():
        digests[name] = hashlib.sha256(value.encode()).hexdigest()
    del digests["broken_note"]
    digests["in_vault"] = hashlib.sha256(in_vault.encode()).hexdigest()
    scene.write(
        {
            "inventory/hosts": INVENTORY,
            "project/site.yml": PLAYBOOK,
            "project/digests.yml": json.dumps({"digests": digests}),
            "project/vaulted.yml": _vaulted(f"in_vault: {in_vault}\n", vault),
            "env/envvars": json.dumps(env),
            "env/extravars": f"# where it comes from\nfile_token: {file_token}\nother: 1\n",
            "env/passwords": json.dumps(env_passwords),
            "env/cmdline": "--ask-vault-pass -k -K",
        }
    )
    _make_gates(scene)
    auth = {"host": "registry.invalid", "username": "user", "password": secrets.new("registry password")}
    keywords = {
        "private_data_dir": str(scene.directory),
        "ident": scene.ident,
        "playbook": "site.yml",
        "quiet": True,
        "verbosity": 3,
        "debug": True,
        "ignore_logging": False,
        "logfile": str(scene.root / "log"),
        "envvars": envvars,
        "extravars": extravars,
        "passwords": passwords,
        "ssh_key": key,
        **engine_keywords(scene.place),
        **({"container_auth_data": auth} if scene.place.contained else {}),
    }
    return Job(scene, secrets, keywords, since)


def _make_gates(scene: Scene) -> None:
    for name in GATES:
        os.mkfifo(scene.directory / "project" / name)
    scene.place.own(scene.directory)


def _key(path: Path, passphrase: str) -> str:
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    text = path.read_text()
    path.unlink()
    return text


def _vaulted(text: str, password: str) -> str:
    from ansible.parsing.vault import VaultLib, VaultSecret  # type: ignore[import-untyped]

    encrypted: bytes = VaultLib([("default", VaultSecret(password.encode()))]).encrypt(text)
    return encrypted.decode()


@contextmanager
def watched(job: Job) -> Iterator[list[str]]:
    """Look all the time at the command lines, and at the directories in memory, from the job's start to its end."""
    found: list[str] = []
    over = threading.Event()
    own = [job.scene.root / "run", *([job.scene.place.user.runtime] if job.scene.place.user else [])]

    def watch() -> None:
        while not over.wait(_LOOK):
            memory = [path for path in Path("/dev/shm").iterdir() if _changed(path) >= job.since]
            found.extend(job.searcher.in_command_lines() + job.searcher.in_trees([*own, *memory]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def started(job: Job) -> subprocess.Popen[bytes]:
    file = job.scene.root / "secretive.py"
    file.write_bytes(Path(secretive.__file__).read_bytes())
    job.scene.place.own(file)
    python = job.scene.place.user.python if job.scene.place.user else Path(sys.executable)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    child = job.scene._popen([python, file], **streams)
    assert child.stdin is not None
    child.stdin.write(json.dumps({"keywords": job.keywords}).encode() + b"\n")
    child.stdin.close()
    child.stdin = None
    return child


def wait_at_gate(job: Job, child: subprocess.Popen[bytes], gate: str) -> int:
    """Wait until the job has come to its gate, and return its key."""
    descriptor = -1

    def opened() -> bool:
        nonlocal descriptor
        assert child.poll() is None, (child.communicate(), job.scene.told())
        try:
            descriptor = os.open(job.scene.directory / "project" / gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # no reader yet
            return False
        return True

    observe.until(opened, bound=BOUND, what=job.scene.told)
    return descriptor


def others_that_know(job: Job, supervisor: int) -> list[str]:
    """Return whose environment holds secrets though it is none of the job's own processes."""
    known = job.searcher.in_environments()
    assert known, "the job has no environment"
    strangers = {supervisor, *job.scene.minders(supervisor)}
    if job.scene.place.contained:
        strangers |= {pid for pid in known if _namespace(pid) == _namespace(os.getpid())}
    return [f"{pid} {command_line(pid)}: {known[pid]}" for pid in strangers & set(known)]


def _namespace(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink()
    except OSError:  # it has ended meanwhile
        return None


def searched(job: Job) -> tuple[list[str], bytes]:
    """Run the job, look at it at each of its gates and at its end, and return what was found, and what it told."""
    with watched(job) as seen:
        child = started(job)
        for gate in GATES:
            key = wait_at_gate(job, child, gate)
            seen += job.look([child.pid, *descendants(child.pid)])
            seen += others_that_know(job, child.pid)
            os.write(key, b"open")
            os.close(key)
        out, err = child.communicate(timeout=BOUND)
    assert b'"status": "successful"' in out.splitlines()[-1], (out[-3000:], err[-3000:], job.scene.told())
    return [*seen, *job.look(), *job.searcher.in_bytes(out), *job.searcher.in_bytes(err)], out


def test_no_secret_is_found_while_a_job_runs_or_after_it(job: Job) -> None:
    seen, _ = searched(job)
    assert not seen, "\n".join(sorted(set(seen)))
    events = observe.read_artifacts(job.scene.artifacts).events
    assert sum(event["event"] == "runner_on_failed" for event in events) == 3  # ignored, each of them


@pytest.mark.parametrize("place", HERE, indirect=True)
def test_what_is_given_as_data_lies_in_no_file(scene: Scene) -> None:
    since, secrets = time.time() - 1, Secrets()
    here = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    host = {**here, "ansible_password": secrets.new("inventory", before="'\n")}
    scene.write({"project/roles/r/tasks/main.yml": ROLE, "env/settings": "{}"})
    _make_gates(scene)
    keywords = {
        "private_data_dir": str(scene.directory),
        "ident": scene.ident,
        "quiet": True,
        "role": "r",
        "hosts": "web",
        "roles_path": str(scene.directory / "project" / "roles"),
        "role_skip_facts": True,
        "role_vars": {"token": secrets.new("role_vars"), "gates": GATES},
        "envvars": {"ROLE_TOKEN": secrets.new("envvars")},
        "inventory": {"all": {"hosts": {"web": host}}},
        **engine_keywords(scene.place),
    }
    seen, out = searched(Job(scene, secrets, keywords, since))
    assert not seen, "\n".join(sorted(set(seen)))
    assert b"the token has 32 letters, the password 34" in out


@pytest.mark.parametrize("place", HERE, indirect=True)
def test_the_command_tells_no_secret_of_the_files_that_it_reads(job: Job) -> None:
    env = job.scene.directory / "env"
    given = {"envvars": "envvars", "extravars": "extravars", "passwords": "passwords"}
    for keyword, name in given.items():
        merged = {**json.loads(_json_of(env / name)), **job.keywords[keyword]}
        (env / name).write_text(json.dumps(merged))
    (env / "ssh_key").write_text(job.keywords["ssh_key"])
    job.scene.place.own(env)
    explained = job.scene.call("run", *job.scene.options("--explain"))
    assert not job.searcher.in_bytes((explained.stdout + explained.stderr).encode())
    child = job.scene.run("--debug", "--logfile", str(job.scene.root / "log"), "-v")
    for gate in GATES:
        key = wait_at_gate(job, child, gate)
        found = job.look([child.pid, *descendants(child.pid)])
        os.write(key, b"open")
        os.close(key)
        assert not found, "\n".join(found)
    assert child.wait(BOUND) == 0, job.scene.told()
    assert not job.look(), "\n".join(job.look())
    assert (job.scene.root / "log").stat().st_size
    assert (job.scene.root / "complaints").stat().st_size


def _json_of(path: Path) -> str:
    import yaml

    return json.dumps(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("place", HERE, indirect=True)
@pytest.mark.parametrize("answer", ["!SECRET", "*SECRET", "&SECRET x: y", "'SECRET", "{SECRET", "a: SECRET: b"])
def test_a_file_that_can_not_be_read_is_not_quoted(scene: Scene, answer: str) -> None:
    secret = core()
    scene.write({"env/passwords": f"'^x': {answer.replace('SECRET', secret)}\n", "project/site.yml": "[]\n"})
    done = scene.call("run", *scene.options("--debug", "--logfile", str(scene.root / "log")))
    assert done.returncode not in (0, 254)
    assert f"{scene.directory}/env/passwords:" in done.stderr
    assert not Searcher({"password": secret}).in_bytes((done.stdout + done.stderr).encode())
    assert not Searcher({"password": secret}).in_trees([scene.root], apart=[scene.directory / "env" / "passwords"])


@pytest.mark.parametrize("engine", [name for name in ENGINES if name in ("podman", "docker")])
def test_a_registrys_password_lies_nowhere_while_an_image_is_pulled(
    engine: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("prepared")
    searcher = Searcher(
        {"password": registry.PASSWORD, "pair": f"{registry.USERNAME}:{registry.PASSWORD}"}, time.time() - 1
    )
    found: list[str] = []
    with registry.serve(auth=True) as serving:
        image = serving.publish("confidential/image")
        auth = RegistryAuth(serving.address, serving.username, Secret(serving.password), verify_ssl=False)
        pulling = threading.Thread(
            target=registry_of_engines.get(engine).ensure_image, args=(ContainerSpec(image, "always", auth=auth),)
        )
        pulling.start()
        own = [Path("/dev/shm"), Path(os.environ["XDG_RUNTIME_DIR"]), Path("/run/containers")]
        while pulling.is_alive():
            found += searcher.in_command_lines() + searcher.in_trees([*own, Path(tempfile.gettempdir())])
        pulling.join()
        shown = subprocess.run([engine, "rmi", image], capture_output=True, check=True)
    assert shown.returncode == 0
    assert not found, "\n".join(sorted(set(found)))
