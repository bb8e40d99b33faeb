"""The entry point: answers for the version at once, and loads the rest for everything else."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (sys.argv without them) and return its exit code.

    Raises SystemExit after help, and for a command line that is wrong.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments == ["--version"]:
        from ee_runner import __version__

        print(__version__)
        return 0
    from ee_runner.cli import job

    return job.main(arguments)
