"""Jobs that fail: nothing is raised, and the runner says how."""

from program import answer, fresh, private_data_dir

import ansible_runner

BREAKS = """\
- hosts: h1:h2
  gather_facts: false
  tasks:
    - name: break
      fail:
        msg: broken
      when: inventory_hostname == 'h1'
    - name: go on
      debug:
"""
UNREACHABLE = """\
- hosts: h1
  gather_facts: false
  tasks:
    - ping:
      vars: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 1}
"""


def observed(plays, playbook="site.yml"):
    place = private_data_dir(fresh(), plays=plays)
    try:
        r = ansible_runner.run(private_data_dir=place, playbook=playbook, forks=1, quiet=True)
    except ansible_runner.AnsibleRunnerException as error:
        return type(error).__name__
    names = [event["event"] for event in r.events]
    failed = [event["event_data"] for event in r.events if event["event"] == "runner_on_failed"]
    return {
        "result": [r.status, r.rc, r.errored],
        "kinds": sorted(set(names)),
        "failed": [[data["host"], data["res"]["msg"], data["ignore_errors"]] for data in failed],
        "stats": r.stats,
        "said": [event["stdout"] for event in r.events if event["event"] == "verbose"],
    }


def refused(**options):
    try:
        r = ansible_runner.run(quiet=True, **options)
    except Exception as error:
        return [type(error).__name__, isinstance(error, ansible_runner.AnsibleRunnerException)]
    return [r.status, r.rc]


broken = observed(BREAKS)
unreachable = observed(UNREACHABLE)
unreadable = observed("- hosts: h1\n  tasks: [\n")
missing = observed("", playbook="none.yml")
nothing = refused(private_data_dir=private_data_dir("nothing"))
nowhere = refused(private_data_dir="/not/there", playbook="site.yml")
misspelt = refused(private_data_dir=private_data_dir("misspelt"), playbook="site.yml", verbosty=2)
bare = refused(private_data_dir=private_data_dir("bare"), playbook="site.yml", binary="no-such-ansible")
answer(
    broken=broken,
    unreachable=unreachable,
    unreadable=unreadable,
    missing=missing,
    nothing=nothing,
    nowhere=nowhere,
    misspelt=misspelt,
    bare=bare,
)
