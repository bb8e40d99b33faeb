"""The images in an engine's store: what is known of them, and the pull policies."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from ee_runner import names
from ee_runner.engines import faults, labels
from ee_runner.engines.base import ImageInfo
from ee_runner.errors import ConfigurationError, EngineError, EngineUnavailable, ImageError
from ee_runner.executor import Cancellation, Completed
from ee_runner.job import ContainerSpec

_ABSENT = r"no such image|image not known|no such object|unable to find"


class Control(Protocol):
    """Runs one of the engine's short commands."""

    def __call__(self, *words: str, timeout: float = 60) -> Completed: ...


class Shortcut(Protocol):
    """What is known of an image without starting the client."""

    def look(self, image: str) -> ImageInfo | None:
        """Return what is known of an image and holds now, or None: then the client is asked."""

    def learn(self, image: str, entry: Mapping[str, Any], *, began: int) -> None:
        """Take note of what the client has said, which was asked at `began` (`time.time_ns`)."""


class AlwaysAsk:
    """Knows nothing: the client is asked."""

    def look(self, image: str) -> ImageInfo | None:
        del image
        return None

    def learn(self, image: str, entry: Mapping[str, Any], *, began: int) -> None: ...


class ImageStore:
    """One engine's images, by its client where no shortcut knows: no SDK is imported for an image that is present."""

    def __init__(self, engine: str, control: Control, shortcut: Callable[[], Shortcut] = AlwaysAsk) -> None:
        self._engine = engine
        self._control = control
        self._shortcut = shortcut
        self._known: dict[str, ImageInfo] = {}

    def ensure(self, container: ContainerSpec, pull: Callable[[], None], cancel: Cancellation) -> ImageInfo | None:
        """Have the image as the pull policy says; None when `cancel` ended the pull. Raises ImageError."""
        image = image_name(container)
        present = None if container.pull == "always" else self.find(image)
        if container.pull in ("always", "newer") or (present is None and container.pull == "missing"):
            try:
                pull()
            except ImageError:
                if container.pull != "newer" or present is None:
                    raise
            if cancel.requested is not None:
                return None
            present = self.find(image)
        if present is None:
            raise absent(self._engine, container)
        self._known[image] = present
        return present

    def get(self, container: ContainerSpec) -> ImageInfo:
        """Return what is known of an image that is in the store; raises ImageError when it is not."""
        known = self._known.get(image_name(container)) or self.find(image_name(container))
        if known is None:
            raise absent(self._engine, container)
        return known

    def find(self, image: str) -> ImageInfo | None:
        """Ask the engine for an image of this name; None when it has none."""
        shortcut, began = self._shortcut(), time.time_ns()
        known = shortcut.look(image)
        if known is not None:
            return known
        done = self._control("image", "inspect", image)
        if done.rc == 0:
            entry = json.loads(done.stdout)[0]
            shortcut.learn(image, entry, began=began)
            return read_info(entry)
        fault = faults.daemon_fault(self._engine, done.stderr)
        if fault is not None:
            raise EngineUnavailable(fault)
        if says_absent(done.stderr):
            return None
        diagnosed = faults.diagnosis(self._engine, done.stderr)
        if diagnosed is not None:
            raise EngineUnavailable(diagnosed)
        raise faults.image_fault(self._engine, image, done.stderr)

    def passwd(self, image: ImageInfo) -> str:
        """Return the image's /etc/passwd, empty when it has none; as images don't change it is kept by their id."""
        with suppress(OSError, RuntimeError):
            return _kept_passwd(image).read_text()
        text = self._read_passwd(image)
        with suppress(OSError, RuntimeError):  # without a cache it only takes longer
            kept = _kept_passwd(image)
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_name(f"{kept.name}.{os.getpid()}")
            partial.write_text(text)
            partial.replace(kept)
        return text

    def _read_passwd(self, image: ImageInfo) -> str:
        """Copy the file out of a container that is never started: no code of the image runs."""
        created = self._control("create", *labels.options(labels.of_job("", Path("/"))), image.id, "true")
        if created.rc != 0:
            raise EngineError(
                faults.diagnosis(self._engine, created.stderr)
                or f"{self._engine} can not look into the image {image.id}: {faults.one_line(created.stderr)}"
            )
        import tempfile

        container = created.stdout.split()[-1]
        try:
            with tempfile.TemporaryDirectory(prefix=names.run_prefix()) as directory:
                copy = Path(directory, "passwd")
                self._control("cp", f"{container}:/etc/passwd", str(copy))
                return copy.read_text(errors="replace") if copy.exists() else ""
        finally:
            self._control("rm", "--force", container)


def absent(engine: str, container: ContainerSpec) -> ImageError:
    """Return the error of an image that is not there, or is not there any more."""
    image = image_name(container)
    return ImageError(
        f"The image {image} is not in {engine}'s store and the pull policy is {container.pull!r}. "
        "Pull or build it first, or use the pull policy 'missing'.",
        image=image,
        cause="missing",
    )


def says_absent(words: str) -> bool:
    """Say whether an engine complains so of an image that it does not have."""
    return re.search(_ABSENT, words, re.IGNORECASE) is not None


def read_info(entry: Mapping[str, Any]) -> ImageInfo:
    """Read what podman and docker tell of an image."""
    config = entry.get("Config") or {}
    pairs = dict(pair.split("=", 1) for pair in config.get("Env") or [] if "=" in pair)
    return ImageInfo(entry["Id"], config.get("User") or "", pairs.get("HOME"))


def image_name(container: ContainerSpec) -> str:
    """Return the image that was asked for; raises ConfigurationError when none was."""
    if not container.image:
        raise ConfigurationError("A container engine needs an image: set container_image (--container-image).")
    return container.image


def _kept_passwd(image: ImageInfo) -> Path:
    """Return where the image's passwd is kept; RuntimeError when the caller has no home."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "ee-runner" / "passwd" / re.sub(r"\W", "_", image.id)


__all__ = [
    "AlwaysAsk",
    "Control",
    "ImageInfo",
    "ImageStore",
    "Shortcut",
    "absent",
    "image_name",
    "read_info",
    "says_absent",
]
