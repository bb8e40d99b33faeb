"""What a prompt looks like: the expressions that tell a question from other output, and what a terminal shows of it.

They take some thousandths of a second to compile, and most jobs ask nothing: `prompts` imports this when it must look.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from ee_runner.errors import EngineError, LaunchError

SHOWN = 500
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


def asks(line: str) -> bool:
    """Say whether a line ends as questions do."""
    return bool(_ASKING.search(line))


def surely_asks(line: str) -> bool:
    """Say whether a line asks for a password, a code, a name to log in, or for yes or no."""
    return bool(_SURELY.search(line[-SHOWN:]))


def tells_of_a_refusal(line: str) -> bool:
    """Say whether a line tells that an answer was refused."""
    return bool(_REFUSED.search(line))


def asks_once_more(shown: str) -> bool:
    """Say whether a question itself tells that its answer was refused."""
    return bool(_ONCE_MORE.search(shown))


def visible(data: bytes) -> str:
    """Return what a terminal shows of the output, each mark of an event as a NUL."""
    marked = _MARK.sub(b"\0", data.replace(b"\0", b""))
    text = _LINE_END.sub("\n", _CONTROL.sub(b"", marked).decode("utf-8", "replace"))
    return _INVISIBLE.sub("", text)


def pause(marked: str, *, cut: bool) -> int | None:
    """Return where in the text without marks the question of Ansible's pause starts, if that is what it rests on.

    What stands before it must not have been cut off: it tells whether the pause ends by itself.
    """
    found = _PAUSE.search(marked)
    if found is None or (cut and found.start(1) < _BEFORE) or _TIMED.search(marked, 0, found.start(1)):
        return None
    return len(marked[: found.start(1)].replace("\0", ""))


class Expression:
    """A regular expression of env/passwords, which can not hold the executor up for long."""

    def __init__(self, pattern: str) -> None:
        self._compiled = re.compile(pattern, re.MULTILINE)
        self._repeats = len(_REPEATS.findall(pattern))
        self._wild = bool(_REPEATED_GROUP.search(pattern))
        self._too_slow = False

    def fits(self, text: str, start: int) -> bool:
        """Say whether it matches a part of the text that ends after `start`; not again, once it took too long."""
        if self._too_slow:
            return False
        if not self._wild and len(text) ** (self._repeats + 1) <= _STEPS:
            return self._matches(text, start)
        return self._matches_in_time(text, start)

    def _matches(self, text: str, start: int) -> bool:
        return any(match.end() > start for match in self._compiled.finditer(text))

    def _matches_in_time(self, text: str, start: int) -> bool:
        """Match in a process of its own: nothing else can interrupt the matching engine."""
        import json

        from ee_runner.executor.control import capture

        asked = json.dumps([self._compiled.pattern, text, start]).encode()
        python = sys.executable if Path(sys.executable).name.startswith("python") else "python3"
        try:
            return capture([python, "-I", "-S", "-c", _MATCHER], input=asked, timeout=_MATCH_TIME).rc == 0
        except LaunchError:
            return self._matches(text, start)
        except EngineError:
            self._too_slow = True
            import logging

            logging.getLogger("ee_runner").warning(
                "%s in env/passwords takes longer than %g s on a line of the output, and is not tried again. "
                "Nested repetitions (*, +) make it slow.",
                self._compiled.pattern,
                _MATCH_TIME,
            )
            return False
