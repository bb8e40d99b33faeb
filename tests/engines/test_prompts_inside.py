"""A container's terminal has prompts too: those of the oldest Ansible in use are answered, or told."""

from __future__ import annotations

import json

import pytest

from tests.engines.conftest import ENGINES
from tests.engines.place import CONTAINERS, Place

PLAY = """\
- hosts: localhost
  connection: local
  gather_facts: false
  vars_prompt:
    - {name: hidden, prompt: secretly}
    - {name: shown, prompt: openly, private: false}
  tasks:
    - {pause: {seconds: 2, prompt: is it over}}
    - {name: hold, pause: {prompt: hold on}, register: held}
    - debug: {msg: '{{ [hidden, shown, held.user_input, ansible_password] | join("/") }}'}
    - name: last
      pause:
"""


@pytest.mark.parametrize("contained", [name for name in ENGINES if name in CONTAINERS][:1], indirect=True)
def test_questions_of_ansible_2_14_are_answered_and_the_one_that_is_not_ends_the_job(contained: Place) -> None:
    assert contained.images is not None
    passwords = {"^SSH password:": "ssh", "^secretly": "one", "^openly: ": "two", "^hold on:$": "three"}
    place = contained.write(
        {
            "project/site.yml": PLAY,
            "inventory/hosts": "localhost\n",
            "env/passwords": json.dumps(passwords),
            "env/settings": json.dumps({"pexpect_timeout": 1.5}),
            "env/cmdline": "-k",
        },
        under="pdd",
    )
    result = contained.run(place, "-p", "site.yml", image=contained.images.debian)
    assert (result.rc, result.status) == (254, "failed"), result
    assert "one/two/three/ssh" in result.stdout
    assert (result.artifacts / "reason").read_text().splitlines()[0] == "prompt_unanswered"
    assert "[last] Press enter to continue, Ctrl+C to interrupt:" in (result.artifacts / "reason").read_text()
