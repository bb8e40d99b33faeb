"""The command line: order, repetition, what is the runner's and what is Ansible's, and what is said about mistakes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ee_runner.cli.help import build_parser
from ee_runner.cli.parser import Parsed, parse
from ee_runner.cli.subcommands import SUBCOMMANDS
from ee_runner.options import OPTIONS


def read(line: str) -> Parsed:
    return parse(line.split())


def values(parsed: Parsed) -> dict[str, Any]:
    return {name: given.value for name, given in parsed.explicit.items()}


def complaint(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        parse(argv)
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    ["-p test.yml run demo", "run demo -p test.yml", "run -p test.yml demo", "run demo --playbook=test.yml"],
)
def test_options_stand_before_or_after_the_subcommand(line: str) -> None:
    parsed = read(line)
    assert parsed.command == "run"
    assert values(parsed) == {"private_data_dir": Path("demo"), "playbook": ["test.yml"]}


def test_only_what_was_given_is_explicit_with_its_spelling() -> None:
    parsed = read("run demo -p test.yml --json")
    assert {name: given.origin for name, given in parsed.explicit.items()} == {
        "private_data_dir": "command line",
        "playbook": "-p",
        "json_mode": "--json",
    }


@pytest.mark.parametrize("line", ["-vv run demo -v", "run -vvv demo", "-v run demo -v -v", "-vq run demo -vv"])
def test_verbosity_adds_up_wherever_it_stands(line: str) -> None:
    assert read(line).value("verbosity") == 3


def test_repeated_options_gather() -> None:
    line = "--container-volume-mount /a:/a run demo --container-volume-mount /b:/b --container-option=--net=host"
    found = parse([*line.split(), "--container-option", "--privileged"])
    assert found.value("container_volume_mounts") == ["/a:/a", "/b:/b"]
    assert found.value("container_options") == ["--net=host", "--privileged"]


def test_several_paths_follow_one_flag() -> None:
    assert read("run demo --process-isolation-hide-paths /a /b -q").value("process_isolation_hide_paths") == [
        "/a",
        "/b",
    ]
    before = read("--process-isolation-ro-paths /a /b run demo")
    assert before.value("process_isolation_ro_paths") == ["/a", "/b"]
    assert before.value("private_data_dir") == Path("demo")


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--cmdline", "--diff"], "cmdline", ("--diff",)),
        (["--cmdline", "--tags a,b -u 'x y'"], "cmdline", ("--tags", "a,b", "-u", "x y")),
        (["-a", "-la /tmp"], "module_args", "-la /tmp"),
        (["-amsg=hi"], "module_args", "msg=hi"),
        (["-a=msg=hi there"], "module_args", "msg=hi there"),
        (["-qamsg=hi there"], "module_args", "msg=hi there"),
        (["--cmdline=-u 'x y'"], "cmdline", ("-u", "x y")),
        (["--limit", "-web -db"], "limit", "-web -db"),
        (["--limit", "-"], "limit", "-"),
    ],
)
def test_values_may_begin_with_a_dash(arguments: list[str], name: str, value: Any) -> None:
    assert parse(["run", "demo", *arguments]).value(name) == value


def test_what_follows_two_dashes_is_no_option() -> None:
    assert read("run -q -- -demo").value("private_data_dir") == Path("-demo")


def test_a_list_ends_at_the_next_option() -> None:
    found = read("run demo --process-isolation-ro-paths=/a /b -q --process-isolation-ro-paths")
    assert found.value("process_isolation_ro_paths") == ["/a", "/b"]


def test_the_last_of_two_values_counts() -> None:
    assert read("-i one run demo -i two").value("ident") == "two"


def test_the_short_alias_names_the_engine() -> None:
    for flag in ("--engine", "--process-isolation-executable"):
        assert parse(["run", "demo", flag, "docker"]).value("process_isolation_executable") == "docker"


@pytest.mark.parametrize("line", ["--version", "--version run demo", "run --version", "run demo --version"])
def test_version_is_asked_for(line: str) -> None:
    assert read(line).command == "version"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--playbok x run demo", "did you mean '--playbook'"),
        ("run demo --playbok x", "did you mean '--playbook'"),
        ("run demo --play x", "run has no option --play"),
        ("rnu demo", "did you mean 'run'"),
        ("playbok x.yml", "did you mean 'playbook'"),
        ("nonsense", "it is one of run, start, stop, is-alive, playbook, adhoc"),
        ("", "a subcommand is missing"),
        ("run", "private data directory is missing"),
        ("run demo other", "'other' is one too many"),
        ("run demo -p a -m b", "-p and -m exclude each other"),
        ("-p a run demo --role b", "-p and --role exclude each other"),
        ("run demo --forks many", "--forks: a whole number"),
        ("run demo --pull often", "--pull: one of always, missing, never, newer is expected, found the text 'often'"),
        ("run demo --ident", "--ident needs a value"),
        ("run demo --ident -q", "--ident needs a value"),
        ("run demo -vp", "-p needs a value"),
        ("run demo -q=yes", "-q takes no value, found 'yes'"),
        ("run demo --json=yes", "--json takes no value, found 'yes'"),
        ("worker demo", "'demo' is one too many"),
        ("run demo -x", "run has no option -x"),
        ("run demo -vx", "run has no option -x"),
        ("-x run demo", "there is no option -x"),
        ("playbook --ident", "--ident needs a value"),
        ("playbook x.yml --json=yes", "--json takes no value"),
        ("-v playbook x.yml", "write it after 'playbook'"),
        ("run demo --cmdline 'open", "--cmdline: command line arguments with balanced quotes"),
    ],
)
def test_mistakes_are_named_and_end_with_2(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in complaint(line.split(" ") if line else [], capsys)


def test_a_complaint_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(complaint(["run", "demo", "--playbok"], capsys).splitlines()) == 2


EMULATION = [
    ("playbook site.yml -i inv --limit a -e x=1", "site.yml -i inv --limit a -e x=1", {}),
    ("playbook -vvv site.yml -b -K", "-vvv site.yml -b -K", {}),
    ("playbook --container-image foo site.yml -i inv", "site.yml -i inv", {"container_image": "foo"}),
    ("playbook site.yml --container-image=foo -i inv", "site.yml -i inv", {"container_image": "foo"}),
    ("--container-image foo playbook site.yml", "site.yml", {"container_image": "foo"}),
    ("playbook site.yml --version", "site.yml --version", {}),
    ("playbook site.yml --help", "site.yml --help", {}),
    ("playbook site.yml --container-imag foo", "site.yml --container-imag foo", {}),
    ("playbook site.yml -- --quiet --ident x", "site.yml -- --quiet --ident x", {}),
    ("playbook site.yml -i x -q -j -p y -m z", "site.yml -i x -q -j -p y -m z", {}),
    ("playbook --inventory i --forks 3 s.yml", "--inventory i --forks 3 s.yml", {}),
    ("adhoc all -m ping --args x=1 --json", "all -m ping --args x=1", {"json_mode": True}),
    ("ad-hoc all -m ping --engine docker", "all -m ping", {"process_isolation_executable": "docker"}),
    (
        "playbook s.yml --container-option --net=host --container-option -x --container-volume-mount /a:/b",
        "s.yml",
        {"container_options": ["--net=host", "-x"], "container_volume_mounts": ["/a:/b"]},
    ),
    ("playbook --process-isolation-hide-paths /a s.yml", "s.yml", {"process_isolation_hide_paths": ["/a"]}),
    ("playbook --private-data-dir demo s.yml", "s.yml", {"private_data_dir": Path("demo")}),
]


@pytest.mark.parametrize(("line", "passed", "own"), EMULATION)
def test_what_is_not_the_runners_goes_to_ansible_in_order(line: str, passed: str, own: dict[str, Any]) -> None:
    parsed = read(line)
    assert parsed.passthrough == tuple(passed.split())
    found = values(parsed)
    assert found.pop("executable_cmd") == ("ansible" if "ad" in line.split()[0] else "ansible-playbook")
    assert tuple(found.pop("cmdline_args")) == parsed.passthrough
    assert found == own


def test_empty_and_odd_arguments_reach_ansible() -> None:
    odd = ["", " ", "-", "a b", '--extra-vars={"a": 1}', "ünï"]
    assert parse(["playbook", *odd]).passthrough == tuple(odd)


@pytest.mark.parametrize(
    "line", ["playbook --help", "adhoc -h", "--help playbook", "run -h", "--help", "run demo --help"]
)
def test_help_is_shown(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        read(line)
    assert end.value.code == 0
    assert "usage: ansible-runner" in capsys.readouterr().out


@pytest.mark.parametrize("command", [None, *(each.name for each in SUBCOMMANDS)])
def test_help_fits_80_columns_and_has_an_example(command: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = build_parser(command).format_help()
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(rf"ansible-runner {command or 'run'} \S+", text.split("example")[-1])


def test_the_help_has_the_documented_groups_and_every_flag() -> None:
    text = build_parser("run").format_help()
    for group in ("Runner", "", "Role", "Module", "Container"):
        assert f"Ansible {group} Options:".replace("  ", " ") in text
    for option in OPTIONS:
        if "run" in option.commands:
            assert all(flag in text for flag in option.flags)


def test_help_names_every_subcommand() -> None:
    text = build_parser().format_help()
    assert all(each.summary in text and each.example in text for each in SUBCOMMANDS)


def test_a_job_in_the_background_is_asked_for_as_one_in_the_foreground_is() -> None:
    line = "demo -p test.yml -i one --process-isolation --rotate-artifacts 3"
    assert values(read(f"start {line}")) == values(read(f"run {line}"))


@pytest.mark.parametrize("command", ["stop", "is-alive"])
def test_a_job_is_stopped_and_asked_for_by_its_directory_and_ident(command: str) -> None:
    found = values(read(f"{command} demo -i one -q --artifact-dir /elsewhere"))
    assert found == {
        "private_data_dir": Path("demo"), "ident": "one", "quiet": True, "artifact_dir": Path("/elsewhere"),
    }  # fmt: skip


@pytest.mark.parametrize("command", ["start", "stop", "is-alive"])
def test_a_job_in_the_background_has_a_directory(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "private data directory is missing" in complaint([command], capsys)


def test_parsing_imports_nothing_heavy() -> None:
    heavy = ("argparse", "dataclasses", "logging", "yaml", "msgspec", "rich", "asyncio", "importlib.metadata")
    code = (
        "import sys; from ee_runner.cli.parser import parse; parse(['run', 'demo', '-p', 'x'])\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_list_may_begin_behind_an_equals_sign() -> None:
    parsed = parse(["worker", "cleanup", "--exclude-strings=awx_1_", "awx_2_", "--file-pattern=/tmp/x*"])
    assert parsed.command == "worker cleanup"
    assert parsed.value("exclude_strings") == ["awx_1_", "awx_2_"]
    assert parsed.value("file_pattern") == "/tmp/x*"
