"""``python -m ee_runner``."""

import sys

from ee_runner.cli.main import main

sys.exit(main())
