"""Variables, settings, passwords and the user's own callback plugins."""

from program import answer, private_data_dir

import ansible_runner

ASKS = """\
- hosts: h1
  gather_facts: false
  vars_prompt:
    - name: word
      prompt: The word please
      private: true
  tasks:
    - name: tell
      debug:
        msg: "{{ word }} {{ deep.list | sum }} {{ of_file }} {{ lookup('env', 'MINE') }} {{ lookup('env', 'FILES') }}"
"""
FILES = {
    "env/envvars": "FILES: 3\n",
    "env/extravars": "of_file: from the file\n",
    "env/settings": "idle_timeout: 300\n",
    "env/cmdline": "--diff",
}
COUNTER = """\
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = '''
name: counter
type: aggregate
short_description: counts
description: [counts]
'''


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "counter"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_stats(self, stats):
        self._display.display("counted")
"""


def results(r):
    found = [event["event_data"]["res"] for event in r.events if event["event"] == "runner_on_ok"]
    return [r.status, r.rc, [result.get("msg") for result in found]]


asks = private_data_dir("asks", plays=ASKS, files=FILES)
extravars, settings, envvars = {"deep": {"list": [1, 2]}}, {"job_timeout": 200}, {"MINE": "ä"}
r = ansible_runner.run(
    private_data_dir=asks,
    playbook="site.yml",
    ident="one",
    quiet=True,
    extravars=extravars,
    envvars=envvars,
    settings=settings,
    passwords={r"The word please: ?$": "sesame"},
)
prompts = [
    [event["event"], event["stdout"]] for event in r.events if "prompt" in event["event"] or event["event"] == "verbose"
]
spoken = "sesame" in r.stdout.read().split("tell")[0]

plugins = private_data_dir("plugins", files={"callbacks/counter.py": COUNTER})
own = ansible_runner.run(
    private_data_dir=plugins,
    playbook="site.yml",
    quiet=True,
    envvars={
        "ANSIBLE_STDOUT_CALLBACK": "minimal",
        "ANSIBLE_CALLBACKS_ENABLED": "counter",
        "ANSIBLE_CALLBACK_PLUGINS": f"{plugins}/callbacks",
    },
)
answer(
    asked=results(r),
    prompts=prompts,
    spoken=spoken,
    diff="--diff" in r.config.command,
    settings=r.config.settings,
    limits=[r.config.idle_timeout, r.config.job_timeout],
    unchanged=[extravars, settings, envvars],
    own=[results(own), own.stdout.read()],
    counted="".join(event["event"] for event in own.events if "counted" in event["stdout"]),
)
