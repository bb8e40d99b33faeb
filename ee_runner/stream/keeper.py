"""Who is told what a worker has made, to clean up after one that is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Keeper(Protocol):
    """Somebody who cleans up when this process is killed, and has to know what there is."""

    def owns(self, path: Path) -> None:
        """Remove this tree then; said before it is made."""
        ...

    def owns_all(self, directory: Path, prefix: str) -> None:
        """Remove what is directly in this directory and has such a name."""
        ...

    def released(self, path: Path) -> None:
        """Leave this tree alone from now on: it is gone, or it is to stay."""
        ...

    def runs(self, engine: str, container: str) -> None:
        """Stop this container then; said before it is started."""
        ...

    def stopped(self) -> None:
        """End what the job has left running, when this process ends, for the job did not end by itself."""
        ...


class Nobody:
    """Keeps nothing: for a worker within a program that cleans up itself."""

    def owns(self, path: Path) -> None: ...

    def owns_all(self, directory: Path, prefix: str) -> None: ...

    def released(self, path: Path) -> None: ...

    def runs(self, engine: str, container: str) -> None: ...

    def stopped(self) -> None: ...
