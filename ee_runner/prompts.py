"""Prompts: found where the output rests on them, and answered from ``env/passwords`` or told to be unanswered.

Sans-IO: the caller feeds the output, looks when `Prompter.due` says so, and types what `Prompter.look` returns.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ee_runner.errors import EngineError, LaunchError
from ee_runner.secrets import Secret

WINDOW = 4096
"""Bytes of output, colours included, that a prompt may take and that an expression is matched with."""

QUIET = 0.05
"""Seconds of silence after which an unfinished line that ends as questions do is taken for one."""

_HESITANT = 0.5
"""The same for any other line, and for ``pause``, which forgets what was typed before it is ready to read."""

_CERTAIN = 1.0
"""Seconds that a line which surely asks may rest without an answer."""

_TIMES = 3
"""How often a prompt is answered that comes again and again with nothing said in between; ssh asks three times."""

_NEAR = 3
"""Lines, at most, in which a program says that an answer was refused before it asks again."""

_SHOWN = 500
"""Characters of a prompt that a message shows, its end: that is where the question is."""

_STEPS = 20_000_000
"""Steps of the matching engine that the executor may wait for, some tenths of a second."""

_MATCH_TIME = 1.0

_MARK = re.compile(rb"\x1b_[^\x1b]*\x1b\\")
_CONTROL = re.compile(rb"\x1b(?:[P^\]X][^\x1b\x07]*(?:\x1b\\|\x07)|\[[0-?]*[ -/]*[@-~]|[ -/]*[0-~])")
_LINE_END = re.compile(r"\r+\n?")
_INVISIBLE = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

_ASKING = re.compile(r"[:?\]>)]\s*\Z")
_SURELY = re.compile(
    r"""
    \A (?!\W*(?:chang|check|clear|creat|decrypt|encrypt|generat|hash|load|read|reset|rotat|sett|stor|test|updat|validat
        |verify|writ)ing\b (?!.*\benter\b))             # what a program is doing is no question
    .*?
    (?: (?: pass(?:word|wd|code|[ ]?phrase) (?!["'])
          | \b(?:pin|otp|one[- ]time|verification[ ]code|authentication[ ]code|security[ ]code|username[ ]for)\b
          | please[ ]type[ ]'yes',[ ]'no'
        ) .{0,300} [:?>] \s*
      | \A \s* (?:username|login) \s* : \s*
      | [\[(] \s* y(?:es)? \s*/\s* no? \b .{0,60} [\])] \s* [:?>]* \s*
    ) \Z""",
    re.IGNORECASE | re.VERBOSE,
)
"""A last line that asks for a password, a code, a name to log in, or for yes or no."""

_REFUSED = re.compile(
    r"""try\ again | ^\W*(?:permission|access)\ denied | \bincorrect\b | \bsorry\b | \bwrong\b | mismatch
      | \b(?:bad|invalid)\ (?:pass|pin|code|login|credential) | (?:do|does|did)(?:\ not|n't)\ match
      | not\ (?:correct|valid)\b | (?:authentication|login)\ fail""",
    re.IGNORECASE | re.VERBOSE,
)
_ONCE_MORE = re.compile(r"try again|\bincorrect\b|\bbad pass", re.IGNORECASE)

_PAUSE = re.compile(r"\0(\[[^\0\n]+\]\n[^\0]*:)\s*\n\0\Z")
"""What Ansible's pause asks, which ends with a newline: alone between an event's marks (NUL)."""

_TIMED = re.compile(r"\(ctrl\+C then 'C' = continue early[^\0\n]*\n\0*\Z")
"""What comes before the text of a pause that ends by itself."""

_BEFORE = 100
"""More than its length."""

_REPEATS = re.compile(r"[*+{]")
_REPEATED_GROUP = re.compile(r"\)\s*[*+{]")
_MATCHER = """
import json, re, sys
pattern, text, start = json.load(sys.stdin)
sys.exit(not any(match.end() > start for match in re.compile(pattern, re.MULTILINE).finditer(text)))
"""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A prompt that nobody answers; `refused` says that its answer had been given and is asked for again."""

    text: str
    refused: bool

    @property
    def detail(self) -> str:
        """Say in one line why the job can not go on."""
        if self.refused:
            return f"the answer was refused, and is asked for again: {self.text}"
        return f"nobody answers, and no expression of env/passwords fits: {self.text}"


@dataclass(frozen=True, slots=True)
class _Question:
    """The text up to its end, where the question in it starts, and how long it must and may rest.

    `shown` is the question in one line, without what was typed before and is echoed.
    """

    text: str
    start: int
    shown: str
    rest: float
    wait: float | None


class Prompter:
    """Watches the tail of the output for prompts (seed, section 1.5).

    A prompt is text without a newline after it, on which the job rests; lines that scroll by are never answered,
    however well an expression fits them. Expressions see what a terminal shows: no colours and control characters,
    each line ended by ``\\n``; ``^`` and ``$`` match at every line.

    `patience` is how many seconds an unfinished line that ends like a question may rest unanswered when
    `whole_lines` says that the job's program finishes every other line, as Ansible does. A line that surely asks rests
    a second, whatever the program. 0 waits for ever. `attended` says that somebody at a terminal may answer: nothing is
    unanswered then.
    """

    def __init__(
        self,
        passwords: Mapping[str, Secret],
        *,
        patience: float = 0.0,
        whole_lines: bool = False,
        attended: bool = False,
    ) -> None:
        self._answers = [(_Expression(pattern), secret) for pattern, secret in passwords.items()]
        self._patience = 0.0 if attended else max(patience, 0.0)
        self._whole_lines = whole_lines
        self._attended = attended
        self._due: float | None = None
        self._quiet = QUIET
        self._asked: dict[str, int] = {}
        self._typed = ""
        self._tail, self._cut = b"", False
        self._since, self._tried = 0.0, False

    def feed(self, data: bytes, now: float) -> None:
        """Take output that came at `now`, in seconds of the clock that `look` is given too."""
        if not (self._answers or self._patience):
            return
        self._cut = self._cut or len(self._tail) + len(data) > WINDOW
        self._tail = data[-WINDOW:] if len(data) >= WINDOW else (self._tail + data)[-WINDOW:]
        if b"\n" in data:
            self._quiet = QUIET
        self._since, self._tried = now, False
        self._due = None if data.endswith(b"\n") else now + self._quiet

    @property
    def due(self) -> float | None:
        """When to `look` although nothing has come; None when there is no need."""
        return self._due

    def look(self, now: float) -> bytes | Unanswered | None:
        """Return what to type, or what ends the job, if it is time and the output rests on a question."""
        if self._due is None or now < self._due:
            return None
        self._due = None
        question = self._question()
        if question is None:
            return None
        if now < self._since + question.rest:
            self._due = self._since + question.rest
            return None
        return self._answered(question) or self._given_up(question, now)

    def _question(self) -> _Question | None:
        marked = _visible(self._tail)
        text = marked.replace("\0", "")
        if self._whole_lines and (start := _pause(marked, cut=self._cut)) is not None:
            return _Question(text, start, self._shown(text[start:]), _HESITANT, self._patience or None)
        start = text.rfind("\n") + 1
        line = text[start:]
        if not line.strip():
            return None
        asking = bool(_ASKING.search(line))
        wait = self._patience if asking and self._whole_lines else 0.0
        if self._patience and _SURELY.search(line[-_SHOWN:]):
            wait = min(self._patience, _CERTAIN)
        rest = max(self._quiet, QUIET if asking else _HESITANT)
        return _Question(text, start, self._shown(line), rest, wait or None)

    def _shown(self, text: str) -> str:
        return " ".join(text.removeprefix(self._typed).split())

    def _answered(self, question: _Question) -> bytes | Unanswered | None:
        if self._tried:
            return None
        self._tried = True
        for expression, secret in self._answers:
            if expression.fits(question):
                return self._answer(question, secret)
        self._quiet = min(self._quiet * 2, _HESITANT)  # a line that grows bit by bit is looked at less and less
        return None

    def _answer(self, question: _Question, secret: Secret) -> bytes | Unanswered | None:
        if self._refused(question):
            return None if self._attended else self._unanswered(question, refused=True)
        self._asked[question.shown] = self._asked.get(question.shown, 0) + 1
        self._typed = secret.reveal()
        self._tail, self._cut = b"", False
        return self._typed.encode() + b"\n"

    def _refused(self, question: _Question) -> bool:
        """Say whether it is asked once more for what was answered; what else was said in between makes it new."""
        said = self._said_since(question)
        told = 0 < len(said) <= _NEAR and any(map(_REFUSED.search, said))
        if self._cut or (said and not told):
            self._asked.clear()
        times = self._asked.get(question.shown, 0)
        return bool(times and told) or times >= _TIMES or bool(self._asked and _ONCE_MORE.search(question.shown))

    def _said_since(self, question: _Question) -> list[str]:
        """Return the lines with words in them since the last answer, without what a terminal echoed of it."""
        echo, *lines = question.text[: question.start].split("\n")
        without = echo.replace(self._typed, "") if self._typed else echo
        return [line for line in (without, *lines) if any(map(str.isalpha, line))]

    def _given_up(self, question: _Question, now: float) -> Unanswered | None:
        if question.wait is None:
            return None
        if now < self._since + question.wait:
            self._due = self._since + question.wait
            return None
        return self._unanswered(question, refused=self._refused(question))

    def _unanswered(self, question: _Question, *, refused: bool) -> Unanswered:
        long = len(question.shown) > _SHOWN
        return Unanswered("..." * long + question.shown[-_SHOWN:], refused)


class _Expression:
    """A regular expression of env/passwords, which can not hold the executor up for long."""

    def __init__(self, pattern: str) -> None:
        self._compiled = re.compile(pattern, re.MULTILINE)
        self._repeats = len(_REPEATS.findall(pattern))
        self._wild = bool(_REPEATED_GROUP.search(pattern))
        self._too_slow = False

    def fits(self, question: _Question) -> bool:
        """Say whether it matches a part of the question; one that once took too long is not tried again."""
        if self._too_slow:
            return False
        if not self._wild and len(question.text) ** (self._repeats + 1) <= _STEPS:
            return self._matches(question)
        return self._matches_in_time(question)

    def _matches(self, question: _Question) -> bool:
        return any(match.end() > question.start for match in self._compiled.finditer(question.text))

    def _matches_in_time(self, question: _Question) -> bool:
        """Match in a process of its own: nothing else can interrupt the matching engine."""
        import json

        from ee_runner.executor.control import capture

        asked = json.dumps([self._compiled.pattern, question.text, question.start]).encode()
        python = sys.executable if Path(sys.executable).name.startswith("python") else "python3"
        try:
            return capture([python, "-I", "-S", "-c", _MATCHER], input=asked, timeout=_MATCH_TIME).rc == 0
        except LaunchError:
            return self._matches(question)
        except EngineError:
            self._too_slow = True
            logging.getLogger("ee_runner").warning(
                "%s in env/passwords takes longer than %g s on a line of the output, and is not tried again. "
                "Nested repetitions (*, +) make it slow.",
                self._compiled.pattern,
                _MATCH_TIME,
            )
            return False


def _visible(data: bytes) -> str:
    """Return what a terminal shows of the output, each mark of an event as a NUL."""
    marked = _MARK.sub(b"\0", data.replace(b"\0", b""))
    text = _LINE_END.sub("\n", _CONTROL.sub(b"", marked).decode("utf-8", "replace"))
    return _INVISIBLE.sub("", text)


def _pause(marked: str, *, cut: bool) -> int | None:
    """Return where in the text without marks the question of Ansible's pause starts, if that is what it rests on.

    What stands before it must not have been cut off: it tells whether the pause ends by itself.
    """
    found = _PAUSE.search(marked)
    if found is None or (cut and found.start(1) < _BEFORE) or _TIMED.search(marked, 0, found.start(1)):
        return None
    return len(marked[: found.start(1)].replace("\0", ""))
