"""Prompts are answered where the output rests on them, and nowhere else."""

from __future__ import annotations

from ee_runner.prompts import WINDOW, Prompter
from ee_runner.secrets import Secret

SSH = r"^SSH password:\s*?$"
PASSWORDS = {SSH: Secret("one"), r"^BECOME password.*:\s*?$": Secret("two")}


def answers(*chunks: bytes) -> bytes | None:
    prompter = Prompter(PASSWORDS)
    for chunk in chunks:
        prompter.feed(chunk)
    return prompter.answer() if prompter.waiting else None


def test_a_prompt_is_answered_with_its_password() -> None:
    assert answers(b"SSH password: ") == b"one\n"
    assert answers(b"BECOME password[defaults to SSH password]: ") == b"two\n"


def test_a_prompt_after_other_output_is_answered() -> None:
    assert answers(b"PLAY [all] ****\r\n\r\nSSH password: ") == b"one\n"


def test_a_prompt_split_over_reads_is_answered() -> None:
    assert answers(b"SSH pass", b"word", b": ") == b"one\n"


def test_a_coloured_prompt_is_answered() -> None:
    assert answers(b"\x1b[0;35mSSH password: \x1b[0m") == b"one\n"


def test_a_prompt_behind_an_event_mark_is_answered() -> None:
    assert answers(b"\x1b_ee;0123;B\x1b\\SSH password: ") == b"one\n"


def test_a_line_that_has_ended_is_no_prompt() -> None:
    assert answers(b"SSH password: \r\n") is None
    assert answers(b"SSH password: \r\nfatal: next line ") is None


def test_a_prompt_is_answered_once_and_again_when_asked_again() -> None:
    prompter = Prompter(PASSWORDS)
    prompter.feed(b"SSH password: ")
    assert prompter.answer() == b"one\n"
    assert not prompter.waiting
    prompter.feed(b"\r\nSSH password: ")
    assert prompter.answer() == b"one\n"


def test_a_long_prompt_over_several_lines_is_answered() -> None:
    prompter = Prompter({r"(?s)Accept the terms.*type yes: ": Secret("yes")})
    prompter.feed(b"Accept the terms\r\n" + b"blah " * 300 + b"\r\ntype yes: ")
    assert prompter.answer() == b"yes\n"


def test_the_window_stays_bounded() -> None:
    prompter = Prompter(PASSWORDS)
    prompter.feed(b"x" * 10 * WINDOW)
    assert len(prompter._tail) == WINDOW
