"""Output is whole: every byte that a job wrote before its end is in its artifacts and in its events."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ee_runner import Runner, RunnerConfig
from ee_runner.executor import session
from tests.engines.place import Place
from tests.engines.programs import ask

MIB = 1 << 20

WRITER = """\
import sys
lines, length = map(int, sys.argv[1:])
for number in range(lines):
    sys.stdout.write(f"{number} {number % 10}".ljust(length, "abcdefghij"[number % 10]) + "\\n")
"""


def written(lines: int, length: int, end: bytes) -> Iterator[bytes]:
    """Give what WRITER writes, with other line ends."""
    for number in range(lines):
        yield f"{number} {number % 10}".ljust(length, "abcdefghij"[number % 10]).encode() + end


def slowly(_event: dict[str, Any]) -> bool:
    time.sleep(0.001)
    return True


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Runner]:
    """Run a program, or what else is asked for, on this host."""

    def run_it(*words: str, handler: Any = None, **options: Any) -> Runner:
        command = {"executable_cmd": words[0], "cmdline_args": list(words[1:])} if words else {}
        given = {"ident": "job", "quiet": True, "suppress_ansible_output": True, **command, **options}
        runner = Runner(RunnerConfig(tmp_path / "data", **given), event_handler=handler)
        runner.run()
        return runner

    return run_it


def kept(runner: Runner) -> bytes:
    """Return the output that was kept, once it is sure that the events hold all of it, in order."""
    stdout = Path(runner.config.artifact_dir, "stdout").read_bytes()
    assert_events_hold(stdout, list(runner.events))
    return stdout


def assert_events_hold(stdout: bytes, events: list[dict[str, Any]]) -> None:
    """Nothing but line ends is between the texts of two events, each of which is as it was written."""
    place = 0
    for event in events:
        text = event["stdout"].encode()
        found = stdout.find(text, place, place + len(text) + 64)
        assert found >= 0, (event["counter"], event["stdout"][:80], stdout[place : place + 80])
        assert not stdout[place:found].strip(b"\r\n"), stdout[place:found]
        place = found + len(text)
    assert not stdout[place:].strip(b"\r\n"), stdout[place:]


@pytest.mark.parametrize(
    ("mode", "end", "handler"),
    [("pexpect", b"\r\n", None), ("pexpect", b"\r\n", slowly), ("subprocess", b"\n", slowly)],
    ids=["terminal", "terminal-slow", "pipes-slow"],
)
def test_a_hundred_megabytes_are_whole(run: Callable[..., Runner], mode: str, end: bytes, handler: Any) -> None:
    shape = (1000, 100 * 1024)
    runner = run(sys.executable, "-c", WRITER, *map(str, shape), runner_mode=mode, handler=handler)
    assert (runner.status, runner.detail) == ("successful", "")
    expected, found = hashlib.sha256(), hashlib.sha256()
    for line in written(*shape, end):
        expected.update(line)
    with Path(runner.config.artifact_dir, "stdout").open("rb") as file:
        while block := file.read(MIB):
            found.update(block)
    assert found.digest() == expected.digest()
    lines = (event["stdout"] for event in runner.events)
    assert all(line.encode() == text for line, text in zip(lines, written(*shape, b""), strict=True))


@pytest.mark.parametrize(("mode", "end"), [("pexpect", b"\r\n"), ("subprocess", b"\n")])
def test_what_a_slow_handler_leaves_waiting_at_the_end_is_whole(
    run: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch, mode: str, end: bytes
) -> None:
    """The terminal and the pipe hold more when the job ends than the handler takes in the time for stragglers."""
    monkeypatch.setattr(session, "_DRAIN", 0.1)
    monkeypatch.setattr(session, "_DRAIN_LIMIT", 0.3)
    shape = (1500, 60)
    runner = run(sys.executable, "-c", WRITER, *map(str, shape), runner_mode=mode, handler=slowly)
    assert (runner.status, runner.detail) == ("successful", "")
    assert kept(runner) == b"".join(written(*shape, end))


PLAY = """\
- hosts: localhost
  gather_facts: false
  vars: {ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  tasks:
    - debug: {msg: "{{ item }}{{ 'abcdefghij' * 5000 }}{{ item }}"}
      loop: "{{ range(200) | list }}"
      loop_control: {label: "{{ item }}"}
"""


def test_ten_megabytes_of_a_playbook_are_whole(run: Callable[..., Runner], tmp_path: Path) -> None:
    (tmp_path / "data" / "project").mkdir(parents=True)
    (tmp_path / "data" / "project" / "site.yml").write_text(PLAY)
    after = tmp_path / "ansible-playbook"
    after.write_text(f'#!/bin/sh\n{Path(sys.executable).parent}/ansible-playbook "$@"\nprintf "after\\nthe end"\n')
    after.chmod(0o755)
    runner = run(playbook="site.yml", binary=str(after), handler=slowly)
    assert (runner.status, runner.detail) == ("successful", "")
    stdout = kept(runner)
    for number in range(200):
        assert stdout.count(b'"msg": "%d%s%d"' % (number, b"abcdefghij" * 5000, number)) == 1
    assert stdout.endswith(b"after\r\nthe end")
    items = [event for event in runner.events if event["event"] == "runner_item_on_ok"]
    assert [len(event["event_data"]["res"]["msg"]) for event in items[-2:]] == [50006, 50006]
    assert [event["stdout"] for event in list(runner.events)[-2:]] == ["after", "the end"]


ENDINGS = {
    "a last line without a newline": ("printf 'one\\ntwo'", b"one\r\ntwo", "successful"),
    "nothing at all": ("true", b"", "successful"),
    "newlines alone": ("printf '\\n\\n'", b"\r\n\r\n", "successful"),
    "killed in the middle of a line": ("printf 'one\\ntw'; kill -KILL $$", b"one\r\ntw", "failed"),
    "failed in the middle of a line": ("printf 'one\\ntw'; exit 3", b"one\r\ntw", "failed"),
    "a letter cut in its middle": ("printf 'one \\303'", b"one \xc3", "successful"),
    "carriage returns": ("printf '10%%\\r20%%\\r'", b"10%\r20%\r", "successful"),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_the_last_bytes_are_there(run: Callable[..., Runner], how: str) -> None:
    script, expected, status = ENDINGS[how]
    runner = run("sh", "-c", script)
    assert runner.status == status
    assert Path(runner.config.artifact_dir, "stdout").read_bytes() == expected
    events = [event["stdout"] for event in runner.events]
    assert "\r\n".join(events).rstrip("\r\n") == expected.decode(errors="replace").rstrip("\r\n")


def test_letters_that_come_byte_by_byte_are_whole(run: Callable[..., Runner]) -> None:
    text = "äé€😀\n" * 3
    program = "import sys, time\nfor byte in sys.argv[1].encode():\n"
    program += "    sys.stdout.buffer.write(bytes([byte])); sys.stdout.buffer.flush(); time.sleep(0.005)\n"
    runner = run(sys.executable, "-c", program, text)
    assert kept(runner) == text.replace("\n", "\r\n").encode()
    assert [event["stdout"] for event in runner.events] == text.split()
    assert runner.stdout.read() == text


@pytest.mark.parametrize("mode", ["pexpect", "subprocess"])
def test_a_child_that_keeps_the_output_open_is_left_and_told_of(run: Callable[..., Runner], mode: str) -> None:
    script = "trap '' HUP; (sleep 3; echo too late) & echo $!; printf done"
    began = time.monotonic()
    runner = run("sh", "-c", script, runner_mode=mode, handler=slowly)
    assert time.monotonic() - began < 15
    assert (runner.status, "keeps its output open" in runner.detail) == ("successful", True)
    assert kept(runner).endswith(b"\ndone")
    _gone(int(kept(runner).split()[0]))


def test_a_child_that_talks_on_is_left_after_a_while(
    run: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_DRAIN_LIMIT", 1.0)
    script = "(trap '' HUP; while echo $$ still here; do :; done) & trap '' HUP; printf 'done\\n'"
    began = time.monotonic()
    runner = run("sh", "-c", script, runner_mode="subprocess")
    assert time.monotonic() - began < 15
    assert (runner.status, "keeps its output open" in runner.detail) == ("successful", True)
    assert b"done\n" in Path(runner.config.artifact_dir, "stdout").read_bytes()


def _gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


READERS = {"goes after a line": "head -n 1", "never reads": "exec 0<&-; sleep 0.2", "is a full disk": "cat > /dev/full"}


@pytest.mark.parametrize("how", READERS)
def test_the_artifacts_are_complete_though_the_reader_of_the_command(tmp_path: Path, how: str) -> None:
    data = tmp_path / "data"
    (data / "env").mkdir(parents=True)
    play = [
        {"hosts": "localhost", "gather_facts": False, "tasks": [{"debug": {"msg": "x" * 1000}, "loop": [*range(200)]}]}
    ]
    (data / "project").mkdir()
    (data / "project" / "site.yml").write_text(json.dumps(play))
    words = f'{{ "$0" -m ee_runner run "$1" -p site.yml -i job; echo $? > "$1/code"; }} | {READERS[how]}'
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(
        ["sh", "-c", words, sys.executable, str(data)], check=False, env=environ, timeout=120, capture_output=True
    )
    artifacts = data / "artifacts" / "job"
    assert ((artifacts / "status").read_text(), (artifacts / "rc").read_text()) == ("successful", "0")
    assert (data / "code").read_text() == "0\n"
    files = (artifacts / "job_events").glob("*.json")
    events = sorted((json.loads(path.read_text()) for path in files), key=lambda event: int(event["counter"]))
    stdout = (artifacts / "stdout").read_bytes()
    assert_events_hold(stdout, events)
    assert stdout.count(b"x" * 1000) == 200
    assert b"PLAY RECAP" in stdout


PROGRAM = """
import hashlib
words = ["-c", given["writer"], *map(str, given["shape"])]
out, err, rc = run_command("python3", words, quiet=True, ident=ident, **engine)
answer(rc=rc, err=err, digest=hashlib.sha256(out.encode()).hexdigest(), size=len(out))
"""


def test_output_is_whole_in_each_engine(place: Place) -> None:
    shape = (2000, 5000)
    told = ask(place, PROGRAM, writer=WRITER + "sys.stdout.write('the end')", shape=shape)
    expected = b"".join(written(*shape, b"\n")) + b"the end"
    assert (told["rc"], told["err"], told["size"]) == (0, "", len(expected))
    assert told["digest"] == hashlib.sha256(expected).hexdigest()
