"""run_command: what a command says, to whom, and how it is connected."""

from __future__ import annotations

import gc
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pexpect
import pytest

import ansible_runner
import ee_runner
from tests.support.processes import REPO

BOTH = "echo out; echo err >&2; exit 3"
Mode: TypeAlias = Literal["pexpect", "subprocess"]
MODES: tuple[Mode, ...] = ("pexpect", "subprocess")


@pytest.fixture(autouse=True)
def own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jobs without a private data directory keep to this one, and all that they leave is seen in it."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return temporary


def sh(script: str, **options: Any) -> tuple[str, str, int]:
    return ee_runner.run_command("sh", ["-c", script], **options)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    try:
        yield read, write
    finally:
        os.close(read)
        os.close(write)


# What it returns


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, ("out\nerr\n", "", 3)), ({"runner_mode": "subprocess"}, ("out\n", "err\n", 3))],
    ids=["by default", "subprocess"],
)
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "not kept"])
def test_output_error_output_and_exit_code_are_returned(
    options: dict[str, Any], expected: tuple[str, str, int], kept: bool
) -> None:
    assert sh(BOTH, suppress_output_file=not kept, **options) == expected


@pytest.mark.parametrize("mode", MODES)
def test_a_command_that_is_not_there_gives_127_and_says_so(mode: Mode) -> None:
    out, err, rc = ee_runner.run_command("no-such-command", ["x"], runner_mode=mode)
    assert rc == 127
    assert "no-such-command" in out
    assert err == ""


@pytest.mark.parametrize("mode", MODES)
def test_no_shell_comes_between(mode: Mode) -> None:
    words = ["*", "$HOME", "a b", "`id`", "", "ä"]
    out, _, _ = ee_runner.run_command("printf", ["[%s]", *words], runner_mode=mode)
    assert out == "".join(f"[{word}]" for word in words)


def test_bytes_that_are_no_text_and_much_output_are_returned() -> None:
    out, _, rc = sh("printf '\\377\\n'; seq 100000", runner_mode="subprocess")
    assert rc == 0
    assert out == "\ufffd\n" + "".join(f"{number}\n" for number in range(1, 100001))


@pytest.mark.parametrize("mode", MODES)
def test_a_terminal_is_there_in_pexpect_mode_alone(mode: Mode) -> None:
    script = "for n in 0 1 2; do test -t $n && echo $n; done; test -t 0 || read x || echo none"
    out, _, _ = sh(script, runner_mode=mode)
    assert out == ("0\n1\n2\n" if mode == "pexpect" else "none\n")


@pytest.mark.parametrize(
    ("program", "expected"), [("ansible-config", ("out\n", "err\n", 0)), ("ansible-playbook-x", ("out\nerr\n", "", 0))]
)
def test_the_tools_that_only_print_are_on_pipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, expected: tuple[str, str, int]
) -> None:
    (tmp_path / program).write_text("#!/bin/sh\necho out; echo err >&2\n")
    (tmp_path / program).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert ee_runner.run_command(program) == expected


def test_envvars_cwd_and_answers_to_prompts_reach_the_command(tmp_path: Path) -> None:
    out, _, rc = sh(
        'printf "Word: "; read word; echo "got $word $OWN"; pwd',
        envvars={"OWN": "variable"},
        passwords={"Word: ": "sesame"},
        host_cwd=tmp_path,
    )
    assert (out, rc) == (f"Word: got sesame variable\n{tmp_path}\n", 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", [{"timeout": 0.5}, {"cancel_callback": lambda: True}], ids=["timeout", "cancel"])
def test_a_command_that_is_stopped_gives_254(mode: str, how: dict[str, Any]) -> None:
    out, err, rc = sh("sleep 300", runner_mode=mode, **how)
    assert (out, err, rc) == ("", "", 254)


def test_wrong_arguments_are_told() -> None:
    for wrong, options, told in (
        ("sh", {"runner_mode": "foo"}, "runner_mode"),
        ("", {}, "executable_cmd"),
        ("sh", {"cmdline_args": "-c true"}, "cmdline_args"),
        ("sh", {"enviro": {}}, "enviro"),
        ("sh", {"input_fd": io.StringIO()}, "input_fd"),
    ):
        with pytest.raises(ee_runner.ConfigurationError, match=told):
            ee_runner.run_command(wrong, **options)


def test_a_playbook_that_is_run_as_a_command_has_its_events(demo: Path) -> None:
    (demo / "project/site.yml").write_text("- hosts: one\n  gather_facts: false\n  tasks: [{debug: }]\n")
    seen: list[str] = []
    words = ["-i", str(demo / "inventory/hosts"), str(demo / "project/site.yml")]
    out, err, rc = ee_runner.run_command(
        "ansible-playbook",
        words,
        private_data_dir=demo,
        runner_mode="subprocess",
        json_mode=True,
        event_handler=lambda event: seen.append(event["event"]),
    )
    assert (rc, err) == (0, "")
    assert "runner_on_ok" in seen
    assert [json.loads(line)["event"] for line in out.splitlines()] == seen


def test_the_output_that_is_not_kept_is_the_same_in_json_mode() -> None:
    kept, left = (sh("echo a; echo b", json_mode=True, suppress_output_file=suppress) for suppress in (False, True))
    assert [json.loads(line)["stdout"] for line in kept[0].splitlines()] == ["a", "b"]
    assert [json.loads(line)["stdout"] for line in left[0].splitlines()] == ["a", "b"]


# Descriptors and files


def test_a_command_reads_from_and_writes_to_pipes() -> None:
    with pipe() as (read, write), pipe() as (out, into), pipe() as (errors, into_errors):
        os.write(write, b"asked\n")
        result = sh(
            "read x; echo got $x; echo err >&2; test -t 0 || echo plain",
            input_fd=read,
            output_fd=into,
            error_fd=into_errors,
        )
        assert result == ("", "", 0)
        assert os.read(out, 100) == b"got asked\nplain\n"
        assert os.read(errors, 100) == b"err\n"


def test_files_and_texts_in_memory_get_what_the_command_says(tmp_path: Path) -> None:
    memory = io.StringIO()
    with (tmp_path / "in").open("w+") as given, (tmp_path / "out").open("w+") as out:
        given.write("asked\n")
        given.seek(0)
        out.write("before\n")
        result = sh("read x; echo got $x; echo err >&2", input_fd=given, output_fd=out, error_fd=memory)
    assert result == ("", "", 0)
    assert (tmp_path / "out").read_text() == "before\ngot asked\n"
    assert memory.getvalue() == "err\n"


@pytest.mark.parametrize("given", ["output_fd", "error_fd"])
def test_the_stream_that_is_not_connected_is_returned(given: str) -> None:
    memory = io.StringIO()
    out, err, rc = sh(BOTH, runner_mode="subprocess", **{given: memory})
    assert rc == 3
    assert (out, err, memory.getvalue()) == (("", "err\n", "out\n") if given == "output_fd" else ("out\n", "", "err\n"))


def test_a_connected_output_tells_of_a_command_that_is_not_there() -> None:
    memory = io.StringIO()
    assert ee_runner.run_command("no-such-command", output_fd=memory)[2] == 127
    assert "no-such-command" in memory.getvalue()


TERMINAL = """\
import sys, ee_runner
print(ee_runner.run_command(
    "sh", ["-c", "test -t 0 && test -t 1 && test -t 2 && stty size; printf 'Word: '; read x; echo got $x"],
    input_fd=sys.stdin, output_fd=sys.stdout, error_fd=sys.stderr,
))
"""


def test_between_two_terminals_the_command_has_one() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    child = pexpect.spawn(
        sys.executable, ["-c", TERMINAL], env=environment, encoding="utf-8", dimensions=(33, 77), timeout=60
    )
    with child:
        child.expect_exact("33 77\r\n")
        child.expect_exact("Word: ")
        child.sendline("sesame")
        child.expect_exact("got sesame\r\n")
        child.expect_exact("('', '', 0)\r\n")
        child.expect(pexpect.EOF)


# What it shows


@pytest.mark.parametrize("mode", MODES)
def test_the_drop_in_shows_the_output_unless_it_is_quiet_and_returns_it_too(
    mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [
        ansible_runner.run_command("sh", ["-c", BOTH], runner_mode=mode, quiet=quiet, suppress_output_file=kept)
        for kept in (False, True)
        for quiet in (False, True)
    ]
    shown = capsys.readouterr()
    assert len(set(results)) == 1
    out, err, rc = results[0]
    assert (out + err, rc) == ("out\nerr\n", 3)
    assert (shown.out, shown.err) == (out * 2, err * 2)


def test_the_drop_in_shows_why_a_command_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert ansible_runner.run_command("no-such-command")[2] == 127
    assert "no-such-command" in capsys.readouterr().out


def test_the_library_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    sh(BOTH)
    sh(BOTH, runner_mode="subprocess", quiet=False)
    ee_runner.run_command("no-such-command")
    assert capfd.readouterr() == ("", "")


# What it leaves


def test_without_a_private_data_directory_nothing_stays(own_temporary_directory: Path) -> None:
    for mode in MODES:
        sh(BOTH, runner_mode=mode)
    ee_runner.run_command("no-such-command")
    with pytest.raises(ee_runner.CallbackError):
        sh("echo", event_handler=lambda _: 1 / 0)
    gc.collect()
    assert [*own_temporary_directory.iterdir()] == []


def test_without_one_the_results_stay_as_long_as_the_runner(own_temporary_directory: Path) -> None:
    thread, runner = ee_runner.run_command_async("sh", ["-c", "echo a"])
    thread.join()
    assert [event["stdout"] for event in runner.events] == ["a"]
    assert [*own_temporary_directory.iterdir()] != []
    del thread, runner
    gc.collect()
    assert [*own_temporary_directory.iterdir()] == []


def test_with_one_the_artifacts_stay_there_and_nothing_else(tmp_path: Path, own_temporary_directory: Path) -> None:
    place = tmp_path / "private"
    place.mkdir()
    sh("echo a", private_data_dir=place, ident="1", envvars={"A": "b"}, passwords={"x": "y"})
    assert [path.name for path in place.iterdir()] == ["artifacts"]
    assert [*own_temporary_directory.iterdir()] == []
