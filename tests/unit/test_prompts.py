"""Prompts are found where the output rests on them, and nowhere else; each is answered, or told to be unanswered."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping

import pytest

from ee_runner.prompts import WINDOW, Prompter, Unanswered
from ee_runner.secrets import Secret

PASSWORDS = {
    r"^SSH password:\s*?$": "one",
    r"^BECOME password.*:\s*?$": "two",
    r"^Vault password \(dev\):\s*?$": "three",
    r"^Vault password \(prod\):\s*?$": "four",
    r"^Enter passphrase for .*:\s*?$": "five",
    r"^what is it.*: ?$": "six",
}
BEGIN, END = b"\x1b_ee;0123456789abcdef;B\x1b\\", b"\x1b_ee;0123456789abcdef;E;12;345\x1b\\"
PAUSE = BEGIN + b"[wait here]\r\nPress enter to continue, Ctrl+C to interrupt:\r\n" + END
TIMED = BEGIN + b"Pausing for 9 seconds\r\n" + END
TIMED += BEGIN + b"(ctrl+C then 'C' = continue early, ctrl+C then 'A' = abort)\r\r\n" + END
QUESTIONS = (
    "SSH password: ",
    "BECOME password[defaults to SSH password]: ",
    "Vault password (dev): ",
    "New Vault password: ",
    "root@web1's password: ",
    "(root@web1) Password: ",
    "[sudo] password for bob: ",
    "Password:",
    "Passcode or option (1-3): ",
    "Enter passphrase for key '/home/bob/.ssh/id_ed25519': ",
    "Enter PEM pass phrase:",
    "Verifying - Enter Export Password:",
    "Bad passphrase, try again for /run/key: ",
    "Are you sure you want to continue connecting (yes/no)? ",
    "Are you sure you want to continue connecting (yes/no/[fingerprint])? ",
    "Please type 'yes', 'no' or the fingerprint: ",
    "Verification code: ",
    "One-time password (OATH) for `bob': ",
    "Enter PIN for ECDSA-SK key /home/bob/.ssh/id: ",
    "Username for 'https://git.example.org': ",
    "Password for 'https://bob@git.example.org': ",
    "login: ",
    "Do you want to continue? [Y/n] ",
    "Overwrite (y/N)? ",
)
STATEMENTS = (
    "Setting password for bob: ",
    "Changing the root password: ",
    "Checking passphrase > ",
    "Reset the password (this takes a minute)",
    '{"password": ',
    "password hashing... ",
    "Downloading 17% [======>",
    "compiling: ",
    "step 3 of 4?",
    "login succeeded ",
    "spinning > ",
)


class Watched:
    """A prompter and its clock."""

    def __init__(
        self,
        passwords: Mapping[str, str] = PASSWORDS,
        *,
        patience: float = 5.0,
        whole_lines: bool = False,
        attended: bool = False,
    ) -> None:
        secrets = {pattern: Secret(value) for pattern, value in passwords.items()}
        self.prompter = Prompter(secrets, patience=patience, whole_lines=whole_lines, attended=attended)
        self.now = 1000.0

    def say(self, *chunks: bytes) -> Watched:
        for chunk in chunks:
            self.now += 0.001
            self.prompter.feed(chunk, self.now)
        return self

    def rest(self, seconds: float) -> bytes | Unanswered | None:
        """Let time pass; return what came of it first."""
        until = self.now + seconds
        while self.prompter.due is not None and self.prompter.due <= until:
            self.now = max(self.now, self.prompter.due)
            found = self.prompter.look(self.now)
            if found is not None:
                return found
        self.now = until
        return None

    def answer(self, *chunks: bytes) -> bytes | Unanswered | None:
        return self.say(*chunks).rest(0.6)


def answers(*chunks: bytes, passwords: Mapping[str, str] = PASSWORDS) -> bytes | Unanswered | None:
    return Watched(passwords).answer(*chunks)


class TestAnswering:
    def test_a_prompt_is_answered_with_its_password(self) -> None:
        assert answers(b"SSH password: ") == b"one\n"
        assert answers(b"BECOME password[defaults to SSH password]: ") == b"two\n"

    def test_each_vault_id_has_its_own_password(self) -> None:
        assert answers(b"Vault password (dev): ") == b"three\n"
        assert answers(b"Vault password (prod): ") == b"four\n"

    @pytest.mark.parametrize("before", [b"PLAY [all] ****\r\n\r\n", b"10%\r20%\r", b"a\n", b"\x1b[2K\r", BEGIN, END])
    def test_what_came_before_the_prompt_does_not_matter(self, before: bytes) -> None:
        assert answers(before + b"SSH password: ") == b"one\n"

    @pytest.mark.parametrize(
        "prompt",
        [
            b"\x1b[0;35mSSH password: \x1b[0m",
            b"\x1b[1mS\x1b[31mSH\x1b[0m pass\x1b(B\x1b[mword\x1b[K: ",
            b"\x1b]0;title\x07SSH password:\x1b[?25h ",
            b"\x1b]8;;http://x\x1b\\SSH\x1b]8;;\x1b\\ password: \x07",
            b"S\0SH passw\x01ord\x02: ",
        ],
    )
    def test_colours_and_control_characters_are_not_seen(self, prompt: bytes) -> None:
        assert answers(prompt) == b"one\n"

    def test_a_prompt_split_at_any_byte_is_answered_once(self) -> None:
        whole = b"TASK\r\n" + END + b"\x1b[0;35mSSH pass\x1b[0mword: "
        for cut in range(len(whole)):
            assert answers(whole[:cut], whole[cut:]) == b"one\n"
        assert answers(*(whole[at : at + 1] for at in range(len(whole)))) == b"one\n"

    def test_a_prompt_longer_than_the_terminal_is_wide_is_answered(self) -> None:
        assert answers(b"what is it" + b" that you want" * 250 + b": ") == b"six\n"

    def test_a_prompt_over_several_lines_is_answered(self) -> None:
        terms = {r"(?s)Accept the terms.*type yes: ": "yes"}
        text = b"Accept the terms\r\n" + b"blah " * 300 + b"\r\ntype yes: "
        assert answers(text, passwords=terms) == b"yes\n"

    def test_text_beyond_ascii_is_matched_and_typed(self) -> None:
        assert answers("Größe: ".encode(), passwords={"^Größe: $": "zwölf"}) == "zwölf\n".encode()

    def test_the_first_expression_that_fits_answers(self) -> None:
        assert answers(b"Password: ", passwords={"nothing": "a", "Pass": "b", "Password": "c"}) == b"b\n"

    def test_prompts_that_follow_each_other_are_answered_each(self) -> None:
        watched = Watched()
        assert watched.answer(b"SSH password: ") == b"one\n"
        assert watched.answer(b"\r\nBECOME password[defaults to SSH password]: ") == b"two\n"
        assert watched.answer(b"\r\nVault password (dev): ") == b"three\n"
        assert watched.answer(b"\r\nVault password (prod): ") == b"four\n"

    def test_prompts_on_one_line_are_answered_each(self) -> None:
        watched = Watched({"user: $": "bob", "pass: $": "word"})
        assert watched.answer(b"user: ") == b"bob\n"
        assert watched.answer(b"pass: ") == b"word\n"

    def test_an_answer_is_typed_once(self) -> None:
        watched = Watched()
        assert watched.answer(b"SSH password: ") == b"one\n"
        assert watched.rest(60) is None
        assert watched.say(b"\x1b[0m").rest(60) is None
        assert watched.say(b"\r\n").rest(60) is None

    def test_a_line_that_does_not_end_like_a_question_is_answered_after_longer(self) -> None:
        watched = Watched({"say it": "word"})
        assert watched.say(b"say it").rest(0.2) is None
        assert watched.rest(0.4) == b"word\n"


class TestLeavingAlone:
    @pytest.mark.parametrize(
        "output",
        [
            b"SSH password: \r\n",
            b"SSH password: \r\nfatal: next line ",
            b"SSH password: \r",
            b"SSH password: \n" + END,
            b"TASK [SSH password:] ***\r\n" + BEGIN,
            b"",
            b"\x1b[0m",
            b"   ",
        ],
    )
    def test_what_is_no_unfinished_line_is_no_prompt(self, output: bytes) -> None:
        assert answers(output) is None

    def test_a_line_that_goes_on_is_no_prompt(self) -> None:
        watched = Watched()
        for _ in range(100):
            assert watched.say(b"SSH password: ").rest(0.04) is None

    def test_an_expression_that_fits_earlier_lines_answers_nothing(self) -> None:
        watched = Watched({"password": "one"})
        assert watched.answer(b"the password of bob\r\nand something else: ") is None

    def test_without_passwords_and_patience_nothing_is_kept(self) -> None:
        watched = Watched({}, patience=0)
        assert watched.say(b"SSH password: ").prompter.due is None
        assert watched.prompter._recent == b""


class TestUnanswered:
    @pytest.mark.parametrize("prompt", QUESTIONS)
    def test_a_line_that_surely_asks_is_told_after_a_second(self, prompt: str) -> None:
        watched = Watched({"nothing": "word"}).say(b"before\r\n" + prompt.encode())
        assert watched.rest(0.95) is None
        assert watched.rest(0.1) == Unanswered(prompt.strip(), refused=False)
        assert watched.rest(60) is None

    @pytest.mark.parametrize("text", STATEMENTS)
    def test_other_unfinished_lines_of_any_program_may_rest(self, text: str) -> None:
        assert Watched().say(text.encode()).rest(3600) is None

    @pytest.mark.parametrize("text", ["what now: ", "really?", "input [x] ", "(debug)> ", "Perform task (N)o/(y)es: "])
    def test_of_a_program_of_whole_lines_each_question_is_told_after_the_patience(self, text: str) -> None:
        watched = Watched({}, whole_lines=True).say(b"before\r\n" + END + text.encode())
        assert watched.rest(4.9) is None
        assert watched.rest(0.2) == Unanswered(text.strip(), refused=False)

    @pytest.mark.parametrize("text", ["half a line", "TASK [what?] ****\r\n", "fatal: no route to host:\r\n", "..."])
    def test_of_a_program_of_whole_lines_other_text_may_rest(self, text: str) -> None:
        for marks in (b"", BEGIN, END):
            assert Watched({}, whole_lines=True).say(text.encode() + marks).rest(3600) is None

    def test_a_short_patience_is_kept_for_lines_that_surely_ask(self) -> None:
        watched = Watched({}, patience=0.25).say(b"Password: ")
        assert watched.rest(0.2) is None
        assert isinstance(watched.rest(0.1), Unanswered)

    def test_without_patience_a_question_may_rest_and_is_answered(self) -> None:
        assert Watched(patience=0, whole_lines=True).say(b"Password: ").rest(3600) is None
        assert Watched(patience=0, whole_lines=True).answer(b"SSH password: ") == b"one\n"

    def test_somebody_at_the_terminal_may_take_his_time(self) -> None:
        assert Watched(attended=True, whole_lines=True).say(b"Password: ").rest(3600) is None
        assert Watched(attended=True).answer(b"SSH password: ") == b"one\n"

    def test_a_question_that_goes_away_is_not_told(self) -> None:
        watched = Watched({}).say(b"Password: ")
        assert watched.rest(0.9) is None
        assert watched.say(b"\r\n").rest(60) is None

    def test_the_text_has_no_colours_and_is_no_longer_than_it_helps(self) -> None:
        assert Watched().say(b"\x1b[1m\x1b_x\x1b\\Pass\x07word \tfor\x1b[0m x: ").rest(2) == Unanswered(
            "Password for x:", refused=False
        )
        told = Watched({}).say(b"x" * 2000 + b" password: ").rest(2)
        assert isinstance(told, Unanswered)
        assert re.fullmatch(r"\.\.\.x{490} password:", told.text)

    def test_an_echoed_answer_is_no_part_of_the_text(self) -> None:
        watched = Watched({"user: $": "hunter2"})
        assert watched.answer(b"user: ") == b"hunter2\n"
        assert watched.say(b"hunter2 password: ").rest(2) == Unanswered("password:", refused=False)

    def test_the_detail_says_what_is_to_be_done(self) -> None:
        assert Unanswered("Password:", refused=False).detail.endswith("no expression of env/passwords fits: Password:")
        assert "refused" in Unanswered("Password:", refused=True).detail


class TestPause:
    def test_a_pause_without_an_end_is_told_after_the_patience(self) -> None:
        watched = Watched({}, whole_lines=True).say(b"TASK [x] ***\r\n" + END + PAUSE)
        assert watched.rest(4.9) is None
        assert watched.rest(0.2) == Unanswered(
            "[wait here] Press enter to continue, Ctrl+C to interrupt:", refused=False
        )

    def test_a_pause_is_answered(self) -> None:
        assert Watched({r"^Press enter to .*:$": ""}, whole_lines=True).answer(PAUSE) == b"\n"
        long = BEGIN + b"[a : b]\r\n" + b"line\r\n" * 20 + b"how many (output is hidden):\r\n" + END
        assert Watched({r"^how many": "3"}, whole_lines=True).answer(long) == b"3\n"

    def test_an_expression_that_fits_the_banner_of_its_task_does_not_answer(self) -> None:
        watched = Watched({"TASK": "word"}, whole_lines=True)
        assert watched.answer(b"TASK [x] ***\r\n" + END + PAUSE) is None

    def test_a_pause_that_ends_by_itself_is_no_question(self) -> None:
        for text in (TIMED, TIMED + PAUSE, b"x" * WINDOW + TIMED + PAUSE):
            assert Watched({"Press": "word"}, whole_lines=True).say(text).rest(3600) is None

    def test_nor_is_it_when_its_beginning_has_left_the_window(self) -> None:
        for size in range(WINDOW - 400, WINDOW + 10):
            text = TIMED + BEGIN + b"[t]\r\n" + b"y" * (size - len(TIMED)) + b":\r\n" + END
            assert Watched({}, whole_lines=True).say(text).rest(3600) is None

    @pytest.mark.parametrize(
        "text",
        [
            BEGIN + b"web1 | CHANGED | rc=0 >>\r\n[section]\r\nkey:\r\n" + END,
            BEGIN + b"[section]\r\nkey\r\n" + END,
            b"[section]\r\nkey:\r\n",
            PAUSE + BEGIN + b"\r\nTASK [next] ***\r\n" + END,
            PAUSE + BEGIN,
        ],
    )
    def test_output_that_looks_similar_is_no_question(self, text: bytes) -> None:
        assert Watched({"key": "word"}, whole_lines=True).say(text).rest(3600) is None

    def test_programs_other_than_ansible_have_no_pause(self) -> None:
        assert Watched({"Press": "word"}).say(PAUSE).rest(3600) is None


class TestAskedAgain:
    @pytest.mark.parametrize(
        ("prompt", "words"),
        [
            (b"SSH password: ", b"\r\nPermission denied, please try again.\r\n"),
            (b"BECOME password: ", b"\r\nSorry, try again.\r\n"),
            (b"what is it: ", b"six\r\nIncorrect\r\n"),
            (b"what is it: ", b"\r\n***** VALUES ENTERED DO NOT MATCH ****\r\n"),
            (b"SSH password: ", b"\r\n\r\nwrong, once more\r\nplease\r\n\r\n"),
            (b"SSH password: ", b"****\r\nLogin failed\r\n"),
        ],
    )
    def test_an_answer_that_is_refused_in_words_is_not_given_twice(self, prompt: bytes, words: bytes) -> None:
        watched = Watched()
        assert isinstance(watched.answer(prompt), bytes)
        assert watched.answer(words + prompt) == Unanswered(prompt.decode().strip(), refused=True)

    def test_a_confirmation_in_between_does_not_hide_the_refusal(self) -> None:
        watched = Watched({"what": "a", "confirm": "b"})
        assert watched.answer(b"what: ") == b"a\n"
        assert watched.answer(b"\r\nconfirm: ") == b"b\n"
        told = watched.answer(b"\r\n***** VALUES ENTERED DO NOT MATCH ****\r\nwhat: ")
        assert told == Unanswered("what:", refused=True)

    def test_a_prompt_that_says_itself_that_the_answer_was_bad_is_refused(self) -> None:
        again = b"\r\nBad passphrase, try again for /run/key: "
        for passwords in (PASSWORDS, {"passphrase": "five"}):
            watched = Watched(passwords)
            assert watched.answer(b"Enter passphrase for /run/key: ") == b"five\n"
            told = watched.say(again).rest(1.1)
            assert told == Unanswered("Bad passphrase, try again for /run/key:", refused=True)

    @pytest.mark.parametrize("end", [b"\r\n", b"", b"\r\n \r\n", b"**\r\n"])
    def test_the_same_prompt_without_a_word_in_between_is_answered_three_times(self, end: bytes) -> None:
        watched = Watched()
        for _ in range(3):
            assert watched.answer(end + b"SSH password: ") == b"one\n"
        assert watched.answer(end + b"SSH password: ") == Unanswered("SSH password:", refused=True)

    def test_an_echoed_answer_is_no_word_in_between(self) -> None:
        watched = Watched()
        for _ in range(3):
            assert watched.answer(b"what is it: ") == b"six\n"
            watched.say(b"six\r\n")
        assert watched.answer(b"what is it: ") == Unanswered("what is it:", refused=True)

    @pytest.mark.parametrize(
        "between",
        [
            b"\r\nok: [web1]\r\n",
            b"\r\nfatal: [web1]: FAILED! => cat: /root/x: Permission denied\r\n",
            b"\r\na\r\nb\r\nc\r\nPermission denied, please try again.\r\n",
            b"\r\n" + b"Permission denied, please try again.\r\n" * 200,
        ],
    )
    def test_the_same_prompt_is_answered_again_after_other_output(self, between: bytes) -> None:
        watched = Watched()
        for _ in range(10):
            assert watched.answer(b"SSH password: ") == b"one\n"
            watched.say(between)

    def test_another_prompt_after_words_of_refusal_is_answered(self) -> None:
        watched = Watched()
        assert watched.answer(b"SSH password: ") == b"one\n"
        assert watched.answer(b"\r\nsorry\r\nBECOME password: ") == b"two\n"

    def test_before_the_first_answer_nothing_is_refused(self) -> None:
        assert answers(b"Permission denied, please try again.\r\nSSH password: ") == b"one\n"

    def test_somebody_at_the_terminal_answers_what_was_refused(self) -> None:
        watched = Watched(attended=True)
        assert watched.answer(b"SSH password: ") == b"one\n"
        assert watched.say(b"\r\nSorry, try again.\r\nSSH password: ").rest(3600) is None


class TestCost:
    @pytest.mark.parametrize("size", [1, 100, WINDOW, 10 * WINDOW])
    def test_what_is_kept_stays_bounded_however_it_comes(self, size: int) -> None:
        watched, most = Watched(), 0
        for _ in range(50 * WINDOW // size):
            watched.say(b"x" * size)
            most = max(most, len(watched.prompter._recent))
        assert most <= 4 * WINDOW

    @pytest.mark.parametrize("size", [1, 100, WINDOW, 10 * WINDOW])
    def test_the_last_4096_bytes_alone_are_matched_with_however_they_came(self, size: int) -> None:
        watched = Watched({"\ny{4090}word: ": "more", "y{4090}word: ": "all"})
        said = b"\n" * 100_000 + b"y" * 4090 + b"word: "
        watched.say(*(said[start : start + size] for start in range(0, len(said), size)))
        assert watched.rest(0.6) == b"all\n"

    def test_a_hundred_megabytes_without_a_newline_pass_quickly(self) -> None:
        watched, chunk = Watched(whole_lines=True), b"x" * 65536
        began = time.process_time()
        for _ in range(1600):
            watched.say(chunk)
        watched.rest(60)
        assert time.process_time() - began < 2

    def test_a_line_that_grows_bit_by_bit_is_looked_at_less_and_less(self) -> None:
        watched, looks = Watched({"never": "word"}), 0
        for _ in range(100):
            watched.say(b". ")
            before = watched.prompter._quiet
            watched.rest(0.06)
            looks += watched.prompter._quiet != before
        assert looks <= 2
        assert watched.answer(b"\r\nnever: ") == b"word\n"

    @pytest.mark.parametrize("pattern", [r"(a+)+$", r"(?:a|aa)*\n", r".*a.*a.*a.*a.*!$"])
    def test_an_expression_that_explodes_is_given_up_and_told(
        self, pattern: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        watched = Watched({pattern: "word", "ab: $": "other"})
        began = time.monotonic()
        with caplog.at_level(logging.WARNING, "ee_runner"):
            assert watched.answer(b"a" * 3000 + b"b: ") == b"other\n"
            assert watched.answer(b"\r\n" + b"a" * 3000 + b"b: ") == b"other\n"
        assert time.monotonic() - began < 20
        assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == [pattern]

    def test_an_expression_that_might_explode_answers_where_it_does_not(self) -> None:
        watched = Watched({r"^(?:SSH |BECOME )+password(\[.*\])*:\s*$": "word"})
        assert watched.answer(b"BECOME password[defaults to SSH password]: ") == b"word\n"
        assert watched.answer(b"\r\nother password: ") is None

    def test_the_recognition_of_questions_copes_with_hostile_lines(self) -> None:
        hostile = (b"password" * 600, b"[y/n" * 1200, b"\x1b_" * 3000, b"\x1b]" * 3000, b"\0[\n" * 2000, b"(" * 5000)
        began = time.process_time()
        for text in hostile:
            for ending in (b"", b": ", END):
                Watched(whole_lines=True).say(text + ending).rest(60)
        assert time.process_time() - began < 5
