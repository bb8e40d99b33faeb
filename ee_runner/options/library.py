"""Keywords and settings that have no flag."""

from __future__ import annotations

from ee_runner import kinds
from ee_runner.options.model import Option

OPTIONS: tuple[Option, ...] = (
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
    Option(
        "pexpect_timeout",
        kinds.SECONDS,
        "end a job that rests this many seconds on what looks like a question without an answer; 0 lets it wait",
        in_settings=True,
        default=5,
    ),
    Option("pexpect_use_poll", kinds.FLAG, "use poll() instead of select()", in_settings=True, default=True),
    Option("subprocess_timeout", kinds.SECONDS, "the same as job_timeout, in subprocess mode alone", in_settings=True),
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
