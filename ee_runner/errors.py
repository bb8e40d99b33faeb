"""Every exception of this library, and the exit code that each one owns.

    RunnerError                      1   (``ansible_runner.AnsibleRunnerException``)
    +-- ConfigurationError          78   what was asked for is wrong: an option, a file, a path
    +-- EngineError                 69   the container engine failed
    |   +-- EngineUnavailable       69   it is not installed, or its daemon is down
    |   +-- ImageError              66   the image is missing, forbidden, or its registry unreachable
    |   +-- MountRefused            77   a path that must not or can not be mounted
    |   +-- LaunchError             71   the process could not be started
    +-- StreamError                 76   the remote job's stream is broken
    |   +-- BadFrame, TruncatedStream, UnsafeArchive
    +-- ArtifactError               74   artifacts can not be written or read
    +-- CallbackError               70   a handler of the caller, or a plugin, raised

A failing play, a cancel and a timeout are outcomes, never exceptions. Exit codes follow sysexits.h, apart from the
codes that Ansible itself uses (0-8, 99, 250).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class RunnerError(Exception):
    """What kept a job from running; the message names the thing, the place and the remedy."""

    exit_code: ClassVar[int] = 1


class ConfigurationError(RunnerError):
    """The request is wrong: an unknown key, a malformed file, a missing playbook."""

    exit_code = 78


class EngineError(RunnerError):
    """The engine failed in a way that no subclass describes."""

    exit_code = 69


class EngineUnavailable(EngineError):
    """The engine is not installed, can not be run by this user, or its daemon does not answer."""


class ImageError(EngineError):
    """The image could not be had; `cause` is missing, forbidden, unreachable or unknown."""

    exit_code = 66

    def __init__(self, message: str, *, image: str, cause: str = "unknown") -> None:
        super().__init__(message)
        self.image = image
        self.cause = cause


class MountRefused(EngineError):
    """A path can not be made visible inside, or must not be."""

    exit_code = 77


class LaunchError(EngineError):
    """The process of the job could not be started."""

    exit_code = 71


class StreamError(RunnerError):
    """The stream of a remote job can not be used."""

    exit_code = 76


class BadFrame(StreamError):
    """A record of the stream is not what the protocol allows at this place."""


class TruncatedStream(StreamError):
    """The stream ended before its end record."""


class UnsafeArchive(StreamError):
    """An archive holds an entry that would leave its directory, or exceeds the stated limits."""


class ArtifactError(RunnerError):
    """An artifact can not be written or read."""

    exit_code = 74


class CallbackError(RunnerError):
    """A handler of the caller, or a plugin, raised; the cause is chained."""

    exit_code = 70


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known spelling, or an empty string."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
