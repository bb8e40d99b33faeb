"""Which host paths a command line of ansible or ansible-playbook needs (seed, section 6.1).

What it references is made visible inside at the same path, so that the arguments mean inside what they mean on the
host. Paths are looked at, never opened, apart from ansible.cfg; nothing is run.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

from ee_runner import ansible_config
from ee_runner.ansible_config import absolute, config_environment, config_file, environment, expand
from ee_runner.ansible_options import Argument, Kind, parse
from ee_runner.errors import ConfigurationError, MountRefused, nearest
from ee_runner.values import dataclass

__all__ = ["Reference", "config_environment", "config_file", "environment", "expand_arguments", "find"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A host path that must be visible inside at the same path, and what asks for it."""

    path: Path
    read_only: bool
    why: str


_PROGRAM_TREES = tuple(map(Path, ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr")))
_KERNEL_TREES = tuple(map(Path, ("/boot", "/dev", "/proc", "/sys")))
_SYSTEM = frozenset(
    (
        *(Path("/"), *_PROGRAM_TREES, *_KERNEL_TREES),
        *map(Path, ("/etc", "/opt", "/run", "/var", "/var/lib", "/var/run", "/private", "/System", "/Library")),
        *map(Path, ("/usr/bin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/sbin", "/usr/share")),
        *map(Path, ("/usr/local", "/usr/local/bin", "/usr/local/lib")),
    )
)
_IMAGE_OWN = Path("/usr/share/ansible")
"""Where execution environments keep their collections and plugins: the host's must never hide them."""

_TEMPORARY = frozenset(map(Path, ("/tmp", "/var/tmp", "/private/tmp")))  # noqa: S108 - compared with, never used
_SHARED = _SYSTEM | _TEMPORARY | frozenset(map(Path, ("/home", "/media", "/mnt", "/root", "/srv", "/Users")))

_BESIDE_PLAYBOOK = (
    *("ansible_collections", "collections", "roles", "library", "module_utils", "doc_fragments"),
    *("group_vars", "host_vars", "vars", "defaults", "files", "templates", "tasks", "handlers", "meta"),
)
_BESIDE_INVENTORY = ("group_vars", "host_vars")
_LINKING = ("*", "roles/*", *(f"collections/{level}" for level in ("*", "*/*", "*/*/*")))
_COLLECTION_PLAYBOOK = r"(?a)[a-zA-Z_]\w*(\.[a-zA-Z_]\w*){2,}"
_PROMPTS = ("prompt", "prompt_ask_vault_pass")
_SCRIPTS = (Kind.FILE, Kind.VAULT_ID)
_LITERAL = (Kind.PLAYBOOK, Kind.LIMIT, Kind.PROMPT)
"""Ansible replaces neither ``~`` nor variables in these."""


def find(
    executable: str,
    arguments: Sequence[str],
    *,
    cwd: Path,
    environ: Mapping[str, str],
    provided: Iterable[PurePath] = (),
    isolated: bool = True,
    strict: bool = True,
    asked: bool = True,
) -> tuple[Reference, ...]:
    """Return what the command references, sorted by path; none lies within another of at least its access.

    `cwd` comes read-write, as do the directory of ``--tree`` and the file of ``--output``; all else read-only.
    `provided` are the places inside that the caller's own volume mounts fill: what lies there is not looked for on the
    host. Without isolation nothing has to be made visible and nothing is returned, and only what does not exist is
    refused; where `strict` is false, that is left to Ansible. A `cwd` that nobody `asked` for is left out where it
    would hide the system inside: services run at ``/``.

    Raises MountRefused for a `cwd` or a directory that would hide the image's own files, ConfigurationError for a path
    that does not exist or can not be read. An absolute path whose directory does not exist on the host may be the
    image's own: it is left to Ansible, as is all that looks like a path when Ansible will not read it (``--help``).
    """
    command = parse(executable, arguments)
    finder = _Finder(cwd, environ, tuple(provided), certain=command.certain, isolated=isolated, strict=strict)
    if isolated and _can_be_shown(cwd, asked=asked):
        finder.add(cwd, "the working directory", read_only=False)
        finder.links(cwd, "the working directory")
    for argument in command.arguments:
        finder.argument(argument)
    if isolated and PurePath(executable).name.startswith("ansible"):
        finder.configuration()
    return _reduced(finder.found)


def expand_arguments(executable: str, arguments: Sequence[str], *, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the arguments with ``~`` and variables replaced in those paths in which Ansible replaces them.

    Shells leave ``-e @~/vars.yml`` and ``--vault-id dev@~/.vault`` alone, and inside HOME is another directory.
    """
    expanded = list(arguments)
    for argument in parse(executable, arguments).arguments:
        if argument.kind in _LITERAL:
            continue
        pieces = [label + expand(text, environ) for label, text in _paths_in(argument)]
        if pieces:
            expanded[argument.index] = argument.prefix + ":".join(pieces)
    return tuple(expanded)


class _Finder:
    def __init__(
        self,
        cwd: Path,
        environ: Mapping[str, str],
        provided: tuple[PurePath, ...],
        *,
        certain: bool,
        isolated: bool,
        strict: bool,
    ) -> None:
        self.found: list[Reference] = []
        self._cwd = cwd
        self._environ = environ
        self._provided = provided
        self._certain = certain
        self._isolated = isolated
        self._strict = strict
        own_home = ansible_config.home(environ)
        self._shared = _SHARED | ({own_home} if own_home else set())

    def add(self, path: Path, why: str, *, read_only: bool = True) -> None:
        """Keep a path, and every place that its symbolic links lead to."""
        for number, place in enumerate(_places(path)):
            if self._is_provided(place) or (number and (_within(place, _PROGRAM_TREES) or place in _SHARED)):
                continue
            self.found.append(Reference(place, read_only, why))

    def argument(self, argument: Argument) -> None:
        for _, text in _paths_in(argument):
            if argument.kind is Kind.TREE:
                self._tree(text)
                continue
            if argument.kind is Kind.OUTPUT:
                self._output(text, argument.option)
                continue
            path = self._existing(argument, text)
            if path is None or not self._isolated:
                continue
            if argument.kind is Kind.PLAYBOOK:
                self._playbook(path)
            else:
                self._input(path, argument.option, argument.kind)

    def configuration(self) -> None:
        """Add the ansible.cfg in force and what it and the environment name, as far as it is there."""
        config = config_file(cwd=self._cwd, environ=self._environ)
        if config is not None and config.is_file():
            self.add(config, "ansible.cfg")
        for value in ansible_config.values(cwd=self._cwd, environ=self._environ):
            key = value.setting.keys[0]
            kind = {"inventory": Kind.INVENTORY, "private_key_file": Kind.PRIVATE_KEY}.get(key, Kind.FILE)
            for path in value.paths:
                if key == "log_path":
                    self._log(path, value.origin)
                elif _is_readable(path) and not self._is_provided(path) and not _within(path, _KERNEL_TREES):
                    self._input(path, value.origin, kind)

    def _input(self, path: Path, why: str, kind: Kind) -> None:
        if path == _IMAGE_OWN or _IMAGE_OWN in path.parents:
            return
        if path.is_dir():
            _refuse_hiding(path, why)
        self.add(path, why)
        if path.is_dir():
            self.links(path, why)
        elif kind is Kind.INVENTORY or (kind in _SCRIPTS and os.access(path, os.X_OK)):
            self._beside(path, why, _BESIDE_INVENTORY)
        if kind is Kind.PRIVATE_KEY:
            self._add_existing((Path(f"{path}{suffix}") for suffix in (".pub", "-cert.pub")), why)

    def _playbook(self, path: Path) -> None:
        self.add(path, "playbook")
        plugins = (entry.name for entry in _entries(path.parent, "*_plugins"))
        self._beside(path, "playbook", (*_BESIDE_PLAYBOOK, *plugins))

    def _beside(self, path: Path, why: str, names: Iterable[str]) -> None:
        """Add a file's directory, for what the file reads from there; of one that holds all sorts, these names."""
        directory = path.parent
        if any(place in self._shared for place in _places(directory)):
            self._add_existing((directory / name for name in names), why)
        else:
            self.add(directory, why)
        self.links(directory, why)

    def links(self, directory: Path, why: str) -> None:
        """Add what symbolic links in a directory lead to, where Ansible would follow them."""
        entries = (entry for pattern in _LINKING for entry in _entries(directory, pattern))
        self._add_existing((entry for entry in entries if entry.is_symlink()), why)

    def _log(self, path: Path, why: str) -> None:
        """Add a log that Ansible writes, or the directory in which it makes one."""
        if path.exists():
            self.add(path, why, read_only=False)
        elif path.parent.is_dir() and path.parent not in self._shared:
            self.add(path.parent, why, read_only=False)

    def _tree(self, text: str) -> None:
        path = absolute(text, base=self._cwd, environ=self._environ)
        if self._is_provided(path) or not self._certain or not self._isolated:
            return
        place = next(place for place in (path, *path.parents) if _problem(place) != errno.ENOENT)
        if place == path:
            _refuse_hiding(path, "--tree")
        elif place in self._shared and not _within(place, [self._cwd]):
            raise MountRefused(
                f"--tree: {path} does not exist, and {place} can not be made writable inside as a whole; "
                f"create the directory first: mkdir -p {path}"
            )
        self.add(place, "--tree", read_only=False)

    def _output(self, text: str, option: str) -> None:
        """Add a file that Ansible writes, or the directory in which it makes one."""
        path = absolute(text, base=self._cwd, environ=self._environ)
        if self._is_provided(path) or not self._isolated or path.parent.resolve() == self._cwd.resolve():
            return
        if path.exists():
            self.add(path, option, read_only=False)
        elif path.parent in self._shared:
            raise MountRefused(
                f"{option}: {path} does not exist, and {path.parent} can not be made writable inside as a whole; "
                f"create the file first: touch {path}"
            )
        elif path.parent.is_dir():
            self.add(path.parent, option, read_only=False)

    def _existing(self, argument: Argument, text: str) -> Path | None:
        """Return the host path that an argument names, or None when it is none of the host's."""
        path = Path(os.path.normpath(self._cwd / text))
        if argument.kind not in _LITERAL:
            path = absolute(text, base=self._cwd, environ=self._environ)
        if self._is_provided(path):
            return None
        if _within(path, _KERNEL_TREES):
            _refuse_descriptor(path, argument.option)
            return None
        problem = _problem(path)
        if problem is None:
            return path
        if not self._certain or _is_collection_playbook(argument):
            return None
        if problem == errno.ENOENT and (not self._strict or (text.startswith("/") and not path.parent.exists())):
            return None
        raise ConfigurationError(_complaint(argument, path, problem))

    def _add_existing(self, paths: Iterable[Path], why: str) -> None:
        for path in paths:
            if _is_readable(path):
                self.add(path, why)

    def _is_provided(self, path: Path) -> bool:
        return _within(path, self._provided)


def _paths_in(argument: Argument) -> list[tuple[str, str]]:
    """Return the path texts in a value, each with the label before it."""
    value = argument.value
    if argument.kind is Kind.EXTRA_VARS:
        pieces = [("@", value[1:])] if value.startswith("@") else []
    elif argument.kind is Kind.PROMPT:
        pieces = []
    elif argument.kind is Kind.VAULT_ID:
        label, at, source = value.partition("@")
        pieces = [(label + at, source)] if at else [("", value)]
        pieces = [piece for piece in pieces if piece[1] not in _PROMPTS]
    elif argument.kind is Kind.MODULE_PATH:
        pieces = [("", text) for text in value.split(":")]
    elif argument.kind is Kind.LIMIT:
        texts = [text.strip() for text in re.split("," if "," in value else ":", value)]
        pieces = [("@", text[1:]) for text in texts if text.startswith("@")]
    elif argument.kind is Kind.INVENTORY and "," in value:
        pieces = []
    else:
        pieces = [("", value)]
    return [(label, text) for label, text in pieces if text and text != "-"]


def _can_be_shown(cwd: Path, *, asked: bool) -> bool:
    try:
        _check_working_directory(cwd)
    except MountRefused:
        if asked:
            raise
        return False
    return True


def _check_working_directory(cwd: Path) -> None:
    if not cwd.is_dir():
        raise ConfigurationError(f"The working directory {cwd} is not a directory.")
    for place in (cwd, cwd.resolve()):
        if place in _SYSTEM or _within(place, _KERNEL_TREES):
            raise MountRefused(
                f"The working directory {cwd} can not be made visible inside: it would hide the system of the "
                "execution environment. Change to the directory of your project (cd) and start again from there."
            )


def _refuse_hiding(path: Path, why: str) -> None:
    for place in (path, path.resolve()):
        if place in _SYSTEM or place in _TEMPORARY:
            raise MountRefused(
                f"{why}: {path} can not be made visible inside as a whole: it would hide the execution environment's "
                "own files. Name a directory below it."
            )


def _refuse_descriptor(path: Path, option: str) -> None:
    if re.match(r"/dev/fd/|/proc/[^/]+/fd/", str(path)):
        raise ConfigurationError(
            f"{option}: {path} is a pipe of your shell (process substitution) and does not reach inside. "
            "Write it to a file in the working directory and name that."
        )


def _problem(path: Path) -> int | None:
    """Return the error number that keeps this user from reading a path, or None."""
    try:
        path.stat()
    except OSError as error:
        return errno.ENOENT if error.errno == errno.ENOTDIR else error.errno
    return None if os.access(path, os.R_OK) else errno.EACCES


def _is_readable(path: Path) -> bool:
    return _problem(path) is None


def _is_collection_playbook(argument: Argument) -> bool:
    name = argument.value.removesuffix(".yml").removesuffix(".yaml")
    return argument.kind is Kind.PLAYBOOK and "." in name and re.fullmatch(_COLLECTION_PLAYBOOK, name) is not None


def _complaint(argument: Argument, path: Path, problem: int) -> str:
    if problem != errno.ENOENT:
        return f"{argument.option}: {path} can not be read by this user: {os.strerror(problem)}."
    hint = nearest(path.name, (entry.name for entry in _entries(path.parent, "*")))
    if argument.kind is Kind.INVENTORY and not hint and "/" not in argument.value:
        hint = f"; a list of hosts needs a comma: '{argument.value},'"
    return f"{argument.option}: {path} does not exist{hint}."


def _entries(directory: Path, pattern: str) -> list[Path]:
    try:
        return sorted(directory.glob(pattern))
    except OSError:  # it can not be listed; then there is nothing to offer
        return []


def _places(path: Path) -> list[Path]:
    """Return a path and each path that its symbolic links lead to, one link at a time."""
    found = [path]
    while len(found) < 40:
        link = next((part for part in (*reversed(path.parents), path) if part.is_symlink()), None)
        if link is None:
            break
        target = Path(os.path.normpath(link.parent / link.readlink()))
        path = target / path.relative_to(link)
        found.append(path)
    return found


def _within(path: PurePath, roots: Iterable[PurePath]) -> bool:
    return any(root == path or root in path.parents for root in roots)


def _reduced(references: Sequence[Reference]) -> tuple[Reference, ...]:
    """Drop what another reference already shows with at least the same access; the first word on a path stays."""
    kept: list[Reference] = []
    for reference in sorted(references, key=lambda each: (each.path.parts, each.read_only)):
        if not any(_within(reference.path, [other.path]) and other.read_only <= reference.read_only for other in kept):
            kept.append(reference)
    return tuple(kept)
