"""A successful playbook: what a program is told, in which order, and what is on disk then."""

import json
import threading
from pathlib import Path

from program import answer, disk, private_data_dir

import ansible_runner

PLAYS = """\
- name: first
  hosts: h1
  gather_facts: false
  tasks:
    - name: greet
      debug:
        msg: hello
    - name: loop
      command: echo {{ item }}
      loop: [a, b]
      changed_when: item == 'b'
      notify: handle
    - name: retry
      command: echo once more
      register: tried
      until: tried.attempts == 2
      retries: 3
      delay: 0
    - name: skip
      debug:
      when: false
    - name: break and mend
      block:
        - name: break
          fail:
            msg: broken
      rescue:
        - name: mend
          debug:
            msg: mended
    - name: ignored
      fail:
        msg: no matter
      ignore_errors: true
    - name: keep silent
      debug:
        msg: a secret
      no_log: true
    - name: figures
      set_stats:
        data: {figure: 3}
  handlers:
    - name: handle
      debug:
        msg: handled
- name: second
  hosts: h2
  gather_facts: false
  tasks:
    - include_tasks: more.yml
- name: third
  hosts: nobody
  gather_facts: false
  tasks: []
"""
MORE = "- name: included\n  debug:\n    msg: more\n"

place = private_data_dir("pdd", plays=PLAYS, files={"project/more.yml": MORE})
artifacts = Path(place, "artifacts", "one")
told = []
events = []
threads = set()


def note(*what):
    threads.add(threading.current_thread().name)
    told.append([*what, disk(artifacts)["rc"]])


def event_handler(event):
    note("event", type(event).__name__, event["event"])
    events.append(event)
    return True


def status_handler(data, runner_config):
    same = runner_config.artifact_dir == str(artifacts)
    note("status", type(data).__name__, data["status"], sorted(data), data["runner_ident"], same)
    told[-1].append({key: data[key] for key in ("command", "cwd") if key in data})


def artifacts_handler(directory):
    note("artifacts", directory, disk(directory))


def finished_callback(runner):
    note("finished", runner.status, runner.rc, disk(artifacts))


def cancel_callback():
    threads.add(threading.current_thread().name)
    return False


r = ansible_runner.run(
    private_data_dir=place,
    playbook="site.yml",
    ident="one",
    quiet=True,
    event_handler=event_handler,
    status_handler=status_handler,
    artifacts_handler=artifacts_handler,
    finished_callback=finished_callback,
    cancel_callback=cancel_callback,
)
stored = list(r.events)
kept = json.loads((artifacts / "command").read_text())
answer(
    told=told,
    threads=sorted(threads),
    result=[r.status, r.rc, r.canceled, r.timed_out, r.errored],
    events=events,
    stored_as_told=stored == events,
    names=[f"{event['counter']}-{event['uuid']}.json" for event in events],
    files=sorted(
        (path.name for path in (artifacts / "job_events").iterdir()), key=lambda name: int(name.split("-")[0])
    ),
    artifacts=sorted(path.name for path in artifacts.iterdir()),
    stats=r.stats,
    host_events=[event["event"] for event in r.host_events("h2")],
    nobody=list(r.host_events("nobody")),
    stdout=r.stdout.read().rstrip("\n"),  # Ansible ends with an empty line, which ansible-runner drops
    handle=[r.stdout.encoding.lower(), getattr(r.stdout, "mode", None), Path(r.stdout.name).name],
    stderr=r.stderr.read(),
    kept={key: kept[key] for key in ("command", "cwd")},
    modes={path.name: oct(path.stat().st_mode) for path in artifacts.iterdir() if path.is_file()},
)
