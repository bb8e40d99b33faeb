"""RunnerConfig and Runner by hand: prepare, change, run, and classes of one's own."""

import json
from pathlib import Path

from program import answer, private_data_dir

from ansible_runner import AnsibleRunnerException, Runner, RunnerConfig

place = private_data_dir("pdd")
SHOWS = """\
- hosts: h1
  gather_facts: false
  tasks:
    - debug:
        msg: "{{ lookup('env', 'MINE') }}"
"""
shows = private_data_dir("shows", plays=SHOWS)


def attempt(action):
    try:
        return action()
    except Exception as error:
        return [type(error).__name__, isinstance(error, AnsibleRunnerException)]


class MyConfig(RunnerConfig):
    def prepare(self):
        super().prepare()
        self.env["MINE"] = "of my class"
        self.command.insert(-1, "--diff")


class MyRunner(Runner):
    def run(self):
        self.before = self.status
        return super().run()


def messages(runner):
    results = [event["event_data"]["res"] for event in runner.events if event["event"] == "runner_on_ok"]
    return [result["msg"] for result in results]


config = RunnerConfig(private_data_dir=shows, playbook="site.yml", quiet=True, ident="one")
early = [config.command, config.artifact_dir, config.project_dir, config.fact_cache, config.ident, config.playbook]
config.prepare()
prepared = [config.command, config.cwd, Path(config.artifact_dir).is_dir()]
config.env["MINE"] = "changed"
runner = Runner(config=config)
unstarted = [runner.status, runner.rc]
returned = runner.run()
changed = messages(runner)
kept = "MINE" in json.loads(Path(config.artifact_dir, "command").read_text())["env"]

later = RunnerConfig(place, quiet=True)
later.playbook = "site.yml"
later.limit = "h1"
later.verbosity = 1
later.prepare()

other = RunnerConfig(place, playbook="site.yml", quiet=True)
other.prepare()
other.command = ["echo", "something else"]
replaced = Runner(config=other)
replaced.run()

mine = MyConfig(private_data_dir=shows, playbook="site.yml", quiet=True)
mine.prepare()
my_runner = MyRunner(config=mine)
my_runner.run()

answer(
    early=early,
    prepared=prepared,
    unstarted=unstarted,
    returned=returned,
    changed=changed,
    kept=kept,
    later=later.command,
    replaced=[replaced.status, replaced.rc, replaced.stdout.read()],
    mine=[my_runner.before, my_runner.status, messages(my_runner), mine.command],
    misspelt=attempt(lambda: RunnerConfig(place, playbok="site.yml")),
    nothing=attempt(lambda: RunnerConfig(place).prepare()),
    output_of_nothing=attempt(lambda: Runner(config=later).stdout)[1],
)
