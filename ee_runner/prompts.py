"""Prompts: found where the output rests on them, and answered from ``env/passwords`` or told to be unanswered.

Sans-IO: the caller feeds the output, looks when `Prompter.due` says so, and types what `Prompter.look` returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ee_runner.secrets import Secret
from ee_runner.values import dataclass

if TYPE_CHECKING:
    from ee_runner.questions import Expression

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

_ROOM = 4 * WINDOW
"""Bytes that gather before all but the last `WINDOW` are let go."""


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
class Question:
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
        self._answers = _compiled(passwords)
        self._patience = 0.0 if attended else max(patience, 0.0)
        self._whole_lines = whole_lines
        self._attended = attended
        self._due: float | None = None
        self._quiet = QUIET
        self._asked: dict[str, int] = {}
        self._typed = ""
        self._recent, self._cut = bytearray(), False
        self._since, self._tried = 0.0, False

    def feed(self, data: bytes, now: float) -> None:
        """Take output that came at `now`, in seconds of the clock that `look` is given too."""
        if not (self._answers or self._patience):
            return
        if len(data) > WINDOW:
            self._recent.clear()
            self._cut = True
        self._recent += data[-WINDOW:]
        self._forget(beyond=_ROOM)
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

    def _forget(self, *, beyond: int) -> None:
        """Let all but the window go when there is more than that."""
        if len(self._recent) > beyond:
            del self._recent[:-WINDOW]
            self._cut = True

    def _question(self) -> Question | None:
        from ee_runner import questions

        self._forget(beyond=WINDOW)
        marked = questions.visible(bytes(self._recent))
        text = marked.replace("\0", "")
        if self._whole_lines and (start := questions.pause(marked, cut=self._cut)) is not None:
            return Question(text, start, self._shown(text[start:]), _HESITANT, self._patience or None)
        start = text.rfind("\n") + 1
        line = text[start:]
        if not line.strip():
            return None
        asking = questions.asks(line)
        wait = self._patience if asking and self._whole_lines else 0.0
        if self._patience and questions.surely_asks(line):
            wait = min(self._patience, _CERTAIN)
        rest = max(self._quiet, QUIET if asking else _HESITANT)
        return Question(text, start, self._shown(line), rest, wait or None)

    def _shown(self, text: str) -> str:
        return " ".join(text.removeprefix(self._typed).split())

    def _answered(self, question: Question) -> bytes | Unanswered | None:
        if self._tried:
            return None
        self._tried = True
        for expression, secret in self._answers:
            if expression.fits(question.text, question.start):
                return self._answer(question, secret)
        self._quiet = min(self._quiet * 2, _HESITANT)  # a line that grows bit by bit is looked at less and less
        return None

    def _answer(self, question: Question, secret: Secret) -> bytes | Unanswered | None:
        if self._refused(question):
            return None if self._attended else self._unanswered(question, refused=True)
        self._asked[question.shown] = self._asked.get(question.shown, 0) + 1
        self._typed = secret.reveal()
        self._recent, self._cut = bytearray(), False
        return self._typed.encode() + b"\n"

    def _refused(self, question: Question) -> bool:
        """Say whether it is asked once more for what was answered; what else was said in between makes it new."""
        from ee_runner.questions import asks_once_more, tells_of_a_refusal

        said = self._said_since(question)
        told = 0 < len(said) <= _NEAR and any(map(tells_of_a_refusal, said))
        if self._cut or (said and not told):
            self._asked.clear()
        times = self._asked.get(question.shown, 0)
        return bool(times and told) or times >= _TIMES or bool(self._asked and asks_once_more(question.shown))

    def _said_since(self, question: Question) -> list[str]:
        """Return the lines with words in them since the last answer, without what a terminal echoed of it."""
        echo, *lines = question.text[: question.start].split("\n")
        without = echo.replace(self._typed, "") if self._typed else echo
        return [line for line in (without, *lines) if any(map(str.isalpha, line))]

    def _given_up(self, question: Question, now: float) -> Unanswered | None:
        if question.wait is None:
            return None
        if now < self._since + question.wait:
            self._due = self._since + question.wait
            return None
        return self._unanswered(question, refused=self._refused(question))

    def _unanswered(self, question: Question, *, refused: bool) -> Unanswered:
        from ee_runner.questions import SHOWN

        return Unanswered("..." * (len(question.shown) > SHOWN) + question.shown[-SHOWN:], refused)


def _compiled(passwords: Mapping[str, Secret]) -> list[tuple[Expression, Secret]]:
    if not passwords:
        return []
    from ee_runner.questions import Expression

    return [(Expression(pattern), secret) for pattern, secret in passwords.items()]
