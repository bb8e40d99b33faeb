"""What one job was asked for, and what exactly will run: the object that handlers and plugins are given."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ee_runner import kinds, names, settings
from ee_runner.artifacts import describe
from ee_runner.attachment import Attachment
from ee_runner.errors import ArtifactError, ConfigurationError
from ee_runner.job import CommandTarget, JobSpec, Terminal
from ee_runner.options import BY_NAME, default_of
from ee_runner.preparation import Prepared, failure_recorded, prepare
from ee_runner.sources import Rank, Resolved, working_directory
from ee_runner.values import replace
from ee_runner.workspace import places

_TARGETS = ("playbook", "module", "role")
_UNPREPARED = "The job is not prepared yet: call prepare() first."
_HOMES = ("ee_runner", "ansible_runner")
_CHANGEABLE = ("attachment", "command", "cwd", "env")
_NEARLY = 0.85
"""How alike the name of an attribute is to that of an option when it is one, misspelt."""

_PLACES = ("private_data_dir", "project_dir", "artifact_dir", "fact_cache")
ALIASES = {"hosts": "host_pattern", "extra_vars": "extravars"}
"""What programs written for ansible-runner may call them."""

_PIPED_TOOLS = ("ansible-config", "ansible-doc", "ansible-galaxy")


class _Options(dict[str, Any]):
    """What the caller gave; there may be secrets in it, so that its repr has the names alone."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


class RunnerConfig:
    """One job's configuration (seed, section 5.23): the options of the option table, as keywords and as attributes.

    Options may be set until `prepare`; from then on they show what was resolved from all sources. `command`, `cwd`
    and `env` are what the job's process gets, exactly: they may be changed until the job runs. Paths are texts.
    Raises ConfigurationError for an option that does not exist, naming the nearest one.
    """

    def __init__(
        self,
        private_data_dir: str | os.PathLike[str] | None = None,
        *,
        attachment: Attachment | None = None,
        **options: Any,
    ) -> None:
        for alias, name in ALIASES.items():
            if alias in options:
                options[name] = options.pop(alias) or options.get(name)
        settings.check_names(options)
        self._options: dict[str, Any] = _Options(options, private_data_dir=private_data_dir)
        self._options["ident"] = names.new_ident() if options.get("ident") is None else options["ident"]
        self._resolved: Resolved | None = None
        self._use = threading.Lock()
        self._places: contextlib.ExitStack | None = None
        self._job: Prepared | None = None
        self._temporary: Path | None = None
        self._view: Mapping[str, Any] = {}
        self.attachment = attachment or Attachment()
        self.command: list[str] = []
        self.cwd = ""
        self.env: dict[str, str] = {}

    @classmethod
    def of(cls, resolved: Resolved, attachment: Attachment | None = None) -> RunnerConfig:
        """Return the configuration whose sources are merged already."""
        config = cls(attachment=attachment)
        config._options = {}
        config._resolved = resolved
        return config

    def __getattr__(self, name: str) -> Any:
        if name not in BY_NAME and (name.startswith("_") or name not in self._view):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        if name in self._view:
            return self._view[name]
        if name in _PLACES and self._options.get("private_data_dir"):
            return self._place(name)
        if self._resolved is not None:
            return self._resolved.values[name]
        given = self._options.get(name)
        return default_of(BY_NAME[name], "run") if given is None else given

    def _place(self, name: str) -> str:
        """Return where a directory of the job will be, as far as the arguments alone decide."""
        given: str | None = self._options.get(name)
        cwd = working_directory()
        own = cwd / self._options["private_data_dir"]
        if name in ("private_data_dir", "project_dir"):
            return os.path.normpath(str(cwd / (given or own / "project")))
        artifacts = cwd / (self._options.get("artifact_dir") or own / "artifacts")
        directory = artifacts / str(self._options["ident"])
        return os.path.normpath(str(directory / (given or "fact_cache") if name == "fact_cache" else directory))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(private_data_dir={self.private_data_dir!r}, ident={self.ident!r})"

    def __setattr__(self, name: str, value: Any) -> None:
        name = ALIASES.get(name, name)
        if name not in BY_NAME:
            if type(self).__module__.partition(".")[0] in _HOMES:  # a subclass of the caller's has names of its own
                _refuse_misspelt(name)
            super().__setattr__(name, value)
        elif self._job is not None and name == "suppress_ansible_output":
            self.attachment = replace(self.attachment, shown=self.attachment.shown and not value)
        elif self._job is not None:
            raise ConfigurationError(
                f"{name} can not be changed any more: the job is prepared. Set it before prepare()."
            )
        else:
            self._options[name] = value

    def prepare(self) -> None:
        """Read the inputs and make the run's places, which go when the job has run, or with this object.

        Raises ConfigurationError, EngineUnavailable and ArtifactError as `ee_runner.preparation.prepare` does.
        """
        self._leave()
        if self._needs_directory():
            kept = contextlib.ExitStack()
            self._temporary = kept.enter_context(places.removed(temporary_directory()))
            self._options["private_data_dir"] = self._temporary
            weakref.finalize(self, kept.close)
        if self._options or self._resolved is None:
            self._resolved = settings.resolve(self._options, environ=os.environ)
        spec = settings.job_spec(self._resolved)
        made = contextlib.ExitStack()
        temporary = () if self._temporary is None else (self._temporary,)
        terminal = self._terminal(self._resolved, spec)
        job = made.enter_context(prepare(spec, self.attachment, terminal, temporary=temporary))
        self._places, self._job = made, job
        weakref.finalize(self, made.close)
        self.command = list(job.plan.argv)
        self.cwd = str(job.plan.cwd)
        self.env = job.engine.environment(job.plan)
        self._view = _view(job, self._resolved)

    def _needs_directory(self) -> bool:
        """Say whether a job without a private data directory can do with a temporary one: no playbook is read there."""
        if not self._options or self._options.get("private_data_dir"):
            return False
        data_or_none = not isinstance(self._options.get("playbook"), str | os.PathLike)
        return data_or_none and any(self._options.get(name) for name in (*_TARGETS, "executable_cmd"))

    @property
    def spec(self) -> JobSpec:
        """The job as it was resolved; ConfigurationError before `prepare`."""
        return self._prepared().spec

    @property
    def values(self) -> Mapping[str, Any]:
        """The value of every option, all sources merged; ConfigurationError before `prepare`."""
        if self._resolved is None:
            raise ConfigurationError(_UNPREPARED)
        return self._resolved.values

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the job for one run; raises ConfigurationError while another is under way."""
        if not self._use.acquire(blocking=False):
            raise ConfigurationError(f"The job {self.ident!r} is running; let it end before it is run again.")
        try:
            yield
        finally:
            self._use.release()

    @contextlib.contextmanager
    def opened(self) -> Iterator[Prepared]:
        """Give the job as it is to run now, prepared anew if it has run before; its places go at the end.

        Raises ConfigurationError when `command`, `cwd` or `env` were changed to what no process can get.
        """
        if self._places is None:
            self.prepare()
        job = self._prepared()
        try:
            with failure_recorded(job.spec):
                changed = replace(
                    job.plan,
                    argv=_fit("command", kinds.WORDS, self.command),
                    cwd=PurePosixPath(_fit("cwd", kinds.WORD, self.cwd)),
                    env=_fit("env", kinds.ENVIRONMENT, self.env),
                    complete_env=True,
                )
            yield replace(job, plan=changed)
        finally:
            self._leave()

    @property
    def is_prepared(self) -> bool:
        """Whether the places of the next run are made."""
        return self._places is not None

    def _prepared(self) -> Prepared:
        if self._job is None:
            raise ConfigurationError(_UNPREPARED)
        return self._job

    def _leave(self) -> None:
        made, self._places = self._places, None
        if made is not None:
            made.close()

    def _terminal(self, resolved: Resolved, spec: JobSpec) -> Terminal:
        if self.attachment.terminal is not None:
            return self.attachment.terminal
        mode = resolved.values["runner_mode"]
        if resolved.rank("runner_mode") is Rank.DEFAULT and isinstance(spec.target, CommandTarget):
            mode = "subprocess" if PurePosixPath(spec.target.executable).name in _PIPED_TOOLS else mode
        return Terminal.PIPES if mode == "subprocess" else Terminal.PTY


def _view(job: Prepared, resolved: Resolved) -> Mapping[str, Any]:
    """Return what programs read that no option holds as such."""
    spec = job.spec
    container = job.engine.capabilities.images
    return {
        "ident": spec.ident,
        "private_data_dir": str(spec.private_data_dir),
        "project_dir": str(spec.project_dir),
        "artifact_dir": str(spec.artifact_dir),
        "fact_cache": str(job.workspace.fact_cache_dir),
        "settings": dict(resolved.settings),
        "playbook": _one_or_all(resolved.values["playbook"]),
        "inventory": _one_or_all(job.workspace.inventory),
        "containerized": container,
        "sandboxed": job.engine.capabilities.isolates and not container,
        "process_isolation": job.engine.capabilities.isolates,
        "process_isolation_executable": job.engine.name,
        "container_image": spec.container.image or "",
        "verbosity": spec.verbosity or None,
        "container_name": job.engine.container_name(spec.ident) if container else None,
    }


def _refuse_misspelt(name: str) -> None:
    """Raise ConfigurationError for an attribute that is nearly an option."""
    if name in _CHANGEABLE or name.startswith("_"):
        return
    from difflib import get_close_matches

    if get_close_matches(name, BY_NAME, n=1, cutoff=_NEARLY):
        settings.check_names((name,))


def _one_or_all(values: Sequence[Any] | None) -> Any:
    """Return a single value as such, several as a list, and None for none."""
    return values[0] if values and len(values) == 1 else list(values) if values else None


def _fit(name: str, kind: kinds.Kind, value: Any) -> Any:
    """Return what a process can get of a value that the caller may have changed."""
    try:
        if not value and kind is kinds.WORDS:
            raise ValueError
        return kind.convert(value)
    except ValueError as error:
        reason = error if isinstance(error, kinds.Unfit) else f"{kind.expected} is expected"
        raise ConfigurationError(f"config.{name}: {reason}") from None


def temporary_directory() -> Path:
    """Make a private data directory for one command."""
    import tempfile

    try:
        return Path(tempfile.mkdtemp(prefix=".ansible-runner-"))
    except OSError as error:
        what = f"No private data directory can be made: {describe(error)}"
        raise ArtifactError(f"{what} Set TMPDIR, or give private_data_dir.") from error
