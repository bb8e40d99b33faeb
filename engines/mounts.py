"""Host paths made visible inside: read from the caller's words, checked, ordered, and written for a command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from ee_runner.errors import MountRefused
from ee_runner.job import Mount
from ee_runner.values import replace

LABELS = frozenset({"ro", "rw", "z", "Z", "O", "U", "exec", "noexec", "dev", "nodev", "suid", "nosuid"}) | frozenset(
    {"shared", "rshared", "slave", "rslave", "private", "rprivate", "bind", "rbind", "copy", "nocopy", "idmap"}
    | {"consistent", "cached", "delegated"}
)
"""What may follow the second colon, as podman and docker define it."""

SYSTEM = frozenset(
    PurePosixPath("/", name)
    for name in ("", "bin", "sbin", "usr", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sys", "dev")
)
"""Directories without which nothing runs inside; a mount on one of them would hide it."""

_RELABEL = {"z": "relabel=shared", "Z": "relabel=private"}
_FORM = "write it as HOST_PATH:CONTAINER_PATH[:LABEL[,LABEL...]]"


def parse(text: str, *, cwd: Path, environ: Mapping[str, str]) -> Mount:
    """Read one ``container_volume_mounts`` entry (``host:container[:labels]``).

    ``~`` and variables of `environ` are expanded in the host path, a relative one is taken from `cwd`; without a
    container path it keeps its own. Raises MountRefused when the text has another form. Nothing is looked up on disk.
    """
    host, *rest = text.split(":")
    if not host.strip() or len(rest) > 2:
        raise MountRefused(f"The volume mount {text!r} can not be read; {_FORM}.")
    source = Path(os.path.normpath(cwd / _expand(host, environ)))
    target = PurePosixPath(os.path.normpath(_expand(rest[0], environ))) if rest and rest[0] else None
    if target is not None and not target.is_absolute():
        raise MountRefused(f"The volume mount {text!r} has a relative container path {rest[0]!r}; {_FORM}.")
    labels = tuple(label.strip() for label in rest[1].split(",") if label.strip()) if len(rest) == 2 else ()
    unknown = [label for label in labels if label not in LABELS]
    if unknown:
        raise MountRefused(f"The volume mount {text!r} has the unknown label {unknown[0]!r}; use ro, rw, z, Z, O or U.")
    if "ro" in labels and "rw" in labels:
        raise MountRefused(f"The volume mount {text!r} is both ro and rw; leave one of them out.")
    flags = tuple(label for label in labels if label not in ("ro", "rw"))
    return Mount(source, target or PurePosixPath(source), read_only="ro" in labels, flags=flags)


def arrange(wanted: Iterable[Mount]) -> tuple[Mount, ...]:
    """Check mounts, drop repetitions and put parents before their children.

    Of two that differ only in their access or flags the later one counts: the caller's come after the job's own.
    Raises MountRefused for a source that does not exist, for a target that hides the system inside, and for two
    sources on one target.
    """
    chosen: dict[PurePosixPath, Mount] = {}
    for mount in wanted:
        _check(mount)
        earlier = chosen.get(mount.target)
        if earlier is not None and not _same(earlier.source, mount.source):
            raise MountRefused(
                f"Both {earlier.source} and {mount.source} are to be mounted on {mount.target}; "
                "give one of them another container path."
            )
        chosen[mount.target] = mount
    return tuple(sorted(chosen.values(), key=lambda mount: mount.target.parts))


def relabelled(mount: Mount) -> Mount:
    """Return the mount with a private SELinux label, unless it has one already or shows the container's own."""
    return mount if {"z", "Z", "O"} & set(mount.flags) else replace(mount, flags=(*mount.flags, "Z"))


def options(mount: Mount) -> tuple[str, str]:
    """Return the option of podman and docker for a mount.

    ``--volume`` takes every flag but no colon in a path, ``--mount`` the reverse. Raises MountRefused for what
    neither can say.
    """
    source, target = str(mount.source), str(mount.target)
    access = ("ro",) if mount.read_only else ()
    if ":" not in source + target:
        words = ",".join((*access, *mount.flags))
        return "--volume", f"{source}:{target}:{words}" if words else f"{source}:{target}"
    fields = ["type=bind", f"source={source}", f"target={target}"]
    if mount.read_only:
        fields.append("readonly")
    for flag in mount.flags:
        if flag not in _RELABEL:
            raise MountRefused(
                f"{source} has a colon in its path and can not be mounted with the label {flag!r}; "
                "leave the label out, or rename the path."
            )
        fields.append(_RELABEL[flag])
    return "--mount", ",".join(map(_quoted, fields))


def _quoted(field: str) -> str:
    if not {",", '"', "\n"} & set(field):
        return field
    return '"' + field.replace('"', '""') + '"'


def _check(mount: Mount) -> None:
    if mount.source == Path("/"):
        raise MountRefused("The host's root directory / is not mounted; name the directories that the job needs.")
    if mount.target in SYSTEM or not mount.target.is_absolute():
        raise MountRefused(
            f"{mount.source} can not be mounted on {mount.target}: it would hide that directory of the system inside. "
            "Choose another container path."
        )
    if ".." in mount.target.parts:
        raise MountRefused(f"The container path {mount.target} of {mount.source} must not contain '..'.")
    try:
        mount.source.stat()
    except OSError as error:
        raise MountRefused(
            f"{mount.source} can not be mounted on {mount.target}: {error.strerror}. "
            "Create it, or correct the volume mount."
        ) from error


def _same(one: Path, other: Path) -> bool:
    return one == other or one.samefile(other)


def _expand(text: str, environ: Mapping[str, str]) -> str:
    """Expand a leading ~ or ~user, and $NAME and ${NAME}; what is not set stays as it is written."""
    import string

    home = environ.get("HOME")
    if home and (text == "~" or text.startswith("~/")):
        text = home + text[1:]
    if text.startswith("~"):
        try:
            text = str(Path(text).expanduser())
        except RuntimeError as error:
            raise MountRefused(
                f"The volume mount of {text} has no known home directory; write the path out."
            ) from error
    return string.Template(text).safe_substitute(environ)
