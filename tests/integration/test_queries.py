"""The queries, answered by the host's own Ansible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ee_runner import queries
from ee_runner.errors import ConfigurationError, RunnerError

HOSTS = "one a=1\ntwo\n[group]\none\n"
ARGUMENT_SPECS = (
    "argument_specs:\n  main:\n    short_description: what it is for\n"
    "    options:\n      size: {type: int, required: true, description: [how large]}\n"
)

# The interpreter imports it before Ansible: what it prints is around all that Ansible prints.
NOISY = """\
import atexit, sys
print("[WARNING]: {said before}")
print('{"said": "before"}')
print("on standard error", file=sys.stderr)
atexit.register(print, "\\x1b[1;35m[WARNING]: {said after}\\x1b[0m")
"""

INVENTORY_PLUGIN = """\
DOCUMENTATION = '''
name: talker
short_description: an inventory that talks
options: {}
'''
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.utils.display import Display

class InventoryModule(BaseInventoryPlugin):
    NAME = "talker"

    def verify_file(self, path):
        return path.endswith("talk.yml")

    def parse(self, inventory, loader, path, cache=True):
        print("looking for {hosts}")
        Display().warning("nearly nobody is there")
        Display().deprecated("talking is an old habit", version="9.9", collection_name="ansible.builtin")
        inventory.add_host("three")
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: an inventory, roles and a collection; the Ansible beside this interpreter is found."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ANSIBLE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write("hosts", HOSTS)
    write("roles/local/meta/argument_specs.yml", ARGUMENT_SPECS)
    write("collections/ansible_collections/my/own/roles/shared/meta/argument_specs.yml", ARGUMENT_SPECS)
    return tmp_path


def write(name: str, text: str) -> Path:
    path = Path(name).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if text.startswith("#!"):
        path.chmod(0o755)
    return path


def hosts_of(document: dict[str, Any] | str) -> set[str]:
    assert isinstance(document, dict)
    return {host for group in document.values() for host in group.get("hosts", ())}


def test_plugin_docs_are_a_dictionary_by_name() -> None:
    docs, error = queries.get_plugin_docs(["ansible.builtin.ping", "debug"], quiet=True)
    assert isinstance(docs, dict)
    assert set(docs) == {"ansible.builtin.ping", "debug"}
    assert docs["debug"]["doc"]["options"]["msg"]["type"] == "str"
    assert error == ""
    shells, _ = queries.get_plugin_docs(["sh"], plugin_type="shell", response_format="json", quiet=True)
    assert isinstance(shells, dict)
    assert shells["sh"]["doc"]["short_description"] == "POSIX shell (/bin/sh)"


def test_a_plugin_that_ansible_does_not_know_is_left_out_and_the_error_names_it() -> None:
    docs, error = queries.get_plugin_docs(["debug", "no_such"], quiet=True)
    assert isinstance(docs, dict)
    assert set(docs) == {"debug"}
    assert "no_such was not found" in error
    docs, error = queries.get_plugin_docs(["no_such"], response_format="json", quiet=True)
    assert docs == {}
    assert "no_such was not found" in error


def test_plugin_docs_and_snippets_for_people_are_text() -> None:
    docs, _ = queries.get_plugin_docs(["debug"], response_format="human", quiet=True)
    assert isinstance(docs, str)
    assert "This module prints statements during execution" in docs
    snippet, _ = queries.get_plugin_docs(["debug"], response_format="human", snippet=True, quiet=True)
    assert isinstance(snippet, str)
    assert snippet.startswith("- name: Print statements during execution\n  debug:")


def test_no_plugin_at_all_is_for_ansible_to_refuse() -> None:
    docs, error = queries.get_plugin_docs([], quiet=True)
    assert docs == ""
    assert "Missing name" in error


def test_plugin_docs_in_a_thread_of_their_own() -> None:
    thread, runner = queries.get_plugin_docs_async(["debug"], quiet=True)
    thread.join(120)
    assert (runner.status, runner.rc) == ("successful", 0)
    with runner.stdout as stdout:
        assert set(json.load(stdout)) == {"debug"}


def test_plugins_are_listed_with_what_they_do() -> None:
    listed, _ = queries.get_plugin_list(plugin_type="shell", quiet=True)
    assert isinstance(listed, dict)
    assert listed["ansible.builtin.sh"] == "POSIX shell (/bin/sh)"
    text, _ = queries.get_plugin_list(plugin_type="shell", response_format="human", quiet=True)
    assert isinstance(text, str)
    assert "ansible.builtin.sh " in text
    assert queries.get_plugin_list(plugin_type="netconf", quiet=True)[0] == {}


def test_plugins_are_listed_with_their_files() -> None:
    listed, _ = queries.get_plugin_list(list_files=True, plugin_type="shell", quiet=True)
    assert isinstance(listed, dict)
    assert {name: Path(path).name for name, path in listed.items()}["ansible.builtin.sh"] == "sh.py"
    assert all(Path(path).is_file() for path in listed.values())
    assert queries.get_plugin_list(True, "json", "netconf", quiet=True)[0] == {}
    text, _ = queries.get_plugin_list(list_files=True, plugin_type="shell", response_format="human", quiet=True)
    assert isinstance(text, str)
    assert listed["ansible.builtin.sh"] in text


def test_modules_beside_a_playbook_and_of_a_module_path_are_found(place: Path) -> None:
    module = "DOCUMENTATION = '''\nmodule: NAME\nshort_description: my own\noptions: {}\nauthor: me\n'''\n"
    write("project/library/beside.py", module.replace("NAME", "beside"))
    write("modules/farther.py", module.replace("NAME", "farther"))
    docs, _ = queries.get_plugin_docs(
        ["beside", "farther"], playbook_dir=place / "project", module_path="modules", quiet=True
    )
    assert isinstance(docs, dict)
    assert {name: entry["doc"]["short_description"] for name, entry in docs.items()} == {
        "beside": "my own",
        "farther": "my own",
    }


def test_an_inventory_is_a_dictionary_or_the_same_as_text(place: Path) -> None:
    document, error = queries.get_inventory("list", [place / "hosts"], response_format="json", quiet=True)
    assert hosts_of(document) == {"one", "two"}
    assert isinstance(document, dict)
    assert document["_meta"]["hostvars"] == {"one": {"a": 1}}
    assert error == ""
    text, _ = queries.get_inventory("list", [place / "hosts"], quiet=True)
    assert isinstance(text, str)
    assert json.loads(text) == document


def test_inventories_come_from_the_working_directory_or_the_one_that_is_named(place: Path) -> None:
    write("elsewhere/hosts", "far\n")
    here, _ = queries.get_inventory("list", ["hosts"], response_format="json", quiet=True)
    there, _ = queries.get_inventory(
        "list", ["hosts", "near,"], response_format="json", host_cwd=place / "elsewhere", quiet=True
    )
    assert (hosts_of(here), hosts_of(there)) == ({"one", "two"}, {"far", "near"})


def test_one_host_the_graph_and_yaml() -> None:
    assert queries.get_inventory("host", ["hosts"], "json", host="one", quiet=True) == ({"a": 1}, "")
    graph, _ = queries.get_inventory("graph", ["hosts"], response_format="json", quiet=True)
    assert graph == "@all:\n  |--@ungrouped:\n  |  |--two\n  |--@group:\n  |  |--one\n"
    yaml, _ = queries.get_inventory("list", ["hosts"], response_format="yaml", export=True, quiet=True)
    assert isinstance(yaml, str)
    assert yaml.startswith("all:\n  children:\n    group:\n")


def test_an_inventory_that_is_not_there_is_empty_and_the_error_names_it() -> None:
    document, error = queries.get_inventory("list", ["nowhere"], response_format="json", quiet=True)
    assert hosts_of(document) == set()
    assert "nowhere as an inventory source" in error


def test_a_failure_that_ansible_explains_is_an_empty_answer_with_the_error() -> None:
    response, error = queries.get_inventory("host", ["hosts"], "json", host="nobody", quiet=True)
    assert response == ""
    assert "You must pass a single valid host" in error


@pytest.mark.parametrize("response_format", ["yaml", None])
def test_a_failure_in_a_text_form_gives_the_error_and_no_exception(response_format: str | None) -> None:
    response, error = queries.get_inventory("host", ["hosts"], response_format, host="nobody", quiet=True)
    assert isinstance(response, str)  # older releases of Ansible print their usage there
    assert "nobody" not in response
    assert "You must pass a single valid host" in error


@pytest.mark.parametrize("response_format", ["json", "yaml"])
def test_the_output_file_gets_the_answer(place: Path, response_format: str) -> None:
    (place / "results").mkdir()
    answer = queries.get_inventory("list", ["hosts"], response_format, output_file="results/out", quiet=True)
    assert answer == ("", "")
    assert "one" in (place / "results/out").read_text()


@pytest.mark.parametrize("by", ["vault_ids", "vault_password_file"])
def test_vaulted_variables_are_opened(place: Path, by: str) -> None:
    password = write("secret", "open sesame\n")
    write("host_vars/one.yml", "hidden: treasure\n")
    vault = ["ansible-vault", "encrypt", "--vault-id", "dev@secret", "host_vars/one.yml"]
    subprocess.run(vault, check=True, capture_output=True)
    every: dict[str, Any] = {
        "vault_ids": {"vault_ids": "dev@secret"},
        "vault_password_file": {"vault_password_file": password},
    }
    variables, error = queries.get_inventory("host", [place / "hosts"], "json", host="one", quiet=True, **every[by])
    assert (variables, error) == ({"a": 1, "hidden": "treasure"}, "")


def test_the_configuration_is_text() -> None:
    text = "[defaults]\nforks = 17\n"
    config = write("my.cfg", text)
    changed, _ = queries.get_ansible_config("dump", config_file=config, only_changed=True, quiet=True)
    assert f"DEFAULT_FORKS({config}) = 17" in changed
    assert "DEFAULT_TIMEOUT" not in changed
    everything, _ = queries.get_ansible_config("dump", quiet=True)
    assert "DEFAULT_FORKS(default) = 5" in everything
    assert queries.get_ansible_config("view", config_file="my.cfg", quiet=True)[0].strip() == text.strip()
    described, _ = queries.get_ansible_config("list", quiet=True)
    assert "DEFAULT_FORKS:\n" in described
    _, error = queries.get_ansible_config("view", config_file="no.cfg", quiet=True)
    assert "no.cfg" in error


def test_the_dump_shows_no_setting_that_the_caller_did_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANSIBLE_HOME")
    changed, _ = queries.get_ansible_config("dump", only_changed=True, quiet=True)
    assert "(env: " not in changed


def test_roles_with_an_argument_specification(place: Path) -> None:
    every, _ = queries.get_role_list(playbook_dir=place, quiet=True)
    assert {name: role["entry_points"] for name, role in every.items()} == {
        "local": {"main": "what it is for"},
        "my.own.shared": {"main": "what it is for"},
    }
    assert set(queries.get_role_list("my.own", playbook_dir=place, quiet=True)[0]) == {"my.own.shared"}
    assert queries.get_role_list("not.there", playbook_dir=place, quiet=True)[0] == {}


def test_the_argument_specification_of_a_role(place: Path) -> None:
    local, _ = queries.get_role_argspec("local", playbook_dir=place, quiet=True)
    assert local["local"]["entry_points"]["main"]["options"]["size"]["type"] == "int"
    for role, collection in (("shared", "my.own"), ("my.own.shared", None)):
        shared, _ = queries.get_role_argspec(role, collection, playbook_dir=place, quiet=True)
        assert shared["my.own.shared"]["path"].endswith("ansible_collections/my/own")
    assert queries.get_role_argspec("no_such", playbook_dir=place, quiet=True)[0] == {}


@pytest.mark.parametrize("runner_mode", ["subprocess", "pexpect"])
def test_what_surrounds_the_answer_does_not_spoil_it(place: Path, runner_mode: Any) -> None:
    write("noise/sitecustomize.py", NOISY)
    options: dict[str, Any] = {
        "envvars": {"PYTHONPATH": str(place / "noise")},
        "runner_mode": runner_mode,
        "quiet": True,
    }
    docs, error = queries.get_plugin_docs(["debug"], **options)
    assert isinstance(docs, dict)
    assert set(docs) == {"debug"}
    assert ("on standard error" in error) == (runner_mode == "subprocess")
    document, _ = queries.get_inventory("list", ["hosts"], "json", **options)
    assert hosts_of(document) == {"one", "two"}
    files, _ = queries.get_plugin_list(list_files=True, plugin_type="shell", **options)
    assert isinstance(files, dict)
    assert set(files) == {"ansible.builtin.cmd", "ansible.builtin.powershell", "ansible.builtin.sh"}
    assert set(queries.get_role_argspec("local", playbook_dir=place, **options)[0]) == {"local"}


@pytest.mark.parametrize("runner_mode", ["subprocess", "pexpect"])
def test_warnings_and_deprecations_of_plugins_and_scripts_do_not_spoil_the_answer(
    place: Path, runner_mode: Any
) -> None:
    write("plugins/talker.py", INVENTORY_PLUGIN)
    write("talk.yml", "plugin: talker\n")
    write("script.sh", '#!/bin/sh\necho "from the script" >&2\necho \'{"all": {"hosts": ["four"]}}\'\n')
    document, error = queries.get_inventory(
        "list",
        ["talk.yml", "script.sh", "nowhere"],
        "json",
        runner_mode=runner_mode,
        quiet=True,
        envvars={
            "ANSIBLE_INVENTORY_PLUGINS": str(place / "plugins"),
            "ANSIBLE_INVENTORY_ENABLED": "talker,script",
            "ANSIBLE_DEPRECATION_WARNINGS": "1",
            "ANSIBLE_FORCE_COLOR": "1",
            "ANSIBLE_VERBOSITY": "3",
        },
    )
    assert hosts_of(document) == {"three", "four"}
    told = ("nearly nobody is there", "talking is an old habit", "nowhere")
    assert [text in error for text in told] == [runner_mode == "subprocess"] * 3


@pytest.mark.parametrize("pager", ["PAGER", "ANSIBLE_PAGER"])
def test_no_pager_waits_for_a_key_on_a_terminal(pager: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pager, "head -c 1 /dev/tty; echo paged; cat")
    docs, error = queries.get_plugin_docs(
        ["file"], response_format="human", runner_mode="pexpect", timeout=120, quiet=True
    )
    assert isinstance(docs, str)
    assert "paged" not in docs
    assert len(docs.splitlines()) > 100
    assert error == ""


def test_an_answer_that_is_no_json_is_told_with_the_command_and_what_it_printed(place: Path) -> None:
    write("broken/sitecustomize.py", "import os\nos.write(1, b'out of order\\n')\nos._exit(3)\n")
    with pytest.raises(RunnerError, match=r"ansible-doc -j debug .*exit code 3.*out of order"):
        queries.get_plugin_docs(["debug"], envvars={"PYTHONPATH": str(place / "broken")}, quiet=True)


@pytest.mark.parametrize("response_format", ["json", "human"])
def test_a_failure_without_a_word_is_raised(response_format: str) -> None:
    write("silent/sitecustomize.py", "import os\nos._exit(3)\n")
    with pytest.raises(RunnerError, match=r"ansible-doc .*debug .*exit code 3.*printed nothing"):
        queries.get_plugin_docs(["debug"], None, response_format, envvars={"PYTHONPATH": "silent"}, quiet=True)


@pytest.mark.parametrize("response_format", ["json", "yaml"])
def test_an_answer_that_a_time_limit_cuts_off_is_raised(response_format: str) -> None:
    write("slow.sh", "#!/bin/sh\nexec sleep 600\n")
    with pytest.raises(RunnerError, match=r"ansible-inventory --list -i slow\.sh .*stopped"):
        queries.get_inventory("list", ["slow.sh"], response_format, timeout=3, quiet=True)


def test_a_name_that_looks_like_an_option_is_a_name() -> None:
    docs, error = queries.get_plugin_docs(["--version"], quiet=True)
    assert docs == {}
    assert "--version was not found" in error
    assert queries.get_role_argspec("--version", quiet=True)[0] == {}
    response, error = queries.get_inventory("host", ["hosts"], "json", host="--list", quiet=True)
    assert response == ""
    assert "You must pass a single valid host" in error
    write("-y", "hyphen\n")
    document, _ = queries.get_inventory("list", ["-y"], "json", quiet=True)
    assert hosts_of(document) == {"hyphen"}
    write("--version.cfg", "[defaults]\nforks = 17\n")
    changed, _ = queries.get_ansible_config("dump", config_file="--version.cfg", only_changed=True, quiet=True)
    assert "DEFAULT_FORKS(" in changed


def test_an_unknown_keyword_names_the_nearest() -> None:
    misspelt: Any = {"container_imge": "x"}
    with pytest.raises(ConfigurationError, match="container_image"):
        queries.get_role_list(**misspelt)
    with pytest.raises(ConfigurationError, match="container_image"):
        queries.get_plugin_docs_async(["debug"], **misspelt)
