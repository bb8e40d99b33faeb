"""Jobs that do not want to end, whose every process bears an unguessable word, so that it is found from outside.

The parts of the stubborn job: a task that ignores SIGTERM, SIGINT and SIGHUP, daemons made by setsid and by a double
fork, a deep tree of processes, an async task, a process of another user, the master of an ssh connection, and a loop
that prints. Each part's process has ``WORD-part`` among its arguments.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping
from pathlib import Path

from .sshd import SshServer

VARIABLE = "EE_RUNNER_FAULT"
"""In the environment of all that a job starts, with the job's word as its value."""

HERE = ("async", "become", "daemon", "deaf", "double", "tree")
"""The parts that need nothing but a shell."""

TALK = b"still here"
"""What the loop prints."""

DEPTH = 25
_DEAF = "trap '' TERM INT HUP; while :; do sleep 1; done"

_SCATTER = f"""\
#!/bin/sh
# Leaves processes behind that have nothing to do with whoever started them.
here=$(dirname "$0")
exec </dev/null >/dev/null 2>&1
setsid nohup sh "$here/deaf.sh" "$1-daemon" &
sh -c 'setsid sh -c "sh \\"$0/deaf.sh\\" $1-double &"' "$here" "$1"
setsid sh "$here/tree.sh" {DEPTH} "$1-tree" &
"""

_TREE = """\
#!/bin/sh
# Each level waits for the one below.
trap '' TERM INT HUP
if [ "$1" -gt 0 ]; then sh "$0" $(($1 - 1)) "$2"; :; fi
while :; do sleep 1; done
"""

_INVENTORY = """\
one ansible_connection=local
two ansible_connection=local
away ansible_host=127.0.0.1 ansible_connection=ssh
[all:vars]
ansible_python_interpreter="{{ ansible_playbook_python }}"
"""

_PLAY = """\
- hosts: one
  gather_facts: false
  tasks:
    - name: scatter
      shell: sh {{ playbook_dir }}/scatter.sh WORD
    - name: later
      command: sh -c "DEAF" WORD-async
      async: 600
      poll: 0
    - name: become
      raw: setsid sh -c "DEAF" WORD-become </dev/null >/dev/null 2>&1 &
      become: true
      become_user: daemon
      become_method: su
      become_flags: -s /bin/sh
- hosts: one:two
  gather_facts: false
  strategy: free
  tasks:
    - name: deaf
      shell: "DEAF # WORD-deaf"
      when: inventory_hostname == 'one'
    - name: talks
      debug: {msg: still here}
      loop: "{{ range(100000) | list }}"
      when: inventory_hostname == 'two'
"""

_MASTER = """\
- hosts: away
  gather_facts: false
  tasks:
    - name: master
      raw: "true"
"""


def stubborn(word: str, server: SshServer | None = None) -> dict[str, str]:
    """Return the files of a private data directory whose site.yml never ends; with a server it has an ssh master too.

    From inside the server is reached as from outside: a container needs the host's network.
    """
    play = (_MASTER if server else "") + _PLAY
    files = {
        "project/site.yml": play.replace("DEAF", _DEAF).replace("WORD", word),
        "project/scatter.sh": _SCATTER,
        "project/deaf.sh": f"#!/bin/sh\n{_DEAF}\n",
        "project/tree.sh": _TREE,
        "inventory/hosts": _INVENTORY + (_connection(word, server) if server else ""),
        "env/envvars": f"{VARIABLE}: {word}\n",
    }
    return {**files, "project/key": server.key.read_text()} if server else files


def _connection(word: str, server: SshServer) -> str:
    return textwrap.dedent(f"""\
        [all:vars]
        ansible_user={server.user}
        ansible_port={server.port}
        ansible_ssh_private_key_file="{{{{ playbook_dir }}}}/key"
        ansible_control_path_dir={master_directory(word)}
        ansible_ssh_common_args="-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        """)


def master_directory(word: str) -> Path:
    """Return where the socket of an ssh master is: on the host too, without a container or a sandbox."""
    return Path("/tmp", f"{word}-master")


def parts(commands: Collection[str], word: str) -> set[str]:
    """Return which parts of a job are among these command lines."""
    tails = (command.partition(f"{word}-")[2] for command in commands if f"{word}-" in command)
    return {tail.split()[0].split("/")[0] for tail in tails if tail}


def noting(word: str) -> dict[str, str]:
    """Return the files of a job that is a plain shell; it notes in project/signal when it is asked to end, and ends."""
    script = f"""\
        #!/bin/sh
        # {word}
        trap 'date +%s.%N >signal; exit 143' TERM INT HUP
        echo ready
        while :; do sleep 0.02; done
        """
    return {
        "project/note.sh": textwrap.dedent(script),
        "args": f"sh note.sh {word}-ready\n",
        "env/envvars": f"{VARIABLE}: {word}\n",
    }


def short(word: str, *, seconds: float = 0) -> dict[str, str]:
    """Return the files of a job that succeeds after some tasks and this many seconds."""
    play = f"""\
        - hosts: one
          gather_facts: false
          tasks:
            - name: first
              command: echo {word}
            - name: nap
              command: sleep {seconds}
            - name: last
              debug: {{msg: done}}
        """
    return {
        "project/site.yml": textwrap.dedent(play),
        "inventory/hosts": _INVENTORY,
        "env/envvars": f"{VARIABLE}: {word}\n",
    }


def signalled(directory: Path) -> float:
    """Return when a noting job was asked to end, in seconds since the epoch; raises OSError when it was not."""
    return float((directory / "project" / "signal").read_text())


def of_word(files: Mapping[str, str]) -> str:
    """Return the word of a job's files."""
    return files["env/envvars"].split()[1]
