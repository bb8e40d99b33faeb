"""Where the symbolic links of an archive lead, found out before any of them is made."""

from __future__ import annotations

import functools
import stat
from collections.abc import Mapping

from ee_runner.errors import UnsafeArchive
from ee_runner.stream.archive.tree import Tree, shown

MOST_LINKS = 64
"""Links in one way after which it leads nowhere: the system follows 40."""


class Links:
    """The symbolic links of an archive, before they are made: finds the one that leads out of the tree.

    The rule holds whatever later archives bring into the same tree: a link is relative; its ".." never climb above the
    tree; and they follow nothing but real directories of the tree, so that no other link can move the place from which
    they climb. Besides, no link may lead out through one that was in the tree before. `steps` limits the work.
    """

    def __init__(self, tree: Tree, links: Mapping[bytes, bytes], *, steps: int) -> None:
        self._tree = tree
        self._links = links
        self._steps = steps
        self._existing = functools.lru_cache(4096)(tree.link_target)

    def check(self) -> None:
        """Raise UnsafeArchive for a link that leads out."""
        for name, target in self._links.items():
            self._check_text(name, target)
            self._check_way(name, target)

    def _check_text(self, name: bytes, target: bytes) -> None:
        place = name.split(b"/")[:-1]
        real = len(place)  # so many parts are known to be directories
        for part in target.split(b"/"):
            if part == b"..":
                if len(place) > real and not stat.S_ISDIR(self._tree.mode_of(b"/".join(place))):
                    reason = f"goes up again from {shown(b'/'.join(place))}, which is no directory there"
                    raise _leads_out(name, target, reason)
                self._climb(place, name, target)
                real = min(real, len(place))
            elif part not in (b"", b"."):
                place.append(part)

    def _check_way(self, name: bytes, target: bytes) -> None:
        """Walk the link as the system would, through the links of the archive and those that are there."""
        place = name.split(b"/")[:-1]
        way = _backwards(name, target)
        followed = 1
        while way and followed <= MOST_LINKS:
            part = way.pop()
            if part == b"..":
                self._climb(place, name, target)
            elif part not in (b"", b"."):
                place.append(part)
                further = self._link_at(b"/".join(place), name)
                if further is not None:
                    followed += 1
                    place.pop()
                    way += _backwards(name, further)

    def _link_at(self, path: bytes, name: bytes) -> bytes | None:
        self._steps -= 1 + len(path) // 256
        if self._steps < 0:
            raise UnsafeArchive(
                f"The symbolic links of the archive lead through one another without end, as {shown(name)} does. "
                "Leave such links out."
            )
        return self._links.get(path) or self._existing(path)

    def _climb(self, place: list[bytes], name: bytes, target: bytes) -> None:
        if not place:
            raise _leads_out(name, target, "leads out of the directory that the archive is for")
        place.pop()


def _backwards(name: bytes, target: bytes) -> list[bytes]:
    if target.startswith(b"/"):
        raise _leads_out(name, target, "leads to an absolute path")
    return target.split(b"/")[::-1]


def _leads_out(name: bytes, target: bytes, reason: str) -> UnsafeArchive:
    return UnsafeArchive(
        f"The archive has the symbolic link {shown(name)} to {shown(target)}, which {reason}. Replace the link by what "
        "it leads to, or allow such links, if the sender is trusted, with --allow-outside-links."
    )
