"""What engines say when they fail, and what it means."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ee_runner.errors import ImageError

_DAEMON = (
    (
        r"permission denied while trying to connect|permission denied.*docker\.sock|docker\.sock.*permission denied",
        "{engine} refuses this user: its socket may not be used. Add the user to the group that owns the socket "
        "(usually `docker`) and log in again, or use a rootless engine.",
    ),
    (
        r"cannot connect to the docker daemon|is the docker daemon running|docker daemon is not running|"
        r"error during connect|failed to connect to the docker api|(unable to|cannot) connect to podman",
        "The daemon of {engine} does not answer. Start it (`systemctl start docker`), or point DOCKER_HOST or the "
        "engine's context at one that runs.",
    ),
)

_MACHINE = (
    (
        r"setrlimit.*operation not permitted|rlimits.*operation not permitted|error setting rlimit",
        "the kernel does not let it raise resource limits to its defaults (no CAP_SYS_RESOURCE here). Set "
        "`default_ulimits` under [containers] in containers.conf to limits that are allowed, "
        'for example ["nofile=1024:1024", "nproc=1024:1024"].',
    ),
    (
        r"cgroups? in hybrid mode not supported",
        'its runtime crun does not support this machine\'s hybrid cgroups. Install runc and set `runtime = "runc"` '
        "under [engine] in containers.conf.",
    ),
    (
        r"/dev/mqueue",
        "/dev/mqueue does not exist on this machine. Create it: `mkdir /dev/mqueue`.",
    ),
    (
        r"newuidmap|no subuid ranges|cannot find uid/gid|insufficient UIDs or GIDs|/etc/subuid",
        "this user has no subordinate uids. Install uidmap and add ranges: "
        "`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`, then `podman system migrate`.",
    ),
    (
        r"docker-init.*not found|catatonit.*not found|container-init binary not found|init binary.*not found",
        "its init program is missing. Install docker-init (package docker.io, docker-ce or tini), or catatonit for "
        "podman.",
    ),
    (
        r"the container name .* is already in use|container name .* is already in use",
        "another container has this job's name. A job of the same ident runs, or a crash left its container: remove "
        "it, or use another ident.",
    ),
    (
        r"/dev/net/tun",
        "/dev/net/tun can not be opened by this user, so that there is no rootless network. "
        "Permit it (`chmod 666 /dev/net/tun`), or run with the container option --network=host.",
    ),
)

_IMAGE = (
    (
        "unreachable",
        r"dial tcp|no such host|connection refused|i/o timeout|no route to host|network is unreachable|"
        r"TLS handshake timeout|context deadline exceeded|connection reset|pinging container registry|"
        r"server gave HTTP response to HTTPS client|certificate|Client\.Timeout|temporary failure in name resolution|"
        r"bad gateway|service unavailable|gave no answer|received unexpected HTTP status: 5",
    ),
    (
        "forbidden",
        r"unauthorized|authentication required|denied|forbidden|no basic auth credentials|invalid username/password|"
        r"incorrect username or password",
    ),
    (
        "missing",
        r"manifest unknown|not found|name unknown|no such image|does not exist|repository name not known|"
        r"did not resolve to an alias|short-name|invalid reference format|image not known",
    ),
)

_REMEDY = {
    "missing": "Correct the name or the tag, or build the image.",
    "forbidden": "Log in to the registry, or correct the credentials; registries also answer so for images that do "
    "not exist.",
    "unreachable": "Check the registry's name, the network and the proxy settings; an image that is present runs with "
    "the pull policy 'missing'.",
    "unknown": "Pull it by hand to see more.",
}


_INSECURE = {
    "docker": "Docker decides in its daemon's settings whether a registry without a valid certificate is used: add it "
    "to insecure-registries in /etc/docker/daemon.json.",
}
"""The remedy of engines that do not decide it pull by pull."""


def daemon_fault(engine: str, words: str) -> str | None:
    """Return what is wrong with the engine's daemon, or None when these words do not speak of that."""
    return next((text.format(engine=engine) for pattern, text in _DAEMON if _says(words, pattern)), None)


def diagnosis(engine: str, words: str) -> str | None:
    """Return the cause and the remedy of a known fault of the machine, with the engine's own words, or None."""
    cause = next((text for pattern, text in _MACHINE if _says(words, pattern)), None)
    return f"{engine} can not run containers: {cause} (It said: {one_line(words)})" if cause else None


def unlimited(engine: str, limits: Sequence[str]) -> str:
    """Say that the engine can not enforce these limits on this machine: it would ignore them."""
    options = ", ".join(f"--{limit.replace('_', '-')}" for limit in limits)
    return (
        f"{options}: {engine} can not limit that here. Rootless engines need control groups of version 2 that are "
        "delegated to the user (`Delegate=cpu memory pids` of the systemd unit user@.service); rootful ones need a "
        f"kernel with the controllers. Use an engine that has them, or do without {options}."
    )


def image_fault(engine: str, image: str, words: str) -> ImageError:
    """Return the error of a pull that failed with these words."""
    cause = next((cause for cause, pattern in _IMAGE if _says(words, pattern)), "unknown")
    means = {
        "missing": f"{registry_of(image)} has no such image",
        "forbidden": f"{registry_of(image)} refused access",
        "unreachable": f"the registry {registry_of(image)} can not be reached",
        "unknown": "the pull failed",
    }[cause]
    hint = _insecure_hint(engine, words)
    return ImageError(
        f"The image {image} can not be pulled: {means}. {hint or _REMEDY[cause]} ({engine} said: {one_line(words)})",
        image=image,
        cause=cause,
    )


def registry_of(image: str) -> str:
    """Return the registry's host in an image name, docker.io when there is none."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"


def one_line(words: str) -> str:
    """Return the words on one line, the last of them when they are many."""
    joined = " ".join(words.split())
    return joined if len(joined) <= 600 else "... " + joined[-600:]


def _insecure_hint(engine: str, words: str) -> str:
    if not _says(words, r"server gave HTTP response to HTTPS client|certificate"):
        return ""
    return _INSECURE.get(
        engine, "For a registry without a valid certificate set verify_ssl to false in its credentials."
    )


def _says(words: str, pattern: str) -> bool:
    return re.search(pattern, words, re.IGNORECASE) is not None
