"""Which host paths a command line of ansible or ansible-playbook references."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from ee_runner.ansible_options import parse
from ee_runner.errors import ConfigurationError, MountRefused
from ee_runner.references import config_environment, config_file, environment, expand_arguments, find


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host: a project to stand in, a home directory, and content elsewhere."""
    for name in (
        "project/site.yml",
        "project/inv/hosts",
        "home/.vault",
        "elsewhere/hosts",
        "elsewhere/group_vars/all.yml",
        "elsewhere/vars.yml",
        "elsewhere/plays/other.yml",
        "elsewhere/plays/roles/web/tasks/main.yml",
        "elsewhere/modules/ping.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return tmp_path


def found(
    host: Path,
    *arguments: str | Path,
    executable: str = "ansible-playbook",
    environ: Mapping[str, str] | None = None,
    provided: Sequence[Path] = (),
) -> list[str]:
    """The references besides the working directory, written as path (relative to the host) and access."""
    cwd = host / "project"
    environ = {"HOME": str(host / "home"), **(environ or {})}
    references = find(executable, list(map(str, arguments)), cwd=cwd, environ=environ, provided=provided)
    assert [each.path for each in references if not each.read_only and each.why == "the working directory"] == [cwd]
    return [
        f"{os.path.relpath(each.path, host)}{'' if each.read_only else ' rw'}"
        for each in references
        if each.path != cwd
    ]


# --- the command line ---------------------------------------------------------------------------------------------

_LINES = [
    "site.yml",
    "-i inv site.yml",
    "-iinv site.yml",
    "-i=inv site.yml",
    "--inventory=inv site.yml",
    "--inventory-file inv site.yml",
    "-bKi inv site.yml",
    "-bKiinv site.yml",
    "-vvvi inv site.yml -C",
    "-t tag,one --skip-tags two --start-at-task name site.yml",
    "--vault-pass=file --private-k key site.yml",
    "--ssh-c=-oX=y -u me -c local -T 5 -f 3 site.yml",
    "-f -5 site.yml",
    "-e @vars.yml -e a=b -- site.yml --not-an-option",
    "one.yml two.yml",
    "-M a:b -l @retry --conn-pass-file c --become-pass-file d site.yml",
    "--vault-id dev@prompt --vault-id ops@file site.yml",
]


def _argparse(lines: list[list[str]], tool: str) -> list[dict[str, object] | None]:
    """What the installed ansible-core's own parser reads from the lines; None is an error."""
    module, cls = {"ansible": ("adhoc", "AdHocCLI"), "ansible-playbook": ("playbook", "PlaybookCLI")}[tool]
    program = f"""
import contextlib, io, json, sys
from ansible.cli.{module} import {cls} as Tool
answers = []
for line in json.load(sys.stdin):
    tool = Tool(["{tool}", *line]); tool.init_parser()
    for action in tool.parser._actions:
        action.type = None
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            options = vars(tool.parser.parse_args(line))
    except SystemExit:
        options = None
    answers.append(options and {{name: options[name] for name in options if name in (
        "args", "inventory", "vault_ids", "vault_password_files", "private_key_file", "subset", "tree", "basedir",
        "become_password_file", "connection_password_file", "extra_vars", "module_path")}})
print(json.dumps(answers, default=str))
"""
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(lines), capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, object] | None] = json.loads(done.stdout)
    return answers


def _ours(line: list[str], tool: str) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for argument in parse(tool, line).arguments:
        assert line[argument.index] == argument.prefix + argument.value
        values.setdefault(argument.option, []).append(argument.value)
    return values


_DESTINATIONS = {
    "--inventory": "inventory",
    "--vault-id": "vault_ids",
    "--vault-password-file": "vault_password_files",
    "--private-key": "private_key_file",
    "--limit": "subset",
    "--tree": "tree",
    "--playbook-dir": "basedir",
    "--become-password-file": "become_password_file",
    "--connection-password-file": "connection_password_file",
    "--extra-vars": "extra_vars",
}


def _random_lines() -> list[list[str]]:
    chance = random.Random(7)
    words = "-v -vv -b -bK -K -k -C -D --become --check --list-hosts --diff -J --step --syntax-check -o -bvi -e -eX=y "
    words += "-i -iinv -i=inv --inv=x --inventory --tags -t -tx --tree -l -l=@f -f 5 -u -u=me --user -M --vault-id "
    words += (
        "--vault-id=a@b --private-key --key=k --timeout=3 a.yml b -m ping -a --limit --module-name --args=x -- - -5"
    )
    tokens = words.split()
    return [[chance.choice(tokens) for _ in range(chance.randint(1, 6))] for _ in range(400)]


@pytest.mark.parametrize("tool", ["ansible", "ansible-playbook"])
def test_arguments_are_read_as_the_real_parser_reads_them(tool: str) -> None:
    pytest.importorskip("ansible")
    lines = [line.split() for line in _LINES] + _random_lines()
    accepted = 0
    for line, expected in zip(lines, _argparse(lines, tool), strict=True):
        if expected is None:
            continue
        accepted += 1
        values = _ours(line, tool)
        if tool == "ansible-playbook":
            assert values.get("playbook", []) == expected["args"], line
        for option, destination in _DESTINATIONS.items():
            theirs = expected.get(destination)
            if isinstance(theirs, list):
                assert values.get(option, []) == theirs, line
            elif theirs is not None or option in values:
                assert values.get(option, [None])[-1] == theirs, line
        assert parse(tool, line).certain, line
    assert accepted > 30


@pytest.mark.parametrize("tool", ["ansible", "ansible-playbook"])
def test_every_option_of_the_installed_ansible_is_known(tool: str) -> None:
    pytest.importorskip("ansible")
    module, cls = {"ansible": ("adhoc", "AdHocCLI"), "ansible-playbook": ("playbook", "PlaybookCLI")}[tool]
    program = f"""
import json
from ansible.cli.{module} import {cls} as Tool
tool = Tool(["x", "y"]); tool.init_parser()
actions = [action for action in tool.parser._actions if action.option_strings]
print(json.dumps([[action.option_strings, action.nargs != 0] for action in actions]))
"""
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, check=True)
    for names, takes_value in json.loads(done.stdout):
        for name in names:
            line = [name, "value"] if takes_value else [name]
            expected = takes_value or name not in ("-h", "--help", "--version")
            assert parse(tool, line).certain is expected, name
            if takes_value and tool == "ansible-playbook":
                assert "playbook" not in _ours(line, tool), name


# --- what is referenced -------------------------------------------------------------------------------------------


def test_what_lies_in_the_working_directory_needs_nothing_more(host: Path) -> None:
    assert found(host, "site.yml", "-i", "inv/hosts") == []


def test_an_inventory_file_elsewhere_comes_with_its_directory(host: Path) -> None:
    assert found(host, "site.yml", "-i", "../elsewhere/hosts") == ["elsewhere"]


def test_an_inventory_file_in_a_directory_of_all_sorts_comes_with_its_variables(host: Path) -> None:
    for name in ("home/hosts", "home/group_vars/all.yml", "home/letter"):
        (host / name).parent.mkdir(parents=True, exist_ok=True)
        (host / name).write_text("")
    assert found(host, "site.yml", "-i", "~/hosts") == ["home/group_vars", "home/hosts"]


def test_a_vault_script_comes_with_its_directory_a_password_file_alone(host: Path) -> None:
    for name, mode in (("tools/client", 0o755), ("tools/password", 0o600)):
        (host / name).parent.mkdir(exist_ok=True)
        (host / name).write_text("x")
        (host / name).chmod(mode)
    assert found(host, "site.yml", "--vault-id", "dev@../tools/client") == ["tools"]
    assert found(host, "site.yml", "--vault-id", "dev@../tools/password") == ["tools/password"]


def test_links_in_the_working_directory_and_in_inventory_directories_are_followed(host: Path) -> None:
    (host / "shared/templates").mkdir(parents=True)
    (host / "shared/hosts").write_text("")
    (host / "project/templates").symlink_to("../shared/templates")
    (host / "project/inv/more").symlink_to(host / "shared/hosts")
    (host / "project/python").symlink_to("/usr/bin/env")
    assert found(host, "site.yml", "-i", "inv") == ["shared/hosts", "shared/templates"]


def test_a_log_is_writable(host: Path) -> None:
    (host / "logs").mkdir()
    environ = {"ANSIBLE_LOG_PATH": str(host / "logs/new.log")}
    references = find("ansible-playbook", ["site.yml"], cwd=host / "project", environ=environ)
    assert [(item.path, item.read_only) for item in references if "logs" in str(item.path)] == [(host / "logs", False)]


def test_an_inventory_directory_elsewhere_comes_as_it_is(host: Path) -> None:
    assert found(host, "site.yml", f"-i{host}/elsewhere/group_vars") == ["elsewhere/group_vars"]


def test_a_list_of_hosts_is_no_path(host: Path) -> None:
    assert found(host, "site.yml", "-i", "web1,web2", "--inventory=localhost,") == []


def test_a_playbook_elsewhere_comes_with_its_directory(host: Path) -> None:
    assert found(host, host / "elsewhere/plays/other.yml") == ["elsewhere/plays"]


def test_a_playbook_in_the_home_directory_comes_with_known_siblings_only(host: Path) -> None:
    for name in ("home/play.yml", "home/roles/a/tasks/main.yml", "home/filter_plugins/f.py", "home/private/letter"):
        (host / name).parent.mkdir(parents=True, exist_ok=True)
        (host / name).write_text("")
    assert found(host, host / "home/play.yml") == ["home/filter_plugins", "home/play.yml", "home/roles"]


def test_a_playbook_of_a_collection_is_no_path(host: Path) -> None:
    assert found(host, "community.general.site", "ns.coll.play.yml") == []
    with pytest.raises(ConfigurationError):
        found(host, "site.prod.yml")


def test_the_pattern_of_adhoc_is_no_path(host: Path) -> None:
    assert found(host, "no-such-host", "-m", "ping", "-t", "out", executable="ansible") == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-e", "@../elsewhere/vars.yml"], ["elsewhere/vars.yml"]),
        (["-e", "a=@b"], []),
        (["--vault-id", "dev@../elsewhere/vars.yml"], ["elsewhere/vars.yml"]),
        (["--vault-id", "../elsewhere/vars.yml"], ["elsewhere/vars.yml"]),
        (["--vault-id", "dev@prompt", "--vault-id", "prompt"], []),
        (["--vault-password-file=~/.vault"], ["home/.vault"]),
        (["-M", "inv:../elsewhere/modules"], ["elsewhere/modules"]),
        (["-l", "web,@../elsewhere/hosts"], ["elsewhere/hosts"]),
        (["--become-password-file", "../elsewhere/hosts"], ["elsewhere/hosts"]),
        (["--conn-pass-file", "-"], []),
    ],
)
def test_options_that_name_files(host: Path, arguments: list[str], expected: list[str]) -> None:
    assert found(host, "site.yml", *arguments) == expected


def test_a_private_key_comes_with_its_certificate(host: Path) -> None:
    for name in ("id", "id.pub", "id-cert.pub", "id.bak"):
        (host / "elsewhere" / name).write_text("")
    expected = ["elsewhere/id", "elsewhere/id-cert.pub", "elsewhere/id.pub"]
    assert found(host, "site.yml", "--key-file", "../elsewhere/id") == expected


def test_the_tree_is_writable_and_may_have_to_be_made(host: Path) -> None:
    assert found(host, "all", "-t", "../elsewhere/plays", executable="ansible") == ["elsewhere/plays rw"]
    assert found(host, "all", "-t", "../elsewhere/new/tree", executable="ansible") == ["elsewhere rw"]
    with pytest.raises(MountRefused, match="mkdir -p"):
        found(host, "all", "-t", "~/tree", executable="ansible")


def test_why_names_the_option(host: Path) -> None:
    arguments = ["site.yml", "-e@../elsewhere/vars.yml"]
    references = find("ansible-playbook", arguments, cwd=host / "project", environ={"HOME": str(host)})
    assert [each.why for each in references] == ["--extra-vars", "the working directory"]


def test_references_within_others_are_left_out_but_a_stronger_access_stays(host: Path) -> None:
    arguments = ["all", "--playbook-dir", "../elsewhere", "-i../elsewhere/hosts", "-t", "../elsewhere/plays"]
    assert found(host, *arguments, executable="ansible") == ["elsewhere", "elsewhere/plays rw"]


def test_other_programs_reference_the_working_directory_only(host: Path) -> None:
    assert found(host, "-i", "/no/such", "../elsewhere/hosts", executable="/bin/bash") == []
    assert found(host, "--list", "-i", "../elsewhere/hosts", executable="ansible-inventory") == ["elsewhere"]


# --- what is not there --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sit.yml"], r"playbook: .*/project/sit\.yml does not exist; did you mean 'site\.yml'\?"),
        (["site.yml", "-i", "inv/host"], r"--inventory: .*/inv/host does not exist; did you mean 'hosts'\?"),
        (["site.yml", "-i", "localhost"], r"a list of hosts needs a comma: 'localhost,'"),
        (["site.yml", "-e", "@../elsewhere/var.yml"], r"--extra-vars: .*did you mean 'vars\.yml'"),
        (["site.yml", "--vault-password-file", "~/none"], r"--vault-password-file: .*/home/none does not exist"),
        (["site.yml/below"], "does not exist"),
    ],
)
def test_a_missing_path_is_named_with_the_nearest_spelling(host: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        found(host, *arguments)


def test_an_absolute_path_is_missing_when_its_directory_is_the_hosts(host: Path) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'hosts'"):
        found(host, "site.yml", "-i", host / "elsewhere/hostss")
    assert found(host, "site.yml", "-i", "/no/such/directory/hosts") == []


@pytest.mark.parametrize("extra", ["--help", "--version", "--option-of-tomorrow"])
def test_nothing_is_missing_when_ansible_will_not_look(host: Path, extra: str) -> None:
    assert found(host, "nothing.yml", extra) == []


def test_a_place_that_a_volume_fills_is_not_looked_for(host: Path) -> None:
    filled = host / "elsewhere" / "volume"
    assert found(host, "site.yml", "-i", filled / "hosts", provided=[filled]) == []
    assert found(host, "site.yml", "-i", host / "elsewhere/hosts", provided=[host / "elsewhere"]) == []


def test_a_process_substitution_is_refused_in_words(host: Path) -> None:
    with pytest.raises(ConfigurationError, match="process substitution"):
        found(host, "site.yml", "--vault-password-file", "/dev/fd/63")
    assert found(host, "site.yml", "-i", "/dev/null") == []


def test_an_unreadable_path_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "site.yml").write_text("")
        (place / "closed").mkdir()
        (place / "closed/hosts").write_text("")
        (place / "closed").chmod(0)
        try:
            said = _as_ordinary_user(lambda: find("ansible-playbook", ["-iclosed/hosts"], cwd=place, environ={}))
        finally:
            (place / "closed").chmod(0o700)
    assert (
        said
        == f"ConfigurationError: --inventory: {place}/closed/hosts can not be read by this user: Permission denied."
    )


def _as_ordinary_user(action: Callable[[], object]) -> str:
    """Return the exception of an action, run in a child process that root's privileges do not help."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            action()
        except Exception as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    os.waitpid(child, 0)
    return text


# --- the working directory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("directory", ["/", "/usr", "/etc", "/usr/bin", "/proc/self", "/dev", "/var/lib"])
def test_a_system_directory_is_no_working_directory(directory: str) -> None:
    with pytest.raises(MountRefused, match=r"(?s)cd\) and start again"):
        find("ansible", ["all"], cwd=Path(directory), environ={})


def test_a_link_to_a_system_directory_is_no_working_directory(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/usr")
    with pytest.raises(MountRefused):
        find("ansible", ["all"], cwd=tmp_path / "link", environ={})


@pytest.mark.parametrize("directory", ["/", "/tmp", "/usr/lib"])
def test_a_directory_that_hides_the_image_is_not_referenced(host: Path, directory: str) -> None:
    with pytest.raises(MountRefused, match="--module-path"):
        found(host, "site.yml", "-M", directory)


# --- symbolic links -----------------------------------------------------------------------------------------------


def test_a_link_out_of_what_is_visible_brings_its_target(host: Path) -> None:
    (host / "project/link").symlink_to(host / "elsewhere/hosts")
    (host / "project/twice").symlink_to("link")
    assert found(host, "site.yml", "-i", "twice") == ["elsewhere/hosts"]


def test_a_linked_directory_on_the_way_brings_the_target_and_what_belongs_to_it(host: Path) -> None:
    (host / "project/stage").symlink_to("../elsewhere")
    assert found(host, "site.yml", "-i", "stage/hosts") == ["elsewhere"]
    assert found(host, "stage/plays/other.yml") == ["elsewhere"]


def test_linked_roles_and_collections_of_the_playbook_are_followed(host: Path) -> None:
    (host / "project/roles").mkdir()
    (host / "project/roles/web").symlink_to(host / "elsewhere/plays/roles/web")
    (host / "project/roles/gone").symlink_to(host / "elsewhere/gone")
    (host / "project/collections/ansible_collections/mine").mkdir(parents=True)
    (host / "project/collections/ansible_collections/mine/tools").symlink_to(host / "elsewhere/modules")
    assert found(host, "site.yml") == ["elsewhere/modules", "elsewhere/plays/roles/web"]


def test_a_link_in_a_circle_is_an_error_in_words(host: Path) -> None:
    (host / "project/round").symlink_to("round")
    with pytest.raises(ConfigurationError, match=r"--inventory: .*round can not be read"):
        found(host, "site.yml", "-i", "round")


# --- ansible.cfg and the environment ------------------------------------------------------------------------------


def _config(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["[defaults]", *lines]))
    return path


def test_the_working_directorys_ansible_cfg_is_in_force_unless_the_world_may_write(host: Path) -> None:
    cwd, environ = host / "project", {"HOME": str(host / "home")}
    theirs = _config(host / "home/.ansible.cfg")
    own = _config(cwd / "ansible.cfg")
    assert config_file(cwd=cwd, environ=environ) == own
    cwd.chmod(0o777)
    assert config_file(cwd=cwd, environ=environ) == theirs
    assert config_file(cwd=cwd, environ={**environ, "ANSIBLE_CONFIG": "ansible.cfg"}) == own


def test_ansible_config_names_a_file_or_a_directory_and_else_falls_through(host: Path) -> None:
    cwd, environ = host / "project", {"HOME": str(host / "home")}
    named = _config(host / "elsewhere/ansible.cfg")
    assert config_file(cwd=cwd, environ={**environ, "ANSIBLE_CONFIG": "../elsewhere"}) == named
    assert (
        config_file(cwd=cwd, environ={**environ, "ANSIBLE_CONFIG": "$D/ansible.cfg", "D": str(named.parent)}) == named
    )
    assert config_file(cwd=cwd, environ={**environ, "ANSIBLE_CONFIG": "/no/such"}) is None
    assert found(host, "site.yml", environ={"ANSIBLE_CONFIG": "../elsewhere"}) == ["elsewhere/ansible.cfg"]
    assert found(host, "site.yml", environ={"ANSIBLE_CONFIG": "/dev/null"}) == []


def test_the_home_directorys_ansible_cfg_is_named_inside(host: Path) -> None:
    config = _config(host / "home/.ansible.cfg", "forks = 3")
    assert found(host, "site.yml") == ["home/.ansible.cfg"]
    inside = config_environment(cwd=host / "project", environ={"HOME": str(host / "home")})
    assert inside == {"ANSIBLE_CONFIG": str(config)}


def test_paths_of_ansible_cfg_are_relative_to_it(host: Path) -> None:
    _config(
        host / "elsewhere/ansible.cfg",
        "inventory = hosts , missing",
        "roles_path = plays/roles:~/roles:/usr/share/ansible/roles:missing",
        "library = modules ; a comment",
        "vault_password_file = ~/.vault",
    )
    (host / "home/roles").mkdir()
    assert found(host, "site.yml", environ={"ANSIBLE_CONFIG": str(host / "elsewhere/ansible.cfg")}) == [
        "elsewhere",
        "home/.vault",
        "home/roles",
    ]


def test_vault_identities_are_relative_to_the_working_directory(host: Path) -> None:
    _config(host / "project/ansible.cfg", "vault_identity_list = dev@../elsewhere/vars.yml, ops@prompt")
    assert found(host, "site.yml") == ["elsewhere/vars.yml"]


def test_the_environment_goes_before_ansible_cfg(host: Path) -> None:
    _config(host / "project/ansible.cfg", "roles_path = ../elsewhere/plays/roles")
    assert found(host, "site.yml", environ={"ANSIBLE_ROLES_PATH": "../elsewhere/modules"}) == ["elsewhere/modules"]
    inventory = {"ANSIBLE_INVENTORY": f"{host}/elsewhere/hosts,web1"}
    assert found(host, "site.yml", environ=inventory) == ["elsewhere"]


def test_settings_that_lean_on_the_home_directory_are_said_in_full_inside(host: Path) -> None:
    home = host / "home"
    _config(
        host / "project/ansible.cfg",
        "roles_path = roles:~/roles",
        "library = modules",
        "vault_identity_list = dev@~/.vault,ops@prompt",
        "private_key_file = ~/.ssh/id",
    )
    environ = {"HOME": str(home), "ANSIBLE_PRIVATE_KEY_FILE": "/own"}
    assert config_environment(cwd=host / "project", environ=environ) == {
        "ANSIBLE_ROLES_PATH": f"{host}/project/roles:{home}/roles",
        "ANSIBLE_VAULT_IDENTITY_LIST": f"dev@{home}/.vault,ops@prompt",
    }


def test_a_malformed_ansible_cfg_is_left_to_ansible(host: Path) -> None:
    (host / "project/ansible.cfg").write_text("roles_path = above any section")
    assert found(host, "site.yml") == []


def test_the_real_ansible_sees_the_same_settings(host: Path) -> None:
    pytest.importorskip("ansible")
    (host / "home/roles").mkdir()
    cwd = host / "project"
    _config(cwd / "ansible.cfg", "roles_path = roles:~/roles", "inventory = inv/hosts,../elsewhere/hosts")
    outside = {"HOME": str(host / "home"), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    inside = {**outside, **config_environment(cwd=cwd, environ=outside), "HOME": "/nonexistent"}
    program = "from ansible import constants as C; print(C.DEFAULT_ROLES_PATH, C.DEFAULT_HOST_LIST)"
    said = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=cwd, env=env, capture_output=True, text=True, check=True
        ).stdout
        for env in (outside, inside)
    ]
    assert said[0] == said[1]
    assert str(host / "home/roles") in said[0]


def test_the_callers_environment_that_goes_inside() -> None:
    environ = {
        "HOME": "/home/me",
        "PATH": "/bin",
        "ANSIBLE_FORKS": "3",
        "ANSIBLE_ROLES_PATH": "~/roles:/srv/roles",
        "ANSIBLE_CONFIG": "~/ansible.cfg",
        "ANSIBLE_VAULT_IDENTITY_LIST": "dev@~/.vault",
        "LC_TIME": "C",
        "TERM": "xterm",
        "https_proxy": "http://proxy.example:3128",
        "NO_PROXY": "example.com",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "SSH_AUTH_SOCK": "/tmp/agent",
    }
    assert environment(environ) == {
        "ANSIBLE_FORKS": "3",
        "ANSIBLE_ROLES_PATH": "/home/me/roles:/srv/roles",
        "ANSIBLE_CONFIG": "/home/me/ansible.cfg",
        "ANSIBLE_VAULT_IDENTITY_LIST": "dev@/home/me/.vault",
        "TERM": "xterm",
        "https_proxy": "http://proxy.example:3128",
        "NO_PROXY": "example.com",
    }


def test_arguments_are_expanded_where_ansible_expands_them() -> None:
    environ = {"HOME": "/home/me", "KEYS": "/keys"}
    arguments = ["~/site.yml", "-e@~/v.yml", "--vault-id", "dev@~/.vault", "-i=$KEYS/inv", "-M~/a:~/b", "-e", "a=~"]
    assert expand_arguments("ansible-playbook", arguments, environ=environ) == (
        *("~/site.yml", "-e@/home/me/v.yml", "--vault-id", "dev@/home/me/.vault", "-i=/keys/inv"),
        *("-M/home/me/a:/home/me/b", "-e", "a=~"),
    )
