"""What a job's own words bring along: the host paths that they name, and variables of the caller."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ee_runner import ansible_options, references
from ee_runner.ansible_options import Kind
from ee_runner.errors import ConfigurationError
from ee_runner.job import CommandTarget, JobSpec, ModuleTarget, PlaybookTarget, RawTarget, RoleTarget
from ee_runner.references import Reference
from ee_runner.values import dataclass, field, replace
from ee_runner.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Brought:
    """Host paths that must be visible inside at the same path, and variables to set there."""

    references: tuple[Reference, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def of_command(
    spec: JobSpec, environ: Mapping[str, str], *, own_root: bool, isolated: bool, strict: bool
) -> tuple[JobSpec, Brought]:
    """Read the caller's own command line (``playbook``, ``adhoc``) before anything is written.

    Where the root filesystem inside is another, home is too: the job that is returned has ``~`` and variables in
    paths replaced, and the caller's variables that matter to Ansible go along. Raises ConfigurationError and
    MountRefused as `references.find` does.
    """
    target = spec.target
    if not isinstance(target, CommandTarget):
        return spec, Brought()
    provided = [mount.target for mount in spec.container.volume_mounts]
    found = references.find(
        target.executable,
        target.arguments,
        cwd=target.cwd,
        environ=environ,
        provided=provided,
        isolated=isolated,
        strict=strict,
        asked=strict or spec.host_cwd is not None,
    )
    if not own_root:
        return spec, Brought(found)
    arguments = references.expand_arguments(target.executable, target.arguments, environ=environ)
    configured = references.config_environment(cwd=target.cwd, environ=environ)
    forwarded = {**configured, **references.environment(environ)}
    if "ANSIBLE_CONFIG" in configured:
        forwarded["ANSIBLE_CONFIG"] = configured["ANSIBLE_CONFIG"]
    return replace(spec, target=replace(target, arguments=arguments)), Brought(found, forwarded)


def refuse_prompts(spec: JobSpec) -> None:
    """Raise ConfigurationError for arguments that make Ansible ask for a password where the typing would be seen.

    A container has no terminal when the caller's output is none, and then a password typed at the caller's terminal
    would be echoed there.
    """
    target = spec.target
    if not isinstance(target, CommandTarget):
        return
    found = ansible_options.parse(target.executable, target.arguments).arguments
    asking = [argument.option for argument in found if argument.kind is Kind.PROMPT]
    if asking:
        raise ConfigurationError(
            f"{' and '.join(asking)}: the output is no terminal, so that a password typed for the container would show "
            "on yours. Do not redirect the output (artifacts keep it anyway), or give a password file."
        )


def of_workspace(
    workspace: Workspace, environ: Mapping[str, str], *, own_root: bool, isolated: bool
) -> tuple[Reference, ...]:
    """Find what lies outside the private data directory: inventories, playbooks, and paths of ``env/cmdline``.

    `environ` is the caller's, which is in force where the root filesystem is the host's.
    """
    spec = workspace.spec
    if isinstance(spec.target, CommandTarget | RawTarget):
        return ()
    seen = {"HOME": "/nonexistent"} if own_root else dict(environ)
    executable, positional = "ansible-playbook", tuple[str, ...]()
    if isinstance(spec.target, ModuleTarget):
        executable, positional = "ansible", (spec.target.hosts,)
    elif isinstance(spec.target, PlaybookTarget) and workspace.playbook is None:
        positional = spec.target.playbooks
    inventory = [word for source in workspace.inventory for word in ("-i", source)]
    translated = (workspace.run_dir, workspace.project_dir, spec.private_data_dir)
    find = partial(
        references.find,
        executable,
        cwd=workspace.project_dir,
        environ={**seen, **workspace.envvars},
        provided=[mount.target for mount in spec.container.volume_mounts],
        isolated=isolated,
    )
    sources, named = find([*inventory, "--", *positional]), find(workspace.cmdline)
    kept = [found for found in sources if not _within(found.path, translated)]
    kept += [found for found in named if own_root or not _within(found.path, translated)]
    directories = [*spec.roles_path, *((spec.target.role,) if isinstance(spec.target, RoleTarget) else ())]
    roles = [
        Reference(Path(path), read_only=True, why="roles_path")
        for path in directories
        if path.startswith("/") and Path(path).is_dir()
    ]
    kept += [role for role in roles if not _within(role.path, translated)]
    return tuple(dict.fromkeys(found for found in kept if found.path != workspace.project_dir))


def _within(path: Path, roots: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(root) for root in roots)
