"""A plugin that is told of status and events, beside the program's own handlers."""

import sys
from pathlib import Path

TOLD = []
PLUGIN = """\
import __main__


def status_handler(runner_config, data):
    __main__.TOLD.append(["plugin", "status", data["status"], data["runner_ident"], runner_config.settings])


def event_handler(runner_config, data):
    __main__.TOLD.append(["plugin", "event", data["event"], data["runner_ident"], runner_config.ident])
"""
Path("site", "teller-1.0.dist-info").mkdir(parents=True)
Path("site", "teller.py").write_text(PLUGIN)
Path("site", "teller-1.0.dist-info", "METADATA").write_text("Metadata-Version: 2.1\nName: teller\nVersion: 1.0\n")
Path("site", "teller-1.0.dist-info", "entry_points.txt").write_text("[ansible_runner.plugins]\nteller = teller\n")
sys.path.insert(0, str(Path("site").absolute()))

from program import answer, private_data_dir  # noqa: E402

import ansible_runner  # noqa: E402

place = private_data_dir("pdd")


def status_handler(data, runner_config):
    TOLD.append(["program", "status", data["status"], runner_config.ident])


r = ansible_runner.run(
    private_data_dir=place,
    playbook="site.yml",
    ident="one",
    quiet=True,
    settings={"idle_timeout": 300},
    event_handler=lambda event: TOLD.append(["program", "event", event["event"]]) or event["counter"] != 2,
    status_handler=status_handler,
    finished_callback=lambda _: TOLD.append(["program", "finished"]),
)
told = TOLD.copy()
try:
    settings = ansible_runner.run(
        private_data_dir=private_data_dir("own"), playbook="site.yml", settings={"of_the_plugin": 1}, quiet=True
    ).config.settings
except ansible_runner.AnsibleRunnerException as error:
    settings = type(error).__name__
answer(
    plugins=sorted(ansible_runner.plugins),
    told=told,
    settings=settings,
    result=[r.status, r.rc],
    kept=[e["counter"] for e in r.events],
)
