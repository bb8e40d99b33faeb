"""The values that one job is made of; all of them frozen, none of them does anything.

What may hold secrets besides `Secret` values (words, variables, an inventory's text) is not in their repr.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from ee_runner.secrets import Secret
from ee_runner.values import dataclass, field

PullPolicy: TypeAlias = Literal["always", "missing", "never", "newer"]
Status: TypeAlias = Literal["unstarted", "starting", "running", "successful", "failed", "canceled", "timeout", "error"]
Reason: TypeAlias = Literal[
    "exited",
    "canceled",
    "job_timeout",
    "idle_timeout",
    "subprocess_timeout",
    "prompt_unanswered",
    "oom",
    "killed",
    "image",
    "engine",
    "launch",
    "lost",
    "callback",
]
_STOPPED: Mapping[Reason, Status] = {
    "canceled": "canceled",
    "prompt_unanswered": "failed",
    "job_timeout": "timeout",
    "idle_timeout": "timeout",
    "subprocess_timeout": "timeout",
}


def status_of_stop(reason: Reason) -> Status:
    """Return the status of a job that was stopped for this reason."""
    return _STOPPED.get(reason, "error")


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path made visible inside; `flags` are the engine's own words (z, Z, O, U...)."""

    source: Path
    target: PurePosixPath
    read_only: bool = False
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistryAuth:
    """Credentials for one registry (``container_auth_data``); they reach no disk and no command line."""

    host: str
    username: str | None = None
    password: Secret | None = None
    verify_ssl: bool = True


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """What the caller says of the container; engines without images ignore all but the mounts.

    `memory` (bytes), `cpus` and `pids_limit` bound what all processes of the job may take together; 0 leaves that to
    the engine.
    """

    image: str | None = None
    pull: PullPolicy = "missing"
    volume_mounts: tuple[Mount, ...] = ()
    options: tuple[str, ...] = field(default=(), repr=False)
    workdir: str | None = None
    auth: RegistryAuth | None = None
    memory: int = 0
    cpus: float = 0
    pids_limit: int = 0


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What bwrap hides and shows (seed, section 1.8.1); `staging` holds what stands in for hidden paths."""

    staging: Path = Path("/tmp")  # noqa: S108 - the documented default
    hide_paths: tuple[Path, ...] = ()
    show_paths: tuple[Path, ...] = ()
    ro_paths: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds; None or 0 is no limit. `grace` lies between SIGTERM and SIGKILL.

    `job_timeout` and `subprocess_timeout` bound the whole job; the latter is for jobs on pipes.
    """

    job_timeout: float | None = None
    idle_timeout: float | None = None
    subprocess_timeout: float | None = None
    pexpect_timeout: float = 5.0
    pexpect_use_poll: bool = True
    grace: float = 10.0


@dataclass(frozen=True, slots=True)
class PlaybookTarget:
    """``ansible-playbook`` on these playbooks, relative to the project directory."""

    playbooks: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ModuleTarget:
    """``ansible HOSTS -m MODULE -a ARGUMENTS``."""

    module: str
    hosts: str
    arguments: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RoleTarget:
    """A role, run by a generated playbook (seed, section 1.12)."""

    role: str
    hosts: str
    variables: Mapping[str, Any] = field(default_factory=dict, repr=False)
    skip_facts: bool = False


@dataclass(frozen=True, slots=True)
class CommandTarget:
    """An Ansible command with the user's own arguments (``adhoc`` and ``playbook``), run from `cwd`.

    `cwd` is mounted at the same path; the files that the arguments reference are, too.
    """

    executable: str
    arguments: tuple[str, ...] = field(repr=False)
    cwd: Path


@dataclass(frozen=True, slots=True)
class RawTarget:
    """A command line from the file ``args`` of the private data directory, run as it stands."""

    words: tuple[str, ...] = field(repr=False)


Target: TypeAlias = PlaybookTarget | ModuleTarget | RoleTarget | CommandTarget | RawTarget


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job as it was asked for, every source merged; all paths absolute on the host.

    `artifact_dir` is this job's own directory (``<artifacts>/<ident>``). `engine` is a registered name or the path
    of an executable. `envvars`, `extravars`, `passwords` and `ssh_key` are what the caller passed; those of the
    private data directory are read by the workspace. Of older jobs' artifacts those of `rotate_artifacts` jobs are
    kept, those younger than `rotate_age` seconds, and as many as fit in `rotate_size` bytes; 0 keeps all. `host_cwd`
    is a working directory that was named, and keeps its path inside.
    """

    ident: str
    private_data_dir: Path
    project_dir: Path
    artifact_dir: Path
    target: Target
    engine: str = "local"
    inventory: tuple[str, ...] = field(default=(), repr=False)
    roles_path: tuple[str, ...] = ()
    limit: str | None = None
    forks: int | None = None
    verbosity: int = 0
    tags: str | None = None
    skip_tags: str | None = None
    cmdline: tuple[str, ...] = field(default=(), repr=False)
    binary: str | None = None
    envvars: Mapping[str, str] = field(default_factory=dict, repr=False)
    extravars: Mapping[str, Any] = field(default_factory=dict, repr=False)
    passwords: Mapping[str, Secret] = field(default_factory=dict)
    ssh_key: Secret | None = None
    container: ContainerSpec = field(default_factory=ContainerSpec)
    sandbox: SandboxSpec = field(default_factory=SandboxSpec)
    limits: Limits = field(default_factory=Limits)
    directory_isolation_base_path: Path | None = None
    fact_cache: str = "fact_cache"
    fact_cache_type: str = "jsonfile"
    omit_event_data: bool = False
    only_failed_event_data: bool = False
    job_events: Literal["files", "log", "both"] = "files"
    rotate_artifacts: int = 0
    rotate_age: float = 0.0
    rotate_size: int = 0
    host_cwd: Path | None = None
    json_mode: bool = False
    suppress_output_file: bool = False
    check_job_event_data: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """Where host paths appear inside: the longest root that holds a path decides, others keep their path."""

    roots: tuple[tuple[Path, PurePosixPath], ...] = ()

    def inside(self, path: Path) -> str:
        for source, target in sorted(self.roots, key=lambda root: len(root[0].parts), reverse=True):
            if path == source or source in path.parents:
                return str(target / path.relative_to(source).as_posix())
        return str(path)


class Terminal(Enum):
    """How the job is connected: a pty of its own, a pty joined to the caller's terminal, or three pipes."""

    PTY = "pty"
    INTERACTIVE = "interactive"
    PIPES = "pipes"


@dataclass(frozen=True, slots=True)
class Invocation:
    """One process for the executor: what to execute, with exactly this environment, from this directory.

    `adopt` says that what the process leaves when it daemonizes is the job's own, and ends with it; the client of an
    engine leaves what looks after its containers. `rescue` is the command that sees to what is no process when the
    supervisor has died; it has the environment of the supervisor.
    """

    argv: tuple[str, ...] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    cwd: Path
    terminal: Terminal = Terminal.PTY
    adopt: bool = True
    rescue: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended; `rc` is the child's exit code, 254 after a cancel or a timeout, 127 without such a program."""

    status: Status
    rc: int | None
    reason: Reason
    detail: str = ""
