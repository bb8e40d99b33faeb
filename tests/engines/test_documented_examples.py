"""The usage examples of section 5.22 of the ansible-runner documentation, as programs on real engines."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.engines.place import Place
from tests.engines.programs import containers, start

PLAY = "- hosts: localhost\n  connection: local\n  gather_facts: false\n  tasks:\n    - command: echo done\n"
ASKING = "- hosts: localhost\n  connection: local\n  gather_facts: false\n  tasks:\n    - debug: msg=gathered\n"


def printed(place: Place, program: str, *, text: str | None = None, **given: Any) -> str:
    """Return what a program prints; nothing goes to standard error, and no container is left."""
    stdin = subprocess.DEVNULL if text is None else subprocess.PIPE
    child = start(place, f"import ansible_runner\ngiven.update(engine, ident=ident)\n{program}", stdin=stdin, **given)
    out, err = child.communicate(None if text is None else text.encode(), timeout=120)
    assert (child.returncode, err) == (0, b""), f"{err.decode(errors='replace')}\n{out.decode(errors='replace')}"
    assert containers(place) == []
    return out.decode()


@pytest.mark.parametrize(
    "job",
    ["playbook='test.yml'", "host_pattern='localhost', module='shell', module_args='whoami'"],
    ids=["playbook", "module"],
)
def test_a_run_tells_its_status_its_events_and_its_stats(place: Place, job: str) -> None:
    directory = place.write({"project/test.yml": PLAY}, under="demo")
    said = printed(
        place,
        f"""
r = ansible_runner.run(private_data_dir={str(directory)!r}, {job}, **given)
print("{{}}: {{}}".format(r.status, r.rc))
for each_host_event in r.events:
    print(each_host_event['event'])
print("Final status:")
print(r.stats)
""",
    )
    shown, _, told = said.partition("successful: 0\n")
    assert "localhost" in shown
    assert "runner_on_ok\n" in told
    assert "'ok': {'localhost': 1}" in told.partition("Final status:\n")[2]


def test_a_playbook_asks_for_a_password_on_the_programs_own_input(place: Place) -> None:
    """As there, apart from the third value: in version 2.1 the exit code was added."""
    directory = place.write({"gather.yml": ASKING, "inventory": "localhost\n"}, under="demo")
    said = printed(
        place,
        f"""
out, err, rc = ansible_runner.run_command(
    executable_cmd='ansible-playbook',
    cmdline_args=['gather.yml', '-i', 'inventory', '-vvvv', '-k'],
    input_fd=sys.stdin,
    output_fd=sys.stdout,
    error_fd=open(os.devnull, 'w'),
    host_cwd={str(directory)!r},
    **given
)
print("out: {{}}".format(out))
print("err: {{}}".format(err))
print("rc: {{}}".format(rc))
""",
        text="a password\n",
    )
    assert '"msg": "gathered"' in said
    assert said.endswith("out: \nerr: \nrc: 0\n")


def test_plugin_docs_are_data(place: Place) -> None:
    said = printed(
        place,
        """
out, err = ansible_runner.get_plugin_docs(
    plugin_names=['ansible.builtin.command'], plugin_type='module', response_format='json', **given
)
print("out: {}".format(out['ansible.builtin.command']['doc']['module']))
print("err: {}".format(err))
""",
    )
    assert said == "out: command\nerr: \n"


def test_plugin_docs_are_asked_for_and_read_when_the_status_says_so(place: Place) -> None:
    said = printed(
        place,
        """
thread_obj, runner_obj = ansible_runner.get_plugin_docs_async(
    plugin_names=['ansible.builtin.copy', 'ansible.builtin.file'], plugin_type='module', response_format='json', **given
)
while runner_obj.status not in ['canceled', 'successful', 'timeout', 'failed']:
    time.sleep(0.01)
    continue
print("out: {}".format(sorted(json.loads(runner_obj.stdout.read()))))
print("err: {}".format(runner_obj.stderr.read()))
thread_obj.join()
""",
    )
    assert said == "out: ['ansible.builtin.copy', 'ansible.builtin.file']\nerr: \n"


def test_plugins_are_listed_with_their_files(place: Place) -> None:
    said = printed(
        place,
        """
out, err = ansible_runner.get_plugin_list(list_files=True, **given)
print("out: {}".format(out['ansible.builtin.ping']))
print("err: {}".format(err))
""",
    )
    assert said.endswith("/modules/ping.py\nerr: \n")


def test_the_changed_configuration_is_dumped(place: Place) -> None:
    directory = place.write({"ansible.cfg": "[defaults]\nforks = 17\n"}, under="demo")
    said = printed(
        place,
        f"""
out, err = ansible_runner.get_ansible_config(
    action='dump', config_file={str(directory / "ansible.cfg")!r}, only_changed=True, **given
)
print("out: {{}}".format(out))
print("err: {{}}".format(err))
""",
    )
    assert f"DEFAULT_FORKS({directory}/ansible.cfg) = 17" in said
    assert said.endswith("err: \n")


def test_inventories_are_data(place: Place) -> None:
    directory = place.write({"inventory1": "[one]\na\n", "inventory2": "[two]\nb\n"}, under="demo")
    said = printed(
        place,
        f"""
out, err = ansible_runner.get_inventory(
    action='list',
    inventories=[{str(directory / "inventory1")!r}, {str(directory / "inventory2")!r}],
    response_format='json',
    **given
)
print("out: {{}} {{}}".format(out['one'], out['two']))
print("err: {{}}".format(err))
""",
    )
    assert said == "out: {'hosts': ['a']} {'hosts': ['b']}\nerr: \n"
