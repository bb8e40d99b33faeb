"""Which user a job is inside an image, so that the caller can read and remove what it writes.

Four cases (who owns what a process inside writes is decided by the engine's user namespace):

* rootless, image of root: root inside is the caller.
* rootless, image of another user: podman maps the caller onto that user; docker can not, and root takes its place.
* rootful, image of the caller's own uid: nothing to do.
* rootful, any other image: the process gets the caller's uid and, for directories that images open to it, group 0.

A uid without an entry in the image's passwd gets one, and a home: ssh and ``~`` need both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import PurePosixPath
from typing import NamedTuple

from ee_runner.engines.base import Caller, ImageInfo

_OWN_CHOICE = ("--user", "-u", "--userns", "--uidmap", "--gidmap", "--subuidname", "--subgidname")
_ROOT_HOME = PurePosixPath("/root")


class Mapping(Enum):
    """How users inside relate to the caller: rootful, or rootless with what the engine can map."""

    ROOTFUL = "rootful"
    KEEP_ANY = "keep-id onto any uid"
    KEEP_SAME = "keep-id onto the same uid"
    ROOT_ONLY = "only root is the caller"


class Identity(NamedTuple):
    """The user inside: options for the engine, its home, and a passwd file where the image's own lacks the entry.

    `home` is None when it is not known. `makes_home` says that the home is to be provided, as a tmpfs.
    """

    options: tuple[str, ...] = ()
    home: PurePosixPath | None = None
    passwd: str | None = None
    makes_home: bool = False


class _Entry(NamedTuple):
    name: str
    uid: int
    gid: int
    home: PurePosixPath


def identify(
    image: ImageInfo,
    *,
    caller: Caller,
    mapping: Callable[[], Mapping],
    options: Iterable[str],
    passwd: Callable[[], str],
) -> Identity:
    """Decide the user inside; `mapping` and `passwd` (the image's file) are asked for only when they matter.

    The caller's own ``--user`` or ``--userns`` among `options` is left in charge.
    """
    if chosen_by_caller(options):
        return Identity(home=_home_of_image_user(image, passwd))
    how = mapping()
    if how is not Mapping.ROOTFUL:
        return _rootless(image, how, caller, passwd)
    if caller.uid == 0:
        return Identity((() if image.runs_as_root else ("--user", "0:0")), home=_ROOT_HOME)
    return _as_uid(image, caller.uid, caller.gid, caller.name, passwd())


def chosen_by_caller(options: Iterable[str]) -> bool:
    """Say whether engine options choose the user themselves."""
    return any(
        option.partition("=")[0] in _OWN_CHOICE or (option.startswith("-u") and not option.startswith("--"))
        for option in options
    )


def _rootless(image: ImageInfo, how: Mapping, caller: Caller, passwd: Callable[[], str]) -> Identity:
    if image.runs_as_root:
        return Identity(home=_ROOT_HOME)
    if how is Mapping.ROOT_ONLY:
        return Identity(("--user", "0:0"), home=_ROOT_HOME)
    text = passwd()
    if how is Mapping.KEEP_SAME:
        identity = _as_uid(image, caller.uid, caller.gid, caller.name, text)
        return Identity(("--userns=keep-id", *identity.options), identity.home, identity.passwd, identity.makes_home)
    uid, gid = _ids_of(image.user, text)
    gid = gid or uid  # podman can't map the caller's group onto group 0
    identity = _as_uid(image, uid, gid, caller.name, text)
    keep = f"--userns=keep-id:uid={uid},gid={gid}"
    return Identity((keep, *identity.options), identity.home, identity.passwd, identity.makes_home)


def _as_uid(image: ImageInfo, uid: int, gid: int, name: str, passwd: str) -> Identity:
    options = ("--user", f"{uid}:{gid}", "--group-add", "0")
    entries = list(_entries(passwd))
    for entry in entries:
        if entry.uid == uid:
            return Identity(options, home=entry.home)
    if any(entry.name == name for entry in entries):
        name = f"{name}_{uid}"
    home = PurePosixPath(image.home or f"/home/{name}")
    line = f"{name}:x:{uid}:{gid}:ee_runner:{home}:/bin/sh\n"
    whole = passwd if not passwd or passwd.endswith("\n") else passwd + "\n"
    return Identity(options, home=home, passwd=whole + line, makes_home=image.home is None)


def _home_of_image_user(image: ImageInfo, passwd: Callable[[], str]) -> PurePosixPath | None:
    if image.runs_as_root:
        return _ROOT_HOME
    return next((entry.home for entry in _entries(passwd()) if _names(image.user, entry)), None)


def _ids_of(user: str, passwd: str) -> tuple[int, int]:
    """Return uid and gid of an image's USER: ``name``, ``uid``, or either with ``:gid``."""
    entry = next((entry for entry in _entries(passwd) if _names(user, entry)), None)
    first, _, group = user.partition(":")
    uid = entry.uid if entry is not None else int(first) if first.isdigit() else 0
    gid = int(group) if group.isdigit() else entry.gid if entry is not None else 0
    return uid, gid


def _names(user: str, entry: _Entry) -> bool:
    first = user.partition(":")[0]
    return first == entry.name or first == str(entry.uid)


def _entries(passwd: str) -> Iterable[_Entry]:
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) >= 7 and fields[2].isdigit() and fields[3].isdigit():
            yield _Entry(fields[0], int(fields[2]), int(fields[3]), PurePosixPath(fields[5] or "/"))
