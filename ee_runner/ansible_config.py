"""Ansible's own configuration, as far as it names host paths: the ansible.cfg in force and the ANSIBLE_* variables."""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path

from ee_runner.values import dataclass


class Form(Enum):
    """How Ansible splits a value into paths."""

    ONE = ""
    COLONS = ":"
    COMMAS = ","
    VAULT_IDS = "label@source, ..."


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting that names paths: its keys in ``[defaults]`` and its environment variables, both with their aliases."""

    keys: tuple[str, ...]
    variables: tuple[str, ...]
    form: Form


@dataclass(frozen=True, slots=True)
class Value:
    """What a setting is set to: absolute host paths, and `text`, which says the same wherever HOME or the cwd are."""

    setting: Setting
    origin: str
    paths: tuple[Path, ...]
    text: str
    portable: bool


def _setting(key: str, form: Form, *aliases: str) -> Setting:
    keys = (key, *aliases)
    return Setting(keys, tuple(f"ANSIBLE_{name.upper()}" for name in keys), form)


_PLUGINS = (
    *("action", "become", "cache", "callback", "cliconf", "connection", "doc_fragment", "filter", "httpapi"),
    *("inventory", "lookup", "netconf", "strategy", "terminal", "test", "vars"),
)

SETTINGS = (
    _setting("inventory", Form.COMMAS),
    _setting("roles_path", Form.COLONS),
    _setting("collections_path", Form.COLONS, "collections_paths"),
    _setting("library", Form.COLONS),
    _setting("module_utils", Form.COLONS),
    *(_setting(f"{plugin}_plugins", Form.COLONS) for plugin in _PLUGINS),
    _setting("vault_password_file", Form.ONE),
    _setting("vault_identity_list", Form.VAULT_IDS),
    _setting("private_key_file", Form.ONE),
    _setting("become_password_file", Form.ONE),
    _setting("connection_password_file", Form.ONE),
    _setting("playbook_dir", Form.ONE),
    _setting("log_path", Form.ONE),
)

_VARIABLE = r"(?a)\$(?:(\w+)|\{([^}]*)\})"


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Return a path with ``$NAME``, ``${NAME}``, ``~`` and ``~user`` replaced as Ansible on the host would."""
    if "$" in text:
        text = re.sub(_VARIABLE, lambda found: environ.get(found[1] or found[2] or "", found[0]), text)
    if not text.startswith("~"):
        return text
    user, slash, rest = text[1:].partition("/")
    found = home(environ) if not user else _home_of(user)
    return f"{found}{slash}{rest}" if found else text


def absolute(text: str, *, base: Path, environ: Mapping[str, str]) -> Path:
    """Return the path that Ansible on the host would take `text` for, symbolic links left in place."""
    return Path(os.path.normpath(base / expand(text, environ)))


def home(environ: Mapping[str, str]) -> Path | None:
    """Return the caller's home directory: HOME, or what the user database says, or None."""
    if environ.get("HOME"):
        return Path(environ["HOME"])
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def config_file(*, cwd: Path, environ: Mapping[str, str]) -> Path | None:
    """Return the ansible.cfg in force on the host, or None.

    As in Ansible: ANSIBLE_CONFIG (a file, or a directory that holds one), `cwd` unless all the world may write to it,
    the home directory; the first that can be read. The host's /etc/ansible/ansible.cfg is left out: an execution
    environment has its own.
    """
    return next((path for path in _candidates(cwd, environ) if os.access(path, os.R_OK)), None)


def config_environment(*, cwd: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what must be set inside so that the ansible.cfg in force means there what it means on the host.

    ANSIBLE_CONFIG when the file is the one of the home directory, which is another one inside, and the variables of
    settings whose values lean on HOME or on other variables of the caller. It goes beneath `environment`'s.
    """
    config = config_file(cwd=cwd, environ=environ)
    if config is None:
        return {}
    settings = {
        value.setting.variables[0]: value.text
        for value in _from_file(config, cwd, environ)
        if not value.portable and not any(name in environ for name in value.setting.variables)
    }
    if config != cwd / "ansible.cfg":
        settings["ANSIBLE_CONFIG"] = str(config)
    return settings


def values(*, cwd: Path, environ: Mapping[str, str]) -> tuple[Value, ...]:
    """Return the settings in force that name paths: the environment's, then those that only ansible.cfg has.

    Paths of the file are relative to its directory (those of ``vault_identity_list`` to `cwd`), paths of the
    environment to `cwd`. A file that Ansible can not parse has no values here; Ansible will say so.
    """
    found = list(_from_environment(cwd, environ))
    config = config_file(cwd=cwd, environ=environ)
    if config is not None:
        taken = {value.setting for value in found}
        found += [value for value in _from_file(config, cwd, environ) if value.setting not in taken]
    return tuple(found)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the caller that go into the container when the Ansible commands are emulated.

    All of Ansible's, with ``~`` in its path settings already replaced; the terminal's and the time zone; the
    proxies', which the network asks for; and what makes output and files reproducible. The locale is the image's:
    Ansible does not start with one that the image lacks. Credentials of other tools stay outside: name them in
    env/envvars.
    """
    chosen = {name: text for name, text in environ.items() if _forwarded(name)}
    for setting in SETTINGS:
        for name in chosen.keys() & set(setting.variables):
            pieces = _split(setting.form, chosen[name])
            chosen[name] = _join(setting.form, [(label, expand(path, environ)) for label, path in pieces])
    if "ANSIBLE_CONFIG" in chosen:
        chosen["ANSIBLE_CONFIG"] = expand(chosen["ANSIBLE_CONFIG"], environ)
    return chosen


_FORWARDED = {
    *("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "TZ", "SOURCE_DATE_EPOCH"),
    *("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"),
}


def _forwarded(name: str) -> bool:
    return name in _FORWARDED or name.startswith("ANSIBLE_")


def _candidates(cwd: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    if "ANSIBLE_CONFIG" in environ:
        named = absolute(environ["ANSIBLE_CONFIG"], base=cwd, environ=environ)
        yield named / "ansible.cfg" if _is_directory(named) else named
    if not _world_writable(cwd):
        yield cwd / "ansible.cfg"
    found = home(environ)
    if found is not None:
        yield found / ".ansible.cfg"


def _from_environment(cwd: Path, environ: Mapping[str, str]) -> Iterator[Value]:
    for setting in SETTINGS:
        for name in setting.variables:
            if name in environ:
                yield _value(setting, name, environ[name], base=cwd, cwd=cwd, environ=environ)


def _from_file(config: Path, cwd: Path, environ: Mapping[str, str]) -> Iterator[Value]:
    import configparser  # most jobs have no ansible.cfg

    parser = configparser.ConfigParser(inline_comment_prefixes=(";",))
    try:
        parser.read_string(config.read_text(encoding="utf-8"))
    except (configparser.Error, UnicodeDecodeError, OSError):
        return
    for setting in SETTINGS:
        for key in setting.keys:
            text = parser.get("defaults", key, raw=True, fallback=None)
            if text:
                base = cwd if setting.form is Form.VAULT_IDS else config.parent
                yield _value(setting, f"{key} in {config}", text, base=base, cwd=cwd, environ=environ)


def _value(setting: Setting, origin: str, text: str, *, base: Path, cwd: Path, environ: Mapping[str, str]) -> Value:
    resolved: list[tuple[str, str]] = []
    paths: list[Path] = []
    portable = True
    for label, piece in _split(setting.form, text):
        piece = piece.replace("{{CWD}}", str(cwd))
        if setting.form is Form.VAULT_IDS and piece in ("prompt", "prompt_ask_vault_pass"):
            resolved.append((label, piece))
            continue
        portable = portable and expand(piece, environ) == piece
        path = absolute(piece, base=base, environ=environ)
        resolved.append((label, str(path)))
        paths.append(path)
    return Value(setting, origin, tuple(paths), _join(setting.form, resolved), portable)


def _split(form: Form, text: str) -> list[tuple[str, str]]:
    """Return the paths in a value, each with the label (``name@``) before it."""
    if form is Form.ONE:
        return [("", text)] if text else []
    if form is not Form.VAULT_IDS:
        return [("", piece.strip()) for piece in text.split(form.value) if piece.strip()]
    identities = [piece.strip().strip("'\"") for piece in text.split(",") if piece.strip()]
    return [_labelled(identity) for identity in identities]


def _labelled(identity: str) -> tuple[str, str]:
    label, at, source = identity.partition("@")
    return (label + at, source) if at else ("", identity)


def _join(form: Form, pieces: list[tuple[str, str]]) -> str:
    separator = ":" if form is Form.COLONS else ","
    return separator.join(label + path for label, path in pieces)


def _world_writable(directory: Path) -> bool:
    try:
        return bool(directory.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return True


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def _home_of(user: str) -> Path | None:
    try:
        return Path(pwd.getpwnam(user).pw_dir)
    except KeyError:
        return None
