"""Ansible callback plugin: one structured record for each event, beside whatever the user's callbacks print.

The user's stdout callback, and every other callback, stays as it is. Ansible's dispatch hands this plugin the same
cleaned results that it hands to any callback. For each event the plugin appends one JSON line to a spool file, and
puts two short escape sequences on the terminal stream, which terminals ignore: a boundary before the event's own
text, and after it a mark with the place of the record in the spool. Both carry a random nonce, so that output of a
managed host can't forge them:

    ESC _ ee;<nonce>;B ESC \\                      boundary: an event starts here
    ESC _ ee;<nonce>;E;<offset>;<length> ESC \\    mark: the event ends here, and this is its record; with
                                                 length 0 there is none, and the text belongs to no event

This file runs wherever Ansible runs, alone: the standard library and ansible only, Python 3.8 and newer. It is
configured by environment variables, which are taken out of the environment when the plugin is imported, so that an
ansible-playbook started by a task is not observed. Without them the plugin does nothing.

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
import json
import math
import os
import re
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible import constants as C  # type: ignore[import-untyped]  # noqa: N812
from ansible.executor.task_queue_manager import TaskQueueManager  # type: ignore[import-untyped]
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
    description:
      - Records every event of a run as structured data, without taking over the output.
      - Does nothing unless ee-runner has started the command.
    author: ee-runner contributors
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


def encoded(value: Any) -> bytes:
    """Encode as one line of valid JSON, whatever the value."""
    try:
        text = _encode(value)
    except (TypeError, ValueError, RecursionError):  # odd keys, NaN, a circle, a very deep value
        text = _encode(plain(value))
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
        self.shared = self._stderr_is_stdout()

    @staticmethod
    def _stderr_is_stdout() -> bool:
        try:
            return os.path.sameopenfile(1, 2)
        except OSError:
            return False

    def boundary(self) -> None:
        """Say that text from here on belongs to an event."""
        # A pipe of its own needs no flush here: nothing but buffered output goes there.
        self._put(f"{self._prefix}B\x1b\\", flush=self.shared)

    def mark(self, offset: int, length: int) -> None:
        """Say that the event's text ends here."""
        self._put(f"{self._prefix}E;{offset};{length}\x1b\\", flush=True)

    def say(self, message: str) -> None:
        """Show a message of the plugin itself."""
        self._put(f"[ERROR]: ee-runner: {message}\n", flush=True)

    def _put(self, text: str, flush: bool) -> None:
        # A reader that is gone is Ansible's to notice: its own output fails in the same way.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(text)
            if flush:
                sys.stdout.flush()


# What is running


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def iso(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="microseconds")


class Scene:
    """The playbook, the play and the task that events belong to."""

    def __init__(self) -> None:
        self.playbook: dict[str, Any] = {}
        self.play: dict[str, Any] = {}
        self.task: dict[str, Any] = {}
        self.adhoc = False
        self._tasks: dict[str, dict[str, Any]] = {}
        self._begun: dict[tuple[str, str], datetime.datetime] = {}
        self._used: set[str] = set()

    def unique(self, given: str) -> str:
        """Ansible's own uuid when it is new; a play or task that starts again gets another one."""
        if len(given) != 36 or given in self._used:
            return str(uuid.uuid4())
        self._used.add(given)
        return given

    def enter_playbook(self, file_name: str) -> None:
        self.playbook = {"playbook": file_name, "playbook_uuid": str(uuid.uuid4())}
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
        self.task = self.of_task(task)

    def of_task(self, task: Any) -> dict[str, Any]:
        """The fields of a task, named as when it started."""
        key = str(task._uuid)
        if key not in self._tasks:
            self._tasks[key] = self._describe(task)
        fields = self._tasks[key]
        if C.DISPLAY_ARGS_TO_STDOUT:
            fields = {**fields, "task_args": self._arguments(task)}
        return fields

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
        self._begun[(str(task._uuid), host.get_name())] = now()

    def host_ends(self, task: Any, host: Any) -> dict[str, Any]:
        """The start, the end and the duration of a task on a host."""
        end = now()
        start = self._begun.pop((str(task._uuid), host.get_name()), end)
        return {"start": iso(start), "end": iso(end), "duration": (end - start).total_seconds()}

    def parent(self) -> str | None:
        """The uuid of the innermost thing that runs."""
        return self.task.get("task_uuid") or self.play.get("play_uuid") or self.playbook.get("playbook_uuid")


# Events


class Observer:
    """Writes the record and the marks of each event, at the two places where all output passes."""

    def __init__(self, settings: Settings) -> None:
        self.scene = Scene()
        self.stream = Stream(settings.nonce)
        self._settings = settings
        self._spool = Spool(settings.spool)
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._inside = False
        self._record: dict[str, Any] | None = None
        self._stderr: list[str] = []
        self._message = threading.local()
        self._complained = False

    def install(self) -> None:
        """Wrap Ansible's dispatch of callbacks and its display, for the rest of the process."""
        TaskQueueManager.send_callback = self._watch_callbacks(TaskQueueManager.send_callback)
        Display.display = self._watch_display(Display.display)
        verbose = "_verbose_display" if "_verbose_display" in vars(Display) else "verbose"
        setattr(Display, verbose, self._watch_verbose(getattr(Display, verbose)))
        Display.system_warning = self._watch_message(Display.system_warning, "system_warning")
        Display.debug = self._watch_message(Display.debug, "debug")
        if hasattr(CallbackBase, "_handle_exception"):
            CallbackBase._handle_exception = hiding_exceptions(CallbackBase._handle_exception)
        if self._settings.hidden:
            BaseFileCacheModule.set = hiding_variables(BaseFileCacheModule.set, self._settings.hidden)

    # A forked worker gets the wrapped functions too. It must pass through: its output goes to the parent's queue,
    # and the lock may have been held by another thread at the moment of the fork.

    def _watch_callbacks(self, dispatch: Callable[..., Any]) -> Callable[..., Any]:
        def send_callback(tqm: Any, method_name: str, *args: Any, **kwargs: Any) -> Any:
            if os.getpid() != self._pid:
                return dispatch(tqm, method_name, *args, **kwargs)
            with self._lock, self._event():
                return dispatch(tqm, method_name, *args, **kwargs)

        return send_callback

    def _watch_display(self, display: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(screen: Any, msg: str, *args: Any, **kwargs: Any) -> Any:
            if os.getpid() != self._pid or not self._lock.acquire(timeout=THREAD_PATIENCE):
                return display(screen, msg, *args, **kwargs)
            try:
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
            try:
                return display(screen, msg, *args, **kwargs)
            finally:
                if given.get("stderr") and not given.get("newline", True):
                    sys.stderr.flush()  # whole lines flush themselves

    def _watch_verbose(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(screen: Any, msg: str, host: Any = None, caplevel: int = 2) -> Any:
            if os.getpid() != self._pid:
                return method(screen, msg, host=host, caplevel=caplevel)
            with self._describing({"verbose": True, "verbosity": caplevel + 1}):
                return method(screen, msg, host=host, caplevel=caplevel)

        wrapped.__name__ = method.__name__
        return wrapped

    def _watch_message(self, method: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def wrapped(screen: Any, msg: str, *args: Any, **kwargs: Any) -> Any:
            if os.getpid() != self._pid:
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
    def _event(self, message: str | None = None) -> Iterator[None]:
        self._inside = True
        self._record = None
        self.stream.boundary()
        if message is not None:
            self.message(message)
        try:
            yield
        finally:
            self._inside = False
            self._finish()

    def _finish(self) -> None:
        record, self._record = self._record, None
        said, self._stderr = "".join(self._stderr), []
        if record is None:  # a callback that gives no event, such as that of an implicit task
            self.stream.mark(0, 0)
            return
        if said:
            record["stdout"] = said
        try:
            line = self._line(record)
            self.stream.mark(self._spool.append(line), len(line))
        except Exception as error:
            self._complain(error)
            self.stream.mark(0, 0)

    def _line(self, record: dict[str, Any]) -> bytes:
        line = encoded(record)
        limit = self._settings.max_result
        if len(line) <= limit:
            return line
        note = f"{len(line)} bytes, cut to about {limit}"
        data = cut(plain(record["event_data"]), limit)
        said = {"stdout": cut(record["stdout"], limit)} if "stdout" in record else {}
        return encoded({**record, **said, "event_data": {**data, "ee_runner_cut": note}})

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
        own_uuid: str | None = None,
        parent: str | None = None,
        **more: Any,
    ) -> None:
        """Keep the record of the event that is going on, for its end. `data` is called only if it is wanted."""
        identity = own_uuid or str(uuid.uuid4())
        record: dict[str, Any] = {"uuid": identity, "event": event, **self._settings.job_ids}
        record.update(pid=self._pid, created=iso(now()))
        if parent:
            record["parent_uuid"] = parent
        record.update(more)
        record["event_data"] = {}
        if self._settings.wants_data(event):
            try:
                record["event_data"] = {**data(), "uuid": identity}
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                record["event_data"] = {"ee_runner_error": problem, "uuid": identity}
        self._record = record

    def message(self, msg: str) -> None:
        """Record a message that belongs to no callback."""
        said = dict(getattr(self._message, "fields", {}))
        kind = next((kind for prefix, kind in MESSAGE_KINDS if msg.lstrip().startswith(prefix)), None)
        event = kind or ("debug" if "debug" in said else "verbose")
        if kind:
            said[kind] = True
        more = {"verbosity": said.pop("verbosity")} if "verbosity" in said else {}
        self.record(event, lambda: {**self.place(), **said}, parent=self.scene.parent(), **more)

    def place(self) -> dict[str, Any]:
        """The fields that say where the run is."""
        return {**self.scene.playbook, **self.scene.play, **self.scene.task}


SETTINGS = take_settings()
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
    return _observers[0]


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """The callbacks of Ansible, each giving one record."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "ee_events"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self) -> None:
        super().__init__()
        watching = observer()
        self.disabled = watching is None
        if watching is not None:
            self._observer = watching
            self._scene = watching.scene

    # Playbook, play, task

    def v2_playbook_on_start(self, playbook: Any) -> None:
        scene = self._scene
        scene.enter_playbook(str(playbook._file_name))
        self._observer.record(
            "playbook_on_start", lambda: dict(scene.playbook), own_uuid=scene.playbook["playbook_uuid"]
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
        self._observer.record(event, lambda: {**self._observer.place(), **data}, **identity)

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
            return {"host": host_of(result).get_name(), "diff": result_of(result).get("diff")}

        self._of_task("runner_on_file_diff", task_of(result), data)

    def _of_task(self, event: str, task: Any, data: Callable[[], dict[str, Any]]) -> None:
        scene = self._scene
        fields = scene.of_task(task)
        self._observer.record(
            event,
            lambda: {**scene.playbook, **scene.play, **fields, **data()},
            parent=fields["task_uuid"],
        )

    def _ended(self, event: str, result: Any, more: Callable[[Any], dict[str, Any]], with_result: bool = True) -> None:
        host, task = host_of(result), task_of(result)
        times = self._scene.host_ends(task, host)

        def data() -> dict[str, Any]:
            res = {"res": result_of(result)} if with_result else {}
            return {"host": host.get_name(), "remote_addr": host.address, **res, **times, **more(result)}

        self._of_task(event, task, data)

    def _during(self, event: str, result: Any, keep: tuple[str, ...] = ()) -> None:
        def data() -> dict[str, Any]:
            return {"host": host_of(result).get_name(), "res": result_of(result, keep)}

        self._of_task(event, task_of(result), data)

    def _async(self, event: str, result: Any) -> None:
        def data() -> dict[str, Any]:
            res = result_of(result, keep=("changed",))
            job = res.get("ansible_job_id") or res.get("async_result", {}).get("ansible_job_id")
            return {"host": host_of(result).get_name(), "res": res, "jid": job}

        self._of_task(event, task_of(result), data)


ODD_NAMES = {
    "v2_on_file_diff": "runner_on_file_diff",
    "v2_playbook_on_handler_task_start": "playbook_on_task_start",
}


def guarded(name: str, method: Callable[..., None]) -> Callable[..., None]:
    """Make a callback that can't disturb the play: what goes wrong is said in its event."""

    def callback(self: CallbackModule, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            event = ODD_NAMES.get(name, name[len("v2_") :])
            self._observer.record(event, lambda: {"ee_runner_error": problem})

    return callback


for _name in [name for name in vars(CallbackModule) if name.startswith("v2_")]:
    setattr(CallbackModule, _name, guarded(_name, getattr(CallbackModule, _name)))


# Task results: ansible-core 2.19 made the attributes public, 2.23 takes the private names away.


def part_of(result: Any, name: str) -> Any:
    try:
        return getattr(result, name)
    except AttributeError:
        return getattr(result, f"_{name}")


def host_of(result: Any) -> Any:
    return part_of(result, "host")


def task_of(result: Any) -> Any:
    return part_of(result, "task")


def event_loop(result: Any) -> Any:
    return getattr(task_of(result), "loop_with", None)


def result_of(result: Any, keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """The result as callbacks may see it; of a hidden one only that it is hidden, and the keys to keep."""
    res: dict[str, Any] = part_of(result, "result")
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
