"""Every option, declared once: keyword and settings key, type, flags, environment variable, default, help, place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from ee_runner import kinds
from ee_runner.kinds import Kind

CALLBACKS = ("event_handler", "status_handler", "cancel_callback", "finished_callback", "artifacts_handler")
"""The callables of the caller's that a job takes (seed, sections 5.18 to 5.21); no options, for they have no text."""

DEFAULT_IMAGE = "ghcr.io/ansible/community-ansible-dev-tools:latest"
OPEN_PREFIX = "runner_"

JOB_COMMANDS = frozenset({"run", "start", "transmit"})
EMULATING_COMMANDS = frozenset({"playbook", "adhoc"})
CONTROL_COMMANDS = frozenset({"stop", "is-alive"})
ALL_COMMANDS = JOB_COMMANDS | EMULATING_COMMANDS | CONTROL_COMMANDS | {"worker", "worker cleanup", "process"}
_RUNNING = JOB_COMMANDS | EMULATING_COMMANDS
_WORKER = frozenset({"worker"})
_CLEANUP = frozenset({"worker cleanup"})


class Group(Enum):
    """The groups of the documented help, in its order."""

    GENERAL = "General Options"
    TARGET = "What To Run"
    RUNNER = "Ansible Runner Options"
    ANSIBLE = "Ansible Options"
    ROLE = "Ansible Role Options"
    MODULE = "Ansible Module Options"
    ISOLATION = "Process Isolation Options"
    CONTAINER = "Ansible Container Options"
    WORKER = "Worker Options"
    STREAM = "Stream Options"
    CLEANUP = "Cleanup Options"
    LIBRARY = "Keywords And Settings"


class Style(Enum):
    """How a flag takes its value: one, none, counted, one per repetition, or all that follow."""

    ONE = "one"
    SWITCH = "switch"
    COUNT = "count"
    APPEND = "append"
    MANY = "many"


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was given, with where it came from: "--flag", "command line"."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Option:
    """One option; `name` is the keyword of the library and, where `in_settings`, the key in env/settings.

    `dashed` marks flags whose value may begin with a dash. An option without flags belongs to the library alone.
    """

    name: str
    kind: Kind
    help: str
    group: Group = Group.LIBRARY
    flags: tuple[str, ...] = ()
    style: Style = Style.ONE
    metavar: str = ""
    env: str = ""
    in_settings: bool = False
    default: Any = None
    default_text: str = ""
    commands: frozenset[str] = JOB_COMMANDS
    dashed: bool = False


OPTIONS: tuple[Option, ...] = (
    Option(
        "private_data_dir",
        kinds.PATH,
        "the directory that holds project, inventory, env and artifacts",
        Group.GENERAL,
        ("--private-data-dir",),
        metavar="DIR",
        commands=EMULATING_COMMANDS | {"worker"},
    ),
    Option(
        "debug",
        kinds.FLAG,
        "log what the runner does, in detail",
        Group.GENERAL,
        ("--debug",),
        Style.SWITCH,
        default=False,
        commands=ALL_COMMANDS,
    ),
    Option(
        "logfile",
        kinds.PATH,
        "append the log to this file",
        Group.GENERAL,
        ("--logfile",),
        metavar="FILE",
        commands=ALL_COMMANDS,
    ),
    Option(
        "explain",
        kinds.FLAG,
        "print the value of every option and where it came from, then exit",
        Group.GENERAL,
        ("--explain",),
        Style.SWITCH,
        default=False,
        commands=_RUNNING,
    ),
    # --- what to run
    Option(
        "playbook",
        kinds.PLAYBOOK,
        "run this playbook of the project",
        Group.TARGET,
        ("-p", "--playbook"),
        metavar="PLAYBOOK",
        env="RUNNER_PLAYBOOK",
    ),
    Option(
        "module",
        kinds.WORD,
        "run this module, without a playbook",
        Group.TARGET,
        ("-m", "--module"),
        metavar="MODULE",
        env="RUNNER_MODULE",
    ),
    Option(
        "role",
        kinds.WORD,
        "run this role, without a playbook",
        Group.TARGET,
        ("-r", "--role"),
        metavar="ROLE",
        env="RUNNER_ROLE",
    ),
    # --- the runner
    Option(
        "binary",
        kinds.WORD,
        "the ansible executable to use, or the directory it is in",
        Group.RUNNER,
        ("-b", "--binary"),
        metavar="PATH",
        env="RUNNER_BINARY",
        default_text="found on PATH",
    ),
    Option(
        "ident",
        kinds.IDENT,
        "the job's identifier, which names its artifact directory and its container",
        Group.RUNNER,
        ("-i", "--ident"),
        metavar="IDENT",
        default_text="a random UUID",
        commands=_RUNNING | CONTROL_COMMANDS | {"process"},
    ),
    Option(
        "rotate_artifacts",
        kinds.COUNT,
        "keep the artifacts of this many jobs and remove older ones; 0 keeps all",
        Group.RUNNER,
        ("--rotate-artifacts",),
        metavar="N",
        in_settings=True,
        default=0,
        commands=_RUNNING,
    ),
    Option(
        "artifact_dir",
        kinds.PATH,
        "the directory in which each job gets its artifact directory",
        Group.RUNNER,
        ("--artifact-dir",),
        metavar="DIR",
        default_text="artifacts in the private data directory",
        commands=_RUNNING | CONTROL_COMMANDS,
    ),
    Option(
        "project_dir",
        kinds.PATH,
        "the directory that holds the playbooks",
        Group.RUNNER,
        ("--project-dir",),
        metavar="DIR",
        default_text="project in the private data directory",
    ),
    Option(
        "inventory",
        kinds.INVENTORY,
        "an inventory file, script or directory, or a host list such as 'a,b,'",
        Group.RUNNER,
        ("--inventory",),
        metavar="INVENTORY",
        env="ANSIBLE_INVENTORY",
        default_text="inventory in the private data directory",
    ),
    Option(
        "json_mode",
        kinds.FLAG,
        "print one JSON event a line instead of Ansible's output",
        Group.RUNNER,
        ("-j", "--json"),
        Style.SWITCH,
        default=False,
        commands=_RUNNING | CONTROL_COMMANDS | {"process"},
    ),
    Option(
        "omit_event_data",
        kinds.FLAG,
        "leave the event data out of events; status and output are kept",
        Group.RUNNER,
        ("--omit-event-data",),
        Style.SWITCH,
        in_settings=True,
        default=False,
        commands=_RUNNING,
    ),
    Option(
        "only_failed_event_data",
        kinds.FLAG,
        "keep the event data of failed tasks only",
        Group.RUNNER,
        ("--only-failed-event-data",),
        Style.SWITCH,
        in_settings=True,
        default=False,
        commands=_RUNNING,
    ),
    Option(
        "suppress_env_files",
        kinds.FLAG,
        "write nothing under env (which this runner never does)",
        Group.RUNNER,
        ("--omit-env-files",),
        Style.SWITCH,
        in_settings=True,
        default=False,
    ),
    Option(
        "quiet",
        kinds.FLAG,
        "print nothing to the terminal",
        Group.RUNNER,
        ("-q", "--quiet"),
        Style.SWITCH,
        default=False,
        commands=_RUNNING | CONTROL_COMMANDS | {"process"},
    ),
    Option(
        "verbosity",
        kinds.COUNT,
        "more output from Ansible; may be repeated, up to 5 times",
        Group.RUNNER,
        ("-v",),
        Style.COUNT,
        default=0,
        commands=JOB_COMMANDS | CONTROL_COMMANDS,
    ),
    # --- Ansible
    Option(
        "limit",
        kinds.TEXT,
        "Ansible's --limit: only these hosts of the inventory",
        Group.ANSIBLE,
        ("--limit",),
        metavar="PATTERN",
    ),
    Option(
        "cmdline",
        kinds.ARGUMENTS,
        "more arguments for the Ansible command; replaces env/cmdline",
        Group.ANSIBLE,
        ("--cmdline",),
        metavar="ARGUMENTS",
        dashed=True,
    ),
    Option(
        "host_pattern",
        kinds.WORD,
        "the hosts for a module or a role",
        Group.ANSIBLE,
        ("--hosts",),
        metavar="PATTERN",
        default_text="all, for a role",
    ),
    Option(
        "forks", kinds.COUNT, "Ansible's --forks: how many hosts at a time", Group.ANSIBLE, ("--forks",), metavar="N"
    ),
    # --- roles
    Option(
        "roles_path",
        kinds.SEARCH_PATH,
        "where roles are looked for, before Ansible's own places",
        Group.ROLE,
        ("--roles-path",),
        metavar="PATH",
        env="ANSIBLE_ROLES_PATH",
    ),
    Option(
        "role_vars",
        kinds.VARIABLES,
        "variables for the role: 'key=value key=value', JSON, YAML or @FILE",
        Group.ROLE,
        ("--role-vars",),
        metavar="VARS",
        dashed=True,
    ),
    Option(
        "role_skip_facts",
        kinds.FLAG,
        "do not gather facts before the role",
        Group.ROLE,
        ("--role-skip-facts",),
        Style.SWITCH,
        default=False,
    ),
    # --- modules
    Option(
        "module_args",
        kinds.TEXT,
        "the module's arguments: 'key=value key=value', or free form",
        Group.MODULE,
        ("-a", "--args"),
        metavar="ARGUMENTS",
        dashed=True,
    ),
    # --- isolation
    Option(
        "process_isolation",
        kinds.FLAG,
        "isolate the job: in a container (podman, docker) or in a sandbox (bwrap)",
        Group.ISOLATION,
        ("--process-isolation", "--containerized"),
        Style.SWITCH,
        in_settings=True,
        default=False,
        default_text="off for run, on for playbook and adhoc",
        commands=_RUNNING,
    ),
    Option(
        "process_isolation_executable",
        kinds.WORD,
        "podman, docker, bwrap, local (no isolation), or a path",
        Group.ISOLATION,
        ("--process-isolation-executable", "--engine"),
        metavar="ENGINE",
        env="EE_RUNNER_ENGINE",
        in_settings=True,
        default_text="what is installed, podman first",
        commands=_RUNNING | _CLEANUP,
    ),
    Option(
        "process_isolation_path",
        kinds.PATH,
        "where bwrap's stand-ins for hidden paths are kept",
        Group.ISOLATION,
        ("--process-isolation-path",),
        metavar="DIR",
        in_settings=True,
        default="/tmp",  # noqa: S108 - the documented default
        commands=_RUNNING,
    ),
    Option(
        "process_isolation_hide_paths",
        kinds.PATHS,
        "paths that bwrap hides from the job",
        Group.ISOLATION,
        ("--process-isolation-hide-paths",),
        Style.MANY,
        "PATH",
        in_settings=True,
        commands=_RUNNING,
    ),
    Option(
        "process_isolation_show_paths",
        kinds.PATHS,
        "paths that bwrap shows to the job, writable",
        Group.ISOLATION,
        ("--process-isolation-show-paths",),
        Style.MANY,
        "PATH",
        in_settings=True,
        commands=_RUNNING,
    ),
    Option(
        "process_isolation_ro_paths",
        kinds.PATHS,
        "paths that bwrap shows to the job, read-only",
        Group.ISOLATION,
        ("--process-isolation-ro-paths",),
        Style.MANY,
        "PATH",
        in_settings=True,
        commands=_RUNNING,
    ),
    Option(
        "directory_isolation_base_path",
        kinds.PATH,
        "run on a copy of the project, made in this directory",
        Group.ISOLATION,
        ("--directory-isolation-base-path",),
        metavar="DIR",
        in_settings=True,
    ),
    # --- containers
    Option(
        "container_image",
        kinds.WORD,
        "the execution environment image; implies isolation in a container",
        Group.CONTAINER,
        ("--container-image",),
        metavar="IMAGE",
        env="EE_RUNNER_IMAGE",
        in_settings=True,
        default_text=DEFAULT_IMAGE,
        commands=_RUNNING,
    ),
    Option(
        "container_pull",
        kinds.choice("always", "missing", "never", "newer"),
        "when to pull the image: always, missing, never or newer",
        Group.CONTAINER,
        ("--pull",),
        metavar="POLICY",
        env="EE_RUNNER_PULL",
        in_settings=True,
        default="missing",
        commands=_RUNNING,
    ),
    Option(
        "container_volume_mounts",
        kinds.WORDS,
        "a bind mount, HOST:CONTAINER[:OPTIONS]; may be repeated",
        Group.CONTAINER,
        ("--container-volume-mount",),
        Style.APPEND,
        "MOUNT",
        in_settings=True,
        commands=_RUNNING,
    ),
    Option(
        "container_options",
        kinds.WORDS,
        "an option for the engine's run command; may be repeated",
        Group.CONTAINER,
        ("--container-option",),
        Style.APPEND,
        "OPTION",
        in_settings=True,
        commands=_RUNNING,
        dashed=True,
    ),
    Option("container_workdir", kinds.WORD, "the working directory in the container", in_settings=True),
    Option("container_auth_data", kinds.REGISTRY_AUTH, "the credentials of the image's registry", in_settings=True),
    # --- remote jobs
    Option(
        "worker_info",
        kinds.FLAG,
        "print what this node offers, then exit",
        Group.WORKER,
        ("--worker-info",),
        Style.SWITCH,
        default=False,
        commands=_WORKER,
    ),
    Option(
        "delete",
        kinds.FLAG,
        "empty the private data directory before and remove it after the job",
        Group.WORKER,
        ("--delete",),
        Style.SWITCH,
        default=False,
        commands=_WORKER,
    ),
    Option(
        "keepalive_seconds",
        kinds.SECONDS,
        "send a keepalive after this many idle seconds; 0 sends none",
        Group.WORKER,
        ("--keepalive-seconds",),
        metavar="N",
        env="ANSIBLE_RUNNER_KEEPALIVE_SECONDS",
        default_text="10 into a pipe or a socket",
        commands=_WORKER,
    ),
    Option(
        "allow_outside_links",
        kinds.FLAG,
        "accept symbolic links that lead out of the private data directory",
        Group.WORKER,
        ("--allow-outside-links",),
        Style.SWITCH,
        default=False,
        commands=_WORKER,
    ),
    Option(
        "durable",
        kinds.FLAG,
        "keep the results here too, and let the job go on when nobody reads them",
        Group.WORKER,
        ("--durable",),
        Style.SWITCH,
        default=False,
        commands=_WORKER,
    ),
    Option(
        "attach",
        kinds.WORD,
        "write the results of a durable job, from their beginning",
        Group.WORKER,
        ("--attach",),
        metavar="IDENT",
        commands=_WORKER,
    ),
    Option(
        "wire",
        kinds.choice("auto", "lines", "frames"),
        "how the job is written: lines for any worker, frames for one of this kind, auto to find out",
        Group.STREAM,
        ("--wire",),
        metavar="FORM",
        env="EE_RUNNER_WIRE",
        default="auto",
        commands=frozenset({"transmit"}),
    ),
    Option(
        "cache",
        kinds.PATH,
        "send and keep only what changed since the last job; each end has a directory of its own for it",
        Group.STREAM,
        ("--cache",),
        metavar="DIR",
        commands=frozenset({"transmit", "worker", "process"}),
    ),
    Option(
        "resume",
        kinds.FLAG,
        "take up a stream that was cut, after the last record that was processed",
        Group.STREAM,
        ("--resume",),
        Style.SWITCH,
        default=False,
        commands=frozenset({"process"}),
    ),
    Option(
        "stream_timeout",
        kinds.SECONDS,
        "give the stream up after this many seconds without a byte; 0 waits for ever",
        Group.STREAM,
        ("--stream-timeout",),
        metavar="N",
        default_text="4 times the other end's keepalive",
        commands=frozenset({"worker", "process"}),
    ),
    Option(
        "only_transmit_kwargs",
        kinds.FLAG,
        "transmit the options alone; the worker has the private data directory already",
        default=False,
    ),
    # --- cleaning up
    Option(
        "file_pattern",
        kinds.WORD,
        "remove the private data directories that match, such as '/tmp/.ansible-runner-*'",
        Group.CLEANUP,
        ("--file-pattern",),
        metavar="GLOB",
        commands=_CLEANUP,
    ),
    Option(
        "exclude_strings",
        kinds.WORDS,
        "but not those with one of these words in their path",
        Group.CLEANUP,
        ("--exclude-strings",),
        Style.MANY,
        "WORD",
        commands=_CLEANUP,
    ),
    Option(
        "grace_period",
        kinds.COUNT,
        "nor those that changed in the last so many minutes; 0 takes them all",
        Group.CLEANUP,
        ("--grace-period",),
        metavar="MINUTES",
        default=60,
        commands=_CLEANUP,
    ),
    Option(
        "remove_images",
        kinds.WORDS,
        "take these tags from the engine's images",
        Group.CLEANUP,
        ("--remove-images",),
        Style.MANY,
        "IMAGE",
        commands=_CLEANUP,
    ),
    Option(
        "image_prune",
        kinds.FLAG,
        "remove the engine's images that no tag names any more",
        Group.CLEANUP,
        ("--image-prune",),
        Style.SWITCH,
        default=False,
        commands=_CLEANUP,
    ),
    # --- the library's own
    Option("settings", kinds.MAPPING, "settings, as env/settings has them"),
    Option("envvars", kinds.ENVIRONMENT, "environment variables for Ansible, added to env/envvars"),
    Option("extravars", kinds.MAPPING, "extra vars, added to env/extravars"),
    Option("passwords", kinds.SECRETS, "prompts and their answers, added to env/passwords"),
    Option("ssh_key", kinds.SECRET, "a private key for ssh-agent; replaces env/ssh_key"),
    Option("tags", kinds.TEXT, "Ansible's --tags"),
    Option("skip_tags", kinds.TEXT, "Ansible's --skip-tags"),
    Option("timeout", kinds.SECONDS, "the job's time limit in seconds; replaces job_timeout"),
    Option("check_job_event_data", kinds.FLAG, "raise when events of the job are missing", default=False),
    Option("executable_cmd", kinds.WORD, "the Ansible command to run with cmdline_args"),
    Option("cmdline_args", kinds.WORDS, "the arguments of executable_cmd"),
    Option("host_cwd", kinds.PATH, "the directory to work in; in a container, too, it has this path"),
    Option("ignore_logging", kinds.FLAG, "leave logging alone, whatever debug and logfile say", default=True),
    Option("idle_timeout", kinds.SECONDS, "end the job after this many seconds without output", in_settings=True),
    Option("job_timeout", kinds.SECONDS, "end the job after this many seconds", in_settings=True),
    Option("pexpect_timeout", kinds.SECONDS, "seconds between two looks at the job", in_settings=True, default=5),
    Option("pexpect_use_poll", kinds.FLAG, "use poll() instead of select()", in_settings=True, default=True),
    Option("subprocess_timeout", kinds.SECONDS, "the time limit in subprocess mode", in_settings=True),
    Option(
        "runner_mode",
        kinds.choice("pexpect", "subprocess"),
        "on a terminal of its own, or on pipes",
        in_settings=True,
        default="pexpect",
    ),
    Option("suppress_ansible_output", kinds.FLAG, "do not print Ansible's output", in_settings=True, default=False),
    Option(
        "suppress_output_file",
        kinds.FLAG,
        "do not write the stdout and stderr artifacts",
        in_settings=True,
        default=False,
    ),
    Option(
        "fact_cache",
        kinds.WORD,
        "the fact cache, a directory in the artifact directory",
        in_settings=True,
        default="fact_cache",
    ),
    Option("fact_cache_type", kinds.TEXT, "the fact cache plugin", in_settings=True, default="jsonfile"),
    Option("resource_profiling", kinds.FLAG, "measure what tasks use", in_settings=True, default=False),
    Option(
        "resource_profiling_base_cgroup",
        kinds.WORD,
        "the control group to measure in",
        in_settings=True,
        default="ansible-runner",
    ),
    Option(
        "resource_profiling_cpu_poll_interval", kinds.SECONDS, "between two CPU samples", in_settings=True, default=0.25
    ),
    Option(
        "resource_profiling_memory_poll_interval",
        kinds.SECONDS,
        "between two memory samples",
        in_settings=True,
        default=0.25,
    ),
    Option(
        "resource_profiling_pid_poll_interval",
        kinds.SECONDS,
        "between two process counts",
        in_settings=True,
        default=0.25,
    ),
    Option(
        "resource_profiling_results_dir",
        kinds.PATH,
        "where the samples go",
        in_settings=True,
        default_text="profiling_data in the private data directory",
    ),
    Option(
        "runner_http_url",
        kinds.WORD,
        "where status and events are posted: a URL, or the path of a unix socket",
        env="RUNNER_HTTP_URL",
        in_settings=True,
    ),
    Option("runner_http_headers", kinds.MAPPING, "the headers of these posts", in_settings=True),
    Option(
        "runner_http_path",
        kinds.TEXT,
        "the path to post to, when the URL is a unix socket",
        env="RUNNER_HTTP_PATH",
        in_settings=True,
        default_text="/",
    ),
    Option(
        "runner_zmq_url",
        kinds.WORD,
        "where status and events are published: the ZeroMQ address of a subscriber that binds it",
        env="RUNNER_ZMQ_URL",
        in_settings=True,
    ),
    Option(
        "runner_zmq_bind", kinds.FLAG, "bind that address, for subscribers to connect", in_settings=True, default=False
    ),
    Option(
        "runner_emitter_close_timeout",
        kinds.SECONDS,
        "at the end of a job, for what is still to be posted and published",
        in_settings=True,
        default=5,
    ),
)

BY_NAME: Mapping[str, Option] = MappingProxyType({option.name: option for option in OPTIONS})
BY_FLAG: Mapping[str, Option] = MappingProxyType({flag: option for option in OPTIONS for flag in option.flags})
SETTINGS_KEYS: frozenset[str] = frozenset(option.name for option in OPTIONS if option.in_settings)


def default_of(option: Option, command: str) -> Any:
    """Return the option's default; the subcommands that emulate Ansible's run in a container unless told otherwise."""
    if option.name == "process_isolation":
        return command in EMULATING_COMMANDS
    return option.kind.convert(option.default) if option.default is not None else None
