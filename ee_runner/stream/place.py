"""The directory that a worker works in: one that stays, or one that is emptied before the job and removed after it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ee_runner import locks
from ee_runner.artifacts import describe
from ee_runner.cleanup import patterns, trees, usage
from ee_runner.errors import ArtifactError, ConfigurationError
from ee_runner.sources import state_directory, working_directory
from ee_runner.stream.keeper import Keeper
from ee_runner.workspace import places


@contextlib.contextmanager
def staying(directory: Path) -> Iterator[Path]:
    """Give a directory, made when it is missing, and held so that no cleanup takes it.

    Raises ConfigurationError while a worker that will remove it works there, ArtifactError when it can not be made.
    """
    places.private_directory(directory)
    with _held(directory.resolve(), shared=True):
        yield directory


@contextlib.contextmanager
def passing(given: Path | None, *, cache: Path | None, keeper: Keeper, note: Callable[[str], None]) -> Iterator[Path]:
    """Give a directory with nothing in it, a temporary one without `given`, and remove it at the end of the block.

    Raises ConfigurationError for one that is not a job's own, and while another worker works there; ArtifactError
    when it can not be made or emptied. What can not be removed at the end goes to `note`.
    """
    directory = given or Path(tempfile.gettempdir()) / f".ansible-runner-{os.urandom(8).hex()}"
    real = patterns.real(str(directory))
    if given is None:
        keeper.owns(real)
    else:
        _refuse_precious(directory, real, cache)
    places.private_directory(real)
    with _held(real, shared=False) as opened:
        keeper.owns(real)
        owner = os.getpid()
        if failures := _failures(trees.empty, opened, real):
            keeper.released(real)
            raise ArtifactError(f"{directory} can not be emptied: {_words(failures)}. Name another directory.")
        try:
            yield directory
        finally:
            if os.getpid() == owner:  # and not in a fork
                _remove(opened, real, keeper=keeper, note=note)


def refuse_links(*paths: Path) -> None:
    """Raise ConfigurationError when a symbolic link stands where a worker makes a directory of its own."""
    for path in paths:
        if path.is_symlink():
            raise ConfigurationError(
                f"{path} is a symbolic link; a directory of the worker's own belongs there. Remove the link."
            )


def _refuse_precious(directory: Path, real: Path, cache: Path | None) -> None:
    """Keep --delete from what is surely not a job's directory."""
    others = [working_directory(), *(path for path in (cache,) if path)]
    with contextlib.suppress(ConfigurationError):  # no home, and so no state
        others.append(state_directory())
    reason = ""
    if real.is_symlink():
        reason = "it is a symbolic link. Name the directory itself."
    elif patterns.is_precious(real, others):
        reason = (
            "it is no directory of a job's own: a directory of the system, a home, the working directory, the cache, "
            "one for temporary files or for the state of jobs, or it holds such. Name another one."
        )
    elif _has_mount(real):
        reason = "a file system is mounted on it or in it. Unmount that, or name another directory."
    if reason:
        raise ConfigurationError(f"--delete: {directory} is not emptied: {reason}")


def _has_mount(real: Path) -> bool:
    return usage.Usage("").by_mount(real)


@contextlib.contextmanager
def _held(real: Path, *, shared: bool) -> Iterator[int]:
    """Open and lock a directory: cleanups pass it over, and another worker that would empty it is refused."""
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(trees.opened(real))
        except OSError as error:
            raise ArtifactError(f"{real} can not be used: {describe(error, option='--private-data-dir')}") from error
        if not locks.take(opened, shared=shared):
            raise ConfigurationError(f"Another worker works in {real}; give each a directory of its own.")
        yield opened


def _remove(opened: int, real: Path, *, keeper: Keeper, note: Callable[[str], None]) -> None:
    if failures := _failures(trees.remove, opened, real):
        note(f"{real} is left: {_words(failures)}. Remove it as the user who owns what is in it, or as root.")
    else:
        keeper.released(real)


def _failures(work: Callable[[int, Path], Sequence[str]], opened: int, real: Path) -> Sequence[str]:
    """Empty or remove an open directory and return what stood in the way of that."""
    if _has_mount(real):  # also where it is of the same file system, which its device would not tell
        return (f"{real}: a file system is mounted in it",)
    try:
        return work(opened, real)
    except OSError as error:
        return (f"{real}: {(error.strerror or str(error)).lower()}",)


def _words(failures: Sequence[str]) -> str:
    return patterns.plain(failures[0]) + (f" and {len(failures) - 1} more" if len(failures) > 1 else "")
