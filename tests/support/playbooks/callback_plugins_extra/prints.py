"""A callback that writes past Ansible's display."""

import os
import sys

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
    name: prints
    type: notification
    short_description: prints
    description: prints
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "prints"
    CALLBACK_NEEDS_ENABLED = False

    def v2_runner_on_ok(self, result):  # noqa: ARG002 - Ansible's signature
        print("printed to stdout")
        print("printed to stderr", file=sys.stderr)
        sys.stdout.flush()
        os.write(1, b"written to the descriptor\n")
