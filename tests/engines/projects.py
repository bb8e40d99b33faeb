"""Projects that the contract suite runs: the same input for every engine."""

from __future__ import annotations

INVENTORY = """\
one ansible_connection=local
two ansible_connection=local

[all:vars]
ansible_python_interpreter="{{ ansible_playbook_python }}"
"""

SITE = """\
- name: first play
  hosts: all
  serial: 1
  gather_facts: false
  tasks:
    - name: greet
      debug:
        msg: "{{ greeting }} {{ inventory_hostname }}"
    - name: loop
      command: "echo {{ item }}"
      loop: [a, b]
      changed_when: item == 'b'
      notify: handler
    - name: rescued
      block:
        - name: breaks
          command: "false"
      rescue:
        - name: mends
          debug:
            msg: mended
      always:
        - name: always
          debug:
            msg: at last
    - name: skipped
      debug:
        msg: never
      when: false
  handlers:
    - name: handler
      debug:
        msg: handled

- name: second play
  hosts: one
  gather_facts: false
  roles:
    - greeter
"""

PROJECT = {
    "site.yml": SITE,
    "group_vars/all.yml": "greeting: hello\n",
    "roles/greeter/tasks/main.yml": "- name: in the role\n  debug:\n    msg: from the role\n",
}

# What the playbook gives under every engine: event, task, host.
EVENTS: list[tuple[str, str | None, str | None]] = [
    ("playbook_on_start", None, None),
    ("playbook_on_play_start", None, None),
    ("playbook_on_task_start", "greet", None),
    ("runner_on_start", "greet", "one"),
    ("runner_on_ok", "greet", "one"),
    ("playbook_on_task_start", "loop", None),
    ("runner_on_start", "loop", "one"),
    ("runner_item_on_ok", "loop", "one"),
    ("runner_item_on_ok", "loop", "one"),
    ("runner_on_ok", "loop", "one"),
    ("playbook_on_task_start", "breaks", None),
    ("runner_on_start", "breaks", "one"),
    ("runner_on_failed", "breaks", "one"),
    ("playbook_on_task_start", "mends", None),
    ("runner_on_start", "mends", "one"),
    ("runner_on_ok", "mends", "one"),
    ("playbook_on_task_start", "always", None),
    ("runner_on_start", "always", "one"),
    ("runner_on_ok", "always", "one"),
    ("playbook_on_task_start", "skipped", None),
    ("runner_on_start", "skipped", "one"),
    ("runner_on_skipped", "skipped", "one"),
    ("playbook_on_notify", "skipped", "one"),
    ("playbook_on_task_start", "handler", None),
    ("runner_on_start", "handler", "one"),
    ("runner_on_ok", "handler", "one"),
    ("playbook_on_play_start", None, None),
    ("playbook_on_task_start", "greet", None),
    ("runner_on_start", "greet", "two"),
    ("runner_on_ok", "greet", "two"),
    ("playbook_on_task_start", "loop", None),
    ("runner_on_start", "loop", "two"),
    ("runner_item_on_ok", "loop", "two"),
    ("runner_item_on_ok", "loop", "two"),
    ("runner_on_ok", "loop", "two"),
    ("playbook_on_task_start", "breaks", None),
    ("runner_on_start", "breaks", "two"),
    ("runner_on_failed", "breaks", "two"),
    ("playbook_on_task_start", "mends", None),
    ("runner_on_start", "mends", "two"),
    ("runner_on_ok", "mends", "two"),
    ("playbook_on_task_start", "always", None),
    ("runner_on_start", "always", "two"),
    ("runner_on_ok", "always", "two"),
    ("playbook_on_task_start", "skipped", None),
    ("runner_on_start", "skipped", "two"),
    ("runner_on_skipped", "skipped", "two"),
    ("playbook_on_notify", "skipped", "two"),
    ("playbook_on_task_start", "handler", None),
    ("runner_on_start", "handler", "two"),
    ("runner_on_ok", "handler", "two"),
    ("playbook_on_play_start", None, None),
    ("playbook_on_task_start", "in the role", None),
    ("runner_on_start", "in the role", "one"),
    ("runner_on_ok", "in the role", "one"),
    ("playbook_on_stats", None, None),
]

RECAP = [
    "one : ok=6 changed=1 unreachable=0 failed=0 skipped=1 rescued=1 ignored=0",
    "two : ok=5 changed=1 unreachable=0 failed=0 skipped=1 rescued=1 ignored=0",
]


def private_data_dir(extra: dict[str, str] | None = None) -> dict[str, str]:
    """The files of a private data directory that runs SITE."""
    files = {f"project/{name}": text for name, text in PROJECT.items()}
    return {**files, "inventory/hosts": INVENTORY, **(extra or {})}
