"""The drop-in: what programs written against ansible-runner import, and what they then see."""

from __future__ import annotations

import base64
import inspect
import io
import json
import os
import stat
import subprocess
import sys
import threading
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import ansible_runner
import ee_runner
from ansible_runner import streaming, utils
from ansible_runner.config.ansible_cfg import AnsibleCfgConfig
from ansible_runner.config.command import CommandConfig
from ansible_runner.config.doc import DocConfig
from ansible_runner.config.inventory import InventoryConfig
from ansible_runner.config.runner import ExecutionMode, RunnerConfig
from ansible_runner.loader import ArtifactLoader
from ansible_runner.utils import capacity
from ansible_runner.utils.streaming import stream_dir, unstream_dir
from ee_runner.errors import TruncatedStream, UnsafeArchive

GREETING = "- hosts: one\n  gather_facts: false\n  tasks: [{debug: {msg: a greeting}}]\n"


@pytest.fixture
def greeting(demo: Path) -> Path:
    """A private data directory whose playbook says one thing."""
    (demo / "project" / "site.yml").write_text(GREETING)
    return demo


def fresh(code: str) -> str:
    """Run code in an interpreter of its own and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# What is imported


def test_importing_it_loads_nothing_else() -> None:
    before = "import sys; before = set(sys.modules); import ansible_runner; print(sorted(set(sys.modules) - before))"
    assert fresh(before) == "['ansible_runner']"


@pytest.mark.parametrize(
    "name",
    [
        "config.command.CommandConfig",
        "config.runner.RunnerConfig",
        "defaults.default_container_image",
        "exceptions.AnsibleRunnerException",
        "interface.get_plugin_docs",
        "interface.init_runner",
        "interface.run",
        "loader.ArtifactLoader",
        "output.debug",
        "plugins.items",
        "runner.Runner",
        "runner_config.RunnerConfig",
        "run_async",
        "streaming.Processor",
        "streaming.Transmitter",
        "streaming.UUIDEncoder",
        "streaming.Worker",
        "utils.isinventory",
    ],
)
def test_a_name_is_reached_through_the_package_alone(name: str) -> None:
    fresh(f"import ansible_runner; ansible_runner.{name}")


def test_the_package_lists_what_it_has_and_refuses_the_rest() -> None:
    assert set(ansible_runner.__all__) <= set(dir(ansible_runner))
    assert all(getattr(ansible_runner, name) is not None for name in ansible_runner.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        ansible_runner.no_such_name  # noqa: B018


def test_its_exceptions_catch_what_the_library_raises() -> None:
    assert ansible_runner.AnsibleRunnerException is ee_runner.RunnerError
    assert ansible_runner.exceptions.ConfigurationError is ee_runner.ConfigurationError
    with pytest.raises(ansible_runner.AnsibleRunnerException, match="playbook"):
        ansible_runner.run(playboook="site.yml")  # type: ignore[call-arg]


def test_a_function_that_is_replaced_in_a_programs_tests_is_the_one_that_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    monkeypatch.setattr("ansible_runner.interface.run", lambda **_: calls.append("in its module"))
    ansible_runner.interface.run(playbook="x")
    monkeypatch.setattr("ansible_runner.run", lambda **_: calls.append("in the package"))
    ansible_runner.run(playbook="x")
    assert calls == ["in its module", "in the package"]
    monkeypatch.undo()
    assert ansible_runner.run is ansible_runner.interface.run


@pytest.mark.parametrize(
    ("function", "names"),
    [
        ("run_command", "executable_cmd cmdline_args"),
        ("run_command_async", "executable_cmd cmdline_args"),
        ("get_plugin_docs", "plugin_names plugin_type response_format snippet playbook_dir module_path"),
        ("get_plugin_list", "list_files response_format plugin_type playbook_dir module_path"),
        (
            "get_inventory",
            "action inventories response_format host playbook_dir vault_ids vault_password_file output_file export",
        ),
        ("get_ansible_config", "action config_file only_changed"),
        ("get_role_list", "collection playbook_dir"),
        ("get_role_argspec", "role collection playbook_dir"),
        (
            "Runner",
            "config cancel_callback remove_partials event_handler artifacts_handler finished_callback status_handler",
        ),
    ],
)
def test_arguments_stand_in_the_order_that_programs_know(function: str, names: str) -> None:
    parameters = inspect.signature(getattr(ansible_runner, function)).parameters.values()
    positional = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert positional == names.split()


# What is shown


def test_a_run_shows_ansibles_output_and_the_librarys_own_shows_none(
    greeting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ee_runner.run(private_data_dir=greeting, playbook="site.yml")
    assert capsys.readouterr() == ("", "")
    ansible_runner.run(private_data_dir=greeting, playbook="site.yml")
    shown = capsys.readouterr().out
    assert "a greeting" in shown
    assert "\r" not in shown


@pytest.mark.parametrize(
    "quiet", [{"quiet": True}, {"settings": {"suppress_ansible_output": True}}, {"json_mode": True, "quiet": True}]
)
def test_a_quiet_run_shows_nothing(
    greeting: Path, capsys: pytest.CaptureFixture[str], quiet: Mapping[str, Any]
) -> None:
    runner = ansible_runner.run(private_data_dir=greeting, playbook="site.yml", **quiet)
    assert (runner.rc, capsys.readouterr()) == (0, ("", ""))


def test_json_mode_shows_an_event_a_line(greeting: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner = ansible_runner.run(private_data_dir=greeting, playbook="site.yml", json_mode=True)
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert shown == list(runner.events)


def test_a_run_in_a_thread_is_shown_too(greeting: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thread, runner = ansible_runner.run_async(private_data_dir=greeting, playbook="site.yml")
    thread.join(60)
    assert runner.status == "successful"
    assert "a greeting" in capsys.readouterr().out


def test_a_configuration_and_a_runner_by_hand_are_shown_and_give_status_and_rc(
    greeting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ansible_runner.RunnerConfig(private_data_dir=str(greeting), playbook="site.yml")
    config.prepare()
    assert config.generate_ansible_command()[0].endswith("ansible-playbook")
    assert config.execution_mode is ExecutionMode.ANSIBLE_PLAYBOOK
    status, rc = ansible_runner.Runner(config=config).run()
    assert (status, rc) == ("successful", 0)
    assert "a greeting" in capsys.readouterr().out


def test_output_can_be_suppressed_between_preparing_and_running(
    greeting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RunnerConfig(str(greeting), playbook="site.yml")
    config.prepare()
    config.suppress_ansible_output = True
    ansible_runner.Runner(config).run()
    assert capsys.readouterr().out == ""


def test_a_prepared_runner_takes_another_environment(demo: Path) -> None:
    (demo / "project" / "site.yml").write_text(GREETING.replace("a greeting", "\"{{ lookup('env', 'ADDED') }}\""))
    runner = ansible_runner.interface.init_runner(private_data_dir=str(demo), playbook="site.yml", quiet=True)
    runner.config.env["ADDED"] = "afterwards"
    runner.run()
    assert [e["event_data"]["res"]["msg"] for e in runner.events if e["event"] == "runner_on_ok"] == ["afterwards"]


# Commands


def test_a_command_is_shown_and_returned(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["-c", "echo out; echo err >&2; exit 3"]
    out, err, rc = ansible_runner.run_command("sh", words, runner_mode="subprocess")
    assert (out, err, rc) == ("out\n", "err\n", 3)
    assert capfd.readouterr() == ("out\n", "err\n")


def test_a_quiet_command_is_returned_alone(capfd: pytest.CaptureFixture[str]) -> None:
    assert ansible_runner.run_command("echo", ["out"], runner_mode="subprocess", quiet=True) == ("out\n", "", 0)
    assert capfd.readouterr() == ("", "")


def test_a_command_writes_to_the_files_that_it_is_given(capfd: pytest.CaptureFixture[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    words = ["-c", "echo out; echo err >&2"]
    thread, runner = ansible_runner.run_command_async(
        "sh", words, runner_mode="subprocess", output_fd=out, error_fd=err
    )
    thread.join(60)
    assert (out.getvalue(), err.getvalue(), runner.rc) == ("out\n", "err\n", 0)
    assert capfd.readouterr() == ("", "")


def test_a_command_is_prepared_first_and_run_later() -> None:
    finished: list[ee_runner.Runner] = []
    runner = ansible_runner.interface.init_command_config(
        "sh", ["-c", "echo later"], runner_mode="subprocess", quiet=True, finished_callback=finished.append
    )
    assert runner.status == "unstarted"
    assert runner.run() == ("successful", 0)
    with runner.stdout as stdout:
        assert stdout.read() == "later\n"
    assert finished == [runner]


def test_the_docs_of_a_plugin_are_asked_for_first_and_read_later(demo: Path) -> None:
    runner = ansible_runner.interface.init_plugin_docs_config(
        ["debug"], response_format="json", private_data_dir=str(demo), quiet=True
    )
    runner.run()
    with runner.stdout as stdout:
        assert json.load(stdout)["debug"]["doc"]["module"] == "debug"


def test_questions_are_answered_and_not_shown(demo: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = ansible_runner.get_inventory("list", [str(demo / "inventory")], response_format="json")
    assert "one" in out["_meta"]["hostvars"]  # type: ignore[index]
    dumped, _ = ansible_runner.get_ansible_config("dump")
    assert "DEFAULT_FORKS" in dumped
    assert capfd.readouterr() == ("", "")


def test_each_kind_of_question_has_its_configuration(demo: Path) -> None:
    def words(config: ee_runner.RunnerConfig) -> list[str]:
        return [Path(config.command[0]).name, *config.command[1:]]

    command = CommandConfig(private_data_dir=str(demo), runner_mode="subprocess")
    command.prepare_run_command("ansible-galaxy", ["--version"])
    assert words(command) == ["ansible-galaxy", "--version"]
    doc = DocConfig(private_data_dir=str(demo))
    doc.prepare_plugin_docs_command(["debug"], plugin_type="module", response_format="json")
    assert words(doc) == ["ansible-doc", "-j", "-t", "module", "debug"]
    listing = DocConfig(private_data_dir=str(demo))
    listing.prepare_plugin_list_command(plugin_type="lookup")
    assert words(listing) == ["ansible-doc", "-l", "-t", "lookup"]
    roles = DocConfig(private_data_dir=str(demo))
    roles.prepare_role_list_command("some.collection", str(demo))
    assert words(roles)[-1] == "some.collection"
    argspec = DocConfig(private_data_dir=str(demo))
    argspec.prepare_role_argspec_command("role", "some.collection", str(demo))
    assert words(argspec)[-1] == "some.collection.role"
    inventory = InventoryConfig(private_data_dir=str(demo))
    inventory.prepare_inventory_command("list", ["hosts"])
    assert words(inventory) == ["ansible-inventory", "--list", "-i", "hosts"]
    cfg = AnsibleCfgConfig(private_data_dir=str(demo))
    cfg.prepare_ansible_config_command("dump", only_changed=True)
    assert words(cfg) == ["ansible-config", "dump", "--only-changed"]


# Plugins


def test_plugins_is_a_live_dictionary_and_a_module(greeting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ansible_runner.plugins

    statuses: list[str] = []

    class Plugin:
        @staticmethod
        def status_handler(runner_config: Any, data: dict[str, Any]) -> None:
            statuses.append(f"{data['status']} {runner_config.ident}")

        @staticmethod
        def event_handler(runner_config: Any, data: dict[str, Any]) -> None: ...

    assert sys.modules["ansible_runner.plugins"] is ansible_runner.plugins  # type: ignore[comparison-overlap]
    monkeypatch.setitem(ansible_runner.plugins, "added", Plugin)
    ansible_runner.run(private_data_dir=greeting, playbook="site.yml", ident=7, quiet=True)
    assert statuses == ["starting 7", "running 7", "successful 7"]


# Remote jobs


def test_the_three_ends_are_classes(greeting: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("process")
    request, result = io.BytesIO(), io.BytesIO()
    sender = streaming.Transmitter(_output=request, private_data_dir=str(greeting), playbook="site.yml", ident=7)
    assert sender.run() == ("unstarted", None)
    request.seek(0)
    worker = streaming.Worker(_input=request, _output=result, keepalive_seconds=0)
    assert (worker.status, worker.rc) == ("unstarted", None)
    assert worker.run() == (worker.status, worker.rc) == ("successful", 0)
    assert not Path(worker.private_data_dir).exists()
    result.seek(0)
    statuses: list[str] = []
    processor = streaming.Processor(
        _input=result,
        status_handler=lambda data, runner_config: statuses.append(f"{data['status']} {bool(runner_config.command)}"),
        private_data_dir=str(place),
        ident=7,
        quiet=True,
        playbook="site.yml",
    )
    assert (processor.artifact_dir, processor.config.settings) == (str(place / "artifacts/7"), {})
    assert processor.run() == (processor.status, processor.rc) == ("successful", 0)
    assert statuses == ["starting True", "running True", "successful True"]
    assert (place / "artifacts/7/rc").read_text() == "0"


def test_the_arguments_of_the_ends_stand_in_the_order_that_programs_know() -> None:
    handlers = "status_handler event_handler artifacts_handler cancel_callback finished_callback"
    known = {
        streaming.Transmitter: "_output",
        streaming.Worker: "_input _output keepalive_seconds",
        streaming.Processor: f"_input {handlers}",
    }
    for end, names in known.items():
        parameters = inspect.signature(end).parameters.values()
        assert [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD] == names.split()


def test_a_uuid_is_its_digits_in_json() -> None:
    value = uuid.UUID(int=1)
    assert json.loads(json.dumps({"uuid": value}, cls=streaming.UUIDEncoder)) == {"uuid": value.hex}
    with pytest.raises(TypeError, match="not JSON serializable"):
        json.dumps({"uuid": object()}, cls=streaming.UUIDEncoder)


def test_a_directory_goes_through_a_stream_and_nothing_after_it_is_taken(tmp_path: Path) -> None:
    source, stream = tmp_path / "source", io.BytesIO()
    (source / "empty").mkdir(parents=True)
    (source / "script").write_text("text")
    (source / "script").chmod(0o750)
    (source / "link").symlink_to("script")
    os.mkfifo(source / "pipe")
    stream_dir(str(source), stream)
    stream.write(b'{"eof": true}')
    for _ in range(2):  # what is there is replaced
        stream.seek(0)
        unstream_dir(stream, json.loads(stream.readline())["zipfile"], str(tmp_path / "target"))
        assert stream.readline() == b'{"eof": true}'
    target = tmp_path / "target"
    assert {path.name for path in target.iterdir()} == {"empty", "link", "script"}
    assert ((target / "link").readlink(), (target / "link").read_text()) == (Path("script"), "text")
    assert stat.S_IMODE((target / "script").stat().st_mode) == 0o750


def test_an_archive_of_others_writes_nothing_elsewhere_and_one_that_is_cut_says_so(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("inside", "text")
        archive.writestr("../outside", "text")
    encoded = base64.b64encode(content.getvalue())
    with pytest.raises(UnsafeArchive, match="outside"):
        unstream_dir(io.BytesIO(encoded), len(content.getvalue()), str(tmp_path / "target"))
    assert not (tmp_path / "outside").exists()
    with pytest.raises(TruncatedStream, match="ends too early"):
        unstream_dir(io.BytesIO(encoded[:40]), len(content.getvalue()), str(tmp_path / "target"))


# Helpers


def test_playbooks_and_inventories_are_told_from_their_paths() -> None:
    plays: list[Any] = [[{}], ({},), "site.yml", {}, None]
    assert [utils.isplaybook(each) for each in plays] == [True, True, False, False, False]
    sources: list[Any] = [{}, "hosts", ["hosts"], None]
    assert [utils.isinventory(each) for each in sources] == [True, True, False, False]


def test_words_and_names_are_made_safe() -> None:
    assert utils.args2cmdline("a b", "c'd", "e") == "'a b' 'c'\"'\"'d' e"
    assert utils.sanitize_container_name("ansible_runner_a/b c.d-e") == "ansible_runner_a_b_c_d-e"


def test_a_bunch_has_what_it_is_given() -> None:
    bunch = utils.Bunch(a=1)
    bunch.update(b=2)
    assert (bunch.a, bunch.b, bunch.get("b"), bunch.get("c")) == (1, 2, 2, None)
    with pytest.raises(AttributeError):
        bunch.c  # noqa: B018


def test_programs_are_found_or_named() -> None:
    assert utils.get_executable_path("sh").endswith("/sh")
    with pytest.raises(ansible_runner.ConfigurationError, match="no-such-program"):
        utils.get_executable_path("no-such-program")
    assert utils.check_isolation_executable_installed("sh")
    assert not utils.check_isolation_executable_installed("no-such-program")


def test_an_artifact_is_private_and_is_left_alone_when_it_is_the_same(tmp_path: Path) -> None:
    place = tmp_path / "new"
    path = Path(utils.dump_artifact("text", str(place), "name"))
    assert (path, path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (place / "name", "text", 0o600)
    first = path.stat()
    utils.dump_artifact("text", str(place), "name")
    assert path.stat().st_ino == first.st_ino
    utils.dump_artifact("other", str(place), "name")
    assert (path.read_text(), [each.name for each in place.iterdir()]) == ("other", ["name"])
    path.chmod(0o644)
    utils.dump_artifact("other", str(place), "name")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_artifact_without_a_name_gets_one_of_its_own(tmp_path: Path) -> None:
    made = {utils.dump_artifact(text, str(tmp_path)) for text in ("one", "two")}
    assert {Path(path).read_text() for path in made} == {"one", "two"}


@pytest.mark.parametrize("data", ["tëxt", "tëxt".encode()])
def test_a_named_pipe_gives_its_content_to_one_reader(tmp_path: Path, data: str | bytes) -> None:
    pipe = tmp_path / "pipe"
    utils.open_fifo_write(str(pipe), data)
    mode = pipe.stat().st_mode
    assert (stat.S_ISFIFO(mode), stat.S_IMODE(mode)) == (True, 0o600)
    writers = [thread for thread in threading.enumerate() if str(pipe) in thread.name]
    assert pipe.read_bytes().decode() == "tëxt"
    for writer in writers:
        writer.join(30)
        assert not writer.is_alive()
    assert len(writers) == 1
    with pytest.raises(FileExistsError):
        utils.open_fifo_write(str(pipe), data)


def test_a_reader_that_leaves_early_ends_the_writer_too(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    utils.open_fifo_write(str(pipe), b"x" * 1_000_000)
    (writer,) = (thread for thread in threading.enumerate() if str(pipe) in thread.name)
    with pipe.open("rb") as reader:
        assert reader.read(1) == b"x"
    writer.join(30)
    assert not writer.is_alive()


def test_a_key_in_a_named_pipe_is_read_by_a_run(greeting: Path) -> None:
    (greeting / "env").mkdir(exist_ok=True)
    utils.open_fifo_write(str(greeting / "env" / "extravars"), "greeting: from the pipe\n")
    (greeting / "project" / "site.yml").write_text(GREETING.replace("a greeting", '"{{ greeting }}"'))
    runner = ansible_runner.run(private_data_dir=greeting, playbook="site.yml", quiet=True)
    assert [e["event_data"]["res"]["msg"] for e in runner.events if e["event"] == "runner_on_ok"] == ["from the pipe"]


def test_the_newest_artifacts_are_kept_and_those_of_jobs_that_run(tmp_path: Path) -> None:
    for age, (name, status) in enumerate(
        {"old": "successful", "running": "running", "b": "failed", "a": "failed"}.items()
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "status").write_text(status)
        os.utime(tmp_path / name, (age, age))
    utils.cleanup_artifact_dir(str(tmp_path), 0)
    assert len(list(tmp_path.iterdir())) == 4
    utils.cleanup_artifact_dir(str(tmp_path), 2)
    assert {path.name for path in tmp_path.iterdir()} == {"running", "a", "b"}


def test_files_are_loaded_by_what_they_hold(tmp_path: Path) -> None:
    for name, text in {"json": '{"a": 1}', "yaml": "a: [1]", "text": "just text", "list": "- 1"}.items():
        (tmp_path / name).write_text(text)
    loader = ArtifactLoader(str(tmp_path))
    assert [loader.load_file(name) for name in ("json", "yaml", "text", "list")] == [
        {"a": 1},
        {"a": [1]},
        "just text",
        [1],
    ]
    assert loader.load_file(str(tmp_path / "yaml"), dict) == {"a": [1]}
    assert (loader.load_file("yaml", str, None), loader.load_file("yaml", str)) == ("a: [1]", b"a: [1]")
    with pytest.raises(ansible_runner.ConfigurationError, match=r"list: a mapping .* is expected"):
        loader.load_file("list", Mapping)
    with pytest.raises(ansible_runner.ConfigurationError, match="absent: there is no such file"):
        loader.load_file("absent")
    assert (loader.isfile("json"), loader.isfile("absent"), loader.abspath("x")) == (True, False, str(tmp_path / "x"))


def test_a_named_pipe_is_loaded_once_and_kept(tmp_path: Path) -> None:
    utils.open_fifo_write(str(tmp_path / "pipe"), "a: 1")
    loader = ArtifactLoader(str(tmp_path))
    assert [loader.load_file("pipe"), loader.load_file("pipe")] == [{"a": 1}, {"a": 1}]


def test_the_machine_is_measured() -> None:
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    assert capacity.get_mem_in_bytes() == int(memory.split()[1]) * 1024
    assert capacity.get_cpu_count() == os.cpu_count()


def test_a_machine_keeps_its_identifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    made = capacity.ensure_uuid()
    (path,) = tmp_path.iterdir()
    assert (capacity.ensure_uuid(), capacity.ensure_uuid(path), path.read_text()) == (made, made, made)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_messages_go_to_the_log_and_to_the_screen(tmp_path: Path) -> None:
    code = (
        "import sys; from ansible_runner import output; output.set_logfile(sys.argv[1]); output.debug('held back');"
        "output.display('for all'); output.display('for the log', log_only=True);"
        "output.set_debug('enable'); output.debug('in detail')"
    )
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", code, log], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("for all\n", "")
    assert [line.split(" ", 3)[3] for line in log.read_text().splitlines()] == ["for all", "for the log", "in detail"]


def test_a_subclass_changes_what_was_prepared(demo: Path) -> None:
    class Config(ansible_runner.RunnerConfig):
        def prepare_env(self) -> None:
            super().prepare_env()
            self.env["OF_THE_SUBCLASS"] = "yes"

        def generate_ansible_command(self) -> list[str]:
            return [*super().generate_ansible_command(), "-e", "more=too"]

    play = {
        "hosts": "one",
        "gather_facts": False,
        "tasks": [{"debug": {"msg": "{{ lookup('env', 'OF_THE_SUBCLASS') }} {{ more }}"}}],
    }
    config = Config(demo, playbook=play, quiet=True)
    config.prepare()
    runner = ansible_runner.Runner(config)
    assert runner.run() == ("successful", 0)
    assert [e["event_data"]["res"]["msg"] for e in runner.events if e["event"] == "runner_on_ok"] == ["yes too"]


def test_the_package_runs_as_the_command() -> None:
    argv = [sys.executable, "-m", "ansible_runner", "--version"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert done.stdout.strip() == ee_runner.__version__
