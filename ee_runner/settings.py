"""Validates what was asked for and builds the frozen JobSpec from it; `resolve` merges the sources."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ee_runner import kinds, names, targets
from ee_runner.errors import ConfigurationError, MountRefused, nearest
from ee_runner.job import ContainerSpec, JobSpec, Limits, Mount, SandboxSpec, Target
from ee_runner.logs import log
from ee_runner.options import DEFAULT_IMAGE
from ee_runner.sources import ARGUMENT, Rank, Resolved, check_names, resolve, working_directory
from ee_runner.values import dataclass
from ee_runner.workspace.inputs import check_pattern, json_text, mode_of

__all__ = ["Content", "Resolved", "check_names", "content", "job_spec", "resolve"]

_NOT_ISOLATING = "local"
_LIMITS = ("memory", "cpus", "pids_limit")
_LEAST_MEMORY = 6 << 20
"""What engines need to start anything; below it they fail in words of their own."""

_MOST_PROCESSES = 1 << 22


@dataclass(frozen=True, slots=True)
class Content:
    """What runs and where it lies, checked against what is on this host; all paths absolute."""

    ident: str
    private_data_dir: Path
    project_dir: Path
    host_cwd: Path | None
    target: Target
    inventory: tuple[str, ...]


def content(resolved: Resolved) -> Content:
    """Find what runs; raises ConfigurationError for a playbook, an inventory or a directory that is not there."""
    cwd = working_directory()
    ident = _ident(resolved)
    directory = _private_data_dir(resolved, cwd)
    host_cwd = _host_cwd(resolved, cwd)
    project_dir = _project_dir(resolved, cwd, host_cwd or directory / "project")
    target = targets.target(resolved, cwd, directory, project_dir)
    inventory = targets.inventory(resolved, cwd, (directory / "inventory", project_dir, directory))
    return Content(ident, directory, project_dir, host_cwd, target, inventory)


def job_spec(resolved: Resolved) -> JobSpec:
    """Build the job from resolved options; relative paths are taken from the working directory, once, here.

    Raises ConfigurationError for combinations that make no job, and for a playbook, an inventory or a directory that
    is not there. Nothing is created.
    """
    values = resolved.values
    cwd = working_directory()
    given = content(resolved)
    return JobSpec(
        ident=given.ident,
        private_data_dir=given.private_data_dir,
        project_dir=given.project_dir,
        artifact_dir=_absolute(values["artifact_dir"] or given.private_data_dir / "artifacts", cwd) / given.ident,
        target=given.target,
        engine=_engine(resolved, cwd),
        inventory=given.inventory,
        roles_path=tuple(_roles_path(resolved, cwd)),
        limit=values["limit"] or None,
        forks=values["forks"] or None,
        verbosity=values["verbosity"],
        tags=values["tags"] or None,
        skip_tags=values["skip_tags"] or None,
        cmdline=values["cmdline"] or (),
        binary=_binary(resolved, cwd),
        envvars=values["envvars"] or {},
        extravars=_extravars(resolved),
        passwords=_passwords(resolved),
        ssh_key=values["ssh_key"],
        container=_container(resolved, cwd),
        sandbox=_sandbox(values, cwd),
        limits=_limits(values),
        directory_isolation_base_path=_optional(values["directory_isolation_base_path"], cwd),
        fact_cache=_fact_cache(resolved),
        fact_cache_type=values["fact_cache_type"],
        omit_event_data=values["omit_event_data"],
        only_failed_event_data=values["only_failed_event_data"],
        job_events=values["job_events"],
        rotate_artifacts=values["rotate_artifacts"],
        rotate_age=kinds.seconds(values["rotate_artifacts_age"]),
        rotate_size=values["rotate_artifacts_size"],
        host_cwd=given.host_cwd,
        json_mode=values["json_mode"],
        suppress_output_file=values["suppress_output_file"],
        check_job_event_data=values["check_job_event_data"],
    )


def _absolute(path: Path, cwd: Path) -> Path:
    return Path(os.path.normpath(cwd / path))


def _optional(path: Path | None, cwd: Path) -> Path | None:
    return None if path is None else _absolute(path, cwd)


def _ident(resolved: Resolved) -> str:
    ident = resolved.values["ident"]
    if ident is None:
        return names.new_ident()
    problem = names.ident_problem(ident)
    if problem:
        raise ConfigurationError(f"{resolved.describe('ident')}: {ident!r} is no identifier: {problem}")
    return str(ident)


def _private_data_dir(resolved: Resolved, cwd: Path) -> Path:
    given = resolved.values["private_data_dir"]
    if given is None:
        raise ConfigurationError("private_data_dir is missing; name the directory that holds project and inventory")
    path = _absolute(given, cwd)
    mode = mode_of(path)
    if mode and not stat.S_ISDIR(mode):
        raise ConfigurationError(f"The private data directory {path} is not a directory")
    if not mode and resolved.origins["private_data_dir"] != ARGUMENT:
        raise ConfigurationError(f"There is no private data directory {path}{_neighbour(path)}")
    _check_parts(path)
    return path


def _check_parts(private_data_dir: Path) -> None:
    """Refuse inputs that would be passed over in silence: an env that is no directory, a link that leads nowhere."""
    for name in ("env", "project", "roles"):
        path = private_data_dir / name
        if mode_of(path) and not path.is_dir():
            raise ConfigurationError(f"{path} is not a directory, and so no input of a job")
    for name in ("env", "project", "roles", "inventory"):
        path = private_data_dir / name
        if path.is_symlink() and not mode_of(path):
            raise ConfigurationError(f"{path} is a link to {path.readlink()}, which is not there")


def _host_cwd(resolved: Resolved, cwd: Path) -> Path | None:
    path = _optional(resolved.values["host_cwd"], cwd)
    if path is not None and not stat.S_ISDIR(mode_of(path)):
        raise ConfigurationError(f"{resolved.describe('host_cwd')}: there is no directory {path}{_neighbour(path)}")
    return path


def _project_dir(resolved: Resolved, cwd: Path, usual: Path) -> Path:
    given = resolved.values["project_dir"]
    if given is None:
        return usual
    path = _absolute(given, cwd)
    if not stat.S_ISDIR(mode_of(path)):
        raise ConfigurationError(f"{resolved.describe('project_dir')}: there is no directory {path}{_neighbour(path)}")
    return path


def _neighbour(path: Path) -> str:
    try:
        return nearest(path.name, (entry.name for entry in path.parent.iterdir()))
    except OSError:
        return ""


def _roles_path(resolved: Resolved, cwd: Path) -> Iterator[str]:
    for directory in resolved.values["roles_path"] or ():
        yield str(_absolute(resolved.path("roles_path", directory), cwd))


def _binary(resolved: Resolved, cwd: Path) -> str | None:
    """Return the executable, or its directory with a slash at its end."""
    given = resolved.values["binary"]
    if given is None:
        return None
    text = _program(resolved, "binary", cwd)
    is_directory = given.endswith("/") or stat.S_ISDIR(mode_of(Path(text))) or Path(text).name in ("bin", "sbin")
    return text.rstrip("/") + "/" if is_directory and "/" in given else text


def _program(resolved: Resolved, name: str, cwd: Path) -> str:
    """Return a program as it is to be found: by its name on PATH, or by its absolute path."""
    given = str(resolved.values[name])
    return str(_absolute(resolved.path(name, given), cwd)) if "/" in given else given


def _extravars(resolved: Resolved) -> Mapping[str, Any]:
    given = resolved.values["extravars"] or {}
    for name, value in given.items():
        json_text(value, f"{resolved.describe('extravars')}: {name!r}")
    return dict(given)


def _passwords(resolved: Resolved) -> Mapping[str, Any]:
    given = resolved.values["passwords"] or {}
    for pattern in given:
        check_pattern(pattern, resolved.describe("passwords"))
    return dict(given)


def _engine(resolved: Resolved, cwd: Path) -> str:
    """Return the engine's name or path; without a name whichever answers, of those that give what was asked for."""
    if not _isolated(resolved):
        return _NOT_ISOLATING
    if resolved.values["process_isolation_executable"] is None:
        from ee_runner.engines.registry import AUTO, AUTO_IMAGES, AUTO_ISOLATING

        asked = resolved.rank("process_isolation") > Rank.DEFAULT
        wants_container = _has_image(resolved) or any(resolved.values[name] for name in _LIMITS)
        return AUTO_IMAGES if wants_container else AUTO_ISOLATING if asked else AUTO
    return _program(resolved, "process_isolation_executable", cwd)


def _isolated(resolved: Resolved) -> bool:
    """Say whether the job is isolated: asked for, or implied by an image or an engine from as strong a source."""
    asked = resolved.rank("process_isolation")
    if resolved.values["process_isolation"]:
        return True
    if _has_image(resolved) and resolved.rank("container_image") > asked:
        return True
    engine = resolved.rank("process_isolation_executable")
    return engine > max(asked, Rank.FILE)


def _has_image(resolved: Resolved) -> bool:
    """Say whether an image was given, from any source but the default."""
    return bool(resolved.values["container_image"]) and resolved.rank("container_image") > Rank.DEFAULT


def _container(resolved: Resolved, cwd: Path) -> ContainerSpec:
    values = resolved.values
    limits = _container_limits(resolved, cwd)
    return ContainerSpec(
        image=values["container_image"] or (DEFAULT_IMAGE if _isolated(resolved) else None),
        pull=values["container_pull"],
        volume_mounts=_volume_mounts(resolved, cwd),
        options=values["container_options"] or (),
        workdir=values["container_workdir"],
        auth=values["container_auth_data"],
        memory=limits.get("memory", 0),
        cpus=limits.get("cpus", 0),
        pids_limit=limits.get("pids_limit", 0),
    )


def _container_limits(resolved: Resolved, cwd: Path) -> Mapping[str, Any]:
    """Return the limits that were asked for, and which the engine keeps; ConfigurationError for one that it can not.

    Those of a file go with its engine: whoever chooses another by stronger means does without them, and is told so.
    """
    given = {name: resolved.values[name] for name in _LIMITS if resolved.values[name]}
    for name in given:
        _check_limit(resolved, name)
    if not given or _runs_images(engine := _engine(resolved, cwd)):
        return given
    chosen = max(resolved.rank("process_isolation"), resolved.rank("process_isolation_executable"))
    for name in given:
        refused = f"{resolved.describe(name)}: the engine {engine} can not limit a job; podman and docker can"
        if resolved.rank(name) > Rank.FILE or chosen <= Rank.FILE:
            raise ConfigurationError(f"{refused}: choose one with --process-isolation-executable, or do without {name}")
        log.warning("%s: the job runs without", refused)
    return {}


def _check_limit(resolved: Resolved, name: str) -> None:
    value = resolved.values[name]
    if name == "memory" and value < _LEAST_MEMORY:
        raise ConfigurationError(
            f"{resolved.describe(name)}: a container needs 6 MiB at the least, found {value} bytes"
        )
    if name == "pids_limit" and value > _MOST_PROCESSES:
        raise ConfigurationError(f"{resolved.describe(name)}: no system has {value} processes; 0 is no limit")


def _runs_images(engine: str) -> bool:
    from ee_runner.engines import registry

    return engine == registry.AUTO_IMAGES or registry.get(engine).capabilities.images


def _volume_mounts(resolved: Resolved, cwd: Path) -> tuple[Mount, ...]:
    given = resolved.values["container_volume_mounts"]
    if not given:
        return ()
    from ee_runner.engines import mounts

    try:
        return tuple(mounts.parse(text, cwd=cwd, environ=os.environ) for text in given)
    except MountRefused as error:
        raise MountRefused(f"{resolved.describe('container_volume_mounts')}: {error}") from error


def _sandbox(values: Mapping[str, Any], cwd: Path) -> SandboxSpec:
    def paths(name: str) -> tuple[Path, ...]:
        return tuple(_absolute(path, cwd) for path in values[name] or ())

    return SandboxSpec(
        staging=_absolute(values["process_isolation_path"], cwd),
        hide_paths=paths("process_isolation_hide_paths"),
        show_paths=paths("process_isolation_show_paths"),
        ro_paths=paths("process_isolation_ro_paths"),
    )


def _limits(values: Mapping[str, Any]) -> Limits:
    """Return the limits in time; `timeout` takes the place of those in the settings that bound the whole job."""
    piped = values["runner_mode"] == "subprocess" and not values["timeout"]
    return Limits(
        job_timeout=values["timeout"] or values["job_timeout"] or None,
        idle_timeout=values["idle_timeout"] or None,
        subprocess_timeout=values["subprocess_timeout"] or None if piped else None,
        pexpect_timeout=values["pexpect_timeout"],
        pexpect_use_poll=values["pexpect_use_poll"],
        grace=values["stop_grace"],
    )


def _fact_cache(resolved: Resolved) -> str:
    given = resolved.values["fact_cache"]
    if Path(given).is_absolute() or ".." in Path(given).parts:
        raise ConfigurationError(
            f"{resolved.describe('fact_cache')}: a directory in the artifact directory is expected, found {given!r}"
        )
    return str(given)
