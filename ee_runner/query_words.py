"""The command lines of Ansible's own tools that answer questions. Pure: values in, words out, every value checked.

Each function returns the executable and its arguments, and raises ConfigurationError, naming the argument, for a wrong
value. A value that begins with a hyphen never becomes an option.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

from ee_runner.errors import ConfigurationError, nearest
from ee_runner.kinds import is_transferable

Words: TypeAlias = tuple[str, tuple[str, ...]]
"""An executable and its arguments."""

PathText: TypeAlias = str | os.PathLike[str]

PLUGIN_TYPES = (
    *("become", "cache", "callback", "cliconf", "connection", "httpapi", "inventory", "lookup", "netconf", "shell"),
    *("vars", "module", "strategy", "test", "filter", "role", "keyword"),
)
DOC_FORMATS = ("json", "human")
INVENTORY_ACTIONS = ("graph", "host", "list")
INVENTORY_FORMATS = ("json", "yaml", "toml")
CONFIG_ACTIONS = ("list", "dump", "view")

_LONG = {"-i": "--inventory", "-M": "--module-path", "-c": "--config"}


def plugin_docs_words(
    plugin_names: Sequence[str],
    *,
    plugin_type: str | None = None,
    response_format: str | None = None,
    snippet: bool | None = False,
    playbook_dir: PathText | None = None,
    module_path: PathText | None = None,
) -> Words:
    """Return the command that prints plugin docs; without a format, in Ansible's own: text."""
    names = _texts("plugin_names", plugin_names)
    options = [
        *_flag("-j", _choice("response_format", response_format, DOC_FORMATS) == "json"),
        *_flag("-s", _switch("snippet", snippet)),
        *_plugin_options(plugin_type, playbook_dir, module_path),
    ]
    return "ansible-doc", (*options, *_operands(*names))


def plugin_list_words(
    *,
    list_files: bool | None = None,
    response_format: str | None = None,
    plugin_type: str | None = None,
    playbook_dir: PathText | None = None,
    module_path: PathText | None = None,
) -> Words:
    """Return the command that lists plugins, with their files or with what they do; without a format, as text."""
    as_json = _choice("response_format", response_format, DOC_FORMATS) == "json"
    what = "-F" if _switch("list_files", list_files) else "-l"
    return "ansible-doc", (what, *_flag("-j", as_json), *_plugin_options(plugin_type, playbook_dir, module_path))


def inventory_words(
    action: str,
    inventories: Sequence[PathText],
    *,
    response_format: str | None = None,
    host: str | None = None,
    playbook_dir: PathText | None = None,
    vault_ids: str | Sequence[str] | None = None,
    vault_password_file: PathText | None = None,
    output_file: PathText | None = None,
    export: bool | None = None,
) -> Words:
    """Return the command that prints an inventory, or writes it to `output_file`; without a format, as JSON."""
    chosen = _choice("response_format", response_format, INVENTORY_FORMATS)
    words = [*_inventory_action(action, chosen, host)]
    for inventory in _texts("inventories", inventories):
        words += _option("-i", inventory)
    words += _flag(f"--{chosen}", chosen in ("yaml", "toml"))
    words += _path("--playbook-dir", "playbook_dir", playbook_dir)
    for vault_id in _texts("vault_ids", [vault_ids] if isinstance(vault_ids, str) else vault_ids or ()):
        words += _option("--vault-id", vault_id)
    words += _path("--vault-password-file", "vault_password_file", vault_password_file)
    words += _path("--output", "output_file", output_file)
    return "ansible-inventory", (*words, *_flag("--export", _switch("export", export)))


def ansible_config_words(
    action: str, *, config_file: PathText | None = None, only_changed: bool | None = None
) -> Words:
    """Return the command that prints the configuration."""
    _choice("action", action, CONFIG_ACTIONS, optional=False)
    changed = _switch("only_changed", only_changed)
    if changed and action != "dump":
        raise ConfigurationError(f"only_changed applies to the action 'dump' alone, not to {action!r}; leave it out.")
    return "ansible-config", (action, *_path("-c", "config_file", config_file), *_flag("--only-changed", changed))


def role_list_words(collection: str | None = None, *, playbook_dir: PathText | None = None) -> Words:
    """Return the command that lists the roles with an argument specification, as JSON."""
    named = () if collection is None else (_text("collection", collection),)
    options = ("-t", "role", "-l", "-j", *_path("--playbook-dir", "playbook_dir", playbook_dir))
    return "ansible-doc", (*options, *_operands(*named))


def role_argspec_words(role: str, collection: str | None = None, *, playbook_dir: PathText | None = None) -> Words:
    """Return the command that prints a role's argument specification, as JSON."""
    name = _text("role", role)
    if collection is not None:
        if "." in name:
            raise ConfigurationError(
                f"role is {name!r} and collection {collection!r}: a name with dots says its collection itself. "
                "Give the name within the collection, or leave collection out."
            )
        name = f"{_text('collection', collection)}.{name}"
    options = ("-t", "role", "-j", *_path("--playbook-dir", "playbook_dir", playbook_dir))
    return "ansible-doc", (*options, *_operands(name))


def _inventory_action(action: str, response_format: str | None, host: str | None) -> tuple[str, ...]:
    _choice("action", action, INVENTORY_ACTIONS, optional=False)
    if action == "graph" and response_format not in (None, "json"):
        raise ConfigurationError(
            f"response_format is {response_format!r}, but the action 'graph' has its own form: leave it out."
        )
    if action != "host":
        return (f"--{action}",)
    if host is None:
        raise ConfigurationError("host is missing: the action 'host' needs the name of a host of the inventory.")
    return _option("--host", _text("host", host))


def _plugin_options(
    plugin_type: str | None, playbook_dir: PathText | None, module_path: PathText | None
) -> tuple[str, ...]:
    chosen = _choice("plugin_type", plugin_type, PLUGIN_TYPES)
    return (
        *(("-t", chosen) if chosen else ()),
        *_path("--playbook-dir", "playbook_dir", playbook_dir),
        *_path("-M", "module_path", module_path),
    )


def _flag(flag: str, wanted: bool) -> tuple[str, ...]:
    return (flag,) if wanted else ()


def _path(flag: str, argument: str, value: PathText | None) -> tuple[str, ...]:
    return () if value is None else _option(flag, _text(argument, value))


def _option(flag: str, value: str) -> tuple[str, ...]:
    """Return an option's words; a value that begins with a hyphen stands in one word with the flag, or it is one."""
    return (f"{_LONG.get(flag, flag)}={value}",) if value.startswith("-") else (flag, value)


def _operands(*words: str) -> tuple[str, ...]:
    return ("--", *words) if any(word.startswith("-") for word in words) else words


def _switch(argument: str, value: object) -> bool:
    if value is not None and not isinstance(value, bool):
        raise ConfigurationError(f"{argument} is {value!r}; it must be True or False.")
    return bool(value)


def _choice(argument: str, value: str | None, known: tuple[str, ...], *, optional: bool = True) -> str | None:
    if value is None and optional:
        return None
    if value not in known:
        hint = nearest(str(value), known)
        raise ConfigurationError(f"{argument} is {value!r}; it must be one of {', '.join(known)}{hint}.")
    return value


def _text(argument: str, value: object) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text.strip() or not is_transferable(text):
        raise ConfigurationError(f"{argument} is {value!r}; it must be text that is not empty.")
    return text


def _texts(argument: str, values: object) -> tuple[str, ...]:
    if not isinstance(values, list | tuple):
        raise ConfigurationError(f"{argument} is {values!r}; it must be a list of texts, such as ['one', 'two'].")
    return tuple(_text(f"{argument}[{number}]", value) for number, value in enumerate(values))
