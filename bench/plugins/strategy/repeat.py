"""Ansible strategy plugin: linear, but the first task's result goes to the callbacks EVENTS times more, as ok.

It makes events in any number for the price of one task, which has to succeed, so that a benchmark sees the cost of an
event. For ansible-core 2.14 and newer.
"""

from __future__ import annotations

import os
from typing import Any

from ansible.plugins.strategy import linear  # type: ignore[import-untyped]

DOCUMENTATION = """
    name: repeat
    short_description: repeats one ok result
    description:
      - Runs a play as the linear strategy does, and repeats its first result EVENTS times (environment variable).
    author: ee-runner contributors
    options: {}
"""


class StrategyModule(linear.StrategyModule):  # type: ignore[misc]
    """Runs a play as `linear` does, with repetitions."""

    _left = int(os.environ.get("EVENTS", "0"))

    def _process_pending_results(self, *args: Any, **kwargs: Any) -> Any:
        results = super()._process_pending_results(*args, **kwargs)
        for result in results:
            while self._left:
                StrategyModule._left -= 1
                self._tqm.send_callback("v2_runner_on_ok", result)
        return results
