"""The private data directory: reads its inputs, and makes the places that one run needs.

Nothing is written under env/ or inventory/. What Ansible must read from files goes to a private per-run directory,
which is removed when the workspace closes; only the artifacts stay. What may hold secrets (extra variables, an
inventory or a playbook that was given as data) lies in no file even there: Ansible reads it from named pipes.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ee_runner import ansible_config, pipes
from ee_runner.errors import ConfigurationError
from ee_runner.job import CommandTarget, JobSpec, PlaybookTarget, RoleTarget
from ee_runner.kinds import is_transferable
from ee_runner.secrets import Secret
from ee_runner.values import dataclass, field
from ee_runner.workspace import inputs, places

if TYPE_CHECKING:
    from ee_runner.executor import Cancellation

_OBSERVED = (
    "AD_HOC_COMMAND_ID",
    "ANSIBLE_CACHE_PLUGIN",
    "ANSIBLE_CACHE_PLUGIN_CONNECTION",
    "ANSIBLE_CALLBACK_PLUGINS",
    "ANSIBLE_LOAD_CALLBACK_PLUGINS",
    "ANSIBLE_RETRY_FILES_ENABLED",
    "ANSIBLE_ROLES_PATH",
)
_SYSTEM_CONFIG = Path("/etc/ansible/ansible.cfg")
_NO_HOME = "/dev/null"
_OBSERVER = Path(__file__).parent.parent / "callback" / "ee_events.py"
_INVENTORY_TEXT = {True: "hosts.json", False: "hosts"}


@dataclass(frozen=True, slots=True)
class Workspace:
    """The inputs of one run and its places on the host; open it with `Workspace.open`.

    `inherited` are the variables of the caller that matter to Ansible's plugins, empty when the caller's environment
    is not in force inside. `callback_plugins` and `roles_path` are the directories that Ansible would search without
    this runner, ``~`` unexpanded where it means the home inside; `own_roles` are those of the private data directory,
    which it would not. `playbook` is generated, for a role or for plays that
    were given as data.
    """

    spec: JobSpec
    run_dir: Path
    project_dir: Path
    events_dir: Path
    spool: Path
    fact_cache_dir: Path
    callback_dir: Path
    envvars: Mapping[str, str] = field(default_factory=dict, repr=False)
    passwords: Mapping[str, Secret] = field(default_factory=dict)
    cmdline: tuple[str, ...] = field(default=(), repr=False)
    ssh_key: Secret | None = None
    extravars_files: tuple[Path, ...] = ()
    playbook: Path | None = None
    inventory: tuple[str, ...] = ()
    inherited: Mapping[str, str] = field(default_factory=dict, repr=False)
    callback_plugins: tuple[str, ...] = ()
    roles_path: tuple[str, ...] = ()
    own_roles: tuple[Path, ...] = ()

    @staticmethod
    @contextmanager
    def open(
        spec: JobSpec,
        environ: Mapping[str, str] | None = None,
        *,
        own_root: bool = False,
        isolated: bool = True,
        cancel: Cancellation | None = None,
    ) -> Iterator[Workspace]:
        """Read the inputs and make the places; remove all but the artifacts at the end, whatever happens.

        `own_root` says that the job has a root filesystem of its own, without the host's environment and ansible.cfg,
        `isolated` that it does not see all of the host.
        Named pipes are read exactly once, here; one that nobody writes to is an absent input when `cancel` asks for the
        stop. Raises ConfigurationError for an input that can not be used, before
        anything is written, and ArtifactError for a place that can not be made.
        """
        environ = os.environ if environ is None else environ
        env = spec.private_data_dir / "env"
        envvars = _envvars(env / "envvars", spec, cancel)
        passwords = _passwords(env / "passwords", spec, cancel)
        cmdline = spec.cmdline or _cmdline(env / "cmdline", cancel)
        ssh_key = _ssh_key(env / "ssh_key", spec, cancel)
        extravars = _extravars(env / "extravars", cancel)
        with ExitStack() as stack:
            artifacts = places.artifacts(spec, stack)
            run_dir = stack.enter_context(places.run_directory(environ))
            project_dir = stack.enter_context(places.project(spec))
            emulated = isinstance(spec.target, CommandTarget)
            inherited = dict(environ) if emulated or not own_root else {}
            cwd = _working_directory(spec, project_dir)
            searched = _searched(cwd, {**inherited, **envvars}, sees_host=not own_root)
            handout = _Handout(stack, piped=pipes.reach(spec.engine, spec.container.options, environ))
            playbook = _place_playbook(run_dir, project_dir, spec, handout)
            yield Workspace(
                spec=spec,
                run_dir=run_dir,
                project_dir=cwd,
                events_dir=artifacts.events,
                spool=artifacts.spool,
                fact_cache_dir=artifacts.fact_cache,
                callback_dir=places.callback(run_dir, _OBSERVER) if isolated else _OBSERVER.parent,
                envvars=envvars,
                passwords=passwords,
                cmdline=cmdline,
                ssh_key=ssh_key,
                extravars_files=_place_extravars(run_dir, extravars, spec, handout),
                playbook=playbook,
                inventory=_place_inventory(run_dir, spec, envvars, handout),
                inherited={name: inherited[name] for name in _OBSERVED if name in inherited},
                callback_plugins=searched["callback_plugins"],
                roles_path=searched["roles_path"],
                own_roles=_own_roles(spec, project_dir, playbook),
            )


@dataclass(frozen=True, slots=True)
class _Handout:
    """Where texts are handed to Ansible: by named pipes, which last as long as `stack`, or else in private files."""

    stack: ExitStack
    piped: bool

    def give(self, path: Path, data: bytes, *, again: bool) -> Path:
        """Give the path at which the data is read; once by a pipe, unless Ansible may come `again`."""
        if self.piped:
            with suppress(OSError):  # a file system without named pipes
                return self.stack.enter_context(pipes.handed_out(path, data, again=again))
        return places.private_file(path, data)

    def give_playbook(self, data: bytes, *, run_dir: Path, project_dir: Path) -> Path:
        """Give the path of a generated playbook, in the project if it can be there (see `places.playbook`)."""
        if self.piped:
            with suppress(OSError):
                path = places.playbook_path(project_dir)
                return self.stack.enter_context(pipes.handed_out(path, data, again=True))
            if not os.access(project_dir, os.W_OK):
                return self.give(run_dir / "playbook.yml", data, again=True)
        return places.playbook(data, run_dir=run_dir, project_dir=project_dir, stack=self.stack)


def _envvars(path: Path, spec: JobSpec, cancel: Cancellation | None) -> Mapping[str, str]:
    loaded = inputs.read_scalars(path, of="a single value", cancel=cancel)
    for name, value in loaded.values.items():
        if not name or "=" in name or not is_transferable(name):
            shown = "".join(name.partition("=")[:2])
            raise ConfigurationError(f"{loaded.place(name)}: the name of a variable is expected, found {shown!r}")
        _check_transferable(name, value, loaded)
    return {**loaded.values, **spec.envvars}


def _passwords(path: Path, spec: JobSpec, cancel: Cancellation | None) -> Mapping[str, Secret]:
    """Return prompts and answers in the order in which they are tried: the caller's, then the file's."""
    loaded = inputs.read_scalars(path, of="a single value", cancel=cancel)
    for pattern, answer in loaded.values.items():
        inputs.check_pattern(pattern, loaded.place(pattern))
        _check_transferable(pattern, answer, loaded)
    rest = {pattern: Secret(loaded.values[pattern]) for pattern in loaded.values if pattern not in spec.passwords}
    return {**spec.passwords, **rest}


def _check_transferable(key: str, value: str, loaded: inputs.Loaded) -> None:
    if not is_transferable(value):
        what = "text without NUL bytes and without halves of surrogate pairs is expected"
        raise ConfigurationError(f"{loaded.place(key)}: {key!r}: {what}")


def _cmdline(path: Path, cancel: Cancellation | None) -> tuple[str, ...]:
    text = inputs.read_text(path, cancel=cancel)
    try:
        return tuple(shlex.split(text or ""))
    except ValueError as error:
        what = f"command line arguments with balanced quotes are expected: {str(error).lower()}"
        raise ConfigurationError(f"{path}:{_unbalanced_line(text or '')}: {what}") from error


def _unbalanced_line(text: str) -> int:
    """Return the first line after which the quotes stay open: the words before it can be split."""
    lines = text.splitlines(keepends=True)
    for count in range(len(lines) - 1, 0, -1):
        try:
            shlex.split("".join(lines[:count]))
        except ValueError:
            continue
        return count + 1
    return 1


def _ssh_key(path: Path, spec: JobSpec, cancel: Cancellation | None) -> Secret | None:
    """Return the private key with the newline at its end that ssh-add insists on."""
    text = spec.ssh_key.reveal() if spec.ssh_key else inputs.read_text(path, cancel=cancel)
    return Secret(text.rstrip("\r\n") + "\n") if text and text.strip() else None


def _extravars(path: Path, cancel: Cancellation | None) -> bytes | None:
    """Return the file's bytes as they are, for Ansible knows tags and vaults; None when there is nothing in it."""
    data = inputs.read_bytes(path, cancel=cancel)
    if not data or data.startswith(b"$ANSIBLE_VAULT;"):
        return data or None
    return data if inputs.is_mapping(inputs.decode(data, path), path) else None


def _place_extravars(run_dir: Path, data: bytes | None, spec: JobSpec, handout: _Handout) -> tuple[Path, ...]:
    """Hand them out once: when Ansible says where a variable that fails comes from, it prints the lines around it."""
    files = []
    if data is not None:
        files.append(handout.give(run_dir / "extravars.yml", data, again=False))
    if spec.extravars:
        text = inputs.json_text(dict(spec.extravars), "extravars")
        files.append(handout.give(run_dir / "extravars_args.json", text.encode(), again=False))
    return tuple(files)


def _place_playbook(run_dir: Path, project_dir: Path, spec: JobSpec, handout: _Handout) -> Path | None:
    if isinstance(spec.target, RoleTarget):
        text = inputs.json_text(role_play(spec.target), "role")
    elif isinstance(spec.target, PlaybookTarget) and spec.target.playbooks[0].endswith("\n"):
        text = spec.target.playbooks[0]
    else:
        return None
    return handout.give_playbook(text.encode(), run_dir=run_dir, project_dir=project_dir)


def role_play(target: RoleTarget) -> list[dict[str, object]]:
    """Return the playbook that runs a role (seed, section 1.12)."""
    role: dict[str, object] = {"role": target.role}
    if target.variables:
        role["vars"] = dict(target.variables)
    play: dict[str, object] = {"hosts": target.hosts, "roles": [role]}
    if target.skip_facts:
        play["gather_facts"] = False
    return [play]


def _place_inventory(run_dir: Path, spec: JobSpec, envvars: Mapping[str, str], handout: _Handout) -> tuple[str, ...]:
    """Return the sources for ``-i``; the private data directory's unless others are given, here or by envvars."""
    if isinstance(spec.target, CommandTarget):
        return ()
    if not spec.inventory:
        own = spec.private_data_dir / "inventory"
        return (str(own),) if inputs.mode_of(own) and "ANSIBLE_INVENTORY" not in envvars else ()
    return tuple(
        _inventory_text(run_dir / f"inventory{index or ''}", source, handout) if source.endswith("\n") else source
        for index, source in enumerate(spec.inventory)
        if source
    )


def _inventory_text(directory: Path, text: str, handout: _Handout) -> str:
    places.private_directory(directory)
    return str(handout.give(directory / _INVENTORY_TEXT[text.startswith("{")], os.fsencode(text), again=True))


def _working_directory(spec: JobSpec, project_dir: Path) -> Path:
    if isinstance(spec.target, CommandTarget):
        return spec.target.cwd
    return project_dir if stat.S_ISDIR(inputs.mode_of(project_dir)) else spec.private_data_dir


def _own_roles(spec: JobSpec, project_dir: Path, playbook: Path | None) -> tuple[Path, ...]:
    """Return the role directories that Ansible does not find by itself; the project's, when no playbook is in it."""
    stands_elsewhere = playbook is not None and playbook.parent != project_dir
    candidates = (*((project_dir / "roles",) if stands_elsewhere else ()), spec.private_data_dir / "roles")
    return tuple(path for path in candidates if stat.S_ISDIR(inputs.mode_of(path)))


def _searched(cwd: Path, environ: Mapping[str, str], *, sees_host: bool) -> dict[str, tuple[str, ...]]:
    """Return where Ansible looks for callback plugins and roles: by the environment, ansible.cfg, or by default."""
    if not environ.get("HOME"):
        environ = {**environ, "HOME": _NO_HOME}
    if sees_host and _SYSTEM_CONFIG.is_file() and ansible_config.config_file(cwd=cwd, environ=environ) is None:
        environ = {**environ, "ANSIBLE_CONFIG": str(_SYSTEM_CONFIG)}
    home = environ.get("ANSIBLE_HOME") or "~/.ansible"
    found = {
        "callback_plugins": (f"{home}/plugins/callback", "/usr/share/ansible/plugins/callback"),
        "roles_path": (f"{home}/roles", "/usr/share/ansible/roles", "/etc/ansible/roles"),
    }
    for value in ansible_config.values(cwd=cwd, environ=environ):
        key = value.setting.keys[0]
        if key in found:
            found[key] = tuple(map(str, value.paths))
    return found
