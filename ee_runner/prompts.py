"""Password prompts: recognised at the end of the output, answered once each."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ee_runner.secrets import Secret

WINDOW = 4096
"""Bytes of output that a prompt's text, colours included, may take."""

QUIET = 0.05
"""Seconds of silence after which an unfinished line is taken for a prompt."""

_CONTROL = re.compile(rb"\x1b(?:[_P^\]X].*?(?:\x1b\\|\x07)|\[[0-?]*[ -/]*[@-~]|[@-Z\\^_])", re.DOTALL)


class Prompter:
    """Watches the tail of the output for the prompts of ``env/passwords`` (seed, section 1.5).

    A prompt is text without a newline after it, on which the job rests. Lines that scroll by are never answered,
    however well a pattern fits them.
    """

    def __init__(self, passwords: Mapping[str, Secret]) -> None:
        self._answers = [(re.compile(pattern, re.MULTILINE), secret) for pattern, secret in passwords.items()]
        self._tail = b""

    def feed(self, data: bytes) -> None:
        if self._answers:
            self._tail = (self._tail + data)[-WINDOW:]

    @property
    def waiting(self) -> bool:
        """Whether the output rests on an unfinished line."""
        return bool(self._tail) and not self._tail.endswith((b"\n", b"\r"))

    def answer(self) -> bytes | None:
        """Return what to type at the prompt that the output rests on, or None when no pattern fits it."""
        text = _CONTROL.sub(b"", self._tail).decode("utf-8", "replace").replace("\r\n", "\n")
        line = text.rfind("\n") + 1
        if not text[line:].strip():
            return None
        for pattern, secret in self._answers:
            if any(match.end() > line for match in pattern.finditer(text)):
                self._tail = b""
                return secret.reveal().encode() + b"\n"
        return None
