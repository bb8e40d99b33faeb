"""From a terminal the command is Ansible's own: prompts, colour, width, keys."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import termios
import time

from tests.engines.place import Place

QUIET_HOST = "- hosts: localhost\n  gather_facts: false\n"


class Screen:
    """A terminal with the command on it."""

    def __init__(self, place: Place, *arguments: str, columns: int = 100) -> None:
        self._ours, inner = os.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        if place.user:
            os.fchown(inner, place.user.uid, place.user.gid)
        options = [*place.engine_options(), "--artifact-dir", str(place.root / "artifacts"), "--ident", "job"]
        self._child = place.start(
            arguments[0], *options, *arguments[1:], stdin=inner, stdout=inner, stderr=inner, cwd=place.root
        )
        self.attributes = termios.tcgetattr(inner)
        self._inner = inner
        self.text = ""

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        os.close(self._ours)
        os.close(self._inner)

    def wait_for(self, text: str, seconds: float = 60, *, pressing: str = "") -> None:
        """Read until the text is there; `pressing` a key each second, for a program that throws early keys away."""
        deadline = time.monotonic() + seconds
        while text not in self.text:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not come up in: {self.text}"
            if select.select([self._ours], [], [], min(left, 1))[0]:
                self.text += os.read(self._ours, 65536).decode(errors="replace")
            elif pressing:
                self.type(pressing)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._inner, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        os.kill(self._child.pid, signal.SIGWINCH)

    def end(self, seconds: float = 60) -> int:
        deadline = time.monotonic() + seconds
        while True:
            if select.select([self._ours], [], [], 0.05)[0]:
                self.text += os.read(self._ours, 65536).decode(errors="replace")
            elif self._child.poll() is not None:
                return self._child.returncode
            assert time.monotonic() < deadline, self.text

    def restored(self) -> bool:
        return termios.tcgetattr(self._inner) == self.attributes


def test_prompts_are_answered_from_the_terminal(place: Place) -> None:
    place.write(
        {
            "site.yml": (
                f"{QUIET_HOST}  vars_prompt:\n    - {{name: open, prompt: what is it, private: false}}\n"
                "    - {name: hidden, prompt: secretly}\n"
                "  tasks:\n    - pause: {prompt: hold on}\n    - debug: msg='{{ open }}-{{ hidden | length }}'\n"
            )
        }
    )
    with Screen(place, "playbook", "site.yml") as screen:
        screen.wait_for("what is it")
        screen.type("visible\r")
        screen.wait_for("secretly")
        screen.type("unseen\r")
        screen.wait_for("hold on")
        screen.wait_for("TASK [debug]", pressing="\r")
        assert screen.end() == 0, screen.text
        assert "visible-6" in screen.text
        assert "unseen" not in screen.text
        assert screen.restored()


def test_ansibles_password_prompts_come_and_hide_what_is_typed(place: Place) -> None:
    place.write({"site.yml": f"{QUIET_HOST}  tasks: [{{debug: {{var: ansible_password}}}}]\n"})
    with Screen(place, "playbook", "site.yml", "-k", "-K", "--ask-vault-pass") as screen:
        for prompt in ("SSH password:", "BECOME password", "Vault password:"):
            screen.wait_for(prompt)
            screen.type("hunter2\r")
        assert screen.end() == 0, screen.text
        assert "hunter2" not in screen.text.partition("PLAY [")[0]


def test_colour_and_width_are_those_of_the_terminal(place: Place) -> None:
    place.write({"site.yml": f"{QUIET_HOST}  tasks: [{{ping: }}]\n"})
    with Screen(place, "playbook", "site.yml", columns=133) as screen:
        assert screen.end() == 0, screen.text
        banner = re.search(r"PLAY \[localhost\] \*+", screen.text)
        assert banner is not None
        assert 128 <= len(banner.group()) <= 133
        assert "\x1b[0;32mok: [localhost]" in screen.text


def test_a_keyboard_interrupt_reaches_ansible(place: Place) -> None:
    place.write({"site.yml": f"{QUIET_HOST}  tasks: [{{command: sleep 300}}]\n"})
    with Screen(place, "playbook", "site.yml") as screen:
        screen.wait_for("TASK [command]")
        time.sleep(1)
        screen.type("\x03")
        assert screen.end(seconds=30) != 0
        assert "interrupted" in screen.text.lower()
        assert screen.restored()


def test_a_colourless_pipe_beside_a_terminal_stays_plain(place: Place) -> None:
    place.write({"site.yml": f"{QUIET_HOST}  tasks: [{{ping: }}]\n"})
    rc, out, _ = place.ansible_runner(
        *("playbook", *place.engine_options(), "--artifact-dir", str(place.root / "a"), "site.yml"), cwd=place.root
    )
    assert rc == 0
    assert "\x1b" not in out


def test_a_password_is_not_asked_for_where_it_would_show(contained: Place) -> None:
    contained.write({"site.yml": f"{QUIET_HOST}  tasks: [{{ping: }}]\n"})
    ours, inner = os.openpty()
    if contained.user:
        os.fchown(inner, contained.user.uid, contained.user.gid)
    options = [*contained.engine_options(), "--artifact-dir", str(contained.root / "a")]
    child = contained.start("playbook", *options, "site.yml", "-bK", "--ask-pass", stdin=inner, cwd=contained.root)
    out, err = child.communicate(timeout=60)
    os.close(ours)
    os.close(inner)
    assert (child.returncode, out) == (78, b"")
    assert b"--ask-become-pass and --ask-pass" in err
    assert not (contained.root / "a").exists()
