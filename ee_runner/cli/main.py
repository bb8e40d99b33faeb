"""The entry point: answers for the version at once, and loads the rest for everything else."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ee_runner.executor.minding import Minding

_JOBS = (["run"], ["playbook"], ["adhoc"])
"""What runs a job in this process: its minder starts while the rest is loaded."""

_HELP = frozenset(("-h", "--help"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (sys.argv without them) and return its exit code.

    Raises SystemExit after help, and for a command line that is wrong.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments == ["--version"]:
        from ee_runner import __version__

        print(__version__)
        return 0
    from ee_runner.cli.streams import occupy_standard_streams

    occupy_standard_streams()
    if arguments[:1] in _JOBS and _HELP.isdisjoint(arguments):
        from ee_runner.executor import minding

        with minding.ahead() as ready:
            _load_for_good()
            return _perform(arguments, ready)
    return _perform(arguments, None)


def _perform(arguments: list[str], ready: Minding | None) -> int:
    from ee_runner.cli import job

    return job.main(arguments, ready)


def _load_for_good() -> None:
    """Load what runs a job, which no garbage collection need look at: neither now nor at the end."""
    import gc

    collected = gc.isenabled()
    gc.disable()
    try:
        import ee_runner.cli.job
        import ee_runner.runner  # noqa: F401
    finally:
        if collected:
            gc.enable()
    if hasattr(gc, "freeze"):  # PyPy has none
        gc.freeze()
