"""The library's functions: keyword arguments in, a Runner out."""

from __future__ import annotations

import os
from typing import Any

from ee_runner import settings
from ee_runner.pipeline import EventHandler
from ee_runner.runner import Runner


def run(*, event_handler: EventHandler | None = None, **options: Any) -> Runner:
    """Run one job in the foreground and return its Runner (seed, section 5.2).

    The keywords are the options of the option table, such as `private_data_dir`, `playbook` and `container_image`.
    Raises ConfigurationError for an unknown or wrong one, and what Runner.run raises.
    """
    resolved = settings.resolve(options, environ=os.environ)
    return Runner(settings.job_spec(resolved), event_handler=event_handler).run()
