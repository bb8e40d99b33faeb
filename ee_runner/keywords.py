"""The keyword arguments of the library's functions, for type checkers and editors.

The option table (`ee_runner.options`) is what counts; a test fails when the two differ.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from ee_runner.handlers import ArtifactsHandler, CancelCallback, EventHandler, FinishedCallback, StatusHandler
    from ee_runner.job import PullPolicy, RegistryAuth
    from ee_runner.secrets import Secret

StrPath: TypeAlias = "str | os.PathLike[str]"
Plays: TypeAlias = "Mapping[str, Any] | Sequence[Mapping[str, Any]]"


class Keywords(TypedDict, total=False):
    """What any command may be given, all of it optional; None means not given (seed, section 5.4)."""

    private_data_dir: StrPath | None
    ident: str | int | None
    binary: str | None
    envvars: Mapping[str, Any] | None
    extravars: Mapping[str, Any] | None
    passwords: Mapping[str, str | Secret] | None
    ssh_key: str | Secret | None
    settings: Mapping[str, Any] | None
    project_dir: StrPath | None
    artifact_dir: StrPath | None
    rotate_artifacts: int | None
    rotate_artifacts_age: str | int | None
    rotate_artifacts_size: int | str | None
    host_cwd: StrPath | None
    runner_mode: Literal["pexpect", "subprocess"] | None
    timeout: float | None
    job_timeout: float | None
    idle_timeout: float | None
    subprocess_timeout: float | None
    pexpect_timeout: float | None
    pexpect_use_poll: bool | None
    stop_grace: float | None
    process_isolation: bool | None
    process_isolation_executable: str | None
    process_isolation_path: StrPath | None
    process_isolation_hide_paths: StrPath | Sequence[StrPath] | None
    process_isolation_show_paths: StrPath | Sequence[StrPath] | None
    process_isolation_ro_paths: StrPath | Sequence[StrPath] | None
    directory_isolation_base_path: StrPath | None
    container_image: str | None
    container_pull: PullPolicy | None
    container_volume_mounts: str | Sequence[str] | None
    container_options: str | Sequence[str] | None
    container_workdir: str | None
    memory: int | str | None
    cpus: float | None
    pids_limit: int | None
    container_auth_data: Mapping[str, Any] | RegistryAuth | None
    fact_cache: str | None
    fact_cache_type: str | None
    json_mode: bool | None
    quiet: bool | None
    omit_event_data: bool | None
    only_failed_event_data: bool | None
    job_events: Literal["files", "log", "both"] | None
    check_job_event_data: bool | None
    suppress_env_files: bool | None
    suppress_output_file: bool | None
    suppress_ansible_output: bool | None
    debug: bool | None
    logfile: StrPath | None
    ignore_logging: bool | None
    keepalive_seconds: float | None
    delete: bool | None
    wire: Literal["auto", "lines", "frames"] | None
    cache: StrPath | None
    resume: bool | None
    durable: bool | None
    stream_timeout: float | None
    allow_outside_links: bool | None
    only_transmit_kwargs: bool | None
    resource_profiling: bool | None
    resource_profiling_base_cgroup: str | None
    resource_profiling_cpu_poll_interval: float | None
    resource_profiling_memory_poll_interval: float | None
    resource_profiling_pid_poll_interval: float | None
    resource_profiling_results_dir: StrPath | None
    runner_http_url: str | None
    runner_http_headers: Mapping[str, str] | None
    runner_http_path: str | None
    runner_zmq_url: str | None
    runner_zmq_bind: bool | None
    runner_emitter_close_timeout: float | None
    event_handler: EventHandler | None
    status_handler: StatusHandler | None
    cancel_callback: CancelCallback | None
    finished_callback: FinishedCallback | None
    artifacts_handler: ArtifactsHandler | None
    streamer: Literal["transmit", "worker", "process"] | None
    _input: Any
    _output: Any


class JobKeywords(Keywords, total=False):
    """The same, and what to run on which hosts."""

    playbook: StrPath | Sequence[StrPath] | Plays | None
    module: str | None
    module_args: str | None
    host_pattern: str | None
    hosts: str | None
    role: str | None
    role_vars: Mapping[str, Any] | str | None
    role_skip_facts: bool | None
    roles_path: StrPath | Sequence[StrPath] | None
    inventory: StrPath | Sequence[StrPath] | Mapping[str, Any] | None
    limit: str | None
    tags: str | None
    skip_tags: str | None
    forks: int | None
    verbosity: int | None
    cmdline: str | Sequence[str] | None
    executable_cmd: str | None
    cmdline_args: Sequence[str] | None
