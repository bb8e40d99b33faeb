"""The forms of inventories and playbooks, and of the other arguments that end up on Ansible's command line."""

from pathlib import Path

from program import answer, fresh, private_data_dir

import ansible_runner

VARIABLES = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
TEXT = "[group]\nt1 ansible_connection=local\n"
PLAY = {"hosts": "h1", "gather_facts": False, "tasks": [{"name": "given", "debug": {"msg": "given"}}]}


def hosts(inventory, files=None):
    """Return the hosts of a run over that inventory, which may name the place of its private data directory."""
    place = private_data_dir(fresh(), files=files)
    form = inventory(place) if callable(inventory) else inventory
    try:
        r = ansible_runner.run(
            private_data_dir=place, module="debug", host_pattern="all", inventory=form, forks=1, quiet=True
        )
    except Exception as error:
        return type(error).__name__
    return [r.status, sorted((r.stats or {}).get("ok", {}))]


def ran(playbook, **options):
    place = private_data_dir(fresh())
    form = playbook(place) if callable(playbook) else playbook
    try:
        r = ansible_runner.run(private_data_dir=place, playbook=form, quiet=True, **options)
    except Exception as error:
        return type(error).__name__
    tasks = [event["event_data"]["task"] for event in r.events if event["event"] == "runner_on_ok"]
    return [r.status, tasks, r.config.ident if "ident" in options else None]


def argv(**options):
    place = private_data_dir(fresh())
    config = ansible_runner.RunnerConfig(place, playbook="site.yml", **options)
    config.prepare()
    return config.command, config.env.get("ANSIBLE_ROLES_PATH")


answer(
    hosts={
        "dict": hosts({"all": {"hosts": {"d1": VARIABLES}}}),
        "text": hosts(TEXT),
        "comma": hosts("localhost,"),
        "list": hosts(lambda place: [f"{place}/inventory/hosts", "localhost,"]),
        "empty list": hosts([]),
        "in the directory": hosts("other", files={"inventory/other": TEXT}),
        "path": hosts(lambda place: Path(place, "more"), files={"more": TEXT}),
    },
    playbooks={
        "play": ran(PLAY, ident=5),
        "plays": ran([PLAY, PLAY]),
        "absolute": ran(lambda place: f"{place}/project/site.yml"),
        "path": ran(Path("site.yml")),
    },
    argv={
        "all": argv(
            limit="h1",
            verbosity=2,
            tags="a,b",
            skip_tags="c",
            forks=3,
            cmdline="--diff -u 'some one'",
            inventory=["x,", "y,"],
        ),
        "roles": argv(roles_path=["/roles", "/more"]),
        "role": argv(roles_path="/roles"),
    },
)
