"""What a program can read of a runner and of its configuration, before, during and after the run."""

from program import answer, private_data_dir

import ansible_runner

RUNNER = ("status", "rc", "canceled", "timed_out", "errored", "remove_partials")
CONFIG = [
    "private_data_dir",
    "project_dir",
    "artifact_dir",
    "fact_cache",
    "fact_cache_type",
    "ident",
    "cwd",
    "command",
    "playbook",
    "inventory",
    "module",
    "module_args",
    "host_pattern",
    "limit",
    "forks",
    "verbosity",
    "tags",
    "skip_tags",
    "roles_path",
    "settings",
    "quiet",
    "json_mode",
    "timeout",
    "rotate_artifacts",
    "process_isolation",
    "containerized",
    "sandboxed",
    "container_image",
    "omit_event_data",
    "only_failed_event_data",
    "check_job_event_data",
    "suppress_env_files",
    "suppress_output_file",
    "idle_timeout",
    "job_timeout",
    "pexpect_timeout",
    "host_cwd",
    "runner_mode",
]


def looked_at(thing, names):
    found = {}
    for name in names:
        try:
            value = getattr(thing, name)
        except Exception as error:
            value = type(error).__name__
        found[name] = [type(value).__name__, value]
    return found


place = private_data_dir("pdd")
seen = {}


def status_handler(data, runner_config):
    if data["status"] == "running":
        seen["config"] = looked_at(runner_config, CONFIG)


prepared = ansible_runner.interface.init_runner(private_data_dir=place, playbook="site.yml", ident=7, quiet=True)
before = looked_at(prepared, RUNNER)
prepared.status_handler = status_handler
returned = prepared.run()
adhoc = ansible_runner.interface.init_runner(
    private_data_dir=place, module="debug", module_args="msg=x", host_pattern="h1", ident="adhoc", quiet=True
)
thread, command = ansible_runner.run_command_async("pwd", private_data_dir=place, ident="command", quiet=True)
thread.join()
answer(
    before=before,
    returned=returned,
    after=looked_at(prepared, RUNNER),
    config=seen["config"],
    env={name: prepared.config.env.get(name) for name in ("ANSIBLE_HOST_KEY_CHECKING", "ANSIBLE_RETRY_FILES_ENABLED")},
    adhoc=looked_at(adhoc.config, ("command", "cwd", "playbook", "module", "module_args", "host_pattern")),
    command=looked_at(command, RUNNER),
    command_config=looked_at(command.config, ("command", "cwd", "ident", "artifact_dir", "private_data_dir")),
    command_stdout=command.stdout.read(),
    thread=[type(thread).__name__, thread.daemon],
)
