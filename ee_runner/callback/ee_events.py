"""Ansible callback plugin: one structured record for each event, beside whatever the user's callbacks print.

The user's stdout callback, and every other callback, stays as it is. This plugin sees what any callback sees, with
results cleaned by Ansible, and before the others do. For each event it appends one JSON line to a spool file, and
puts two short escape sequences on the terminal stream, which terminals ignore: a boundary before the event's own
text, and after it a mark with the place of the record in the spool. Both carry a random nonce, so that output of a
managed host can't forge them:

    ESC _ ee;<nonce>;B ESC \\                      boundary: an event starts here
    ESC _ ee;<nonce>;E;<offset>;<length> ESC \\    mark: the event ends here, and this is its record; with
                                                 length 0 there is none, and the text belongs to no event

This file runs wherever Ansible runs, alone: the standard library and ansible only, Python 3.8 and newer. It is
configured by environment variables, which are taken out of the environment when the plugin is imported, so that an
ansible-playbook started by a task is not observed. Without them the plugin does nothing.

It pays for itself: what Ansible has loaded by now, and at its end whatever is there, is kept from the garbage
collector, which would otherwise walk it all several times, in vain (see `leave_garbage`).

    EE_RUNNER_EVENTS_SPOOL             path of the spool, an existing file
    EE_RUNNER_EVENTS_NONCE             hexadecimal string
    EE_RUNNER_OMIT_EVENT_DATA          1: leave event_data empty
    EE_RUNNER_ONLY_FAILED_EVENT_DATA   1: leave event_data empty, except in events of failure
    EE_RUNNER_HIDDEN_ENV               names, with commas between: variables whose values a fact cache is not to have
    EE_RUNNER_MAX_RESULT               bytes; a larger record is cut and says so
    EE_RUNNER_RESTORE_ENV              JSON object: variables to set (a string) or remove (null) after the import
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import gc
import json
import math
import os
import re
import select
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.util import Finalize
from typing import Any

from ansible import constants as C  # type: ignore[import-untyped]  # noqa: N812
from ansible.executor import task_queue_manager, task_result  # type: ignore[import-untyped]
from ansible.executor.task_queue_manager import TaskQueueManager  # type: ignore[import-untyped]
from ansible.playbook.task import Task  # type: ignore[import-untyped]
from ansible.plugins import callback  # type: ignore[import-untyped]
from ansible.plugins.cache import BaseFileCacheModule  # type: ignore[import-untyped]
from ansible.plugins.callback import CallbackBase  # type: ignore[import-untyped]
from ansible.utils.display import Display  # type: ignore[import-untyped]

try:
    from ansible.parsing.vault import EncryptedString as Vaulted  # type: ignore[import-untyped]
except ImportError:  # ansible-core before 2.19
    from ansible.parsing.yaml.objects import (  # type: ignore[import-untyped]
        AnsibleVaultEncryptedUnicode as Vaulted,
    )

DOCUMENTATION = """
    name: ee_events
    type: notification
    short_description: records events for ee-runner
    description: [Records every event of a run as data for ee-runner which started it; else it does nothing.]
    options: {}
"""

OWN_VARIABLES = (
    "EE_RUNNER_EVENTS_SPOOL",
    "EE_RUNNER_EVENTS_NONCE",
    "EE_RUNNER_OMIT_EVENT_DATA",
    "EE_RUNNER_ONLY_FAILED_EVENT_DATA",
    "EE_RUNNER_HIDDEN_ENV",
    "EE_RUNNER_MAX_RESULT",
    "EE_RUNNER_RESTORE_ENV",
)
DEFAULT_MAX_RESULT = 16 * 1024 * 1024
CENSORED = "the output has been hidden due to the fact that 'no_log: true' was specified for this result"
VAULTED = "ENCRYPTED_VAULT_VALUE"
FAILURES = frozenset(("runner_on_failed", "runner_on_unreachable", "runner_on_async_failed", "runner_item_on_failed"))
MESSAGE_KINDS = (
    ("[WARNING]: ", "warning"),
    ("[DEPRECATION WARNING]: ", "deprecated"),
    ("[DEPRECATED]: ", "deprecated"),
    ("[ERROR]: ", "error"),
    ("ERROR! ", "error"),
)
MAX_DEPTH = 100
# How long a message of another thread waits for an event to end before it is taken for a part of that event's text.
# Unlimited waiting would be a deadlock where a callback joins a thread that wants to say something.
THREAD_PATIENCE = 1.0


class Settings:
    """What the environment asks for."""

    def __init__(self, spool: str, nonce: str, environ: Mapping[str, str]) -> None:
        self.spool = spool
        self.nonce = nonce
        self.omit = environ.get("EE_RUNNER_OMIT_EVENT_DATA") == "1"
        self.only_failed = environ.get("EE_RUNNER_ONLY_FAILED_EVENT_DATA") == "1"
        self.hidden = frozenset(filter(None, environ.get("EE_RUNNER_HIDDEN_ENV", "").split(",")))
        limit = environ.get("EE_RUNNER_MAX_RESULT", "")
        self.max_result = int(limit) if limit.isdigit() else DEFAULT_MAX_RESULT
        self.job_ids = {
            name.lower(): int(environ[name])
            for name in ("JOB_ID", "AD_HOC_COMMAND_ID")
            if environ.get(name, "").isdigit()
        }

    def wants_data(self, event: str) -> bool:
        """Whether the event_data of this event is to be kept."""
        return not self.omit and (not self.only_failed or event in FAILURES)


def take_settings() -> Settings | None:
    """Read the settings and remove them from the environment, so that child processes don't see them."""
    ours = {name: os.environ.pop(name) for name in OWN_VARIABLES if name in os.environ}
    spool, nonce = ours.get("EE_RUNNER_EVENTS_SPOOL"), ours.get("EE_RUNNER_EVENTS_NONCE")
    if not spool or not nonce:
        os.environ.update(ours)
        return None
    here = os.path.realpath(os.path.dirname(__file__))  # noqa: PTH120
    paths = os.environ.get("ANSIBLE_CALLBACK_PLUGINS", "").split(os.pathsep)
    restored: dict[str, str | None] = {
        "ANSIBLE_CALLBACK_PLUGINS": os.pathsep.join(p for p in paths if os.path.realpath(p) != here) or None
    }
    restored.update(json.loads(ours.get("EE_RUNNER_RESTORE_ENV") or "{}"))
    for name, value in restored.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    return Settings(spool, nonce, {**os.environ, **ours})


def has_no_options() -> None:
    """Tell Ansible what it would read from DOCUMENTATION; before 2.19 that means to parse this file once more."""
    with contextlib.suppress(AttributeError):
        C.config.initialize_plugin_configuration_definitions("callback", "ee_events", {})


# Values


def shown(value: Any) -> Any:
    """Give a JSON value for an object that the encoder doesn't know; never decrypts."""
    if isinstance(value, Vaulted):
        return VAULTED
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if not isinstance(value, Iterator):
        with contextlib.suppress(Exception):
            return str(value)
    return f"<{type(value).__name__}>"


def plain(value: Any, depth: int = 0) -> Any:
    """Copy a value into dictionaries, lists and scalars that every JSON parser accepts."""
    if isinstance(value, Vaulted) or value is None or isinstance(value, bool):
        return VAULTED if isinstance(value, Vaulted) else value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):  # Python and JSON parsers limit the digits of an integer
        return int(value) if value.bit_length() < 10_000 else hex(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth >= MAX_DEPTH:
        return f"<{type(value).__name__} nested too deep>"
    if isinstance(value, Mapping):
        return {str(shown(key)): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, depth + 1) for item in value]
    return plain(shown(value), depth + 1)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=shown, separators=(",", ":")).encode


def json_of(value: Any) -> str:
    """Give valid JSON on one line, whatever the value."""
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError):  # odd keys, NaN, a circle, a very deep value
        return _encode(plain(value))


def encoded(value: Any) -> bytes:
    """Encode as one line of valid JSON, whatever the value."""
    return in_bytes(json_of(value))


def in_bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # surrogates: bytes of a managed host that are not UTF-8
        return re.sub("[\ud800-\udfff]", "\ufffd", text).encode()


def cut(value: Any, limit: int) -> Any:
    """Make a plain value fit into about `limit` bytes: the smallest parts are kept whole, the largest are cut."""
    if isinstance(value, str):
        size = len(value.encode("utf-8", "replace"))
        if size <= limit:
            return value
        kept = value.encode("utf-8", "replace")[: max(limit, 0)].decode("utf-8", "ignore")
        return f"{kept}... [ee-runner cut {len(value) - len(kept)} of {len(value)} characters]"
    if not isinstance(value, (dict, list)):
        return value
    items = dict(enumerate(value)) if isinstance(value, list) else value
    sizes = {key: len(encoded(item)) + len(str(key)) + 4 for key, item in items.items()}
    if sum(sizes.values()) <= limit:
        return value
    left, kept_items = limit, {}
    for done, key in enumerate(sorted(items, key=lambda key: sizes[key])):
        share = left // (len(items) - done)
        if share < 64 and sizes[key] > share:
            break
        kept_items[key] = cut(items[key], share) if sizes[key] > share else items[key]
        left -= min(sizes[key], share)
    gone = len(items) - len(kept_items)
    note = f"[ee-runner cut {gone} of {len(items)} elements]"
    if isinstance(value, list):
        return [kept_items[key] for key in sorted(kept_items)] + ([note] if gone else [])
    ordered = {key: kept_items[key] for key in value if key in kept_items}
    return {**ordered, "ee_runner_cut": note} if gone else ordered


# Output


class Spool:
    """The file of records. Others may append to it too: where a record landed is asked after the write."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def append(self, record: bytes) -> int:
        """Append the record as a line and return its offset. Raises OSError if it can't be written whole."""
        line = record + b"\n"
        for _ in range(2):  # after a short write the whole record again: it has to be in one piece
            if os.write(self._fd, line) == len(line):
                return os.lseek(self._fd, 0, os.SEEK_CUR) - len(line)
        raise OSError("the record was written only in part")


class Stream:
    """The marks on standard output, in order with the text around them."""

    def __init__(self, nonce: str) -> None:
        self._prefix = f"\x1b_ee;{nonce};"
        self._boundary = f"{self._prefix}B\x1b\\"
        self.shared = self._stderr_is_stdout()
        self._held = False

    @staticmethod
    def _stderr_is_stdout() -> bool:
        try:
            return os.path.sameopenfile(1, 2)
        except OSError:
            return False

    def boundary(self, *, together: bool) -> None:
        """Say that text from here on belongs to an event.

        `together` says that nothing but Ansible's display writes it: then boundary, text and mark come in one write,
        or as far as the display is about to write elsewhere and says `flush`.
        """
        self._held = together and getattr(sys.stdout, "line_buffering", False)
        if self._held:
            self._flush_lines(False)
        # A pipe of its own needs no flush here: nothing but buffered output goes there.
        self._put(self._boundary, flush=self.shared and not together)

    def mark(self, offset: int, length: int) -> None:
        """Say that the event's text ends here."""
        self._put(f"{self._prefix}E;{offset};{length}\x1b\\", flush=not self._held)
        if self._held:
            self._flush_lines(True)

    def _flush_lines(self, wanted: bool) -> None:
        """Have each line flushed as it ends, or not; what is there is flushed now."""
        stdout: Any = sys.stdout
        try:  # noqa: SIM105 - twice an event, and suppress() takes longer than all of this
            stdout.reconfigure(line_buffering=wanted)
        except (OSError, ValueError):  # as in _put
            pass

    def flush(self) -> None:
        self._put("", flush=True)

    def say(self, message: str) -> None:
        """Show a message of the plugin itself."""
        self._put(f"[ERROR]: ee-runner: {message}\n", flush=True)

    def _put(self, text: str, flush: bool) -> None:
        try:
            sys.stdout.write(text)
            if flush:
                sys.stdout.flush()
        except (OSError, ValueError):  # a reader that is gone is Ansible's to notice: its own output fails as well
            pass


# What is running


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


_random: list[str] = []
_VARIANT = "89ab" * 4


def new_uuid() -> str:
    """Return a random uuid (version 4); the random bits of many are asked of the system at once."""
    if not _random:
        bits = os.urandom(16 * 64).hex()
        _random.extend(bits[start : start + 32] for start in range(0, len(bits), 32))
    bits = _random.pop()
    return f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-{_VARIANT[int(bits[16], 16)]}{bits[17:20]}-{bits[20:]}"


class Scene:
    """The playbook, the play and the task that events belong to."""

    def __init__(self) -> None:
        self.playbook: dict[str, Any] = {}
        self.play: dict[str, Any] = {}
        self.task: dict[str, Any] = {}
        self.adhoc = False
        self.moment = now()
        self.stamp = ""
        self._tasks: dict[str, tuple[dict[str, Any], str]] = {}
        self._begun: dict[tuple[str, str], tuple[datetime.datetime, str]] = {}
        self._used: set[str] = set()

    def unique(self, given: str) -> str:
        """Ansible's own uuid when it is new; a play or task that starts again gets another one."""
        if len(given) != 36 or given in self._used:
            return new_uuid()
        self._used.add(given)
        return given

    def enter_event(self) -> None:
        self.moment = now()
        self.stamp = self.moment.isoformat(timespec="microseconds")

    def enter_playbook(self, file_name: str) -> None:
        self.playbook = {"playbook": file_name, "playbook_uuid": new_uuid()}
        self.adhoc = file_name == "__adhoc_playbook__"
        self.leave_play()

    def enter_play(self, play: Any) -> None:
        self.leave_play()
        hosts = play.hosts
        self.play = {
            "play": play.get_name().strip(),
            "play_uuid": str(play._uuid),
            "play_pattern": hosts if isinstance(hosts, str) else ",".join(str(host) for host in hosts),
        }

    def leave_play(self) -> None:
        self.play, self.task = {}, {}
        self._tasks.clear()
        self._begun.clear()

    def enter_task(self, task: Any) -> None:
        self._tasks.pop(str(task._uuid), None)
        self.task = self._fields(task)

    def place(self) -> str:
        """The fields that say where the run is, as JSON."""
        return json_of({**self.playbook, **self.play, **self.task})

    def place_of(self, task: Any) -> str:
        """The same of a task, named as when it started; the JSON of a task is made once."""
        self._fields(task)
        return self._tasks[str(task._uuid)][1]

    def _fields(self, task: Any) -> dict[str, Any]:
        key = str(task._uuid)
        known = self._tasks.get(key)
        if known is None or C.DISPLAY_ARGS_TO_STDOUT:
            fields = dict(known[0]) if known else self._describe(task)
            if C.DISPLAY_ARGS_TO_STDOUT:
                fields["task_args"] = self._arguments(task)
            known = self._tasks[key] = (fields, json_of({**self.playbook, **self.play, **fields}))
        return known[0]

    @staticmethod
    def _describe(task: Any) -> dict[str, Any]:
        fields = {
            "task": str(task.name or task.action),
            "task_uuid": str(task._uuid),
            "task_action": str(task.action),
            "resolved_action": getattr(task, "resolved_action", None) or str(task.action),
            "task_args": "",
            "task_path": task.get_path() or "",
        }
        role = task._role
        if role is not None:
            name = str(getattr(role, "_role_name", "") or role.get_name())
            if role.get_name() != name:
                fields["resolved_role"] = str(role.get_name())
            fields["role"] = name
        return fields

    @staticmethod
    def _arguments(task: Any) -> str:
        if task.no_log:
            return CENSORED
        return ", ".join(f"{k}={v}" for k, v in plain(task.args).items() if not k.startswith("_ansible_"))

    def host_begins(self, task: Any, host: Any) -> None:
        self._begun[(str(task._uuid), host.get_name())] = (self.moment, self.stamp)

    def host_ends(self, task: Any, host: Any) -> dict[str, Any]:
        """The start, the end and the duration of a task on a host."""
        begun = self._begun.pop((str(task._uuid), host.get_name()), None)
        start, stamp = begun or (self.moment, self.stamp)
        return {"start": stamp, "end": self.stamp, "duration": (self.moment - start).total_seconds()}

    def parent(self) -> str | None:
        """The uuid of the innermost thing that runs."""
        return self.task.get("task_uuid") or self.play.get("play_uuid") or self.playbook.get("playbook_uuid")


# Events


def cleaner() -> tuple[Any, str, Callable[[Any], Any]] | None:
    """Say of which class the results are that Ansible hands to its dispatch, and how it cleans one for a callback.

    The name is that of the method which the dispatch calls for that, empty if it calls none. None says that this
    version of Ansible is not known: then it has to do the cleaning.
    """
    for module, kind, method in (
        (task_result, "_RawTaskResult", "as_callback_task_result"),  # ansible-core 2.19 and 2.20
        (task_result, "TaskResult", "clean_copy"),  # before
    ):
        found = getattr(module, kind, None)
        if hasattr(found, method):
            return found, method, getattr(found, method)
    raw, clean = (getattr(task_queue_manager, name, None) for name in ("HostTaskResult", "CallbackTaskResult"))
    if raw is None or clean is None:
        return None
    return raw, "", lambda result: clean(host=result.host, task=result.task, utr=result.utr)


class Observer:
    """Writes the record and the marks of each event, at the two places where all output passes."""

    def __init__(self, settings: Settings) -> None:
        self.scene = Scene()
        self.stream = Stream(settings.nonce)
        self.spool = Spool(settings.spool)
        self.plugin: CallbackModule | None = None
        self._settings = settings
        self._forked = False
        ids = {**settings.job_ids, "pid": os.getpid()}
        self._ids = "".join(f',"{name}":{number}' for name, number in ids.items())
        self._lock = threading.RLock()
        self._inside = False
        self._record: bytes | None = None
        self._stderr: list[str] = []
        self._message = threading.local()
        self._complained = False
        self._known = 0
        self._own_only = False
        self._cleaner = cleaner()
        self._shared: tuple[Any, Any] | None = None

    @property
    def direct(self) -> bool:
        """Whether events are recorded ahead of Ansible's dispatch, which need not serve the plugin then."""
        return self._cleaner is not None

    def install(self) -> None:
        """Wrap Ansible's dispatch of callbacks and its display, for the rest of the process."""
        os.register_at_fork(after_in_child=self._has_forked)
        TaskQueueManager.send_callback = self._watch_callbacks(TaskQueueManager.send_callback)
        Display.display = self._watch_display(Display.display)
        verbose = "_verbose_display" if "_verbose_display" in vars(Display) else "verbose"
        setattr(Display, verbose, self._watch_verbose(getattr(Display, verbose)))
        Display.system_warning = self._watch_message(Display.system_warning, "system_warning")
        if C.DEFAULT_DEBUG:
            Display.debug = self._watch_message(Display.debug, "debug")
        if hasattr(CallbackBase, "_handle_exception"):
            CallbackBase._handle_exception = hiding_exceptions(CallbackBase._handle_exception)
        if self._settings.hidden:
            BaseFileCacheModule.set = hiding_variables(BaseFileCacheModule.set, self._settings.hidden)
        if self._cleaner is not None and self._cleaner[1]:
            raw, name, clean = self._cleaner
            setattr(raw, name, self._handing_on(clean))

    def _has_forked(self) -> None:
        self._forked = True

    # A forked worker gets the wrapped functions too. It must pass through: its output goes to the parent's queue,
    # and the lock may have been held by another thread at the moment of the fork.

    def _watch_callbacks(self, dispatch: Callable[..., Any]) -> Callable[..., Any]:
        def send_callback(tqm: Any, method_name: str, *args: Any, **kwargs: Any) -> Any:
            if self._forked:
                return dispatch(tqm, method_name, *args, **kwargs)
            with self._lock:
                self._begin(together=self._is_ansibles_own(tqm))
                record = None
                try:
                    record = self._described(method_name, args, kwargs)
                    return dispatch(tqm, method_name, *args, **kwargs)
                finally:
                    self._finish(record or self._record)

        return send_callback

    def _is_ansibles_own(self, tqm: Any) -> bool:
        """Whether no callback but Ansible's own is served; these write by way of Ansible's display alone."""
        if len(tqm._callback_plugins) != self._known:
            self._known = len(tqm._callback_plugins)
            plugins = (getattr(tqm, "_stdout_callback", None), *tqm._callback_plugins)
            here = os.path.dirname(callback.__file__)  # noqa: PTH120
            files = [sys.modules[type(p).__module__].__file__ for p in plugins if p not in (None, self.plugin)]
            self._own_only = all(os.path.dirname(file or "") == here for file in files)  # noqa: PTH120
        return self._own_only

    def _described(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
        """Give the record of a callback, if there is one and it can be told before the dispatch."""
        method = RECORDED.get(name) if self.direct else None
        if method is None:
            return None
        for arg in args:
            if isinstance(arg, Task) and arg.implicit:  # callbacks are not shown implicit tasks
                return None
        method(self.plugin, *args, **kwargs)
        record, self._record = self._record, None
        return record

    def cleaned(self, result: Any) -> Any:
        """Give the result as a callback may see it; the callback that is served first is handed the same."""
        if self._cleaner is None or not isinstance(result, self._cleaner[0]):
            return result
        clean = self._cleaner[2](result)
        self._shared = (result, clean)
        return clean

    def _handing_on(self, clean: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Spare the dispatch one cleaning: the record is encoded by then, and nothing else holds on to its result."""

        def cleaning(result: Any) -> Any:
            shared, self._shared = self._shared, None
            return shared[1] if shared is not None and shared[0] is result else clean(result)

        return cleaning

    def _watch_display(self, display: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(screen: Any, msg: str, *args: Any, **kwargs: Any) -> Any:
            if self._forked or not self._lock.acquire(timeout=THREAD_PATIENCE):
                return display(screen, msg, *args, **kwargs)
            try:
                if self._inside and len(args) < 2 and not kwargs.get("stderr"):
                    return display(screen, msg, *args, **kwargs)
                return self._display(display, screen, msg, args, kwargs)
            finally:
                self._lock.release()

        wrapped.__name__ = display.__name__
        return wrapped

    def _display(self, display: Callable[..., Any], screen: Any, msg: str, args: Any, kwargs: Any) -> Any:
        names = ("color", "stderr", "screen_only", "log_only", "newline")
        given = {**dict(zip(names, args)), **kwargs}  # noqa: B905 - no strict= before Python 3.10
        if given.get("log_only"):
            return display(screen, msg, *args, **kwargs)
        if given.get("stderr") and not self.stream.shared:
            whole = str(msg).endswith("\n") or not given.get("newline", True)
            self._stderr.append(str(msg) if whole else f"{msg}\n")
        with contextlib.nullcontext() if self._inside else self._event(str(msg)):
            if given.get("stderr") and self.stream.shared:
                self.stream.flush()
            try:
                return display(screen, msg, *args, **kwargs)
            finally:
                if given.get("stderr") and not given.get("newline", True):
                    sys.stderr.flush()  # whole lines flush themselves

    def _watch_verbose(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(screen: Any, msg: str, host: Any = None, caplevel: int = 2) -> Any:
            if self._forked or screen.verbosity <= caplevel:
                return method(screen, msg, host=host, caplevel=caplevel)
            with self._describing({"verbose": True, "verbosity": caplevel + 1}):
                return method(screen, msg, host=host, caplevel=caplevel)

        wrapped.__name__ = method.__name__
        return wrapped

    def _watch_message(self, method: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def wrapped(screen: Any, msg: str, *args: Any, **kwargs: Any) -> Any:
            if self._forked:
                return method(screen, msg, *args, **kwargs)
            with self._describing({kind: True}):
                return method(screen, msg, *args, **kwargs)

        wrapped.__name__ = method.__name__
        return wrapped

    @contextlib.contextmanager
    def _describing(self, message: dict[str, Any]) -> Iterator[None]:
        self._message.fields = message
        try:
            yield
        finally:
            self._message.fields = {}

    @contextlib.contextmanager
    def _event(self, message: str) -> Iterator[None]:
        self._begin(together=True)
        self.message(message)
        try:
            yield
        finally:
            self._finish(self._record)

    def _begin(self, *, together: bool) -> None:
        self._inside = True
        self._record = None
        self.scene.enter_event()
        self.stream.boundary(together=together)

    def _finish(self, record: bytes | None) -> None:
        self._inside = False
        self._record = self._shared = None
        said, self._stderr = self._stderr, []
        if record is None:  # a callback that gives no event, such as that of an implicit task
            self.stream.mark(0, 0)
            return
        try:
            if said:
                text = cut("".join(said), self._settings.max_result)
                record = record[:-1] + b',"stdout":' + encoded(text) + b"}"
            self.stream.mark(self.spool.append(record), len(record))
        except Exception as error:
            self._complain(error)
            self.stream.mark(0, 0)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            self.stream.say(f"an event could not be recorded, perhaps more: {error}")

    # Records

    def record(
        self,
        event: str,
        data: Callable[[], dict[str, Any]],
        *,
        place: str = "{}",
        own_uuid: str | None = None,
        parent: str | None = None,
        **more: Any,
    ) -> None:
        """Keep the record of the event that is going on, for its end.

        `data` is called only if it is wanted; `place` is JSON of an object with other keys, to come before.
        """
        identity = own_uuid or new_uuid()
        head = f'{{"uuid":"{identity}","event":"{event}"{self._ids},"created":"{self.scene.stamp}"'
        if parent:
            head += f',"parent_uuid":"{parent}"'
        for name, value in more.items():
            head += f',"{name}":{json_of(value)}'
        if not self._settings.wants_data(event):
            self._record = in_bytes(head + ',"event_data":{}}')
            return
        try:
            self._record = self._line(head, place, {**data(), "uuid": identity})
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            self._record = self._line(head, "{}", {"ee_runner_error": problem, "uuid": identity})

    def _line(self, head: str, place: str, data: dict[str, Any]) -> bytes:
        inner = json_of(data)
        line = in_bytes(f'{head},"event_data":{inner if place == "{}" else f"{place[:-1]},{inner[1:]}"}}}')
        limit = self._settings.max_result
        if len(line) <= limit:
            return line
        fitting = cut(plain({**json.loads(place), **data}), limit)
        fitting["ee_runner_cut"] = f"{len(line)} bytes, cut to about {limit}"
        return in_bytes(f'{head},"event_data":{json_of(fitting)}}}')

    def message(self, msg: str) -> None:
        """Record a message that belongs to no callback."""
        said = dict(getattr(self._message, "fields", {}))
        kind = next((kind for prefix, kind in MESSAGE_KINDS if msg.lstrip().startswith(prefix)), None)
        event = kind or ("debug" if "debug" in said else "verbose")
        if kind:
            said[kind] = True
        more = {"verbosity": said.pop("verbosity")} if "verbosity" in said else {}
        self.record(event, lambda: said, place=self.scene.place(), parent=self.scene.parent(), **more)


SETTINGS = take_settings()
if SETTINGS is not None:
    has_no_options()
_observers: list[Observer] = []


def observer() -> Observer | None:
    """The one observer of the process, installed when it is first asked for."""
    if SETTINGS is None:
        return None
    if not _observers:
        try:
            watching = Observer(SETTINGS)
        except OSError as error:
            Stream(SETTINGS.nonce).say(f"no events can be recorded: {error}")
            return None
        watching.install()
        _observers.append(watching)
        leave_garbage(watching.spool.fileno())
    return _observers[0]


# The garbage collector


def leave_garbage(own: int) -> None:
    """Keep the collector from walking what is there by now, and at the end of the process everything.

    Ansible has tens of thousands of objects by now, nearly all of them for good. Python's last collections walk them
    to find circles whose end could still do something. The language promises no such end; where it could matter to a
    file that was never closed, see `may_hold_output`, the collections take place all the same. `own` is a descriptor
    that holds nothing back.
    """
    freeze = getattr(gc, "freeze", None)  # PyPy has none
    if freeze is None:
        return

    def end() -> None:
        gc.unfreeze()
        if not may_hold_output(own):
            freeze()

    freeze()
    # In this process only, and after its children have been waited for: they are readers of its pipes.
    Finalize(None, end, exitpriority=-1)


def may_hold_output(own: int) -> bool:
    """Whether a descriptor, besides the standard ones and `own`, still leads to a file or to another process."""
    try:
        others = [fd for fd in map(int, os.listdir("/dev/fd")) if fd > 2 and fd != own]  # noqa: PTH208
    except (OSError, ValueError):
        return True
    read: set[int] = set()
    written: set[int] = set()
    for descriptor in others:
        try:
            access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
            status = os.fstat(descriptor)
            pipe = stat.S_ISFIFO(status.st_mode)
            if access == os.O_RDONLY:
                read.update({status.st_ino} if pipe else ())
            elif leads_somewhere(descriptor, status):
                if not pipe:
                    return True
                written.add(status.st_ino)
        except OSError:  # that of the listing is closed
            continue
    return not written <= read  # Ansible holds both ends of some pipes


def leads_somewhere(descriptor: int, status: os.stat_result) -> bool:
    """Whether what is written to this descriptor stays somewhere or reaches anybody."""
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        return status.st_nlink > 0
    if kind == stat.S_IFIFO:
        poll = select.poll()
        poll.register(descriptor, 0)
        return not any(event & select.POLLERR for _, event in poll.poll(0))
    if kind == stat.S_IFSOCK:
        with socket.socket(fileno=os.dup(descriptor)) as other:
            return not other.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if kind == stat.S_IFCHR:
        return status.st_rdev != os.stat(os.devnull).st_rdev  # noqa: PTH116
    return kind != 0  # of the kernel's own kind, such as an epoll


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """The callbacks of Ansible, each giving one record."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "ee_events"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self) -> None:
        super().__init__()
        watching = observer()
        if watching is not None:
            self._observer = watching
            self._scene = watching.scene
            watching.plugin = self
        self.disabled = watching is None or watching.direct

    # Playbook, play, task

    def v2_playbook_on_start(self, playbook: Any) -> None:
        scene = self._scene
        scene.enter_playbook(str(playbook._file_name))
        self._observer.record(
            "playbook_on_start", lambda: {}, place=scene.place(), own_uuid=scene.playbook["playbook_uuid"]
        )

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if self._scene.adhoc:
            return
        self._scene.enter_play(play)
        fields = self._scene.play
        self._note(
            "playbook_on_play_start",
            {"name": fields["play"], "pattern": fields["play_pattern"]},
            own_uuid=self._scene.unique(fields["play_uuid"]),
            parent=self._scene.playbook.get("playbook_uuid"),
        )

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._task_start(task, bool(is_conditional))

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._task_start(task, True)

    def _task_start(self, task: Any, is_conditional: bool) -> None:
        if self._scene.adhoc:
            return
        self._scene.enter_task(task)
        self._note(
            "playbook_on_task_start",
            {"name": task.get_name().strip(), "is_conditional": is_conditional},
            own_uuid=self._scene.unique(self._scene.task["task_uuid"]),
            parent=self._scene.play.get("play_uuid"),
        )

    def v2_playbook_on_include(self, included_file: Any) -> None:
        self._note("playbook_on_include", {"included_file": included_file._filename})

    def v2_playbook_on_notify(self, handler: Any, host: Any) -> None:
        self._note("playbook_on_notify", {"host": str(host), "handler": handler.get_name()})

    def v2_playbook_on_no_hosts_matched(self) -> None:
        self._note("playbook_on_no_hosts_matched", {})

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        self._note("playbook_on_no_hosts_remaining", {})

    def v2_playbook_on_vars_prompt(self, varname: str, private: bool = True, *args: Any, **kwargs: Any) -> None:
        names = ("prompt", "encrypt", "confirm", "salt_size", "salt", "default", "unsafe")
        asked = {**dict.fromkeys(names), **dict(zip(names, args)), **kwargs}  # noqa: B905 - as above
        if private:
            asked.update({name: CENSORED for name in ("salt", "default") if asked[name] is not None})
        self._scene.leave_play()
        self._note("playbook_on_vars_prompt", {"varname": varname, "private": private, **asked})

    def v2_playbook_on_stats(self, stats: Any) -> None:
        names = ("changed", "dark", "failures", "ignored", "ok", "processed", "rescued", "skipped")
        custom = dict(stats.custom)
        data: dict[str, Any] = {name: dict(getattr(stats, name)) for name in names}
        data["artifact_data"] = custom.pop("_run", {})
        if custom:
            data["custom"] = custom
        self._scene.leave_play()
        self._note("playbook_on_stats", data)

    def _note(self, event: str, data: dict[str, Any], **identity: Any) -> None:
        identity.setdefault("parent", self._scene.parent())
        self._observer.record(event, lambda: data, place=self._scene.place(), **identity)

    # Results

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self._scene.host_begins(task, host)
        self._of_task("runner_on_start", task, lambda: {"host": host.get_name()})

    def v2_runner_on_ok(self, result: Any) -> None:
        self._ended("runner_on_ok", result, lambda r: {"event_loop": event_loop(r)})

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._ended("runner_on_skipped", result, lambda r: {"event_loop": event_loop(r)}, with_result=False)

    def v2_runner_on_failed(self, result: Any, ignore_errors: Any = None) -> None:
        self._ended("runner_on_failed", result, lambda r: {"ignore_errors": ignore_errors, "event_loop": event_loop(r)})

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._ended("runner_on_unreachable", result, lambda _: {})

    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._during("runner_item_on_ok", result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        self._during("runner_item_on_failed", result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        self._during("runner_item_on_skipped", result)

    def v2_runner_retry(self, result: Any) -> None:
        self._during("runner_retry", result, keep=("changed", "retries", "attempts"))

    def v2_runner_on_async_poll(self, result: Any) -> None:
        self._async("runner_on_async_poll", result)

    def v2_runner_on_async_ok(self, result: Any) -> None:
        self._async("runner_on_async_ok", result)

    def v2_runner_on_async_failed(self, result: Any) -> None:
        self._async("runner_on_async_failed", result)

    def v2_on_file_diff(self, result: Any) -> None:
        def data() -> dict[str, Any]:
            return {"host": host_of(result).get_name(), "diff": self._result(result).get("diff")}

        self._of_task("runner_on_file_diff", task_of(result), data)

    def _of_task(self, event: str, task: Any, data: Callable[[], dict[str, Any]]) -> None:
        self._observer.record(event, data, place=self._scene.place_of(task), parent=str(task._uuid))

    def _ended(self, event: str, result: Any, more: Callable[[Any], dict[str, Any]], with_result: bool = True) -> None:
        host, task = host_of(result), task_of(result)
        times = self._scene.host_ends(task, host)

        def data() -> dict[str, Any]:
            res = {"res": self._result(result)} if with_result else {}
            return {"host": host.get_name(), "remote_addr": host.address, **res, **times, **more(result)}

        self._of_task(event, task, data)

    def _during(self, event: str, result: Any, keep: tuple[str, ...] = ()) -> None:
        def data() -> dict[str, Any]:
            return {"host": host_of(result).get_name(), "res": self._result(result, keep)}

        self._of_task(event, task_of(result), data)

    def _async(self, event: str, result: Any) -> None:
        def data() -> dict[str, Any]:
            res = self._result(result, keep=("changed",))
            job = res.get("ansible_job_id") or res.get("async_result", {}).get("ansible_job_id")
            return {"host": host_of(result).get_name(), "res": res, "jid": job}

        self._of_task(event, task_of(result), data)

    def _result(self, result: Any, keep: tuple[str, ...] = ()) -> dict[str, Any]:
        return result_of(self._observer.cleaned(result), keep)


ODD_NAMES = {
    "v2_on_file_diff": "runner_on_file_diff",
    "v2_playbook_on_handler_task_start": "playbook_on_task_start",
}


def guarded(name: str, method: Callable[..., None]) -> Callable[..., None]:
    """Make a callback that can't disturb the play: what goes wrong is said in its event."""

    def record(self: CallbackModule, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            event = ODD_NAMES.get(name, name[len("v2_") :])
            self._observer.record(event, lambda: {"ee_runner_error": problem})

    return record


RECORDED = {name: guarded(name, method) for name, method in vars(CallbackModule).items() if name.startswith("v2_")}
"""The callbacks that give a record."""

for _name, _method in RECORDED.items():
    setattr(CallbackModule, _name, _method)


# Task results: ansible-core 2.19 made the attributes public, 2.23 takes the private names away.


def host_of(result: Any) -> Any:
    try:
        return result.host
    except AttributeError:
        return result._host


def task_of(result: Any) -> Any:
    try:
        return result.task
    except AttributeError:
        return result._task


def data_of(result: Any) -> Any:
    try:
        return result.result
    except AttributeError:
        return result._result


def event_loop(result: Any) -> Any:
    return getattr(task_of(result), "loop_with", None)


def result_of(result: Any, keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """The result as callbacks may see it; of a hidden one only that it is hidden, and the keys to keep."""
    res: dict[str, Any] = data_of(result)
    if task_of(result).no_log or res.get("_ansible_no_log"):
        return {**{key: res[key] for key in keep if key in res}, "censored": CENSORED}
    items = res.get("results")
    if isinstance(items, list):
        return {**res, "results": [shown_item(item) for item in items]}
    return without_env(res)


def shown_item(item: Any) -> Any:
    if is_hidden(item):
        return {"censored": CENSORED}
    return without_env(item) if isinstance(item, dict) else item


def without_env(res: dict[str, Any]) -> dict[str, Any]:
    """Leave the environment out of gathered facts: it is where secrets are handed over."""
    facts = res.get("ansible_facts")
    if not isinstance(facts, dict) or "ansible_env" not in facts:
        return res
    return {**res, "ansible_facts": {name: value for name, value in facts.items() if name != "ansible_env"}}


def hiding_exceptions(handle: Callable[..., Any]) -> Callable[..., Any]:
    """Keep callbacks from printing why a hidden task failed: ansible-core 2.19 leaves that in its result."""

    def handle_exception(callback: Any, result: Any, *args: Any, **kwargs: Any) -> Any:
        current = getattr(callback, "_current_task_result", None)
        if is_hidden(result) or (current is not None and task_of(current).no_log is True):
            result.pop("exception", None)
            return None
        return handle(callback, result, *args, **kwargs)

    return handle_exception


def hiding_variables(keep: Callable[..., Any], hidden: frozenset[str]) -> Callable[..., Any]:
    """Keep the values of these variables out of the files of a fact cache; plays still see them."""

    def set_facts(cache: Any, key: str, value: Any) -> None:
        keep(cache, key, without_values(value, hidden))
        cache._cache[key] = value

    return set_facts


def without_values(facts: Any, hidden: frozenset[str]) -> Any:
    """Return facts with the values of these variables masked; ansible-core 2.19 hands them over as a text of JSON."""
    if not isinstance(facts, dict):
        return facts
    if set(facts) == {"__payload__"}:
        return {"__payload__": json.dumps(without_values(json.loads(facts["__payload__"]), hidden))}
    environment = facts.get("ansible_env")
    if not isinstance(environment, dict) or hidden.isdisjoint(environment):
        return facts
    masked = {name: "********" if name in hidden else text for name, text in environment.items()}
    return {**facts, "ansible_env": masked}


def is_hidden(item: Any) -> bool:
    return isinstance(item, dict) and bool(item.get("_ansible_no_log"))
