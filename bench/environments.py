"""The two environments that are compared: this checkout and ansible-runner, with one Python and one ansible-core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tests.support import venvs
from tests.support.processes import REPO, MachineError

PEER = "ansible-runner==2.4.3"
_FOREIGN = ("PYTHON", "EE_RUNNER_", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment with a runner and Ansible in it."""

    venv: venvs.Venv

    def program(self, name: str) -> str:
        return str(self.venv.bin / name)

    def variables(self, home: Path, **more: str) -> dict[str, str]:
        """Return what its programs run with: nothing that the caller has set for Python, Ansible or a runner."""
        given = self.venv.environment(home).items()
        return {name: value for name, value in given if not name.startswith(_FOREIGN)} | more


@dataclass(frozen=True, slots=True)
class Environments:
    """Both; without `peer` its rows are not measured, for the reason in `missing`."""

    ours: Environment
    peer: Environment | None
    missing: str = ""


def prepare(scratch: Path, *, with_peer: bool = True) -> Environments:
    """Make both, or take them from the cache; `scratch` is an empty directory that lasts as long as they are used.

    Both get the ansible-core of the environment that the benchmark itself runs in. Raises MachineError when that of
    this checkout can not be made.
    """
    core = f"ansible-core=={metadata.version('ansible-core')}"
    ours = _environment(scratch / "ours", core, alone=("--editable", str(REPO)))
    if not with_peer:
        return Environments(ours, None, "left out")
    try:
        return Environments(ours, _environment(scratch / "peer", core, PEER))
    except MachineError as error:
        return Environments(ours, None, f"{PEER} can not be installed: {str(error).splitlines()[-1]}")


def versions(environments: Environments) -> dict[str, str]:
    """Return the versions of what is compared."""
    named: dict[str, Callable[[], str]] = {
        "Python": lambda: _python_version(environments.ours),
        "ansible-core": lambda: metadata.version("ansible-core"),
        "ansible-runner": lambda: PEER.partition("==")[2],
    }
    return {name: version() for name, version in named.items()}


def _environment(scratch: Path, *requirements: str, alone: tuple[str, ...] = ()) -> Environment:
    scratch.mkdir()
    return Environment(venvs.ensure(*requirements, alone=alone, scratch=scratch))


def _python_version(environment: Environment) -> str:
    from tests.support.processes import checked

    return checked([environment.program("python"), "-c", "import platform; print(platform.python_version())"]).strip()
