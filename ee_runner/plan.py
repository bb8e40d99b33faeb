"""The execution plan: what runs inside, what it must see there, and how it is connected. Pure values."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ee_runner import command
from ee_runner.job import CommandTarget, ContainerSpec, JobSpec, Limits, Mount, SandboxSpec, Terminal, View
from ee_runner.secrets import Secret
from ee_runner.values import dataclass, field

if TYPE_CHECKING:
    from ee_runner.references import Reference
    from ee_runner.workspace import Workspace

RUNNER = PurePosixPath("/runner")
"""Where the private data directory lands in a container (seed, chapter 7)."""

RUN = PurePosixPath("/run/ee_runner")
"""Where the per-run directory lands in a container."""


def new_mark() -> str:
    """Return a mark that no other run bears."""
    return os.urandom(16).hex()


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """One job, ready for an engine.

    `argv`, `env` and `cwd` are as seen inside; `env` holds what is set on top of the engine's own environment, and
    `own_env` names what of it the user has set. With `complete_env` it is whole: nothing of the caller's is added.
    `mounts` are the host paths that the job needs, in no particular order; the engine adds its own (agent, ~/.ssh)
    and the caller's volume mounts, checks and orders them. `agent_socket` is the ssh-agent of this job, or None.
    `selinux_relabel` says whether the mounts belong to the job alone and may be relabelled. `tty` gives the job a
    terminal inside, whatever its client is connected to. `mark` is this run's own: all that the engine makes for it
    bears it. `rescue` is the command that sees to what is left when the supervisor has died.
    """

    ident: str
    private_data_dir: Path
    argv: tuple[str, ...] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    cwd: PurePosixPath
    mounts: tuple[Mount, ...]
    agent_socket: Path | None = None
    ssh_directory: Path | None = None
    container: ContainerSpec = field(default_factory=ContainerSpec)
    sandbox: SandboxSpec = field(default_factory=SandboxSpec)
    limits: Limits = field(default_factory=Limits)
    passwords: Mapping[str, Secret] = field(default_factory=dict)
    terminal: Terminal = Terminal.PTY
    run_dir: Path = Path("/nonexistent")
    selinux_relabel: bool = False
    tty: bool = True
    complete_env: bool = False
    own_env: frozenset[str] = frozenset()
    mark: str = field(default_factory=new_mark)
    rescue: tuple[str, ...] = ()


def make(
    spec: JobSpec,
    workspace: Workspace,
    *,
    own_root: bool,
    nonce: str,
    references: Sequence[Reference] = (),
    environment: Mapping[str, str] | None = None,
    ssh_directory: Path | None = None,
    terminal: Terminal = Terminal.PTY,
    tty: bool = True,
    mark: str | None = None,
    rescue: tuple[str, ...] = (),
) -> ExecutionPlan:
    """Put together what the job, its workspace and the engine's nature decide.

    `own_root` says that the engine has a root filesystem of its own, in which host paths land elsewhere.
    `references` are the host paths that the caller's arguments name; `environment` is what of the caller's own
    environment goes along; `nonce` marks this run's events on the output stream, `mark`
    whatever else is made for it.
    """
    emulated = isinstance(spec.target, CommandTarget)
    view = _view(spec, workspace, emulated=emulated) if own_root else View()
    inside = command.build(spec, workspace, view, nonce=nonce)
    mounts = (
        *_own_mounts(spec, workspace, view, emulated=emulated),
        *(Mount(r.path, PurePosixPath(r.path), read_only=r.read_only) for r in references),
    )
    return ExecutionPlan(
        ident=spec.ident,
        private_data_dir=spec.private_data_dir,
        argv=inside.argv,
        env={**(environment or {}), **inside.env},
        cwd=PurePosixPath(inside.cwd),
        mounts=mounts,
        ssh_directory=ssh_directory,
        container=spec.container,
        sandbox=spec.sandbox,
        limits=spec.limits,
        passwords=workspace.passwords,
        terminal=terminal,
        run_dir=workspace.run_dir,
        selinux_relabel=not emulated,
        tty=tty,
        own_env=frozenset(workspace.envvars),
        mark=mark or new_mark(),
        rescue=rescue,
    )


def _view(spec: JobSpec, workspace: Workspace, *, emulated: bool) -> View:
    artifacts = RUNNER / "artifacts" / spec.artifact_dir.name
    roots = [(workspace.run_dir, RUN), (spec.artifact_dir, artifacts)]
    if not emulated:
        roots += [(spec.private_data_dir, RUNNER)]
        roots += [] if spec.host_cwd == workspace.project_dir else [(workspace.project_dir, RUNNER / "project")]
    return View(tuple(roots))


def _own_mounts(spec: JobSpec, workspace: Workspace, view: View, *, emulated: bool) -> list[Mount]:
    """Mount the per-run directory, and of the private data directory what the kind of job needs."""
    mounts = [_mount(workspace.run_dir, view, read_only=True)]
    if emulated:
        return [*mounts, _mount(workspace.events_dir, view), _mount(workspace.fact_cache_dir, view)]
    whole = _mount(spec.private_data_dir, view)
    mounts.append(whole)
    for part in (workspace.project_dir, spec.artifact_dir):
        seen_in_whole = spec.private_data_dir in part.parents
        natural = part.is_relative_to(spec.private_data_dir) and view.inside(part) == str(
            whole.target / part.relative_to(spec.private_data_dir)
        )
        if not (seen_in_whole and natural):
            mounts.append(_mount(part, view))
    return [*mounts, *_behind_links(spec, workspace, view)]


def _behind_links(spec: JobSpec, workspace: Workspace, view: View) -> Iterator[Mount]:
    """Mount what symbolic links of the private data directory lead to, where they lead to inside."""
    project = workspace.project_dir
    own = spec.private_data_dir
    for directory in dict.fromkeys((own, own / "inventory", own / "roles", project, project / "roles")):
        for entry in directory.iterdir() if directory.is_dir() else ():
            if not entry.is_symlink() or not entry.exists():
                continue
            place = PurePosixPath(os.path.normpath(PurePosixPath(view.inside(directory)) / entry.readlink()))
            if not place.is_relative_to(view.inside(own)):
                yield Mount(entry.resolve(), place, read_only=entry != project)


def _mount(path: Path, view: View, *, read_only: bool = False) -> Mount:
    return Mount(path, PurePosixPath(view.inside(path)), read_only=read_only)
