"""bubblewrap, or what understands its options: the host's own programs behind other mounts."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ee_runner import processes
from ee_runner.engines import endings, handover, needs
from ee_runner.engines.base import Caller, Capabilities, ContainerEngine, EngineInfo
from ee_runner.errors import EngineError, EngineUnavailable, MountRefused
from ee_runner.executor import capture
from ee_runner.job import Invocation, Outcome, Terminal
from ee_runner.plan import ExecutionPlan

_SYSTEM = ("/usr", "/etc", "/opt", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/sys", "/nix/store")
_BEHIND_LINKS = ("/etc/resolv.conf", "/etc/hosts", "/etc/localtime")
_PRIVATE = ("/tmp", "/var/tmp")  # noqa: S108 - shown as empty directories
_MARK = "EE_RUNNER_SANDBOX"
_RUN = "EE_RUNNER_RUN"
_POLL = 0.05
_KILL_TIME = 10.0


class BwrapEngine(ContainerEngine):
    """Runs the job with the host's Ansible, which sees the system read-only, what it was given, and nothing else.

    The root is a tmpfs that goes with the last process (seed, section 4.6). /tmp and the home are empty and the
    job's own; they are staged under `SandboxSpec.staging`.
    """

    name = "bwrap"
    capabilities = Capabilities(own_root=False, images=False)
    remedy = "Install bubblewrap, or choose another engine (--process-isolation-executable)."

    def check(self) -> EngineInfo:
        version = capture((str(self.executable), "--version"))
        tried = capture((str(self.executable), "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "true"))
        if tried.rc != 0:
            raise EngineUnavailable(
                f"{self.executable} can not make a sandbox: {' '.join(tried.stderr.split())}. Unprivileged user "
                "namespaces may be switched off: look at the sysctls kernel.unprivileged_userns_clone and "
                "user.max_user_namespaces, and at AppArmor's restriction of them."
            )
        words = version.stdout.split() or ["unknown"]
        return EngineInfo(self.name, self.executable, words[-1], rootless=os.geteuid() != 0)

    def _stop_run(self, plan: ExecutionPlan, grace: float) -> bool:
        return self.stop(plan.mark, grace)

    def environment(self, plan: ExecutionPlan) -> dict[str, str]:
        env = dict(plan.env) if plan.complete_env else needs.environment(plan.argv[0], plan.env)
        return {**env, "HOME": str(_home(env))}

    @contextmanager
    def invocation(self, plan: ExecutionPlan) -> Iterator[Invocation]:
        env = self.environment(plan)
        binding = self.agent_binding(plan)
        if binding is not None:
            env["SSH_AUTH_SOCK"] = binding.socket
        staging = plan.sandbox.staging
        if not staging.is_dir():
            raise MountRefused(f"process_isolation_path {staging} is no directory. Create it, or name another.")
        with handover.scratch(staging) as scratch:
            deaf, hearing = _interruptible(env) if plan.terminal is Terminal.INTERACTIVE else ((), ())
            argv = (
                *(*deaf, str(self.executable), "--die-with-parent", "--unshare-pid"),
                *(("--new-session",) if plan.terminal is Terminal.PIPES else ()),
                *_system(),
                *("--proc", "/proc", "--dev", "/dev"),
                *_behind_links(),
                *(word for view in self._views(plan, env, scratch) for word in view.option),
                *("--setenv", _MARK, self.container_name(plan.ident), "--setenv", _RUN, plan.mark),
                *("--chdir", str(plan.cwd), "--", *hearing, *plan.argv),
            )
            yield Invocation(argv, env, Path("/"), plan.terminal)

    def _views(self, plan: ExecutionPlan, env: Mapping[str, str], scratch: handover.Scratch) -> list[_View]:
        """Return all that is shown and hidden on top of the system; what lies deeper comes later and so wins."""
        shown = [_View(Path(m.target), "--ro-bind" if m.read_only else "--bind", m.source) for m in self.mounts(plan)]
        views = [
            _View(Path(place), "--bind", scratch.directory(place.replace("/", "_"), mode=0o1777)) for place in _PRIVATE
        ]
        views.append(_View(Path(env["HOME"]), "--bind", scratch.directory("home", mode=0o700)))
        covered = [*(view.target for view in shown), *map(Path, _SYSTEM)]
        needed = (path for path in needs.of_program(plan.argv[0], env) if not _is_within(path, covered))
        views += [_View(path, "--ro-bind", path) for path in needed if not _is_within(Path(env["HOME"]), [path])]
        views += shown
        views += self._own_views(plan, env)
        views += [_View(path, "--ro-bind", path) for path in map(_existing, plan.sandbox.ro_paths)]
        views += [_View(path, "--bind", path) for path in map(_existing, plan.sandbox.show_paths)]
        views += _hidden(plan.sandbox.hide_paths, scratch)
        return sorted(views, key=lambda view: len(view.target.parts))

    def _own_views(self, plan: ExecutionPlan, env: Mapping[str, str]) -> Iterator[_View]:
        if plan.agent_socket is not None:
            yield _View(plan.agent_socket, "--bind", plan.agent_socket)
        if plan.ssh_directory is not None:
            yield _View(Path(env["HOME"], ".ssh"), "--ro-bind", plan.ssh_directory)

    def stop(self, name: str, grace: float) -> bool:
        """Ask the job itself to end: bwrap passes no signals on, and takes the job along when it dies.

        `name` is the container's name or one run's mark: both are among bwrap's arguments.
        """
        sandbox = _sandbox(name)
        if not sandbox:
            return False
        asked: set[int] = set()
        deadline = time.monotonic() + grace
        while sandbox and time.monotonic() < deadline:
            asked |= _terminate(pid for pid in _jobs(sandbox) if pid not in asked)
            time.sleep(_POLL)
            sandbox = _sandbox(name)
        deadline = time.monotonic() + _KILL_TIME
        while sandbox:
            if time.monotonic() >= deadline:
                raise EngineError(f"The sandbox {name} can not be killed: processes {sandbox}.")
            for pid in sandbox:
                processes.kill_tree(pid)
            time.sleep(_POLL)
            sandbox = _sandbox(name)
        return True

    def _judge(self, plan: ExecutionPlan, outcome: Outcome, tail: str, *, since: float) -> Outcome:
        del since
        if outcome.reason == "exited" and endings.is_by_signal(outcome.rc):
            return endings.judged(plan, outcome, endings.Told())
        lines = tail.splitlines()
        if outcome.reason != "exited" or outcome.rc != 1 or not lines:
            return outcome
        if not all(line.startswith("bwrap: ") for line in lines):
            return outcome
        if "execvp" in lines[-1]:
            detail = f"{plan.argv[0]} can not be executed in the sandbox: it is not there, or not executable."
            return Outcome("failed", 127, "launch", detail)
        raise EngineError(f"{self.executable} can not make the sandbox: {' '.join(lines)}")


@dataclass(frozen=True, slots=True)
class _View:
    """One path inside, and what is seen there."""

    target: Path
    how: str
    source: Path | None = None

    @property
    def option(self) -> tuple[str, ...]:
        source = () if self.source is None else (str(self.source),)
        return (self.how, *source, str(self.target))


def _home(env: Mapping[str, str]) -> Path:
    """Return the home that the job will have: at the caller's own path, as ssh and ``~user`` look there."""
    stated = env.get("HOME") or str(Caller.current().home)
    return Path(stated) if stated not in ("", "/") and stated.startswith("/") else Path("/home/runner")


def _interruptible(env: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what leaves the terminal's interrupt key to the job: bwrap would die of it and take the job along.

    The words go before bwrap's and before the job's; there are none where env(1) can not do it (coreutils 8.31 can).
    """
    hearing = ("env", "--default-signal=INT")
    if capture((*hearing, "true"), env=env).rc != 0:
        return (), ()
    return ("env", "--ignore-signal=INT"), hearing


def _system() -> Iterator[str]:
    """Yield the options for the host's system directories; links stay links."""
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from ("--ro-bind", str(path), str(path))


def _behind_links() -> Iterator[str]:
    """Yield the options for files of /etc that live elsewhere: without resolv.conf no name is resolved."""
    for path in map(Path, _BEHIND_LINKS):
        real = path.resolve()
        if path.is_symlink() and real.is_file() and not _is_within(real, map(Path, _SYSTEM)):
            yield from ("--ro-bind", str(real), str(real))


def _hidden(paths: Iterable[Path], scratch: handover.Scratch) -> Iterator[_View]:
    """Put an empty directory or file where a path is; what is not there needs no hiding."""
    for path in paths:
        real = path.resolve()
        if real.is_dir():
            yield _View(real, "--tmpfs")
        elif real.exists():
            yield _View(real, "--ro-bind", scratch.write("empty", "", mode=0o644))


def _existing(path: Path) -> Path:
    if path == Path("/"):
        raise MountRefused("The host's root directory / is not shown in the sandbox; name the directories to show.")
    if not path.exists():
        raise MountRefused(f"{path} is to be shown in the sandbox but does not exist. Create it, or correct the path.")
    return path


def _is_within(path: Path, roots: Iterable[Path]) -> bool:
    return any(path == root or root in path.parents for root in roots)


def _sandbox(name: str) -> list[int]:
    """Return bwrap's own processes of this sandbox, the one outside and its first inside; not another user's."""
    marked = set(processes.with_argument(_MARK))
    return [pid for pid in processes.with_argument(name) if pid in marked and _may_signal(pid)]


def _may_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _jobs(sandbox: Iterable[int]) -> list[int]:
    own = set(sandbox)
    return [child for pid in own for child in processes.children(pid) if child not in own]


def _terminate(pids: Iterable[int]) -> set[int]:
    asked = set(pids)
    for pid in asked:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)
    return asked
