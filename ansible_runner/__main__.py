"""python -m ansible_runner: the command."""

import sys

from ee_runner.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
