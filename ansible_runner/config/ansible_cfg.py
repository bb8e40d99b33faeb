"""The configuration of ``ansible-config``."""

from __future__ import annotations

from ansible_runner.config._base import BaseConfig
from ee_runner import query_words
from ee_runner.query_words import PathText


class AnsibleCfgConfig(BaseConfig):
    """A question about Ansible's configuration."""

    def prepare_ansible_config_command(
        self, action: str, config_file: PathText | None = None, only_changed: bool | None = None
    ) -> None:
        """Ask for the settings, and make it ready to run; raises what `prepare` raises."""
        self._prepare_words(
            query_words.ansible_config_words(action, config_file=config_file, only_changed=only_changed)
        )
