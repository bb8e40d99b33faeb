"""Less in the events, JSON in place of the text, and no output file."""

import json
from pathlib import Path

from program import answer, private_data_dir

import ansible_runner

PLAYS = """\
- hosts: h1
  gather_facts: false
  tasks:
    - name: greet
      debug:
    - name: break
      fail:
      ignore_errors: true
"""


def run(name, **options):
    print(f"-- {name}", flush=True)
    place = private_data_dir(name, plays=PLAYS)
    return ansible_runner.run(private_data_dir=place, playbook="site.yml", ident="one", **options)


def contents(r):
    found = [[event["event"], sorted(event), sorted(event["event_data"]), event["stdout"]] for event in r.events]
    return [found, r.stats, [event["event"] for event in r.host_events("h1")]]


def attempt(action):
    try:
        return action()
    except ansible_runner.AnsibleRunnerException:
        return "AnsibleRunnerException"


omitted = contents(run("omitted", omit_event_data=True, quiet=True))
failed = contents(run("failed", only_failed_event_data=True, settings={"suppress_ansible_output": True}))
as_json = run("json", json_mode=True)
lines = [json.loads(line) for line in as_json.stdout.read().splitlines()]
silent = run("silent", settings={"suppress_output_file": True})
print("-- over", flush=True)
answer(
    omitted=omitted,
    failed=failed,
    json=[lines == list(as_json.events), [line["event"] for line in lines]],
    silent=[
        attempt(lambda: silent.stdout.read()),
        attempt(lambda: silent.stderr.read()),
        sorted(path.name for path in Path(silent.config.artifact_dir).iterdir()),
        len(list(silent.events)),
    ],
)
