"""What a program of the host, usually a Python script such as ansible-playbook, needs to see in order to run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ee_runner.engines import kept
from ee_runner.executor import capture

_ASK = (
    "import sys, json; print(json.dumps([sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix,"
    " sys.executable, *sys.path]))"
)
_SHEBANG = 1024
_KIND = "python"
_STEERING = ("HOME", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONPLATLIBDIR", "PYTHONSAFEPATH")


def environment(program: str, plan_env: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's environment with the plan's on top; an Ansible beside this interpreter is found too."""
    env = {**os.environ, **plan_env}
    path = env.get("PATH", os.defpath)
    beside = Path(sys.executable).parent
    if shutil.which(program, path=path) is None and (beside / program).is_file():
        env["PATH"] = f"{path}{os.pathsep}{beside}"
    return env


def of_program(name: str, env: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the paths that the program needs: itself, its interpreter, and what that imports from.

    The interpreter is asked where it looks for modules, so that virtual environments, what they stand on (pyenv),
    user installations and editable ones are all found. Empty when there is no such program.
    """
    found = shutil.which(name, path=env.get("PATH", os.defpath))
    if found is None:
        return ()
    paths = list(_links(Path(found)))
    root = _shim_root(Path(found))
    if root is not None:
        paths.append(root)
    interpreter = _interpreter(Path(found), env)
    if interpreter is not None:
        paths += _links(interpreter)
        paths += _of_python(interpreter, env)
    return _outermost(path for path in paths if path.exists() and path != Path("/"))


def _outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Leave out what lies in a directory that is needed as a whole."""
    known = dict.fromkeys(paths)
    return tuple(path for path in known if not any(parent in known for parent in path.parents))


def _links(path: Path) -> Iterator[Path]:
    """Yield a path and every symbolic link's destination up to the real file."""
    path = Path(os.path.normpath(Path.cwd() / path))
    yield path
    while path.is_symlink():
        path = Path(os.path.normpath(path.parent / path.readlink()))
        yield path
    yield path.resolve()


def _shim_root(program: Path) -> Path | None:
    """Return the root of a version manager (pyenv) that this program is a shim of."""
    root = program.parent.parent
    return root if program.parent.name == "shims" and (root / "versions").is_dir() else None


def _interpreter(program: Path, env: Mapping[str, str]) -> Path | None:
    """Return the interpreter that the first line of a script names, also in the form for long paths."""
    with program.open("rb") as file:
        first, _, rest = file.read(_SHEBANG).partition(b"\n")
    if not first.startswith(b"#!"):
        return None
    words = first[2:].decode("utf-8", "surrogateescape").split()
    if words and Path(words[0]).name == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    elif words and words[0] == "/bin/sh" and rest.startswith(b"'''exec'"):
        words = shlex.split(rest.partition(b"\n")[0].decode("utf-8", "surrogateescape")[len("'''exec'") :])
    found = shutil.which(words[0], path=env.get("PATH", os.defpath)) if words else None
    return Path(found) if found is not None else None


def _of_python(interpreter: Path, env: Mapping[str, str]) -> list[Path]:
    if "python" not in interpreter.name and "pypy" not in interpreter.name:
        return []
    context = (str(interpreter), *(f"{name}={env[name]}" for name in _STEERING if name in env))
    known = kept.recall(_KIND, context)
    return list(map(Path, _ask(interpreter, env, context) if known is None else known))


def _ask(interpreter: Path, env: Mapping[str, str], context: Sequence[str]) -> list[str]:
    """Ask the interpreter, and keep what it says while nothing has changed where it looks for modules."""
    began = time.time_ns()
    done = capture((str(interpreter), "-c", _ASK), env=env)
    if done.rc != 0:
        return []
    paths = [path for path in json.loads(done.stdout.splitlines()[-1]) if path.startswith("/")]
    if not kept.is_script(interpreter) and "PYTHONPATH" not in env:  # its entries may be relative
        kept.keep(_KIND, context, paths, depends=_decides(interpreter, map(Path, paths)), began=began)
    return paths


def _decides(interpreter: Path, paths: Iterable[Path]) -> Iterator[Path]:
    """Yield what an interpreter's search path comes from: itself, its virtual environment, and files that add to it."""
    yield from (*_links(interpreter), interpreter.parent / "pyvenv.cfg", interpreter.parent.parent / "pyvenv.cfg")
    for path in paths:
        yield from (path, path / "sitecustomize.py", path / "usercustomize.py")
        if path.is_dir():
            yield from path.glob("*.pth")
