"""Commands: what run_command returns, shows and stores, on a terminal and on pipes."""

import json
from pathlib import Path

from program import answer, disk, private_data_dir

import ansible_runner

TALK = ["-c", "echo out; echo err >&2; exit 3"]
place = private_data_dir("pdd", files={"env/settings": "pexpect_timeout: 1\n"})
seen = {}


def new(name):
    return Path(name).open("w+")


def command(name, *arguments, **options):
    told = []
    events = []
    options.setdefault("quiet", True)

    def status_handler(data, runner_config):
        told.append([data["status"], data.get("command"), data.get("cwd"), runner_config.ident])

    try:
        returned = ansible_runner.run_command(
            *arguments,
            private_data_dir=place,
            ident=name,
            event_handler=lambda event: events.append([event["event"], event["stdout"], sorted(event)]) or True,
            status_handler=status_handler,
            finished_callback=lambda runner: told.append(["finished", runner.rc]),
            **options,
        )
    except Exception as error:
        returned = [type(error).__name__, isinstance(error, ansible_runner.AnsibleRunnerException)]
    artifacts = Path(place, "artifacts", name)
    files = {
        file: (artifacts / file).read_bytes().decode(errors="replace")
        for file in ("stdout", "stderr")
        if (artifacts / file).exists()
    }
    seen[name] = {"returned": returned, "told": told, "events": events, **disk(artifacts), **files}


command("terminal", "sh", TALK)
command("pipes", "sh", TALK, runner_mode="subprocess")
command("explicit terminal", "sh", TALK, runner_mode="pexpect")
command("shown", "echo", ["shown on the console"], quiet=False)
command("shown pipes", "echo", ["shown as well"], quiet=False, runner_mode="subprocess")
command("is a terminal", "sh", ["-c", "test -t 0 && test -t 1"])
command("is none", "sh", ["-c", "test -t 0 || test -t 1; cat"], runner_mode="subprocess")
command("missing", "no-such-program", [])
command("missing pipes", "no-such-program", [], runner_mode="subprocess")
command("killed", "sh", ["-c", "kill -9 $$"])
command("killed pipes", "sh", ["-c", "kill -9 $$"], runner_mode="subprocess")
command("bytes", "printf", ["\\303\\251 \\377\\n"])
command("timeout", "sh", ["-c", "echo begun; sleep 15"], timeout=1)
command("timeout pipes", "sh", ["-c", "echo begun; sleep 3"], timeout=1, runner_mode="subprocess")
command("where", "pwd")
command("elsewhere", "pwd", host_cwd="/usr")
command("prompt", "sh", ["-c", "printf 'Word: '; read x; echo got $x"], passwords={"Word: $": "sesame"})
command("environment", "sh", ["-c", "echo $MINE"], envvars={"MINE": "value"})
command("mode", "echo", runner_mode="other")
command("nothing", "")
command("one text", "echo", "a b")
command("config", "ansible-config", ["dump", "--only-changed", "--format", "json"])
seen["config"]["returned"] = [len(json.loads(seen["config"]["returned"][0])) > 1, *seen["config"]["returned"][1:]]
seen["config"] = {"returned": seen["config"]["returned"]}
with new("out") as out, new("err") as err, new("in") as given:
    given.write("given\n")
    given.seek(0)
    command("files", "sh", ["-c", "cat; echo out; echo err >&2"], input_fd=given, output_fd=out, error_fd=err)
    out.seek(0)
    err.seek(0)
    seen["files"]["written"] = [out.read(), err.read()]
with new("out") as out:
    command("one file", "sh", TALK, output_fd=out, runner_mode="subprocess")
    out.seek(0)
    seen["one file"]["written"] = out.read()
for name in ("missing", "missing pipes"):
    seen[name] = [seen[name]["returned"], seen[name]["status"]]
playbook = ["-i", f"{place}/inventory", f"{place}/project/site.yml"]
command("playbook", "ansible-playbook", playbook)
command("playbook pipes", "ansible-playbook", playbook, runner_mode="subprocess")
command("playbook json", "ansible-playbook", playbook, json_mode=True)
for name in ("playbook", "playbook pipes"):  # Ansible ends with an empty line, which ansible-runner drops
    seen[name] = {"events": seen[name]["events"], "out": seen[name]["returned"][0].rstrip("\n")}
lines = seen["playbook json"]["returned"][0].splitlines()
seen["playbook json"] = {"lines": [json.loads(line)["event"] for line in lines]}
out, err, rc = ansible_runner.run_command("echo", ["no place"], quiet=True)
seen["no place"] = [out, err, rc]
thread, r = ansible_runner.run_command_async("sh", TALK, private_data_dir=place, ident="async", quiet=True)
thread.join()
seen["async"] = [r.status, r.rc, r.stdout.read(), r.stderr.read(), r.stats]
answer(**seen)
