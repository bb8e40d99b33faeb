"""The installed emitters by name: as a module and, in its place, as the dictionary itself."""

import sys

from ee_runner.emitters.plugins import plugins

__all__ = ["plugins"]

sys.modules[__name__] = plugins  # type: ignore[assignment]  # programs import it, and look names up in it
