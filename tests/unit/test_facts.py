"""The fact cache on disk: the forms of every ansible-core, the newest of them, and nothing outside the directory."""

from __future__ import annotations

import datetime
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ee_runner.errors import ArtifactError, ConfigurationError
from ee_runner.facts import read_facts, write_facts

TAGGED = {
    "text": {
        "value": "abc",
        "tags": [
            {"path": "/play.yml", "line_num": 7, "col_num": 16, "__ansible_type": "Origin"},
            {"__ansible_type": "TrustedAsTemplate"},
        ],
        "__ansible_type": "_AnsibleTaggedStr",
    },
    "list": {
        "value": [
            {"value": 1, "tags": [], "__ansible_type": "_AnsibleTaggedInt"},
            {
                "value": {"žluť": {"value": "kůň", "tags": [], "__ansible_type": "_AnsibleTaggedStr"}},
                "tags": [],
                "__ansible_type": "_AnsibleTaggedDict",
            },
        ],
        "tags": [],
        "__ansible_type": "_AnsibleTaggedList",
    },
    "date": {
        "value": {"iso8601": "2024-01-02", "__ansible_type": "AnsibleSerializableDate"},
        "tags": [],
        "__ansible_type": "_AnsibleTaggedDate",
    },
    "now": {"iso8601": "2024-01-02T03:04:05", "fold": 0, "__ansible_type": "AnsibleSerializableDateTime"},
    "secret": {"value": "$ANSIBLE_VAULT;1.1;AES256\n61", "tags": [], "__ansible_type": "EncryptedString"},
    "known later": {"ciphertext": "kept", "__ansible_type": "Novelty"},
    "none": None,
}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir(mode=0o700)
    return tmp_path / "cache"


def plain(path: Path, facts: object, *, age: int = 0) -> None:
    """Write a file as ansible-core up to 2.18 does."""
    path.write_text(json.dumps(facts))
    os.utime(path, (1_700_000_000 - age,) * 2)


def wrapped(path: Path, facts: object, *, age: int = 0) -> None:
    """Write a file as ansible-core from 2.19 on does."""
    plain(path, {"__payload__": json.dumps(facts)}, age=age)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_without_a_file_or_a_directory_there_are_no_facts(cache: Path) -> None:
    assert read_facts(cache, "web") == {}
    assert read_facts(cache / "missing", "web") == {}
    assert names(cache) == set()


def test_plain_facts_come_back_as_they_are(cache: Path) -> None:
    facts = {"žluť": ["kůň", {"n": 1.5}], "__ansible_type": "mine", "v": {"__ansible_vault": "$ANSIBLE_VAULT"}}
    plain(cache / "web", facts)
    assert read_facts(cache, "web") == facts


def test_tags_are_taken_from_values(cache: Path) -> None:
    wrapped(cache / "s1_web", TAGGED)
    assert read_facts(cache, "web") == {
        "text": "abc",
        "list": [1, {"žluť": "kůň"}],
        "date": "2024-01-02",
        "now": "2024-01-02T03:04:05",
        "secret": {"__ansible_vault": "$ANSIBLE_VAULT;1.1;AES256\n61"},
        "known later": {"ciphertext": "kept", "__ansible_type": "Novelty"},
        "none": None,
    }


def test_the_mark_of_unsafe_text_is_taken_from_plain_facts(cache: Path) -> None:
    plain(cache / "web", {"raw": [{"__ansible_unsafe": "{{ x }}"}]})
    assert read_facts(cache, "web") == {"raw": ["{{ x }}"]}


@pytest.mark.parametrize(("plain_age", "expected"), [(0, "plain"), (20, "wrapped")])
def test_the_newer_form_wins(plain_age: int, expected: str, cache: Path) -> None:
    plain(cache / "web", {"x": "plain"}, age=plain_age)
    wrapped(cache / "s1_web", {"x": "wrapped"}, age=10)
    assert read_facts(cache, "web") == {"x": expected}


@pytest.mark.parametrize(("name", "write"), [("web", plain), ("s1_web", wrapped)])
def test_what_a_job_wrote_wins_over_what_was_written_before_it_whatever_the_clock(
    name: str, write: Callable[..., None], cache: Path
) -> None:
    write_facts(cache, "web", {"x": "ours"})
    write(cache / name, {"x": "the job's"}, age=1_000_000)
    assert read_facts(cache, "web") == {"x": "the job's"}
    write_facts(cache, "web", {"x": "ours again"})
    assert read_facts(cache, "web") == {"x": "ours again"}


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("web..1", "fbd53bedf924"),
        ("a/b", "7c0c47a5cac8"),
        ("<x>", "7787e2a6fb80"),
        ("a-name..longer-than-the-short-hash", "65b7b7f2344e17b8456fe8923345012e1c164"),
    ],
)
def test_shortened_names_are_read_and_the_newest_wins(host: str, name: str, cache: Path) -> None:
    wrapped(cache / name, {"x": "2.21"}, age=10)
    assert read_facts(cache, host) == {"x": "2.21"}
    if "/" not in host:
        wrapped(cache / f"s1_{host}", {"x": "2.20"})
        assert read_facts(cache, host) == {"x": "2.20"}


@pytest.mark.parametrize(("removed", "left"), [("web", "s1_web"), ("s1_web", "web")])
def test_facts_that_ansible_cleared_do_not_come_back_in_the_other_form(removed: str, left: str, cache: Path) -> None:
    write_facts(cache, "web", {"x": 1})
    (cache / removed).unlink()
    assert read_facts(cache, "web") == {}
    assert names(cache) == {left}


def test_what_is_written_is_read(cache: Path) -> None:
    facts = {"žluť": "kůň 🐎", "n": [1, 1.5, True, None], "deep": {"{{ x }}": "{{ 1 + 1 }}"}}
    write_facts(cache, "web", facts)
    assert read_facts(cache, "web") == facts


def test_dates_sets_tuples_and_other_keys_become_what_json_knows(cache: Path) -> None:
    moment = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    data: dict[Any, Any] = {
        "at": moment,
        "day": moment.date(),
        "pair": (1, 2),
        "set": {3},
        7: "seven",
        None: "no",
        True: 1,
    }
    write_facts(cache, "web", data)
    assert read_facts(cache, "web") == {
        "at": "2024-01-02T03:04:05+00:00",
        "day": "2024-01-02",
        "pair": [1, 2],
        "set": [3],
        "7": "seven",
        "null": "no",
        "true": 1,
    }


def test_encrypted_values_stay_encrypted_in_both_forms(cache: Path) -> None:
    facts = {"secret": {"__ansible_vault": "$ANSIBLE_VAULT;1.1;AES256\n61"}}
    write_facts(cache, "web", facts)
    assert json.loads((cache / "web").read_text()) == facts
    payload = json.loads(json.loads((cache / "s1_web").read_text())["__payload__"])
    assert payload["secret"] == TAGGED["secret"]
    assert read_facts(cache, "web") == facts


@pytest.mark.parametrize(
    ("host", "files"),
    [
        ("web", {"web", "s1_web"}),
        ("host with spaces", {"host with spaces", "s1_host with spaces"}),
        ("žluť🐎", {"žluť🐎", "s1_žluť🐎"}),
        ("web..1", {"web..1", "s1_web..1", "fbd53bedf924"}),
        ("a/b", {"7c0c47a5cac8"}),
    ],
)
def test_the_file_names_of_every_ansible_are_written(host: str, files: set[str], cache: Path) -> None:
    write_facts(cache, host, {"x": 1})
    assert names(cache) == files
    assert read_facts(cache, host) == {"x": 1}


def test_a_prefix_stands_before_the_names_of_every_form(cache: Path) -> None:
    write_facts(cache, "web", {"x": 1}, prefix="pre-")
    assert names(cache) == {"pre-web", "pre-s1_web"}
    assert read_facts(cache, "web", prefix="pre-") == {"x": 1}
    assert read_facts(cache, "web") == {}


def test_facts_are_replaced_and_not_merged(cache: Path) -> None:
    write_facts(cache, "web", {"x": 1})
    write_facts(cache, "web", {"y": 2})
    assert read_facts(cache, "web") == {"y": 2}


@pytest.mark.parametrize("order", [("web", "s1_web"), ("s1_web", "web")])
def test_hosts_whose_file_names_clash_keep_their_own_facts(order: tuple[str, ...], cache: Path) -> None:
    for host in order:
        write_facts(cache, host, {"host": host})
    assert {host: read_facts(cache, host) for host in order} == {host: {"host": host} for host in order}
    assert json.loads((cache / "s1_web").read_text()) == {"__payload__": '{"host": "web"}'}


def test_the_plain_facts_of_a_clashing_host_are_not_taken(cache: Path) -> None:
    plain(cache / "s1_web", {"host": "s1_web"})
    assert read_facts(cache, "web") == {}
    assert read_facts(cache, "s1_web") == {"host": "s1_web"}


def test_files_are_private_and_whole_and_missing_directories_are_made(tmp_path: Path) -> None:
    cache = tmp_path / "job" / "deep" / "cache"
    old = os.umask(0)
    try:
        write_facts(cache, "web", {"x": 1})
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in cache.iterdir()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (cache, cache.parent, cache.parent.parent)} == {0o700}


def test_a_file_that_can_not_be_replaced_is_named_and_nothing_is_left(cache: Path) -> None:
    (cache / "web").mkdir()
    with pytest.raises(ArtifactError, match=f"{cache / 'web'} can not be written"):
        write_facts(cache, "web", {"x": 1})
    assert names(cache) == {"web"}


@pytest.mark.parametrize("host", ["", ".", "..", "../../x", "a/../../x", "/..", "a\0b"])
def test_a_host_name_that_leads_out_of_the_directory_is_refused(host: str, cache: Path) -> None:
    with pytest.raises(ConfigurationError, match="can not be the host of a fact cache"):
        read_facts(cache, host)
    with pytest.raises(ConfigurationError, match="can not be the host of a fact cache"):
        write_facts(cache, host, {"x": 1})
    assert names(cache) == set()
    assert names(cache.parent) == {"cache"}


def test_a_prefix_that_leads_out_of_the_directory_is_refused(cache: Path) -> None:
    with pytest.raises(ConfigurationError, match="ANSIBLE_CACHE_PLUGIN_PREFIX"):
        read_facts(cache, "web", prefix="../")


@pytest.mark.parametrize("name", ["web", "s1_web"])
def test_a_symbolic_link_is_never_followed(name: str, cache: Path) -> None:
    outside = cache.parent / "outside"
    plain(outside, {"x": "outside"})
    (cache / name).symlink_to(outside)
    with pytest.raises(ArtifactError, match=f"{cache / name} can not be read: a symbolic link"):
        read_facts(cache, "web")
    write_facts(cache, "web", {"x": 1})
    assert read_facts(cache, "web") == {"x": 1}
    assert json.loads(outside.read_text()) == {"x": "outside"}


def test_a_directory_that_is_a_symbolic_link_is_not_used(cache: Path) -> None:
    link = cache.parent / "link"
    link.symlink_to(cache)
    for act in (lambda: read_facts(link, "web"), lambda: write_facts(link, "web", {"x": 1})):
        with pytest.raises(ArtifactError, match=f"{link} can not be opened"):
            act()
    assert names(cache) == set()


def test_a_pipe_or_directory_in_the_place_of_a_file_is_named(cache: Path) -> None:
    os.mkfifo(cache / "web")
    with pytest.raises(ArtifactError, match=f"{cache / 'web'} can not be read: it is not a regular file"):
        read_facts(cache, "web")
    (cache / "s1_db").mkdir()
    with pytest.raises(ArtifactError, match=f"{cache / 's1_db'} can not be read: it is not a regular file"):
        read_facts(cache, "db")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[1]",
        b'{"__payload__": 1}',
        b'{"__payload__": "[]"}',
        b'{"__payload__": "{"}',
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_file_that_is_no_cache_is_named(content: bytes, cache: Path) -> None:
    (cache / "s1_web").write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{cache / 's1_web'} can not be read"):
        read_facts(cache, "web")


@pytest.mark.parametrize("key", ["__ansible_type", "__ansible_unsafe", "__ansible_vault", "__payload__"])
def test_keys_that_ansible_could_not_read_back_are_refused(key: str, cache: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"'web'\.a\[0\]: the key {key} is Ansible's own"):
        write_facts(cache, "web", {"a": [{key: "mine", "other": 1}]})
    assert names(cache) == set()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), r"'web'\.a\.b: a object can not be a fact"),
        (b"bytes", r"'web'\.a\.b: a bytes can not be a fact"),
        ("a\udcff", r"'web'\.a\.b: .* is not Unicode text"),
        ({(1, 2): 3}, r"'web'\.a\.b: a tuple can not be a key"),
    ],
)
def test_values_that_can_not_be_facts_are_named_with_their_place(value: object, message: str, cache: Path) -> None:
    write_facts(cache, "web", {"x": 1})
    with pytest.raises(ConfigurationError, match=message):
        write_facts(cache, "web", {"a": {"b": value}})
    assert read_facts(cache, "web") == {"x": 1}


def test_facts_that_hold_themselves_are_refused(cache: Path) -> None:
    circle: dict[str, Any] = {}
    circle["again"] = circle
    with pytest.raises(ConfigurationError, match="'web' are nested too deeply"):
        write_facts(cache, "web", circle)


def test_the_data_of_the_caller_is_not_changed(cache: Path) -> None:
    data = {"pair": (1, 2), "at": datetime.date(2024, 1, 2)}
    write_facts(cache, "web", data)
    assert data == {"pair": (1, 2), "at": datetime.date(2024, 1, 2)}
