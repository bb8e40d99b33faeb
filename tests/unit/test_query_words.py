"""The pure half of the queries: the words of the command lines, and finding the JSON in what Ansible printed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ee_runner.errors import ConfigurationError
from ee_runner.queries import json_object
from ee_runner.query_words import (
    ansible_config_words,
    inventory_words,
    plugin_docs_words,
    plugin_list_words,
    role_argspec_words,
    role_list_words,
)


def line(words: tuple[str, tuple[str, ...]]) -> str:
    return " ".join((words[0], *words[1]))


def test_the_words_of_plugin_docs() -> None:
    assert line(plugin_docs_words(["a.b.c", "ping"])) == "ansible-doc a.b.c ping"
    assert line(plugin_docs_words(("ping",), response_format="json")) == "ansible-doc -j ping"
    assert line(plugin_docs_words(["ping"], response_format="human", snippet=True)) == "ansible-doc -s ping"
    every = plugin_docs_words(
        ["a", "b"],
        plugin_type="lookup",
        response_format="json",
        snippet=True,
        playbook_dir=Path("/p"),
        module_path="/m:/n",
    )
    assert line(every) == "ansible-doc -j -s -t lookup --playbook-dir /p -M /m:/n a b"


def test_the_words_of_a_plugin_list() -> None:
    assert line(plugin_list_words()) == "ansible-doc -l"
    assert line(plugin_list_words(list_files=False, response_format="json")) == "ansible-doc -l -j"
    every = plugin_list_words(
        list_files=True, response_format="json", plugin_type="shell", playbook_dir="/p", module_path="/m"
    )
    assert line(every) == "ansible-doc -F -j -t shell --playbook-dir /p -M /m"


def test_the_words_of_an_inventory() -> None:
    assert line(inventory_words("list", [])) == "ansible-inventory --list"
    assert line(inventory_words("list", [Path("/a"), "b,"], response_format="json")) == (
        "ansible-inventory --list -i /a -i b,"
    )
    assert line(inventory_words("graph", ["/a"], response_format="json")) == "ansible-inventory --graph -i /a"
    assert line(inventory_words("host", ["/a"], host="h", response_format="toml")) == (
        "ansible-inventory --host h -i /a --toml"
    )
    assert line(inventory_words("list", ["/a"], host="no matter")) == "ansible-inventory --list -i /a"
    every = inventory_words(
        "list",
        ["/a"],
        response_format="yaml",
        playbook_dir="/p",
        vault_ids=["dev@/v", "x@prompt"],
        vault_password_file="/w",
        output_file=Path("out"),
        export=True,
    )
    assert line(every) == (
        "ansible-inventory --list -i /a --yaml --playbook-dir /p --vault-id dev@/v --vault-id x@prompt "
        "--vault-password-file /w --output out --export"
    )
    assert inventory_words("list", [], vault_ids="dev@/v") == inventory_words("list", [], vault_ids=["dev@/v"])


def test_the_words_of_the_configuration() -> None:
    assert line(ansible_config_words("list")) == "ansible-config list"
    assert line(ansible_config_words("view", config_file="/c")) == "ansible-config view -c /c"
    assert line(ansible_config_words("dump", config_file=Path("/c"), only_changed=True)) == (
        "ansible-config dump -c /c --only-changed"
    )
    assert line(ansible_config_words("list", only_changed=False)) == "ansible-config list"


def test_the_words_of_roles() -> None:
    assert line(role_list_words()) == "ansible-doc -t role -l -j"
    assert line(role_list_words("a.b", playbook_dir="/p")) == "ansible-doc -t role -l -j --playbook-dir /p a.b"
    assert line(role_argspec_words("r")) == "ansible-doc -t role -j r"
    assert line(role_argspec_words("a.b.r")) == "ansible-doc -t role -j a.b.r"
    assert line(role_argspec_words("r", "a.b", playbook_dir="/p")) == "ansible-doc -t role -j --playbook-dir /p a.b.r"


def test_no_value_becomes_an_option() -> None:
    assert plugin_docs_words(["ping", "--version"], response_format="json")[1] == ("-j", "--", "ping", "--version")
    assert plugin_list_words(playbook_dir="-p", module_path="-M")[1] == (
        *("-l", "--playbook-dir=-p", "--module-path=-M"),
    )
    assert role_list_words("-h")[1][-2:] == ("--", "-h")
    assert role_argspec_words("--metadata-dump")[1][-2:] == ("--", "--metadata-dump")
    assert role_argspec_words("r", "-c.d")[1][-2:] == ("--", "-c.d.r")
    assert ansible_config_words("view", config_file="-c")[1] == ("view", "--config=-c")
    every = inventory_words(
        "host",
        ["-i"],
        host="--list",
        playbook_dir="-p",
        vault_ids=["-v"],
        vault_password_file="-w",
        output_file="-o",
    )
    assert every[1] == (
        *("--host=--list", "--inventory=-i", "--playbook-dir=-p", "--vault-id=-v"),
        *("--vault-password-file=-w", "--output=-o"),
    )


WRONG: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
    (plugin_docs_words, ("ping",), {}, r"plugin_names is 'ping'; it must be a list of texts"),
    (plugin_docs_words, (["ping", 3],), {}, r"plugin_names\[1\] is 3"),
    (plugin_docs_words, (["ping", ""],), {}, r"plugin_names\[1\] is ''"),
    (plugin_docs_words, (["a\0b"],), {}, r"plugin_names\[0\]"),
    (plugin_docs_words, (None,), {}, r"plugin_names is None"),
    (plugin_docs_words, ([],), {"plugin_type": "lokup"}, r"plugin_type is 'lokup'.* become, .*'lookup'\?"),
    (plugin_docs_words, ([],), {"response_format": "xml"}, r"response_format is 'xml'; .* json, human"),
    (plugin_docs_words, ([],), {"response_format": ["json"]}, r"response_format is \['json'\]"),
    (plugin_docs_words, ([],), {"snippet": "yes"}, r"snippet is 'yes'; it must be True or False"),
    (plugin_docs_words, ([],), {"playbook_dir": 3}, r"playbook_dir is 3"),
    (plugin_docs_words, ([],), {"module_path": ["/m"]}, r"module_path is \['/m'\]"),
    (plugin_list_words, (), {"list_files": 1}, r"list_files is 1"),
    (plugin_list_words, (), {"response_format": "hunan"}, r"response_format is 'hunan'.*'human'\?"),
    (inventory_words, ("lst", []), {}, r"action is 'lst'; .* graph, host, list.*'list'\?"),
    (inventory_words, (None, []), {}, r"action is None"),
    (inventory_words, ("list", "/a"), {}, r"inventories is '/a'; it must be a list"),
    (inventory_words, ("list", {"all": {}}), {}, r"inventories is {'all'"),
    (inventory_words, ("list", []), {"response_format": "human"}, r"response_format is 'human'.* json, yaml, toml"),
    (inventory_words, ("graph", []), {"response_format": "yaml"}, r"response_format is 'yaml'.* 'graph'"),
    (inventory_words, ("host", []), {}, r"host is missing"),
    (inventory_words, ("host", []), {"host": ""}, r"host is ''"),
    (inventory_words, ("list", []), {"vault_ids": 3}, r"vault_ids is 3"),
    (inventory_words, ("list", []), {"export": "no"}, r"export is 'no'"),
    (inventory_words, ("list", []), {"output_file": ""}, r"output_file is ''"),
    (ansible_config_words, ("show",), {}, r"action is 'show'; .* list, dump, view"),
    (ansible_config_words, ("list",), {"only_changed": True}, r"only_changed .*'dump'"),
    (role_list_words, ("",), {}, r"collection is ''"),
    (role_argspec_words, ("",), {}, r"role is ''"),
    (role_argspec_words, ("a.b.r",), {"collection": "a.b"}, r"role is 'a.b.r' and collection 'a.b'"),
]


@pytest.mark.parametrize(("function", "positional", "named", "message"), WRONG)
def test_a_wrong_value_is_named_with_what_may_stand_there(
    function: Callable[..., Any], positional: tuple[Any, ...], named: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        function(*positional, **named)


DOCUMENT = {
    "_meta": {"hostvars": {"one": {"a": 1, "s": "a { brace\n{\n", "esc": "\x1b[31m"}}},
    "all": {"children": ["ungrouped"], "vars": [{"x": {}}, {}]},
}
PRINTED = json.dumps(DOCUMENT, indent=4, sort_keys=True)
COLOURED = "\x1b[1;35m[WARNING]: Unable to parse /nosuch as an inventory source\x1b[0m"


@pytest.mark.parametrize("text", [PRINTED, json.dumps(DOCUMENT), f"{PRINTED}\n\n", f"\n  \n{PRINTED} \t\n"])
def test_the_object_alone_is_found(text: str) -> None:
    assert json_object(text) == DOCUMENT


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
@pytest.mark.parametrize(
    "before",
    [
        "[WARNING]: Unable to parse /nosuch as an inventory source",
        COLOURED,
        "[DEPRECATION WARNING]: {{ braces }} are old",
        "{'a': 'dictionary of Python'}",
        "{",
        "{{ template }}",
        '{"an": "unfinished object",',
        '{"an": "unfinished text',
        '{"an": "object"} that is not alone on its line',
        '{"of": "a plugin"}',
        "[1, 2]",
        "[{",
        "Trying to pull example.com/image...\rGetting image source signatures",
        "\x1b]0;title\x07\x1b[?25l",
    ],
)
def test_noise_before_does_not_hide_the_object(before: str, end: str) -> None:
    assert json_object(f"{before}{end}{PRINTED}{end}".replace("\n", end)) == DOCUMENT


@pytest.mark.parametrize("after", ["[WARNING]: late", COLOURED, "{'a': 1}", '{"unfinished": ', "{", "[]", "done."])
def test_noise_after_does_not_hide_the_object(after: str) -> None:
    assert json_object(f"{PRINTED}\n{after}\n") == DOCUMENT


def test_an_object_right_after_an_escape_sequence_or_an_unfinished_line_is_found() -> None:
    assert json_object(f"\x1b[0m{PRINTED}\x1b[0m\n") == DOCUMENT
    assert json_object(f"loading plugins... {PRINTED}\n") == DOCUMENT
    assert json_object("\x1b[0m{}\x1b[0m") == {}


def test_of_several_objects_the_last_is_the_answer() -> None:
    assert json_object(f'{{"said": "by a plugin"}}\n{PRINTED}\n') == DOCUMENT
    assert json_object(f"{PRINTED}\n{{}}\n") == {}


@pytest.mark.parametrize("cut", range(1, len(PRINTED) - 1, 7))
def test_an_object_that_is_cut_off_is_none_and_no_piece_of_it_passes_for_it(cut: int) -> None:
    assert json_object(PRINTED[:cut]) is None
    assert json_object(PRINTED[cut:]) is None


def test_the_end_of_an_object_without_its_beginning_is_none() -> None:
    assert json_object("{}\n        ]\n    }\n}\n") is None
    assert json_object(f'{{"said": "by a plugin"}}\n{PRINTED[:-1]}') is None


def test_an_object_that_something_interrupts_is_none() -> None:
    middle = PRINTED.index("\n", len(PRINTED) // 2) + 1
    for between in ("[WARNING]: in between", '{"said": "by a plugin"}'):
        assert json_object(f"{PRINTED[:middle]}{between}\n{PRINTED[middle:]}") is None


@pytest.mark.parametrize(
    "text",
    ["", "\n", "usage: ansible-doc [-h]", "ERROR! no", "[1, 2]\n", "3", '"text"', '{"a": ' + "9" * 5000 + "x}", "{}x"],
)
def test_a_text_without_an_object_is_none(text: str) -> None:
    assert json_object(text) is None


def test_an_object_of_too_many_levels_is_none() -> None:
    assert json_object('{"a":' * 500_000) is None


@pytest.mark.parametrize(
    "piece",
    [
        "{\n",
        '{\n "',
        '{\n    "',
        "}\n",
        "{}}",
        "{ } x",
        '{"a":\n',
        '{"a": "b\n',
        '{\n    "a',
        "\x1b[",
        "\x1b]0;",
        "{\r",
        '{"a": 1} x\n',
        '{"a": [{}, \n',
    ],
)
def test_the_time_grows_with_the_text_whatever_it_is(piece: str) -> None:
    def seconds(size: int) -> float:
        text = piece * (size // len(piece))
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            json_object(text)
            best = min(best, time.process_time() - start)
        return best

    seconds(1_000)
    assert seconds(1_600_000) < 64 * seconds(100_000) + 0.05
