"""Where values come from, and what makes a job of them."""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from ee_runner.errors import ConfigurationError, MountRefused
from ee_runner.job import CommandTarget, JobSpec, ModuleTarget, Mount, PlaybookTarget, RegistryAuth, RoleTarget
from ee_runner.options import DEFAULT_IMAGE, Given
from ee_runner.secrets import Secret
from ee_runner.settings import Resolved, job_spec, resolve


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Path]:
    """A private data directory, in the directory that the test works in."""
    (tmp_path / "demo" / "env").mkdir(parents=True)
    (tmp_path / "demo" / "project").mkdir()
    (tmp_path / "demo" / "project" / "test.yml").write_text("[]")
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path / "demo"
    os.chdir(before)


def merged(demo: Path, *, environ: dict[str, str] | None = None, command: str = "run", **options: Any) -> Resolved:
    return resolve({"private_data_dir": str(demo), **options}, environ=environ or {}, command=command)


def spec(demo: Path, *, environ: dict[str, str] | None = None, command: str = "run", **options: Any) -> JobSpec:
    if not {"module", "role", "executable_cmd", "playbook"} & options.keys():
        options["playbook"] = "test.yml"
    return job_spec(merged(demo, environ=environ, command=command, **options))


def settings(demo: Path, text: str) -> Path:
    path = demo / "env" / "settings"
    path.write_text(text)
    return path


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ConfigurationError) as error:
        act()
    return str(error.value)


# where values come from


def test_the_stronger_source_wins(demo: Path) -> None:
    path = settings(demo, "---\n\ncontainer_image: file\n")
    environ = {"EE_RUNNER_IMAGE": "variable"}
    everything = merged(demo, environ=environ, container_image=Given("flag", "--container-image"))
    assert (everything.values["container_image"], everything.origins["container_image"]) == (
        "flag",
        "--container-image",
    )
    two = merged(demo, environ=environ)
    assert (two.values["container_image"], two.origins["container_image"]) == (
        "variable",
        "environment variable EE_RUNNER_IMAGE",
    )
    one = merged(demo)
    assert (one.values["container_image"], one.origins["container_image"]) == ("file", f"{path}:3")
    path.unlink()
    assert merged(demo).origins["container_image"] == "default"


def test_an_argument_that_is_none_or_empty_was_not_given(demo: Path) -> None:
    settings(demo, "job_timeout: 5\ncontainer_image: x")
    found = merged(demo, job_timeout=None, container_image="", limit="")
    assert (found.values["job_timeout"], found.values["container_image"], found.values["limit"]) == (5, "x", None)


def test_the_settings_argument_is_stronger_than_the_file_and_weaker_than_a_keyword(demo: Path) -> None:
    settings(demo, "job_timeout: 1\nidle_timeout: 1\npexpect_timeout: 1")
    found = merged(demo, settings={"job_timeout": 2, "idle_timeout": 2}, job_timeout=3)
    assert [found.values[name] for name in ("job_timeout", "idle_timeout", "pexpect_timeout")] == [3, 2, 1]
    assert found.origins["idle_timeout"] == "argument settings['idle_timeout']"


def test_the_callers_objects_stay_as_they_are(demo: Path) -> None:
    given: dict[str, Any] = {"private_data_dir": str(demo), "settings": {"job_timeout": 1}, "envvars": {"A": 1}}
    copy = json.loads(json.dumps(given))
    job_spec(resolve({**given, "playbook": "test.yml"}, environ={}))
    assert given == copy


@pytest.mark.parametrize(
    "text",
    ['{"idle_timeout": 600, "process_isolation": false}', '{\n\t"idle_timeout": 600,\n\t"process_isolation": false\n}',
     "---\nidle_timeout: 600\nprocess_isolation: no\n", "\ufeffidle_timeout: 600\nprocess_isolation: False"],
)  # fmt: skip
def test_settings_are_yaml_or_json(demo: Path, text: str) -> None:
    settings(demo, text)
    found = merged(demo).values
    assert (found["idle_timeout"], found["process_isolation"]) == (600, False)


@pytest.mark.parametrize("text", ["", "\n\n", "---\n", "# nothing yet\n", "{}", "idle_timeout:\n"])
def test_empty_settings_change_nothing(demo: Path, text: str) -> None:
    settings(demo, text)
    assert merged(demo).values["idle_timeout"] is None


def test_settings_come_through_a_named_pipe_read_once(demo: Path) -> None:
    pipe = demo / "env" / "settings"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("job_timeout: 7",))
    writer.start()
    found = merged(demo, playbook="test.yml")
    assert job_spec(found).limits.job_timeout == 7
    assert found.origins["job_timeout"] == f"{pipe}:1"
    writer.join(5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("idle_timout: 5", ":1: there is no setting 'idle_timout'; did you mean 'idle_timeout'?"),
        ("# x\njob_timeout: soon", ":2: job_timeout: a number of seconds, 0 or more is expected, found the text"),
        ("pexpect_use_poll: 1", ":1: pexpect_use_poll: true or false is expected, found the number 1"),
        ("a: 1\nb: [\nc: 2\n", "while parsing a flow sequence in line 2"),
        ("- a\n- b", ":1: a mapping (KEY: VALUE) is expected, found a list"),
        ("just words", ":1: a mapping (KEY: VALUE) is expected, found text"),
        ("? [a]\n: 1", ":1: a key must be text, found a list"),
        ('{"a": 1,\n  oops"\n', "valid YAML or JSON is expected"),
        ("job_timeout: 5\nident: x", ":2: 'ident' is no setting; give it as --ident"),
        ("playbook: x.yml", "give it as --playbook or the variable RUNNER_PLAYBOOK"),
        ("container_pull: often", "one of always, missing, never, newer is expected, found the text 'often'"),
        ("x: !vault abc", "valid YAML or JSON is expected: could not determine a constructor"),
        ("a: b: c", ":1: valid YAML or JSON is expected"),
        ("fact_cache: {x: 1}", ":1: fact_cache: text that is not empty is expected, found the mapping"),
    ],
)
def test_what_is_wrong_with_settings_is_said_with_its_line(demo: Path, text: str, said: str) -> None:
    path = settings(demo, text)
    message = refusal(lambda: merged(demo))
    assert message.startswith(str(path))
    assert said in message


def test_credentials_do_not_show_in_messages_or_explanations(demo: Path) -> None:
    settings(demo, "container_auth_data: {host: r, pasword: hunter2}")
    assert "hunter2" not in refusal(lambda: merged(demo))
    settings(demo, "container_auth_data: {host: r, password: hunter2}")
    found = merged(demo, ssh_key="hunter2", passwords={"x": "hunter2"}, envvars={"API_TOKEN": "hunter2"})
    assert "hunter2" not in "\n".join(found.explain())


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"a: \xff\xfe", ":1: UTF-8 text is expected"), (b"\n\na: \0", ":3: text is expected; there is a NUL byte")],
)
def test_binary_settings_are_refused(demo: Path, data: bytes, said: str) -> None:
    (demo / "env" / "settings").write_bytes(data)
    assert said in refusal(lambda: merged(demo))


def test_a_directory_or_a_dangling_link_for_settings_is_refused(demo: Path) -> None:
    path = demo / "env" / "settings"
    path.mkdir()
    assert f"{path}: is a directory; a file or a named pipe is expected here" in refusal(lambda: merged(demo))
    path.rmdir()
    path.symlink_to("nowhere")
    assert "symbolic link to a file that does not exist" in refusal(lambda: merged(demo))


def test_settings_of_plugins_pass(demo: Path) -> None:
    settings(demo, "runner_http_url: http://x\nrunner_own_thing: [1]\nrunner_mode: subprocess")
    found = merged(demo, settings={"runner_other": 1})
    assert found.values["runner_own_thing"] == [1]
    assert found.settings["runner_http_url"] == "http://x"
    assert found.settings["runner_other"] == 1


def test_an_unknown_argument_is_named_with_the_nearest() -> None:
    assert refusal(lambda: resolve({"playbok": "x"}, environ={})) == (
        "playbok: there is no such argument; did you mean 'playbook'?"
    )


def test_a_wrong_argument_or_variable_names_itself(demo: Path) -> None:
    assert refusal(lambda: merged(demo, forks="5")).startswith("forks: a whole number")
    assert refusal(lambda: merged(demo, environ={"EE_RUNNER_PULL": "x"})).startswith(
        "environment variable EE_RUNNER_PULL: one of always"
    )


def test_every_value_is_explained_with_its_origin(demo: Path) -> None:
    settings(demo, "job_timeout: 60")
    lines = merged(demo, playbook=Given(["test.yml"], "-p"), environ={"EE_RUNNER_PULL": "never"}).explain()
    told = {line.split(" = ")[0]: " ".join(line.split(" = ")[1].split()) for line in lines}
    assert told["playbook"] == "[test.yml] (-p)"
    assert told["container_pull"] == "never (environment variable EE_RUNNER_PULL)"
    assert told["job_timeout"] == f"60 ({demo}/env/settings:1)"
    assert told["ident"] == "a random UUID (default)"
    assert "worker_info" not in told


# the job


def test_a_playbook_job_has_the_documented_places(demo: Path) -> None:
    found = job_spec(resolve({"private_data_dir": "demo", "playbook": "test.yml", "ident": 5}, environ={}))
    assert found.target == PlaybookTarget(("test.yml",))
    assert found.private_data_dir == demo
    assert found.project_dir == demo / "project"
    assert found.artifact_dir == demo / "artifacts" / "5"
    assert (found.engine, found.container.image) == ("local", None)


def test_relative_paths_are_taken_from_the_working_directory_once(demo: Path) -> None:
    (demo.parent / "elsewhere").mkdir()
    found = spec(
        demo, artifact_dir="arts", ident="x", directory_isolation_base_path="../base", process_isolation_ro_paths="ro",
        roles_path=["r1:/r2", "r3"],
    )  # fmt: skip
    os.chdir("elsewhere")
    assert found.artifact_dir == demo.parent / "arts" / "x"
    assert found.directory_isolation_base_path == demo.parent.parent / "base"
    assert found.sandbox.ro_paths == (demo.parent / "ro",)
    assert found.roles_path == (str(demo.parent / "r1"), "/r2", str(demo.parent / "r3"))


def test_the_ident_is_random_unless_given(demo: Path) -> None:
    assert spec(demo).ident != spec(demo).ident
    for bad in ("a/b", "..", Given("", "--ident")):
        assert "is no identifier" in refusal(lambda bad=bad: spec(demo, ident=bad))  # type: ignore[misc]


def test_a_private_data_directory_is_needed() -> None:
    assert "private_data_dir is missing" in refusal(lambda: job_spec(resolve({"playbook": "x"}, environ={})))


def test_a_private_data_directory_of_the_command_line_must_exist(demo: Path) -> None:
    typo = Given(Path("dmeo"), "command line")
    assert "did you mean 'demo'" in refusal(lambda: spec(demo, private_data_dir=typo, module="ping"))
    assert spec(demo, private_data_dir="new", module="ping", host_pattern="all").private_data_dir == demo.parent / "new"
    (demo.parent / "file").touch()
    assert "is not a directory" in refusal(lambda: spec(demo, private_data_dir="file"))


def test_a_missing_playbook_names_where_it_was_looked_for_and_the_nearest(demo: Path) -> None:
    (demo / "project" / "plays").mkdir()
    (demo / "project" / "plays" / "site.yml").write_text("[]")
    assert refusal(lambda: spec(demo, playbook=Given(["tset.yml"], "-p"))) == (
        f"-p: there is no playbook {demo}/project/tset.yml; did you mean 'test.yml'?"
    )
    assert "did you mean 'plays/site.yml'" in refusal(lambda: spec(demo, playbook="plays/sit.yml"))
    assert "is a directory" in refusal(lambda: spec(demo, playbook="plays"))
    assert "project directory" in refusal(lambda: spec(demo.parent, playbook="test.yml"))


@pytest.mark.parametrize("playbook", ["/inside/the/image.yml", "ns.collection.play", "plays/../test.yml"])
def test_playbooks_that_are_elsewhere_are_taken_as_they_are(demo: Path, playbook: str) -> None:
    (demo / "project" / "plays").mkdir()
    assert spec(demo, playbook=playbook).target == PlaybookTarget((playbook,))


def test_plays_may_be_given_as_data(demo: Path) -> None:
    target = spec(demo, playbook=[{"hosts": "all", "tasks": []}]).target
    assert isinstance(target, PlaybookTarget)
    assert json.loads(target.playbooks[0]) == [{"hosts": "all", "tasks": []}]
    assert "values that JSON knows" in refusal(lambda: spec(demo, playbook=[{"hosts": object()}]))


def test_exactly_one_thing_runs(demo: Path) -> None:
    assert "Only one of" in refusal(lambda: spec(demo, playbook="test.yml", module="ping"))
    assert "Nothing to run" in refusal(lambda: job_spec(merged(demo)))
    both = {"RUNNER_PLAYBOOK": "test.yml", "RUNNER_MODULE": "ping"}
    assert "RUNNER_PLAYBOOK) and module" in refusal(lambda: job_spec(merged(demo, environ=both)))


def test_a_flag_is_stronger_than_another_targets_variable(demo: Path) -> None:
    environ = {"RUNNER_PLAYBOOK": "test.yml"}
    assert isinstance(job_spec(merged(demo, environ=environ)).target, PlaybookTarget)
    chosen = spec(demo, environ=environ, module="ping", host_pattern="all")
    assert chosen.target == ModuleTarget("ping", "all")


def test_a_module_needs_hosts(demo: Path) -> None:
    assert "--hosts" in refusal(lambda: spec(demo, module="ping"))
    found = spec(demo, module="shell", module_args="whoami", host_pattern="web")
    assert found.target == ModuleTarget("shell", "web", "whoami")


@pytest.mark.parametrize(
    ("given", "variables"),
    [
        (None, {}),
        ("key1=value1 key2='a b' key3=x=y", {"key1": "value1", "key2": "a b", "key3": "x=y"}),
        ('{"a": [1, 2]}', {"a": [1, 2]}),
        ("a: 1", {"a": 1}),
        ("@vars.yml", {"from": "file"}),
        ({"a": {"b": 1}}, {"a": {"b": 1}}),
        ("url=http://x:80/", {"url": "http://x:80/"}),
    ],
)
def test_role_variables_have_many_forms(demo: Path, given: Any, variables: dict[str, Any]) -> None:
    (demo.parent / "vars.yml").write_text("from: file")
    found = spec(demo, role="testrole", role_vars=given, role_skip_facts=True)
    assert found.target == RoleTarget("testrole", "all", variables, True)


def nested(inner: list[Any], _: int) -> list[Any]:
    return [inner]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a=1 hunter2", "word 2 is not key=value"),
        ("a='b", "a quote is not closed"),
        ("@missing.yml", "there is no file"),
        ("{a", "valid YAML or JSON is expected"),
        ({"a": object()}, "values that JSON knows are expected"),
        ({"a": "x\ud800"}, "values that JSON knows are expected"),
        ({"a": functools.reduce(nested, range(5000), [])}, "values that JSON knows are expected"),
    ],
    ids=range(7),
)
def test_role_variables_that_make_no_sense_are_refused(demo: Path, given: Any, said: str) -> None:
    message = refusal(lambda: spec(demo, role="testrole", role_vars=given))
    assert message.startswith("role_vars")
    assert "hunter2" not in message
    assert said in message


def test_a_command_has_its_own_arguments(demo: Path) -> None:
    found = spec(demo, executable_cmd="ansible", cmdline_args=["-m", "ping"], ident="a b")
    assert found.target == CommandTarget("ansible", ("-m", "ping"), demo.parent)
    assert found.artifact_dir == demo / "artifacts" / "a b"
    assert "there is no directory" in refusal(lambda: spec(demo, executable_cmd="ansible", host_cwd="nowhere"))


# inventories


def test_an_inventory_of_the_command_line_is_a_path_or_a_host_list(demo: Path) -> None:
    (demo / "inventory").mkdir()
    (demo / "inventory" / "prod").touch()
    (demo.parent / "hosts").touch()

    def given(text: str) -> tuple[str, ...]:
        return spec(demo, inventory=Given(text, "--inventory")).inventory

    assert given("hosts") == (str(demo.parent / "hosts"),)
    assert given("demo/inventory") == (str(demo / "inventory"),)
    assert given("prod") == (str(demo / "inventory" / "prod"),)
    assert given("a,b") == ("a,b",)
    assert given("hosts,prod") == (str(demo.parent / "hosts"), str(demo / "inventory" / "prod"))
    assert refusal(lambda: given("hostz")) == (
        f"--inventory: there is no inventory {demo.parent}/hostz; a list of hosts needs a comma"
    )


def test_an_inventory_of_the_library_may_be_text_or_data(demo: Path) -> None:
    (demo / "inventory").mkdir()
    (demo / "inventory" / "hosts").touch()
    (demo.parent / "hosts").touch()
    assert spec(demo, inventory="hosts").inventory == (str(demo / "inventory" / "hosts"),)
    assert spec(demo, inventory="web ansible_connection=local").inventory == ("web ansible_connection=local\n",)
    assert spec(demo, inventory="[web]\na\nb").inventory == ("[web]\na\nb\n",)
    (text,) = spec(demo, inventory={"all": {"hosts": {"a": {}}}}).inventory
    assert json.loads(text) == {"all": {"hosts": {"a": {}}}}
    assert spec(demo, inventory=["hosts", "a,"]).inventory == (str(demo / "inventory" / "hosts"), "a,")
    assert spec(demo, inventory=[]).inventory == ("",)
    assert spec(demo).inventory == ()


def test_the_inventory_variable_overrides_the_directorys(demo: Path) -> None:
    assert spec(demo, environ={"ANSIBLE_INVENTORY": "a,b"}).inventory == ("a,b",)
    assert spec(demo, environ={"ANSIBLE_INVENTORY": "a,b"}, executable_cmd="ansible").inventory == ()


# isolation


@pytest.mark.parametrize(
    ("options", "environ", "file", "engine"),
    [
        ({}, {}, "", "local"),
        ({"process_isolation": True}, {}, "", "auto-isolating"),
        ({"process_isolation": True, "process_isolation_executable": "docker"}, {}, "", "docker"),
        ({"process_isolation_executable": "bwrap"}, {}, "", "bwrap"),
        ({"process_isolation_executable": "bin/bwrap"}, {}, "", "{cwd}/bin/bwrap"),
        ({"container_image": "x"}, {}, "", "auto-images"),
        ({"container_image": "x", "process_isolation": False}, {}, "", "local"),
        ({"container_image": "x"}, {}, "process_isolation: false", "auto-images"),
        ({"process_isolation": True, "process_isolation_executable": "local"}, {}, "", "local"),
        ({}, {}, "container_image: x", "auto-images"),
        ({}, {}, "container_image: x\nprocess_isolation: false", "local"),
        ({}, {}, "process_isolation_executable: docker", "local"),
        ({}, {}, "process_isolation_executable: docker\nprocess_isolation: true", "docker"),
        ({}, {"EE_RUNNER_ENGINE": "podman"}, "", "podman"),
        ({}, {"EE_RUNNER_ENGINE": "podman"}, "process_isolation: true\nprocess_isolation_executable: docker", "podman"),
        ({"process_isolation": False}, {"EE_RUNNER_ENGINE": "podman"}, "", "local"),
    ],
)
def test_the_engine_follows_from_what_was_asked(
    demo: Path, options: dict[str, Any], environ: dict[str, str], file: str, engine: str
) -> None:
    settings(demo, file)
    assert spec(demo, environ=environ, **options).engine == engine.format(cwd=demo.parent)


def test_emulated_commands_run_in_a_container_unless_told_otherwise(demo: Path) -> None:
    options: dict[str, Any] = {"executable_cmd": "ansible-playbook", "cmdline_args": ["x.yml"]}
    isolated = spec(demo, command="playbook", **options)
    assert (isolated.engine, isolated.container.image) == ("auto", DEFAULT_IMAGE)
    local = spec(demo, command="playbook", process_isolation_executable="local", **options)
    assert local.engine == "local"
    assert spec(demo, command="run", **options).engine == "local"


def test_the_container_is_what_the_caller_says(demo: Path) -> None:
    settings(demo, "container_options: ['--net=host']\ncontainer_workdir: /w\ncontainer_auth_data: {host: r}")
    found = spec(demo, container_image="x", container_volume_mounts=["/a:/b:ro", "c:/d"]).container
    assert found.options == ("--net=host",)
    assert (found.image, found.workdir, found.pull) == ("x", "/w", "missing")
    assert found.auth == RegistryAuth("r")
    assert found.volume_mounts == (
        Mount(Path("/a"), PurePosixPath("/b"), read_only=True),
        Mount(demo.parent / "c", PurePosixPath("/d")),
    )


def test_a_volume_mount_that_can_not_be_read_says_who_asked(demo: Path) -> None:
    with pytest.raises(MountRefused, match="--container-volume-mount: The volume mount 'a:b:c:d'"):
        spec(demo, container_volume_mounts=Given(["a:b:c:d"], "--container-volume-mount"))


# limits and the rest


def test_limits(demo: Path) -> None:
    settings(demo, "idle_timeout: 600\njob_timeout: 3600\npexpect_timeout: 10\npexpect_use_poll: false")
    limits = spec(demo).limits
    assert (limits.idle_timeout, limits.job_timeout, limits.pexpect_timeout) == (600, 3600, 10)
    assert limits.pexpect_use_poll is False
    assert spec(demo, timeout=5).limits.job_timeout == 5
    settings(demo, "subprocess_timeout: 9\njob_timeout: 3600\nrunner_mode: subprocess\nidle_timeout: 0")
    assert (spec(demo).limits.subprocess_timeout, spec(demo).limits.job_timeout) == (9, 3600)
    assert spec(demo).limits.idle_timeout is None


def test_the_timeout_keyword_takes_the_place_of_all_that_bounds_the_whole_job(demo: Path) -> None:
    settings(demo, "subprocess_timeout: 9\njob_timeout: 3600\nidle_timeout: 60")
    assert spec(demo).limits.subprocess_timeout is None, "the job is on a terminal"
    limits = spec(demo, timeout=5, runner_mode="subprocess").limits
    assert (limits.job_timeout, limits.subprocess_timeout, limits.idle_timeout) == (5, None, 60)


def test_zero_is_no_limit_in_time(demo: Path) -> None:
    settings(demo, "subprocess_timeout: 0\njob_timeout: 0\nidle_timeout: 0\nrunner_mode: subprocess")
    limits = spec(demo, timeout=0).limits
    assert (limits.job_timeout, limits.subprocess_timeout, limits.idle_timeout) == (None, None, None)


@pytest.mark.parametrize("name", ["timeout", "job_timeout", "idle_timeout", "subprocess_timeout", "stop_grace"])
@pytest.mark.parametrize("value", [-1, -0.5, float("nan"), float("inf"), 1e12, True, "5"])
def test_what_is_no_length_of_time_is_refused_by_name(demo: Path, name: str, value: Any) -> None:
    assert refusal(lambda: spec(demo, **{name: value})).startswith(f"{name}: ")


def test_the_grace(demo: Path) -> None:
    assert spec(demo).limits.grace == 10
    settings(demo, "stop_grace: 3")
    assert spec(demo).limits.grace == 3
    assert spec(demo, environ={"EE_RUNNER_STOP_GRACE": "0.5"}).limits.grace == 0.5
    assert spec(demo, stop_grace=0).limits.grace == 0


# limits of a container


def test_limits_of_a_container_come_from_everywhere(demo: Path) -> None:
    settings(demo, "memory: 1g\ncpus: 2\npids_limit: 100\nprocess_isolation: true")
    found = spec(demo, environ={"EE_RUNNER_CPUS": "1.5"}, memory=Given("512MiB", "--memory"))
    assert (found.container.memory, found.container.cpus, found.container.pids_limit) == (512 << 20, 1.5, 100)
    assert found.engine == "auto-images"
    assert spec(demo).container.memory == 1 << 30
    none = spec(demo, memory=0, cpus=0, pids_limit=0)
    assert (none.container.memory, none.container.cpus, none.container.pids_limit) == (0, 0, 0)
    assert none.engine == "auto-isolating"


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_engines_with_containers_keep_limits(demo: Path, engine: str) -> None:
    assert spec(demo, process_isolation_executable=engine, memory="64m").container.memory == 64 << 20


@pytest.mark.parametrize("engine", ["bwrap", "local", None])
@pytest.mark.parametrize(("name", "value"), [("memory", "1g"), ("cpus", 1), ("pids_limit", 10)])
def test_a_limit_that_the_engine_can_not_keep_is_refused(demo: Path, engine: str | None, name: str, value: Any) -> None:
    given: dict[str, Any] = {name: Given(value, f"--{name}")}
    said = refusal(lambda: spec(demo, process_isolation_executable=engine, **given))
    assert said.startswith(f"--{name}: the engine {engine or 'local'} can not limit")
    assert "podman and docker" in said


def test_a_directory_that_contradicts_itself_is_refused_with_the_place(demo: Path) -> None:
    path = settings(demo, "process_isolation: true\nprocess_isolation_executable: bwrap\nmemory: 1g")
    assert refusal(lambda: spec(demo)).startswith(f"memory ({path}:3): the engine bwrap")


def test_who_chooses_another_engine_does_without_the_directorys_limits_and_is_told(
    demo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings(demo, "process_isolation: true\nmemory: 1g")
    assert spec(demo, process_isolation_executable="bwrap").container.memory == 0
    assert "can not limit" in caplog.text
    assert "memory" in caplog.text
    caplog.clear()
    assert spec(demo, process_isolation=False).container.memory == 0
    assert "the engine local can not limit" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory", 5 << 20),
        ("memory", "1k"),
        ("pids_limit", 1 << 23),
        ("memory", "much"),
        ("memory", -1),
        ("cpus", 0.001),
        ("cpus", -1),
        ("cpus", float("nan")),
        ("cpus", 1000000000.0),
        ("pids_limit", -1),
        ("pids_limit", 1.5),
    ],
)
def test_impossible_limits_are_refused_by_name(demo: Path, name: str, value: Any) -> None:
    assert refusal(lambda: spec(demo, process_isolation_executable="podman", **{name: value})).startswith(f"{name}: ")


def test_passwords_and_keys_are_secrets(demo: Path) -> None:
    found = spec(demo, passwords={"^SSH password:": "x", "other": 5}, ssh_key="KEY")
    assert found.passwords == {"^SSH password:": Secret("x"), "other": Secret("5")}
    assert found.ssh_key == Secret("KEY")
    assert "'(': missing ), unterminated" in refusal(lambda: spec(demo, passwords={"(": "x"}))


def test_extra_vars_must_be_writable_as_json(demo: Path) -> None:
    assert refusal(lambda: spec(demo, extravars={"good": [1], "when": demo})).startswith("extravars: 'when': values")


def test_the_fact_cache_stays_in_the_artifacts(demo: Path) -> None:
    assert spec(demo, fact_cache="facts/here").fact_cache == "facts/here"
    for outside in ("../x", "/x"):
        assert "in the artifact directory" in refusal(lambda outside=outside: spec(demo, fact_cache=outside))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "binary"),
    [("ansible-wrapper", "ansible-wrapper"), ("/opt/bin", "/opt/bin/"), ("/opt/bin/ansible", "/opt/bin/ansible"),
     ("demo/project", "{cwd}/demo/project/"), ("/opt/venv/", "/opt/venv/")],
)  # fmt: skip
def test_the_binary_is_a_program_or_its_directory(demo: Path, given: str, binary: str) -> None:
    assert spec(demo, environ={"RUNNER_BINARY": given}).binary == binary.format(cwd=demo.parent)


# mistakes in words


def test_explanations_mask_what_revealing_names_are_set_to_in_any_words(demo: Path) -> None:
    found = merged(
        demo,
        cmdline='-u me -e ansible_password=hunter2 -e \'{"db_pass": "hunter2"}\'',
        module="uri",
        module_args="url=https://me:hunter2@host/ password='hunter2'",
        role_vars="name=x secret=hunter2",
        inventory="web ansible_ssh_pass=hunter2\n",
    )
    lines = "\n".join(found.explain())
    assert "hunter2" not in lines
    assert "-u, me, -e, ansible_password=********" in lines


@pytest.mark.parametrize("text", ["-e 'ansible_password=hunter2", Given("-e 'ansible_password=hunter2", "--cmdline")])
def test_a_command_line_with_an_open_quote_is_not_shown(demo: Path, text: Any) -> None:
    message = refusal(lambda: merged(demo, cmdline=text))
    assert "balanced quotes" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"private_data_dir": "~nosuch/x"}, "private_data_dir: ~nosuch/x: the home directory of ~nosuch is not known"),
        ({"project_dir": "~nosuch/x"}, "project_dir: ~nosuch/x: the home directory of ~nosuch is not known"),
        ({"roles_path": "~nosuch/x"}, "roles_path: ~nosuch/x: the home"),
        ({"binary": "~nosuch/x"}, "binary: ~nosuch/x: the home"),
        (
            {"process_isolation": True, "process_isolation_executable": "~nosuch/x"},
            "process_isolation_executable: ~nosuch/x: the home",
        ),
        ({"private_data_dir": "a\0b"}, "private_data_dir: a path is expected"),
        ({"limit": "web\ud800"}, "limit: text is expected, found the text 'web\\ud800'"),
        ({"envvars": {"A\ud800": "x"}}, "envvars: the name of a variable is expected, found 'A\\ud800'"),
        ({"envvars": {"A": "\ud800"}}, "envvars: A: a single value is expected, found a text with"),
        ({"envvars": {"A": "x\0"}}, "envvars: A: a single value is expected, found a text with"),
        ({"envvars": {"A": b"x"}}, "envvars: A: a single value is expected, found a value of type bytes"),
        ({"envvars": {"TOKEN=hunter2": "x"}}, "envvars: the name of a variable is expected, found 'TOKEN='"),
        ({"envvars": {1: "x"}}, "envvars: the name 1: text is expected, found a value of type int"),
        ({"container_options": ["-e", "PASSWORD=hunter2", 1]}, "container_options: item 3: text is expected, found a"),
        ({"passwords": {"A": "\ud800"}}, "passwords: 'A': a single value is expected, found a text with"),
        ({"private_data_dir": "x" * 300}, "can not be read: file name too long"),
        ({"project_dir": "x" * 300}, "project_dir: there is no directory"),
    ],
)
def test_what_can_be_no_path_or_word_names_its_option(demo: Path, options: dict[str, Any], said: str) -> None:
    message = refusal(
        lambda: job_spec(resolve({"private_data_dir": demo, "playbook": "test.yml", **options}, environ={}))
    )
    assert said in message


def test_bytes_that_are_no_utf8_pass_as_the_system_gives_them(demo: Path) -> None:
    assert spec(demo, limit="web\udcff").limit == "web\udcff"


@pytest.mark.parametrize("directory", ["demo", None])
def test_a_deleted_working_directory_is_said_in_words(demo: Path, directory: str | None) -> None:
    (demo.parent / "gone").mkdir()
    os.chdir(demo.parent / "gone")
    (demo.parent / "gone").rmdir()
    given = {"private_data_dir": directory or str(demo), "playbook": "test.yml"}
    assert refusal(lambda: job_spec(resolve(given, environ={}))).startswith("The working directory can not be used")


@pytest.mark.parametrize(("environ", "file"), [({"EE_RUNNER_IMAGE": "x"}, ""), ({}, "container_image: x"), ({}, "")])
def test_only_a_given_image_asks_for_an_engine_with_images(demo: Path, environ: dict[str, str], file: str) -> None:
    settings(demo, file)
    options: dict[str, Any] = {"executable_cmd": "ansible-playbook", "cmdline_args": ["x.yml"]}
    expected = "auto-images" if environ or file else "auto"
    assert spec(demo, environ=environ, command="playbook", **options).engine == expected
    asked = "auto-images" if environ or file else "auto-isolating"
    assert spec(demo, environ=environ, process_isolation=True).engine == asked


@pytest.mark.parametrize("name", ["env", "roles"])
def test_a_file_where_a_directory_of_inputs_belongs_is_refused(demo: Path, name: str) -> None:
    if name == "env":
        (demo / name).rmdir()
    (demo / name).write_text("")
    assert f"{demo / name} is not a directory" in refusal(lambda: spec(demo))


@pytest.mark.parametrize("name", ["inventory", "roles"])
def test_a_link_that_leads_nowhere_is_refused(demo: Path, name: str) -> None:
    (demo / name).symlink_to("/no/such/place")
    assert f"{demo / name} is a link to /no/such/place" in refusal(lambda: spec(demo))
