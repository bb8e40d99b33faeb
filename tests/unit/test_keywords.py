"""The keyword arguments that type checkers know are those of the option table, and of the right types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ee_runner import api
from ee_runner.keywords import JobKeywords, Keywords
from ee_runner.options import BY_NAME, CALLBACKS

REPO = Path(__file__).parents[2]
CLEANUP = {"file_pattern", "exclude_strings", "remove_images", "grace_period", "image_prune"}
OF_THE_COMMAND_LINE = {"explain", "worker_info", "attach"} | CLEANUP
STREAMING = {"streamer", "_input", "_output"}
ALIASES = {"hosts"}
TARGET = """
    playbook module module_args host_pattern role role_vars role_skip_facts roles_path inventory limit tags skip_tags
    forks verbosity cmdline executable_cmd cmdline_args
"""

PROGRAM = """\
from pathlib import Path
import ee_runner
runner = ee_runner.run(private_data_dir=Path("."), ident=1, playbook=[{"hosts": "a"}], event_handler=lambda event: 1)
ee_runner.run_command("ls", ["-l"], timeout=1.5, output_fd=1, cancel_callback=lambda: False)
reveal_type(runner)
ee_runner.run(idnet="1")
ee_runner.run(forks="many")
ee_runner.run_command("ls", "-l", explain=True)
"""


def test_every_option_of_the_library_is_a_keyword_and_nothing_else_is() -> None:
    options = set(BY_NAME) - OF_THE_COMMAND_LINE
    assert set(JobKeywords.__annotations__) == options | set(CALLBACKS) | STREAMING | ALIASES


def test_a_command_takes_all_but_what_says_what_else_to_run() -> None:
    assert set(JobKeywords.__annotations__) - set(Keywords.__annotations__) == {*TARGET.split(), *ALIASES}


def test_each_may_be_left_out_or_given_as_none() -> None:
    assert not JobKeywords.__required_keys__
    assert [
        name for name, kind in JobKeywords.__annotations__.items() if "None" not in str(kind) and name[0] != "_"
    ] == []


@pytest.mark.parametrize("function", [api.init_runner, api.run, api.run_async, api.run_command, api.run_command_async])
def test_every_function_takes_them(function: object) -> None:
    assert "Unpack[" in str(function.__annotations__["options"])


def test_a_type_checker_knows_them_all_and_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    argv = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "program.py"]
    done = subprocess.run(
        [*argv, "--config-file", ""],
        cwd=tmp_path,
        env={"MYPYPATH": str(REPO), "PATH": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("program.py")]
    assert [line.split(":")[1] for line in told if ": error:" in line] == ["6", "7", "8"], done.stdout
    assert 'Unexpected keyword argument "idnet"' in told[1]
    assert 'type is "ee_runner.runner.Runner"' in told[0]
