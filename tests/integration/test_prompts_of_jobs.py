"""What programs ask on a job's terminal is answered from the passwords, or the job ends and says what was asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ee_runner
from tests.support import sshd

PLAY = "- hosts: localhost\n  gather_facts: false\n"
NOTHING = f"{PLAY}  tasks: []\n"
PATIENCE = 1.2
HOST_KEY = r"Are you sure you want to continue connecting.*\? $"


@pytest.fixture(scope="module")
def server() -> Iterator[sshd.SshServer]:
    with sshd.serve() as running:
        yield running


@dataclass(frozen=True, slots=True)
class Done:
    runner: ee_runner.Runner
    seconds: float

    @property
    def output(self) -> str:
        return str(self.runner.stdout.read())

    def ended_unanswered(self, prompt: str, *, refused: bool = False) -> None:
        """See that the job ended because of the prompt, in good time."""
        runner = self.runner
        assert (runner.status, runner.rc, runner.reason) == ("failed", 254, "prompt_unanswered"), self.output
        assert runner.detail.endswith(f": {prompt}")
        assert ("refused" in runner.detail) is refused
        assert self.seconds < 30


def job(place: Path, passwords: Mapping[str, str] | None = None, **options: Any) -> Done:
    began = time.monotonic()
    settings = {"pexpect_timeout": PATIENCE, "job_timeout": 60, **options.pop("settings", {})}
    runner = ee_runner.run(private_data_dir=place, quiet=True, passwords=passwords or {}, settings=settings, **options)
    assert isinstance(runner, ee_runner.Runner)
    return Done(runner, time.monotonic() - began)


def playbook(place: Path, text: str, passwords: Mapping[str, str] | None = None, **options: Any) -> Done:
    """Run a playbook with the Ansible beside this interpreter."""
    for name, content in {"project/site.yml": text, "inventory/hosts": "localhost ansible_connection=local\n"}.items():
        (place / name).parent.mkdir(exist_ok=True)
        if not (place / name).exists():
            (place / name).write_text(content)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    envvars = {"PATH": path, "ANSIBLE_FORCE_COLOR": "1", "ANSIBLE_HOST_KEY_CHECKING": "false"}
    return job(place, passwords, playbook="site.yml", envvars=envvars, **options)


def command(place: Path, passwords: Mapping[str, str] | None, *argv: str | Path, **options: Any) -> Done:
    words = [str(word) for word in argv]
    return job(place, passwords, executable_cmd=words[0], cmdline_args=words[1:], host_cwd=place, **options)


# Ansible's own questions


@pytest.mark.parametrize(
    ("cmdline", "play", "prompt"),
    [
        ("-k", NOTHING, "SSH password:"),
        ("--vault-id dev@prompt", NOTHING, "Vault password (dev):"),
        ("", f"{PLAY}  vars_prompt: [{{name: a, prompt: which, private: false, default: this}}]\n", "which [this]:"),
        (
            "",
            f"{PLAY}  tasks:\n    - name: take a break\n      pause:\n",
            "[take a break] Press enter to continue, Ctrl+C to interrupt:",
        ),
    ],
)
def test_a_question_of_ansible_that_nobody_answers_ends_the_job(
    tmp_path: Path, cmdline: str, play: str, prompt: str
) -> None:
    playbook(tmp_path, play, {"nothing like it": "word"}, cmdline=cmdline).ended_unanswered(prompt)


def test_every_question_of_ansible_is_answered(tmp_path: Path) -> None:
    secrets = {"dev": "vault-dev", "prod": "vault-prod"}
    for name, word in secrets.items():
        (tmp_path / name).write_text(word)
        encrypted = subprocess.run(
            [
                Path(sys.executable).parent / "ansible-vault",
                "encrypt_string",
                "--vault-id",
                f"{name}@{tmp_path / name}",
            ],
            input=f"in {name}",
            capture_output=True,
            text=True,
            check=True,
        )
        secrets[name] = encrypted.stdout.strip()
    play = (
        f"{PLAY}  vars:\n    dev: {secrets['dev']}\n    prod: {secrets['prod']}\n"
        "  vars_prompt:\n"
        "    - {name: hidden, prompt: secretly, confirm: true}\n"
        "    - {name: shown, prompt: 'PROMPT', private: false}\n"
        "    - {name: usual, prompt: as usual, default: the default}\n"
        "  tasks:\n"
        "    - {name: hold, pause: {prompt: hold on}, register: held}\n"
        "    - pause:\n"
        "    - debug: msg=\"{{ [dev, prod, hidden, shown, usual, held.user_input, ansible_password] | join('/') }}\"\n"
    ).replace("PROMPT", "a very long question " * 40)
    passwords = {
        r"^SSH password:\s*?$": "ssh",
        r"^BECOME password.*:\s*?$": "become",
        r"^Vault password \(dev\):\s*?$": "vault-dev",
        r"^Vault password \(prod\):\s*?$": "vault-prod",
        r"^(confirm )?secretly: $": "zwölf",
        r"^a very (long question a very )*long question *: $": "seen",
        r"^as usual \[the default\]: $": "",
        r"^hold on:$": "typed",
        r"^Press enter to continue": "",
    }
    done = playbook(tmp_path, play, passwords, cmdline="-k -K --vault-id dev@prompt --vault-id prod@prompt")
    assert (done.runner.status, done.runner.reason) == ("successful", "exited"), done.output
    assert "in dev/in prod/zwölf/seen/the default/typed/ssh" in done.output


def test_a_confirmation_that_differs_is_not_repeated_for_ever(tmp_path: Path) -> None:
    play = f"{PLAY}  vars_prompt: [{{name: a, prompt: secretly, confirm: true}}]\n  tasks: []\n"
    done = playbook(tmp_path, play, {"^secretly": "one", "^confirm": "two"})
    done.ended_unanswered("secretly:", refused=True)
    assert done.output.count("DO NOT MATCH") == 1


def test_pauses_that_end_by_themselves_and_printed_questions_go_on(tmp_path: Path) -> None:
    tasks = (
        "{pause: {seconds: 1}}",
        "{pause: {seconds: 1, prompt: 'is it over?'}}",
        "{debug: {msg: '[a]\\nPassword: '}}",
        "{command: sh -c 'printf Password:; sleep 1'}",
    )
    play = f"{PLAY}  tasks:\n" + "".join(f"    - {task}\n" for task in tasks)
    interpreter = {"ansible_python_interpreter": sys.executable}
    done = playbook(tmp_path, play, settings={"pexpect_timeout": 0.4}, extravars=interpreter)
    assert (done.runner.status, done.seconds > 3) == ("successful", True), done.output


# Other programs


def test_a_program_that_prints_bit_by_bit_is_not_asking(tmp_path: Path) -> None:
    script = "printf 'Setting password for bob: '; sleep 1.3; echo set; printf 'still at work?'; sleep 1.3"
    assert command(tmp_path, {"nobody": "word"}, "sh", "-c", script).runner.status == "successful"


def test_without_patience_a_question_may_take_its_time(tmp_path: Path) -> None:
    script = "printf 'Password: '; sleep 1.3; echo"
    done = command(tmp_path, None, "sh", "-c", script, settings={"pexpect_timeout": 0})
    assert done.runner.status == "successful"


def test_a_program_that_asks_for_ever_is_ended(tmp_path: Path) -> None:
    script = "while true; do printf 'Password: '; read -r answer; echo; done"
    command(tmp_path, {"^Password: $": "word"}, "sh", "-c", script).ended_unanswered("Password:", refused=True)


def test_nothing_is_left_of_a_job_that_asks(tmp_path: Path) -> None:
    script = f"(sleep 98765 & echo $! > {tmp_path}/pid); printf 'Password: '; read -r answer"
    command(tmp_path, None, "sh", "-c", script).ended_unanswered("Password:")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


# ssh and su


def ssh(server: sshd.SshServer, place: Path, *options: str | Path, known: bool = True) -> list[str | Path]:
    hosts = place / "known_hosts"
    hosts.write_text(server.known_hosts if known else "")
    strict = ["-o", f"UserKnownHostsFile={hosts}", "-o", "GlobalKnownHostsFile=/dev/null", "-F", "none"]
    return ["ssh", *strict, "-p", str(server.port), *options, f"{server.user}@{server.host}", "id", "-un"]


PASSWORD = ("-o", "PubkeyAuthentication=no")


def test_ssh_asks_for_the_host_key_and_the_password(tmp_path: Path, server: sshd.SshServer) -> None:
    argv = ssh(server, tmp_path, *PASSWORD, known=False)
    done = command(tmp_path, {HOST_KEY: "yes", r"^.*'s password: $": server.password}, *argv)
    assert done.runner.status == "successful", done.output
    assert done.output.splitlines()[-1] == server.user
    assert server.password not in done.output


def test_a_host_key_that_nobody_confirms_ends_the_job(tmp_path: Path, server: sshd.SshServer) -> None:
    done = command(tmp_path, {"password": "word"}, *ssh(server, tmp_path, *PASSWORD, known=False))
    done.ended_unanswered("Are you sure you want to continue connecting (yes/no/[fingerprint])?")


def test_an_ssh_password_that_nobody_knows_ends_the_job(tmp_path: Path, server: sshd.SshServer) -> None:
    done = command(tmp_path, None, *ssh(server, tmp_path, *PASSWORD))
    done.ended_unanswered(f"{server.user}@{server.host}'s password:")


def test_a_wrong_ssh_password_is_given_once(tmp_path: Path, server: sshd.SshServer) -> None:
    done = command(tmp_path, {"password: $": "wrong-one"}, *ssh(server, tmp_path, *PASSWORD))
    done.ended_unanswered(f"{server.user}@{server.host}'s password:", refused=True)
    assert done.output.count("password:") == 2
    assert "wrong-one" not in json.dumps([event["stdout"] for event in done.runner.events])


def test_ssh_asks_for_the_passphrase_of_a_key(tmp_path: Path, server: sshd.SshServer) -> None:
    argv = ssh(server, tmp_path, "-i", server.locked_key, "-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes")
    done = command(tmp_path, {"^Enter passphrase for key .*: $": server.passphrase}, *argv)
    assert done.runner.status == "successful", done.output
    done = command(tmp_path, {"nothing": "word"}, *argv)
    done.ended_unanswered(f"Enter passphrase for key '{server.locked_key}':")


def test_ansible_logs_in_and_becomes_with_passwords(tmp_path: Path, server: sshd.SshServer) -> None:
    far = (
        f"ansible_host={server.host} ansible_port={server.port} ansible_python_interpreter=/usr/bin/python3 "
        "ansible_ssh_extra_args='-o UserKnownHostsFile=/dev/null -F none -o IdentityAgent=none'"
    )
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory/hosts").write_text(
        f"far {far} ansible_user={server.user} ansible_ssh_common_args='-o PubkeyAuthentication=no'\n"
        f"other {far} ansible_user={server.other_user} ansible_ssh_private_key_file={server.other_key} "
        f"ansible_become=true ansible_become_method=su ansible_become_user={server.user}\n"
    )
    tasks = "[{raw: id -un, register: me}, {debug: {msg: 'this is {{ me.stdout_lines | last }}'}}]"
    play = f"- hosts: far other\n  gather_facts: false\n  tasks: {tasks}\n"
    both = {r"^SSH password:\s*?$": server.password, r"^BECOME password.*:\s*?$": server.password}
    done = playbook(tmp_path, play, both, cmdline="-k -K")
    assert done.runner.status == "successful", done.output
    assert done.output.count(f'this is {server.user}"') == 2


@pytest.mark.parametrize("known", [True, False])
def test_su_asks_on_the_jobs_terminal(tmp_path: Path, server: sshd.SshServer, known: bool) -> None:
    argv = ["su", server.user, "--session-command", f"su {server.user} -c 'id -un'"]
    done = command(tmp_path, {"^Password: $": server.password} if known else None, *argv)
    if known:
        assert (done.runner.status, done.output.split()[-1]) == ("successful", server.user)
    else:
        done.ended_unanswered("Password:")


# Without a terminal


def test_passwords_of_a_job_without_a_terminal_are_told_to_be_of_no_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = command(
        tmp_path, {"^Password: $": "word"}, "sh", "-c", "printf 'Password: '; sleep 1.3", runner_mode="subprocess"
    )
    assert done.runner.status == "successful"
    told = [record.getMessage() for record in caplog.records if "env/passwords" in record.getMessage()]
    assert len(told) == 1
    assert "terminal" in told[0]
