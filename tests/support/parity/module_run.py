"""A module, a role, and a command in a file: what runs without a playbook."""

from program import answer, private_data_dir

import ansible_runner

ROLE = "- name: in the role\n  debug:\n    var: figure\n"


def observed(r):
    results = [event["event_data"].get("res", {}) for event in r.events if event["event"] == "runner_on_ok"]
    return {
        "status": [r.status, r.rc],
        "stats": r.stats,
        "events": [event["event"] for event in r.events],
        "results": [{key: res[key] for key in ("stdout", "figure", "ansible_facts") if key in res} for res in results],
        "cwd": r.config.cwd,
    }


place = private_data_dir("pdd", files={"roles/figures/tasks/main.yml": ROLE})
module = ansible_runner.run(
    private_data_dir=place, host_pattern="h1", module="shell", module_args="echo to $HOME | wc -l", quiet=True
)
given = {"private_data_dir": place, "role": "figures", "role_vars": {"figure": 3}, "role_skip_facts": True}
try:
    role = observed(ansible_runner.run(**given, hosts="h1", quiet=True))
except ansible_runner.AnsibleRunnerException as error:
    role = type(error).__name__
line = private_data_dir("line", files={"args": 'echo "a  b" {{x}} $HOME *.yml;\npwd\n'})
raw = ansible_runner.run(private_data_dir=line, playbook="site.yml", quiet=True)
answer(
    module=observed(module),
    role=role,
    raw=observed(raw),
    raw_command=raw.config.command,
    said=raw.stdout.read(),
)
