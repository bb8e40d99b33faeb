"""The configuration of ``ansible-doc``."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_runner.config._base import BaseConfig
from ee_runner import query_words
from ee_runner.query_words import PathText


class DocConfig(BaseConfig):
    """A question about plugins or roles; each method makes one ready to run and raises what `prepare` raises."""

    def prepare_plugin_docs_command(
        self,
        plugin_names: Sequence[str],
        plugin_type: str | None = None,
        response_format: str | None = None,
        snippet: bool = False,
        playbook_dir: PathText | None = None,
        module_path: PathText | None = None,
    ) -> None:
        """Ask for the documentation of plugins."""
        self._prepare_words(
            query_words.plugin_docs_words(
                plugin_names,
                plugin_type=plugin_type,
                response_format=response_format,
                snippet=snippet,
                playbook_dir=playbook_dir,
                module_path=module_path,
            )
        )

    def prepare_plugin_list_command(
        self,
        list_files: bool | None = None,
        response_format: str | None = None,
        plugin_type: str | None = None,
        playbook_dir: PathText | None = None,
        module_path: PathText | None = None,
    ) -> None:
        """Ask which plugins are installed."""
        self._prepare_words(
            query_words.plugin_list_words(
                list_files=list_files,
                response_format=response_format,
                plugin_type=plugin_type,
                playbook_dir=playbook_dir,
                module_path=module_path,
            )
        )

    def prepare_role_list_command(
        self, collection_name: str | None = None, playbook_dir: PathText | None = None
    ) -> None:
        """Ask which roles with an argument specification are installed."""
        self._prepare_words(query_words.role_list_words(collection_name, playbook_dir=playbook_dir))

    def prepare_role_argspec_command(
        self, role_name: str, collection_name: str | None = None, playbook_dir: PathText | None = None
    ) -> None:
        """Ask for the argument specification of a role."""
        self._prepare_words(query_words.role_argspec_words(role_name, collection_name, playbook_dir=playbook_dir))
