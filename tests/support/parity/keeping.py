"""What an event handler returns decides about the event's file; what it changes is what is stored."""

from program import answer, private_data_dir

import ansible_runner

PLAYS = """\
- hosts: h1
  gather_facts: false
  tasks:
    - name: greet
      debug:
"""
RETURNS = {1: True, 2: False, 3: 0, 4: "yes", 5: None, 6: ""}
counters = []


def handler(event):
    counters.append(event["counter"])
    event["mine"] = [event["counter"]]
    return RETURNS[event["counter"]]


r = ansible_runner.run(
    private_data_dir=private_data_dir("pdd", plays=PLAYS),
    playbook="site.yml",
    quiet=True,
    event_handler=handler,
)
kept = {event["counter"]: event["mine"] for event in r.events}
checked = ansible_runner.run(
    private_data_dir=private_data_dir("checked", plays=PLAYS),
    playbook="site.yml",
    quiet=True,
    check_job_event_data=True,
)
answer(
    checked=[checked.status, checked.rc],
    counters=counters,
    result=[r.status, r.rc],
    kept={str(RETURNS[key]) or "''": value for key, value in kept.items()},
    stats=r.stats,
)
