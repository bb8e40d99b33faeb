"""The configuration of ``ansible-inventory``."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_runner.config._base import BaseConfig
from ee_runner import query_words
from ee_runner.query_words import PathText


class InventoryConfig(BaseConfig):
    """A question about an inventory."""

    def prepare_inventory_command(
        self,
        action: str,
        inventories: Sequence[PathText],
        response_format: str | None = None,
        host: str | None = None,
        playbook_dir: PathText | None = None,
        vault_ids: str | Sequence[str] | None = None,
        vault_password_file: PathText | None = None,
        output_file: PathText | None = None,
        export: bool | None = None,
    ) -> None:
        """Ask for the inventory, a host or the graph, and make it ready to run; raises what `prepare` raises."""
        self._prepare_words(
            query_words.inventory_words(
                action,
                inventories,
                response_format=response_format,
                host=host,
                playbook_dir=playbook_dir,
                vault_ids=vault_ids,
                vault_password_file=vault_password_file,
                output_file=output_file,
                export=export,
            )
        )
