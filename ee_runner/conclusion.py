"""The end of a job: everybody is told, whatever goes wrong on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ee_runner.logs import log


def conclude(steps: Iterable[Callable[[], object]], failures: list[BaseException]) -> None:
    """Take every step, then raise the first of all that went wrong, an interrupt before all else; the rest is logged.

    `failures` are those from before.
    """
    for step in steps:
        try:
            step()
        except BaseException as error:
            failures.append(error)
    failures.sort(key=lambda error: isinstance(error, Exception))
    for later in failures[1:]:
        if str(later) != str(failures[0]):
            log.error("%s", later)
    if failures:
        raise failures[0]
