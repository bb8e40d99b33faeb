"""What is secret, and what of a command line and an environment may be shown."""

from __future__ import annotations

import time

import pytest

from ee_runner.secrets import MASK, Secret, is_revealing, mask_environment, redact_words


@pytest.mark.parametrize(
    "name",
    [
        *("VAULT_PASS", "PGPASSWORD", "SSHPASS", "MYSQL_PWD", "REGISTRY_AUTH", "AWS_SECRET_ACCESS_KEY", "KEY_DATA"),
        *(
            "ansible_become_pass",
            "ansible_password",
            "api-key",
            "apiKey",
            "GITHUB_TOKEN",
            "Authorization",
            "passphrase",
        ),
    ],
)
def test_a_name_with_a_word_for_a_secret_is_revealing(name: str) -> None:
    assert mask_environment({name: "hunter2x"}) == {name: MASK}


@pytest.mark.parametrize(
    "name",
    [
        *("ANSIBLE_HOST_KEY_CHECKING", "PWD", "OLDPWD", "SSH_AUTH_SOCK", "GIT_AUTHOR_NAME", "KEYBOARD", "PATH"),
        *("StrictHostKeyChecking", "ANSIBLE_PARAMIKO_HOST_KEY_AUTO_ADD", "PasswordAuthentication", "HOME", "LANG"),
    ],
)
def test_an_ordinary_name_is_not_revealing(name: str) -> None:
    assert not is_revealing(name)


def test_the_user_of_a_url_is_masked_in_any_variable() -> None:
    env = {"http_proxy": "http://user:p@w@proxy:3128/x@y", "A": "x ssh://me@host http://plain/"}

    assert mask_environment(env) == {
        "http_proxy": f"http://{MASK}@proxy:3128/x@y",
        "A": f"x ssh://{MASK}@host http://plain/",
    }


def test_known_secrets_are_masked_in_any_variable_unless_too_short() -> None:
    env = {"A": "before hunter2x after", "B": "abc"}

    assert mask_environment(env, [Secret("hunter2x"), Secret("abc")]) == {"A": f"before {MASK} after", "B": "abc"}


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("ansible_password=hunter2x", f"ansible_password={MASK}"),
        ("-eansible_password=hunter2x", f"-eansible_password={MASK}"),
        ("--extra-vars=a=1 db_pass='hunter 2x' b=2", f"--extra-vars=a=1 db_pass='{MASK}' b=2"),
        ("name=bob password=hunter\\ 2x state=present", f"name=bob password={MASK} state=present"),
        ("--extra-vars='db_pass=hunter2x'", f"--extra-vars='db_pass={MASK}"),
        ("--x=a=1,password=hunter2x", f"--x=a=1,password={MASK}"),
        ("password=it's-hunter2x", f"password={MASK}"),
        ('{"ansible_password": "hunter2x", "a": 1}', f'{{"ansible_password": "{MASK}", "a": 1}}'),
        ('{"ansible_password":"hunt\\"er2x"}', f'{{"ansible_password":"{MASK}"}}'),
        ("{ansible_password: hunter 2x, a: 1}", f"{{ansible_password: {MASK}, a: 1}}"),
        ("{'tokens': ['hunter2x', 'b'], 'a': 1}", f"{{'tokens': {MASK}, 'a': 1}}"),
        ("a: 1\npassword: hunter 2x\nb: 2", f"a: 1\npassword: {MASK}\nb: 2"),
        ("url=https://me:hunter2x@host/path", f"url=https://{MASK}@host/path"),
    ],
)
def test_what_a_revealing_name_is_set_to_is_masked(word: str, shown: str) -> None:
    assert redact_words(("-e", word)) == ("-e", shown)


@pytest.mark.parametrize(
    "word", ["/home/me/key:/runner/key:ro", "a=1 b=2", "-p", "password=", "type=bind,source=/x,target=/y", "--ask-pass"]
)
def test_an_ordinary_word_stays(word: str) -> None:
    assert redact_words((word,)) == (word,)


def test_known_secrets_are_masked_in_words_also_as_json_writes_them() -> None:
    secrets = (Secret("two\nlines\n"), Secret("hunter2x"), Secret("hunter2x-longer"), Secret("no"))

    assert redact_words(("x=hunter2x-longer", '{"a": "two\\nlines"}', "no"), secrets) == (
        f"x={MASK}",
        f'{{"a": "{MASK}"}}',
        "no",
    )


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "password=",
        "'",
        '"',
        "x: ",
        "{'token': [",
        "token: [\n",
        'token: "\n',
        "token='",
        'token="x\\',
        "://",
        "://@",
        " ",
    ],
)
def test_long_words_take_time_in_proportion(part: str) -> None:
    started = time.monotonic()

    redact_words((part * (200_000 // len(part)),))

    assert time.monotonic() - started < 5
