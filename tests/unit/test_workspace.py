"""What is read from the private data directory, and what of a run stays on disk."""

from __future__ import annotations

import json
import os
import resource
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ee_runner.errors import ArtifactError, ConfigurationError, RunnerError
from ee_runner.executor import Cancellation
from ee_runner.job import CommandTarget, ContainerSpec, JobSpec, ModuleTarget, PlaybookTarget, RoleTarget
from ee_runner.secrets import Secret
from ee_runner.workspace import Workspace


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    for part in ("env", "project", "inventory"):
        (tmp_path / "demo" / part).mkdir(parents=True)
    (tmp_path / "runtime").mkdir()
    return tmp_path / "demo"


def job(demo: Path, **fields: Any) -> JobSpec:
    fields = {"target": PlaybookTarget(("test.yml",)), "project_dir": demo / "project", **fields}
    return JobSpec(ident="1", private_data_dir=demo, artifact_dir=demo / "artifacts" / "1", **fields)


@contextmanager
def opened(
    demo: Path, environ: dict[str, str] | None = None, *, own_root: bool = False, **fields: Any
) -> Iterator[Workspace]:
    runtime = {"XDG_RUNTIME_DIR": str(demo.parent / "runtime"), "HOME": str(demo.parent / "home")}
    with Workspace.open(job(demo, **fields), {**runtime, **(environ or {})}, own_root=own_root) as workspace:
        yield workspace


def refusal(demo: Path, **fields: Any) -> str:
    with pytest.raises(RunnerError) as error, opened(demo, **fields):
        pass
    return str(error.value)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(demo: Path, name: str, text: str | bytes) -> Path:
    path = demo / "env" / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# inputs


@pytest.mark.parametrize(
    ("text", "envvars"),
    [
        ("---\nTESTVAR: exampleval\n", {"TESTVAR": "exampleval"}),
        (
            '{"A": "x\\ud83d\\ude00\\n", "B": 1.10, "C": true, "D": null}',
            {"A": "x\U0001f600\n", "B": "1.10", "C": "true", "D": ""},
        ),
        ('{\n\t"A": "tab"\n}', {"A": "tab"}),
        (
            "A: true\nB: yes\nC: 1.10\nD: 0644\nE: null\nF: ~\nG:\nH: 2020-01-01\nI: 'true'\nJ: 1_000\n",
            {"A": "true", "B": "yes", "C": "1.10", "D": "0644", "E": "", "F": "", "G": "", "H": "2020-01-01",
             "I": "true", "J": "1_000"},
        ),
        ("A: |\n  two\n  lines\nB: &x 5\nC: *x\n", {"A": "two\nlines\n", "B": "5", "C": "5"}),
        ("base: &b x\nA: 1\nA: 2\n", {"base": "x", "A": "2"}),
        ("", {}),
        ("# nothing\n", {}),
    ],
)  # fmt: skip
def test_variables_are_texts_as_they_were_written(demo: Path, text: str, envvars: dict[str, str]) -> None:
    write(demo, "envvars", text)
    with opened(demo) as workspace:
        assert workspace.envvars == envvars


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A: 1\nB: [1]\n", ":2: 'B': a single value is expected, found a list"),
        ('{\n\t"A": 1,\n\t"B": [1]\n}', ":3: 'B': a single value is expected, found a list"),
        ("A: {b: 1}", ":1: 'A': a single value is expected, found a mapping"),
        ("A: !vault x", ":1: 'A': a single value is expected, found the tag !vault"),
        ('A: 1\n"B=C": 1', ":2: the name of a variable is expected, found 'B='"),
        ('{"A": "\\ud800"}', ":1: 'A': text without NUL bytes and without halves of surrogate pairs is expected"),
        ("- A", ":1: a mapping (KEY: VALUE) is expected, found a list"),
        ("hunter2", ":1: a mapping (KEY: VALUE) is expected, found text"),
        ("A: 1\n\tB: 2", ":2: valid YAML or JSON is expected"),
        ("A: *nowhere", ":1: valid YAML or JSON is expected"),
        ("A: 1\n---\nB: 1\n", "valid YAML or JSON is expected"),
        (b"A: \xff", ":1: UTF-8 text is expected; byte 3 is not"),
        (b"\x00\x01", ":1: text is expected; there is a NUL byte"),
        ("A: \x01", "valid YAML or JSON is expected"),
        ("[" * 5000, "valid YAML or JSON is expected"),
    ],
)
def test_variables_that_can_not_be_are_refused_with_their_line(demo: Path, text: str | bytes, said: str) -> None:
    path = write(demo, "envvars", text)
    message = refusal(demo)
    assert message.startswith(str(path))
    assert said in message
    assert not (demo / "artifacts").exists()


def test_what_the_caller_passes_wins_key_by_key(demo: Path) -> None:
    write(demo, "envvars", "A: file\nB: file")
    write(demo, "passwords", "'^a': file\n'^b': file")
    write(demo, "cmdline", "--from-file")
    write(demo, "ssh_key", "FILE")
    given = {"^b": Secret("given"), "^c": Secret("given")}
    with opened(
        demo, envvars={"B": "given"}, passwords=given, cmdline=("--given",), ssh_key=Secret("GIVEN")
    ) as workspace:
        assert workspace.envvars == {"A": "file", "B": "given"}
        assert workspace.passwords == {**given, "^a": Secret("file")}
        assert list(workspace.passwords) == ["^b", "^c", "^a"]
        assert workspace.cmdline == ("--given",)
        assert workspace.ssh_key == Secret("GIVEN\n")


def test_passwords_keep_their_order_and_are_secrets(demo: Path) -> None:
    write(
        demo,
        "passwords",
        '---\n"^SSH password:\\\\s*?$": "some_password"\n"^BECOME password.*:\\\\s*?$": 1234\n"": null\n',
    )
    with opened(demo) as workspace:
        assert list(workspace.passwords.items()) == [
            ("^SSH password:\\s*?$", Secret("some_password")),
            ("^BECOME password.*:\\s*?$", Secret("1234")),
            ("", Secret("")),
        ]
        assert "some_password" not in repr(workspace)


@pytest.mark.parametrize("pattern", ["(unclosed", "*x", "[a", "(?P<n>a)(?P<n>b)"])
def test_a_bad_pattern_is_named_with_its_line(demo: Path, pattern: str) -> None:
    path = write(demo, "passwords", f"'good': x\n'{pattern}': hunter2\n")
    message = refusal(demo)
    assert message.startswith(f"{path}:2: a regular expression is expected, found '{pattern}'")
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--tags one,two -u ansible --become\n", ("--tags", "one,two", "-u", "ansible", "--become")),
        ("-e 'a b'\n--diff\n", ("-e", "a b", "--diff")),
        ("\n", ()),
        ("", ()),
    ],
)  # fmt: skip
def test_the_command_line_file_is_split_like_a_shells(demo: Path, text: str, words: tuple[str, ...]) -> None:
    write(demo, "cmdline", text)
    with opened(demo) as workspace:
        assert workspace.cmdline == words


def test_an_open_quote_is_named_with_its_line(demo: Path) -> None:
    path = write(demo, "cmdline", "--diff\n-e 'a b\n--check")
    assert refusal(demo).startswith(f"{path}:2: command line arguments with balanced quotes are expected")


@pytest.mark.parametrize(("text", "key"), [("KEY", "KEY\n"), ("A\nB\n\n", "A\nB\n"), ("A\r\nB\r\n", "A\r\nB\n")])
def test_a_key_ends_in_one_newline(demo: Path, text: str, key: str) -> None:
    write(demo, "ssh_key", text)
    with opened(demo) as workspace:
        assert workspace.ssh_key == Secret(key)


def test_a_blank_key_is_none(demo: Path) -> None:
    write(demo, "ssh_key", " \n")
    with opened(demo) as workspace:
        assert workspace.ssh_key is None


VAULTED = b"""---
plain: 1 # a comment
secret: !vault |
  $ANSIBLE_VAULT;1.1;AES256
  6162
raw: !unsafe "{{ not a template }}"
"""


@pytest.mark.parametrize("data", [VAULTED, b'{"a": 1}', b'{\n\t"a": 1}', b"$ANSIBLE_VAULT;1.1;AES256\n6162\n"])
def test_extra_vars_reach_ansible_byte_for_byte(demo: Path, data: bytes) -> None:
    write(demo, "extravars", data)
    with opened(demo, extravars={"b": [2]}) as workspace:
        file, arguments = workspace.extravars_files
        assert {mode(path) for path in workspace.extravars_files} == {0o600}
        assert file.read_bytes() == data
        assert json.loads(arguments.read_text()) == {"b": [2]}
        assert workspace.run_dir in file.parents


@pytest.mark.parametrize("data", [b"", b"---\n", b"# none\n", b"{}"])
def test_extra_vars_of_nothing_are_left_out(demo: Path, data: bytes) -> None:
    write(demo, "extravars", data)
    with opened(demo) as workspace:
        assert len(workspace.extravars_files) == (data == b"{}")


def test_extra_vars_must_be_a_mapping(demo: Path) -> None:
    path = write(demo, "extravars", "\n- a")
    assert refusal(demo) == f"{path}:2: a mapping (KEY: VALUE) is expected, found a list"


INPUTS = {
    "envvars": b"A: pipe",
    "extravars": VAULTED,
    "passwords": b"'^x': pipe",
    "cmdline": b"--diff",
    "ssh_key": b"KEY\n",
}


def test_every_input_may_be_a_named_pipe_that_is_read_once(demo: Path) -> None:
    writers = []
    for name, data in INPUTS.items():
        path = demo / "env" / name
        os.mkfifo(path)
        writers.append(threading.Thread(target=path.write_bytes, args=(data,)))
        writers[-1].start()
    with opened(demo) as workspace:
        for writer in writers:
            writer.join(5)
        assert workspace.envvars == {"A": "pipe"}
        assert workspace.extravars_files[0].read_bytes() == VAULTED
        assert workspace.passwords == {"^x": Secret("pipe")}
        assert workspace.cmdline == ("--diff",)
        assert workspace.ssh_key == Secret("KEY\n")


@pytest.mark.parametrize("name", INPUTS)
def test_a_pipe_that_nobody_writes_to_is_no_input_any_more_once_the_job_is_to_stop(demo: Path, name: str) -> None:
    os.mkfifo(demo / "env" / name)
    cancel = Cancellation()
    stop = threading.Timer(0.1, cancel.request)
    stop.start()
    with Workspace.open(job(demo), cancel=cancel) as workspace:
        assert not any((workspace.envvars, workspace.passwords, workspace.cmdline, workspace.ssh_key))
        assert workspace.extravars_files == ()
    stop.join()


def test_a_pipe_is_read_to_its_end_whoever_looks_at_the_job_meanwhile(demo: Path) -> None:
    os.mkfifo(demo / "env" / "ssh_key")
    cancel = Cancellation()

    def write() -> None:
        with (demo / "env" / "ssh_key").open("wb", buffering=0) as pipe:
            for _ in range(100):
                pipe.write(b"x" * 4000)
                cancel.nudge()

    writer = threading.Thread(target=write)
    writer.start()
    with Workspace.open(job(demo), cancel=cancel) as workspace:
        assert workspace.ssh_key == Secret("x" * 400_000 + "\n")
    writer.join()


@pytest.mark.parametrize("name", INPUTS)
def test_a_directory_is_no_input(demo: Path, name: str) -> None:
    (demo / "env" / name).mkdir()
    assert refusal(demo) == f"{demo}/env/{name}: is a directory; a file or a named pipe is expected here"


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/tty", "/dev/null"])
def test_a_device_is_no_input(demo: Path, device: str) -> None:
    (demo / "env" / "envvars").symlink_to(device)
    assert refusal(demo) == f"{demo}/env/envvars: is a socket or a device; a file or a named pipe is expected here"


@contextmanager
def unprivileged(*owned: Path) -> Iterator[None]:
    """Let the block run as someone who is not root and owns these paths."""
    if os.geteuid() != 0:
        yield
        return
    for path in owned:
        os.chown(path, 65534, 65534)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A private data directory that others than root can reach."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        base.chmod(0o755)
        for part in ("demo/env", "demo/project", "runtime"):
            (base / part).mkdir(parents=True)
        yield base / "demo"


@pytest.mark.parametrize("name", INPUTS)
def test_an_unreadable_input_is_said_to_be_one(public: Path, name: str) -> None:
    path = write(public, name, INPUTS[name])
    with unprivileged(path):
        path.chmod(0)
        assert refusal(public) == f"{path}: can not be read: permission denied"


# places


def test_nothing_of_a_run_stays_but_its_artifacts(demo: Path) -> None:
    write(demo, "extravars", "a: 1")
    before = sorted(path for path in demo.rglob("*") if "artifacts" not in path.parts)
    with opened(
        demo, target=RoleTarget("r", "all"), extravars={"x": 1}, inventory=("web\n",), envvars={"A": "b"},
        passwords={"p": Secret("s")}, ssh_key=Secret("k"),
    ) as workspace:  # fmt: skip
        assert workspace.playbook
        assert workspace.playbook.exists()
        assert not [path for path in (demo / "env").iterdir() if path.name != "extravars"]
    assert sorted(path for path in demo.rglob("*") if "artifacts" not in path.parts) == before
    assert not workspace.run_dir.exists()
    assert sorted(path.name for path in (demo / "artifacts" / "1").iterdir()) == ["fact_cache", "job_events"]


def test_the_places_are_private_whatever_the_umask(demo: Path) -> None:
    old = os.umask(0)
    try:
        with opened(demo, extravars={"x": 1}) as workspace:
            assert {mode(path) for path in workspace.run_dir.rglob("*") if path.is_file()} == {0o600}
            assert {mode(path) for path in workspace.run_dir.rglob("*") if path.is_dir()} == {0o700}
            assert mode(workspace.run_dir) == 0o700
            artifacts = demo / "artifacts"
            assert {mode(path) for path in (artifacts, *artifacts.rglob("*")) if path.is_dir()} == {0o700}
            assert mode(workspace.spool) == 0o600
            assert workspace.spool.read_bytes() == b""
            assert [path.name for path in workspace.callback_dir.iterdir()] == ["ee_events.py"]
    finally:
        os.umask(old)


def test_the_places_go_when_the_job_raises(demo: Path) -> None:
    with pytest.raises(KeyboardInterrupt), opened(demo, target=RoleTarget("r", "all")) as workspace:
        raise KeyboardInterrupt
    assert not workspace.run_dir.exists()
    assert not workspace.events_dir.exists()
    assert not list((demo / "project").iterdir())


def test_the_places_go_when_opening_fails_half_way(demo: Path) -> None:
    with pytest.raises(ConfigurationError), opened(demo, target=RoleTarget("r", "all", {"x": object()})):
        pass
    assert not list((demo.parent / "runtime").iterdir())
    assert not (demo / "artifacts" / "1" / ".events").exists()


def test_the_run_directory_is_in_memory_that_is_the_users(demo: Path) -> None:
    with opened(demo) as workspace:
        assert workspace.run_dir.parent == demo.parent / "runtime"
        assert workspace.run_dir.name.startswith("ee_runner_")
    for unusable in ("", "relative", str(demo.parent / "missing"), str(demo.parent / "file")):
        (demo.parent / "file").touch()
        with opened(demo, {"XDG_RUNTIME_DIR": unusable}) as workspace:
            memory = Path("/dev/shm")
            assert workspace.run_dir.parent == (memory if memory.is_dir() else Path(tempfile.gettempdir()))


def test_two_runs_share_a_private_data_directory(demo: Path) -> None:
    role = RoleTarget("r", "all")
    with (
        opened(demo, target=role) as one,
        Workspace.open(replace(job(demo, target=role), ident="2", artifact_dir=demo / "artifacts" / "2"), {}) as two,
    ):
        assert one.run_dir != two.run_dir
        assert one.playbook != two.playbook
        assert one.spool != two.spool


def test_what_an_earlier_job_of_the_ident_left_makes_room_its_facts_apart(demo: Path) -> None:
    directory = demo / "artifacts" / "1"
    for name in ("job_events/1-x.json", "fact_cache/host", ".events/spool", "stdout", "rc", "status", "of-the-users"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("earlier")
    with opened(demo) as workspace:
        assert workspace.spool.read_bytes() == b""
    left = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert left == {"fact_cache/host", "of-the-users"}


def test_an_ident_is_one_jobs_while_that_runs(demo: Path) -> None:
    with opened(demo):
        assert "'1' is running" in refusal(demo)
    with opened(demo):
        pass


def test_a_file_in_the_way_of_artifacts_is_named(demo: Path) -> None:
    (demo / "artifacts").touch()
    with pytest.raises(ArtifactError, match=r"artifacts is not a directory\. Move it away"), opened(demo):
        pass


def test_artifacts_that_can_not_be_made_are_explained(public: Path) -> None:
    with unprivileged(public):
        public.chmod(0o500)
        with pytest.raises(ArtifactError, match="artifacts can not be made: permission denied"), opened(public):
            pass
        public.chmod(0o700)


def test_the_project_may_be_a_copy(demo: Path) -> None:
    (demo / "project" / "test.yml").write_text("[]")
    (demo / "project" / "link.yml").symlink_to("test.yml")
    base = demo.parent / "base" / "deep"
    with opened(demo, directory_isolation_base_path=base) as workspace:
        assert workspace.project_dir.parent == base
        assert (workspace.project_dir / "link.yml").readlink() == Path("test.yml")
        (workspace.project_dir / "test.yml").write_text("changed")
        assert mode(workspace.project_dir) == mode(demo / "project")
    assert (demo / "project" / "test.yml").read_text() == "[]"
    assert list(base.iterdir()) == []


def test_a_project_is_not_copied_into_itself_nor_with_pipes_in_it(demo: Path) -> None:
    assert "copied into itself" in refusal(demo, directory_isolation_base_path=demo / "project" / "x")
    os.mkfifo(demo / "project" / ".ee_runner_1.yml")
    with opened(demo, directory_isolation_base_path=demo.parent) as workspace:
        assert not list(workspace.project_dir.iterdir())  # another job's playbook
    os.mkfifo(demo / "project" / "pipe")
    assert f"{demo}/project/pipe: " in refusal(demo, directory_isolation_base_path=demo.parent)
    assert not list(demo.parent.glob("ee_runner_*"))


# what runs


def test_a_role_gets_a_playbook_in_the_project(demo: Path) -> None:
    with opened(demo, target=RoleTarget("r", "web", {"a": [1]}, skip_facts=True)) as workspace:
        assert workspace.playbook
        assert workspace.playbook.parent == demo / "project"
        assert json.loads(workspace.playbook.read_text()) == [
            {"hosts": "web", "roles": [{"role": "r", "vars": {"a": [1]}}], "gather_facts": False}
        ]
        assert mode(workspace.playbook) == 0o600
    with opened(demo, target=RoleTarget("r", "web")) as workspace:
        assert workspace.playbook
        assert json.loads(workspace.playbook.read_text()) == [{"hosts": "web", "roles": [{"role": "r"}]}]


def test_without_a_project_to_write_to_the_playbook_is_in_the_run_directory(public: Path) -> None:
    (public / "project" / "roles").mkdir()
    (public / "roles").mkdir()
    role = RoleTarget("r", "all")
    with unprivileged(public, public.parent / "runtime"), opened(public, target=role) as workspace:
        pass
    if os.geteuid() == 0:  # the project belongs to root
        assert workspace.playbook == workspace.run_dir / "playbook.yml"
        assert workspace.own_roles == (public / "project" / "roles", public / "roles")


def test_plays_given_as_data_become_a_playbook(demo: Path) -> None:
    with opened(demo, target=PlaybookTarget(('[{"hosts": "all"}]\n',))) as workspace:
        assert workspace.playbook
        assert json.loads(workspace.playbook.read_text()) == [{"hosts": "all"}]


def test_the_private_data_directorys_inventory_is_used_unless_another_is_given(demo: Path) -> None:
    with opened(demo) as workspace:
        assert workspace.inventory == (str(demo / "inventory"),)
    with opened(demo, inventory=("a,b", "/x")) as workspace:
        assert workspace.inventory == ("a,b", "/x")
    with opened(demo, inventory=("",)) as workspace:
        assert workspace.inventory == ()
    with opened(demo, envvars={"ANSIBLE_INVENTORY": "a,"}) as workspace:
        assert workspace.inventory == ()
    with opened(demo, target=CommandTarget("ansible", (), demo)) as workspace:
        assert workspace.inventory == ()
    (demo / "inventory").rmdir()
    with opened(demo) as workspace:
        assert workspace.inventory == ()


@pytest.mark.parametrize(
    ("text", "name"),
    [("[web]\na\n", "hosts"), ("a ansible_connection=local\n", "hosts"), ('{"all": {}}\n', "hosts.json")],
)
def test_an_inventory_text_becomes_a_file_of_the_run(demo: Path, text: str, name: str) -> None:
    with opened(demo, inventory=(text,)) as workspace:
        (source,) = map(Path, workspace.inventory)
        assert source.name == name
        assert source.read_text() == text
        assert workspace.run_dir in source.parents


def test_a_command_runs_where_it_was_given_with_the_inputs_of_the_directory(demo: Path) -> None:
    write(demo, "envvars", "A: b")
    with opened(demo, target=CommandTarget("ansible", (), demo.parent), own_root=True) as workspace:
        assert workspace.project_dir == demo.parent
        assert workspace.envvars == {"A": "b"}


def test_a_job_without_a_project_runs_in_the_private_data_directory(demo: Path) -> None:
    (demo / "project").rmdir()
    with opened(demo, target=ModuleTarget("ping", "all")) as workspace:
        assert workspace.project_dir == demo


# where Ansible searches


def test_callback_plugins_of_ansible_stay_in_the_search(demo: Path) -> None:
    default = ("~/.ansible/plugins/callback", "/usr/share/ansible/plugins/callback")
    config = demo / "project" / "ansible.cfg"
    with opened(demo, own_root=True) as workspace:
        assert workspace.callback_plugins == default
    config.write_text("[defaults]\ncallback_plugins = mine:/theirs ; note\nroles_path = r\n")
    with opened(demo) as workspace:
        assert workspace.callback_plugins == (str(demo / "project" / "mine"), "/theirs")
        assert workspace.roles_path == (str(demo / "project" / "r"),)
    with opened(demo, envvars={"ANSIBLE_CALLBACK_PLUGINS": "/a:/b"}) as workspace:
        assert workspace.callback_plugins == ("/a", "/b")
    with opened(demo, {"ANSIBLE_CALLBACK_PLUGINS": "/c"}) as workspace:
        assert workspace.callback_plugins == ("/c",)
        assert workspace.inherited == {"ANSIBLE_CALLBACK_PLUGINS": "/c"}
    with opened(demo, {"ANSIBLE_CALLBACK_PLUGINS": "/c"}, own_root=True) as workspace:
        assert workspace.callback_plugins == (str(demo / "project" / "mine"), "/theirs")
        assert workspace.inherited == {}


def test_the_users_own_configuration_counts_where_it_is_in_force(demo: Path) -> None:
    home = demo.parent / "home"
    home.mkdir()
    (home / ".ansible.cfg").write_text("[defaults]\ncallback_plugins = ~/plugins\n")
    with opened(demo) as workspace:
        assert workspace.callback_plugins == (str(home / "plugins"),)
    with opened(demo, own_root=True) as workspace:
        assert workspace.callback_plugins[0] == "~/.ansible/plugins/callback"


# values that are secret


@pytest.mark.parametrize("name", ["passwords", "envvars"])
@pytest.mark.parametrize(
    "text",
    [
        "a: !Hunter2x",
        "a: *Hunter2x",
        "a: !Hun!Hunter2x y",
        "a: &Hunter2x b\nc: &Hunter2x d",
        "a: {b: Hunter2x}",
        "a: @Hunter2x",
        "a: `Hunter2x",
        "a: %Hunter2x",
        "a: |Hunter2x",
        "a: 'Hunter2x",
        "a: Hunter2x: b",
        "a=Hunter2x",
        "Hunter2x",
        "- Hunter2x",
        '{"a": ["Hunter2x"]}',
        '{"a": "Hunter2x\\ud800"}',
    ],
)
def test_no_message_shows_a_value(demo: Path, name: str, text: str) -> None:
    path = write(demo, name, text)
    message = refusal(demo)
    assert str(path) in message
    assert "Hunter2x" not in message


def test_a_variable_that_was_written_for_a_shell_is_refused_without_its_value(demo: Path) -> None:
    write(demo, "envvars", "TOKEN=Hunter2x: b")
    assert refusal(demo).endswith("the name of a variable is expected, found 'TOKEN='")


def test_a_password_that_reads_as_a_tag_is_refused_with_what_to_do(demo: Path) -> None:
    write(demo, "passwords", "---\nSSH: !Hunter2x\n")

    assert refusal(demo) == (
        f"{demo}/env/passwords:2: 'SSH': a single value is expected, found a tag; "
        "put quotes around a value that begins with '!'"
    )


# places that were there before


def test_the_directories_of_a_job_that_were_open_to_others_are_closed(demo: Path) -> None:
    directories = [demo / "artifacts" / "1", demo / "artifacts" / "1" / "a", demo / "artifacts" / "1" / "a" / "facts"]
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)

    with opened(demo, fact_cache="a/facts") as workspace:
        assert [mode(directory) for directory in (*directories, workspace.events_dir)] == [0o700] * 4
    assert mode(demo) != 0o700


@pytest.mark.parametrize("link", ["fact_cache", "a"])
def test_a_symbolic_link_in_place_of_a_directory_of_the_job_is_refused(demo: Path, link: str) -> None:
    (demo / "artifacts" / "1").mkdir(parents=True)
    (demo.parent / "elsewhere").mkdir()
    path = demo / "artifacts" / "1" / link
    path.symlink_to(demo.parent / "elsewhere")

    assert refusal(demo, fact_cache="fact_cache" if link == "fact_cache" else "a/b").startswith(
        f"{path} is a symbolic link"
    )
    assert not list((demo.parent / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["job_events", ".events"])
def test_a_symbolic_link_left_in_place_of_the_events_is_not_followed(demo: Path, name: str) -> None:
    (demo / "artifacts" / "1").mkdir(parents=True)
    (demo.parent / "elsewhere").mkdir()
    path = demo / "artifacts" / "1" / name
    path.symlink_to(demo.parent / "elsewhere")

    with opened(demo):
        assert not path.is_symlink()
    assert not list((demo.parent / "elsewhere").iterdir())


OTHER_KERNEL = ContainerSpec(options=("--runtime", "kata"))


def test_what_may_be_secret_lies_in_no_file(demo: Path) -> None:
    write(demo, "extravars", "a: hunter2")
    given: dict[str, Any] = {"extravars": {"b": "hunter2"}, "inventory": ("h a=hunter2\n", '{"all": "hunter2"}\n')}
    with opened(demo, target=RoleTarget("r", "all", {"c": "hunter2"}), **given) as workspace:
        own = [path for base in (workspace.run_dir, demo / "project", demo / "artifacts") for path in base.rglob("*")]
        assert workspace.playbook in own
        assert not [path for path in own if path.is_file() and b"hunter2" in path.read_bytes()]


def test_extra_vars_are_read_once_and_then_gone(demo: Path) -> None:
    """Ansible prints the neighbours of a variable that fails, when it can read the file once more."""
    with opened(demo, extravars={"a": "hunter2", "b": 1}) as workspace:
        assert b"hunter2" in workspace.extravars_files[0].read_bytes()
        assert not workspace.extravars_files[0].exists()


def test_an_inventory_of_text_is_read_by_one_plugin_after_the_other(demo: Path) -> None:
    text = "web\n" + "#" * 200_000 + "\n"
    with opened(demo, inventory=(text,)) as workspace:
        for _ in range(20):
            with Path(workspace.inventory[0]).open("rb") as file:
                file.read(2)
            assert Path(workspace.inventory[0]).read_text() == text


def test_an_artifact_directory_that_is_a_link_is_refused_and_nothing_behind_it_touched(demo: Path) -> None:
    (elsewhere := demo.parent / "elsewhere").mkdir(mode=0o755)
    (elsewhere / "status").write_text("precious")
    (demo / "artifacts").mkdir()
    (demo / "artifacts" / "1").symlink_to(elsewhere)
    assert "artifacts/1 can not be made: something that is no directory" in refusal(demo)
    assert [path.read_text() for path in elsewhere.iterdir()] == ["precious"]
    assert mode(elsewhere) == 0o755


def test_pipes_that_nobody_reads_hold_nothing_up(demo: Path) -> None:
    before, began, stack = threading.active_count(), time.monotonic(), ExitStack()
    with opened(demo, target=RoleTarget("r", "all"), extravars={"b": "x" * 500_000}, inventory=("h\n",)) as workspace:
        assert threading.active_count() == before + 3
        half_read = stack.enter_context(workspace.extravars_files[0].open("rb"))
        half_read.read(10)
    assert time.monotonic() - began < 3
    assert threading.active_count() == before
    stack.close()


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_a_container_of_another_kernel_reads_files(demo: Path, engine: str) -> None:
    with opened(demo, extravars={"b": 1}, engine=engine, container=OTHER_KERNEL) as workspace:
        assert workspace.extravars_files[0].is_file()


def test_a_generated_playbook_that_does_not_fit_leaves_nothing_in_the_project(demo: Path) -> None:
    plays = PlaybookTarget(("[" + " " * 500_000 + "]\n",))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        said = refusal(demo, target=plays, engine="docker", container=OTHER_KERNEL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert "playbook.yml can not be made" in said
    assert not list((demo / "project").iterdir())


def test_an_artifact_directory_of_a_name_too_long_is_refused_in_words(demo: Path) -> None:
    with (
        pytest.raises(ArtifactError, match="can not be made"),
        Workspace.open(
            replace(job(demo), artifact_dir=demo / ("a" * 300) / "1"), {"XDG_RUNTIME_DIR": str(demo.parent / "runtime")}
        ),
    ):
        pass


def test_an_inventory_text_of_bytes_that_are_no_utf8_reaches_ansible_as_it_is(demo: Path) -> None:
    with opened(demo, inventory=("host note=\udcff\n",)) as workspace:
        assert Path(workspace.inventory[0]).read_bytes() == b"host note=\xff\n"
