"""What Ansible knows, asked of its own tools: plugins and their docs, inventories, the configuration, roles.

Each function runs one command with `run_command` and returns ``(response, error)``: what the tool answered on its
standard output, parsed where it is JSON, and what it said on its standard error. On a terminal (`runner_mode`
"pexpect") both are one stream, and the error is empty.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ee_runner.errors import RunnerError
from ee_runner.query_words import (
    PathText,
    Words,
    ansible_config_words,
    inventory_words,
    plugin_docs_words,
    plugin_list_words,
    role_argspec_words,
    role_list_words,
)
from ee_runner.values import dataclass

if TYPE_CHECKING:
    import threading

    from typing_extensions import Unpack

    from ee_runner.keywords import Keywords
    from ee_runner.runner import Runner

Document: TypeAlias = dict[str, Any]

_STOPPED = 254
_SHOWN = 2000


def get_plugin_docs(
    plugin_names: Sequence[str],
    plugin_type: str | None = None,
    response_format: str | None = None,
    snippet: bool = False,
    playbook_dir: PathText | None = None,
    module_path: PathText | None = None,
    **options: Unpack[Keywords],
) -> tuple[Document | str, str]:
    """Return the documentation of plugins, and what ``ansible-doc`` said on its standard error (seed, section 5.6).

    The response is a dictionary by plugin name, without the names that Ansible does not know (the error tells of
    those); with `response_format` "human" it is text, and only then `snippet` shows. It is "" when Ansible failed and
    the error says why. `options` are those of `run_command`, with `runner_mode` "subprocess".

    Raises ConfigurationError for a wrong argument, RunnerError for an answer that is missing or not whole, and what
    `run_command` raises.
    """
    words = plugin_docs_words(
        plugin_names,
        plugin_type=plugin_type,
        response_format="json" if response_format is None else response_format,
        snippet=snippet,
        playbook_dir=playbook_dir,
        module_path=module_path,
    )
    printed = _ask(words, options)
    return printed.text() if response_format == "human" else printed.document()


def get_plugin_docs_async(
    plugin_names: Sequence[str],
    plugin_type: str | None = None,
    response_format: str | None = None,
    snippet: bool = False,
    playbook_dir: PathText | None = None,
    module_path: PathText | None = None,
    **options: Unpack[Keywords],
) -> tuple[threading.Thread, Runner]:
    """Ask for plugin docs in a thread of its own, and return the thread and the Runner (seed, section 5.7).

    The answer is text, in the Runner's `stdout`; the arguments are those of `get_plugin_docs`. Raises
    ConfigurationError for a wrong argument, and what `run_command_async` raises.
    """
    from ee_runner.api import run_command_async

    executable, arguments = plugin_docs_words(
        plugin_names,
        plugin_type=plugin_type,
        response_format="json" if response_format is None else response_format,
        snippet=snippet,
        playbook_dir=playbook_dir,
        module_path=module_path,
    )
    return run_command_async(executable, list(arguments), **_with_defaults(options))


def get_plugin_list(
    list_files: bool | None = None,
    response_format: str | None = None,
    plugin_type: str | None = None,
    playbook_dir: PathText | None = None,
    module_path: PathText | None = None,
    **options: Unpack[Keywords],
) -> tuple[Document | str, str]:
    """Return the installed plugins of a type, modules unless told otherwise, and Ansible's error (seed, section 5.8).

    The response is a dictionary from a plugin's name to what it does, with `list_files` to the path of its file; with
    `response_format` "human" it is text. It is "" when Ansible failed and the error says why. `options` and what is
    raised: as `get_plugin_docs`.
    """
    human = response_format == "human"
    words = plugin_list_words(
        list_files=list_files,
        response_format="json" if response_format is None else response_format,
        plugin_type=plugin_type,
        playbook_dir=playbook_dir,
        module_path=module_path,
    )
    if list_files and not human:  # no release of Ansible can print the files as JSON
        executable, arguments = words
        return _ask((executable, tuple(word for word in arguments if word != "-j")), options).files()
    printed = _ask(words, options)
    return printed.text() if human else printed.document()


def get_inventory(
    action: str,
    inventories: Sequence[PathText],
    response_format: str | None = None,
    host: str | None = None,
    playbook_dir: PathText | None = None,
    vault_ids: str | Sequence[str] | None = None,
    vault_password_file: PathText | None = None,
    output_file: PathText | None = None,
    export: bool | None = None,
    **options: Unpack[Keywords],
) -> tuple[Document | str, str]:
    """Return an inventory, one of its hosts, or its graph, and Ansible's error (seed, section 5.9).

    With `response_format` "json" the response is a dictionary; without one it is the same JSON as text, on which
    callers of ansible-runner rely. YAML, TOML and the graph are text. It is "" when `output_file` received the answer,
    and when Ansible failed and the error says why. `host` counts for the action "host" alone. `options` and what is
    raised: as `get_plugin_docs`.
    """
    words = inventory_words(
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
    printed = _ask(words, options)
    as_text = response_format != "json" or action == "graph" or (output_file is not None and not printed.stdout.strip())
    return printed.text() if as_text else printed.document()


def get_ansible_config(
    action: str, config_file: PathText | None = None, only_changed: bool | None = None, **options: Unpack[Keywords]
) -> tuple[str, str]:
    """Return Ansible's configuration as text, and its error (seed, section 5.10).

    "list" describes every setting, "dump" gives the values in force (with `only_changed` those that differ from the
    default), "view" the text of the configuration file. `options` and what is raised: as `get_plugin_docs`.
    """
    return _ask(ansible_config_words(action, config_file=config_file, only_changed=only_changed), options).text()


def get_role_list(
    collection: str | None = None, playbook_dir: PathText | None = None, **options: Unpack[Keywords]
) -> tuple[Document, str]:
    """Return the installed roles that have an argument specification, of one collection or of all.

    The response is a dictionary by role name, empty when there are none, or when Ansible failed and the error says
    why. `options` and what is raised: as `get_plugin_docs`.
    """
    return _roles(_ask(role_list_words(collection, playbook_dir=playbook_dir), options))


def get_role_argspec(
    role: str, collection: str | None = None, playbook_dir: PathText | None = None, **options: Any
) -> tuple[Document, str]:
    """Return the argument specification of a role, named in full or within `collection`.

    The response is a dictionary by role name, empty when there is no such role, or when Ansible failed and the error
    says why. `options` and what is raised: as `get_plugin_docs`.
    """
    return _roles(_ask(role_argspec_words(role, collection, playbook_dir=playbook_dir), options))


def json_object(text: str) -> Document | None:
    """Return the JSON object that Ansible printed among other lines, or None when there is none that is whole.

    It is a line of its own, or the lines from an opening brace to a closing one that are not indented. Of several, the
    last: Ansible answers when its plugins have had their say. Escape sequences of terminals do not count. A piece of
    an object that was cut off or interrupted is no object. Each line is read once: the time grows with the text.
    """
    text = _LINE_BREAK.sub("\n", _SEQUENCE.sub("", text))
    found: Document | None = None
    begin: int | None = None
    for piece in _PIECE.finditer(text):
        if piece["line"]:
            alone = _decoded(piece["line"])
            found = found if alone is None else alone
        elif piece["begin"]:
            begin = piece.start()
        else:
            found = None if begin is None else _decoded(text[begin : piece.end()])
            begin = None
    return found if begin is None else None


def _decoded(text: str) -> Document | None:
    try:
        value: Document = json.loads(text)
    except (ValueError, RecursionError):  # no JSON; numbers of thousands of digits; thousands of levels
        return None
    return value


_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_LINE_BREAK = re.compile(r"\r+\n?")
_PIECE = re.compile(
    r"""
      ^(?P<line> \{ .* \} ) [ \t]* $
    | (?P<begin> ^\{ (?=\n[ \t]+") | \{ (?=\n[ ]{4}") )   # the latter after an unfinished line, as Ansible indents
    | ^ \} [ \t]* $
    """,
    re.MULTILINE | re.VERBOSE,
)
_FILE = re.compile(r"([\w.]+)[ \t]+(/.*)")


@dataclass(frozen=True, slots=True)
class _Printed:
    """What a command printed and how it ended; every way to read it raises RunnerError when it was stopped."""

    words: Words
    stdout: str
    stderr: str
    rc: int | None

    def text(self) -> tuple[str, str]:
        """Return the two texts; a failure of which neither says a word is raised."""
        self._refuse_stopped()
        if self.rc != 0 and not (self.stdout.strip() or self.stderr.strip()):
            raise RunnerError(self._complaint("failed without a word"))
        return self.stdout, self.stderr

    def document(self) -> tuple[Document | str, str]:
        """Return the JSON object and the error; an empty text in its place when Ansible's error says why."""
        self._refuse_stopped()
        document = json_object(self.stdout)
        return (document, self.stderr) if document is not None else self._nothing("printed no JSON that can be read")

    def files(self) -> tuple[Document | str, str]:
        """Return the path of each plugin's file, from lines of names and paths, and the error, as `document` does."""
        text, error = self.text()
        return (_files(text), error) if self.rc == 0 else self._nothing("failed")

    def _nothing(self, problem: str) -> tuple[str, str]:
        if self.rc == 0 or not self.stderr.strip():
            raise RunnerError(self._complaint(problem))
        return "", self.stderr

    def _refuse_stopped(self) -> None:
        if self.rc == _STOPPED:
            raise RunnerError(self._complaint("was stopped, by a time limit or a cancel, before its answer was whole"))

    def _complaint(self, problem: str) -> str:
        executable, arguments = self.words
        told = [
            f"{name}: {_tail(text)}"
            for name, text in (("standard output", self.stdout), ("standard error", self.stderr))
            if text.strip()
        ]
        end = "; ".join(told) or "It printed nothing"
        return f"{shlex.join((executable, *arguments))} {problem} (exit code {self.rc}). {end}"


def _tail(text: str) -> str:
    text = _SEQUENCE.sub("", text).strip()
    return text if len(text) <= _SHOWN else f"[...] {text[-_SHOWN:]}"


def _ask(words: Words, options: Mapping[str, Any]) -> _Printed:
    from ee_runner.api import run_command

    executable, arguments = words
    stdout, stderr, rc = run_command(executable, list(arguments), **_with_defaults(options))
    return _Printed(words, stdout, stderr, rc)


def _with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `run_command`: on pipes unless told otherwise; on a terminal, no pager waits for a key."""
    chosen = {**options, "runner_mode": options.get("runner_mode") or "subprocess"}
    envvars = options.get("envvars") or {}
    if chosen["runner_mode"] == "pexpect" and isinstance(envvars, Mapping):
        chosen["envvars"] = {"ANSIBLE_PAGER": "cat", "PAGER": "cat", **envvars}
    return chosen


def _files(text: str) -> Document:
    lines = _SEQUENCE.sub("", text).splitlines()
    return {found[1]: found[2] for line in lines if (found := _FILE.fullmatch(line.rstrip()))}


def _roles(printed: _Printed) -> tuple[Document, str]:
    document, error = printed.document()
    return document if isinstance(document, dict) else {}, error
