"""The library in every engine: small programs that a user of it could have written, run as the place's user."""

from __future__ import annotations

import io
import json
import os
import select
import tarfile
import time
from collections.abc import Iterator

import pytest

from tests.engines.place import Place
from tests.engines.programs import ask, containers, processes, start
from tests.engines.projects import INVENTORY
from tests.support import registry

NAP = f"300.{os.getpid()}"
DEAF = f"trap '' TERM INT HUP; echo up; while :; do sleep {NAP}; done"
POLITE = f"echo up; exec sleep {NAP}"
ODD_WORDS = [
    "*",
    "$HOME",
    "`id`",
    "a b",
    "",
    "it's",
    'say "so"',
    "back\\slash",
    "zwölf",
    "two\nlines",
    "-x",
    "~",
    "&;|",
]
TOKEN = "s3cr3t-of-the-job"


# run


def test_the_results_of_a_job_are_read_on_the_host_and_typed_and_plain_ones_agree(place: Place) -> None:
    directory = place.write(
        {
            "inventory/hosts": INVENTORY,
            "project/site.yml": (
                "- hosts: all\n  gather_facts: false\n  tasks:\n"
                "    - debug: msg='{{ ansible_facts.set_before }}'\n      when: inventory_hostname == 'one'\n"
                "    - set_fact: {made_inside: {deep: [1, zwölf]}, cacheable: true}\n"
                "    - command: echo {{ inventory_hostname }}\n"
            ),
        },
        under="pdd",
    )
    told = ask(
        place,
        """
        runner = ee_runner.init_runner(ident=ident, playbook="site.yml", **given, **engine)
        runner.set_fact_cache("one", {"set_before": "on the host"})
        ended = runner.run()
        typed = list(runner.iter_events())
        with runner.stdout as stdout, runner.stderr as stderr:
            shown, errors = stdout.read(), stderr.read()
        answer(
            ended=ended, rc=runner.rc, status=runner.status, shown=shown, errors=errors, stats=runner.stats,
            events=list(runner.events), of_two=[event["event"] for event in runner.host_events("two")],
            facts=runner.get_fact_cache("one"), unknown=runner.get_fact_cache("nobody"),
            same=[event.to_dict() for event in typed] == list(runner.events),
            same_stats=runner.typed_stats.to_dict() == runner.stats,
        )
        """,
        private_data_dir=str(directory),
    )
    assert (told["ended"], told["rc"], told["status"]) == (["successful", 0], 0, "successful")
    assert told["same"]
    assert told["same_stats"]
    assert told["facts"] == {"set_before": "on the host", "made_inside": {"deep": [1, "zwölf"]}}
    assert told["unknown"] == {}
    assert told["stats"]["ok"] == {"one": 3, "two": 2}
    assert told["stats"]["skipped"] == {"two": 1}
    assert [event["counter"] for event in told["events"]] == list(range(1, len(told["events"]) + 1))
    messages = [event["event_data"]["res"].get("msg") for event in told["events"] if event["event"] == "runner_on_ok"]
    assert "on the host" in messages
    assert told["of_two"].count("runner_on_ok") == 2
    assert told["of_two"].count("runner_on_skipped") == 1
    assert "PLAY RECAP" in told["shown"]
    assert "\r" not in told["shown"]
    assert told["errors"] == ""


def test_an_image_alone_makes_a_container_and_the_engine_is_the_environments(contained: Place) -> None:
    assert contained.images is not None
    book = "- hosts: localhost\n  gather_facts: false\n  tasks: [{debug: {msg: '{{ playbook_dir }}'}}]\n"
    told = ask(
        contained,
        """
        runner = run(ident=ident, playbook="site.yml", **given)
        config = runner.config
        answer(
            messages=[e["event_data"]["res"]["msg"] for e in runner.events if e["event"] == "runner_on_ok"],
            shown=runner.stdout.read(),
            config=[config.containerized, config.sandboxed, config.process_isolation],
            engine=config.process_isolation_executable,
            image=config.container_image, named=config.container_name == f"ansible_runner_{ident}", cwd=config.cwd,
        )
        """,
        env={"EE_RUNNER_ENGINE": contained.engine},
        private_data_dir=str(contained.write({"project/site.yml": book}, under="pdd")),
        container_image=contained.images.default,
    )
    assert told["messages"] == ["/runner/project"], told["shown"]
    assert (told["config"], told["engine"]) == ([True, False, True], contained.engine)
    assert (told["image"], told["named"], told["cwd"]) == (contained.images.default, True, "/runner/project")


def test_plays_and_inventory_as_data_variables_passwords_and_the_changed_environment_arrive(place: Place) -> None:
    directory = place.write({"project/keep": ""}, under="pdd")
    told = ask(
        place,
        """
        variables = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        words = "{{ deep.list | sum }} {{ lookup('env', 'OF_THE_CALLER') }} {{ lookup('env', 'ADDED') }} {{ asked }}"
        play = {
            "hosts": "data", "gather_facts": False, "vars_prompt": [{"name": "asked", "prompt": "the word please"}],
            "tasks": [{"debug": {"msg": words}}],
        }
        statuses = []
        runner = ee_runner.init_runner(
            ident=ident,
            playbook=[play],
            inventory={"all": {"hosts": {"data": variables}}},
            extravars={"deep": {"list": [1, 2, 3]}},
            envvars={"OF_THE_CALLER": "zwölf", "API_TOKEN": given["token"]},
            passwords={"the word please: ?$": "open sesame"},
            status_handler=lambda data, runner_config: statuses.append(data),
            **engine,
            private_data_dir=given["private_data_dir"],
        )
        runner.config.env["ADDED"] = "added later"
        runner.run()
        answer(
            status=runner.status,
            messages=[e["event_data"]["res"]["msg"] for e in runner.events if e["event"] == "runner_on_ok"],
            shown=runner.stdout.read(),
            statuses=statuses,
            command=open(os.path.join(runner.config.artifact_dir, "command")).read(),
        )
        """,
        private_data_dir=str(directory),
        token=TOKEN,
    )
    assert told["status"] == "successful", told["shown"]
    assert told["messages"] == ["6 zwölf added later open sesame"]
    starting = told["statuses"][0]
    assert [status["status"] for status in told["statuses"]] == ["starting", "running", "successful"]
    assert starting["env"]["OF_THE_CALLER"] == "********"
    assert starting["env"]["ADDED"] == "added later"
    for kept in (json.dumps(starting), told["command"]):
        assert TOKEN not in kept
        assert "open sesame" not in kept
    files = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("artifacts/")} == {"project/keep"}


def test_a_role_runs_with_its_variables(place: Place) -> None:
    directory = place.write({"teller/tasks/main.yml": "- debug: msg='{{ word }}'\n"}, under="roles elsewhere")
    place.write({"inventory/hosts": INVENTORY}, under="pdd")
    told = ask(
        place,
        """
        runner = run(
            ident=ident, role="teller", host_pattern="one", role_vars={"word": "two words"}, role_skip_facts=True,
            **given, **engine,
        )
        answer(
            status=runner.status,
            messages=[e["event_data"]["res"]["msg"] for e in runner.events if e["event"] == "runner_on_ok"],
        )
        """,
        private_data_dir=str(place.root / "pdd"),
        roles_path=str(directory),
    )
    assert told == {"status": "successful", "messages": ["two words"]}


def test_a_project_keeps_its_path_when_it_is_the_host_cwd(place: Place) -> None:
    project = place.write(
        {
            "site.yml": "- hosts: localhost\n  gather_facts: false\n  tasks: [{command: pwd}, {command: touch made}]\n",
            "ansible.cfg": "[defaults]\ninterpreter_python = auto_silent\n",
        },
        under="a project",
    )
    told = ask(
        place,
        """
        extra = "-e ansible_python_interpreter={{ansible_playbook_python}}"
        runner = run(ident=ident, playbook="site.yml", cmdline=extra, **given, **engine)
        done = [e["event_data"] for e in runner.events if e["event"] == "runner_on_ok"]
        answer(status=runner.status, cwd=runner.config.cwd, seen=done[0]["res"]["stdout"], path=done[0]["playbook"])
        """,
        private_data_dir=str(place.write({"env/keep": ""}, under="pdd")),
        host_cwd=str(project),
    )
    assert told == {"status": "successful", "cwd": str(project), "seen": str(project), "path": "site.yml"}
    assert (project / "made").stat().st_uid == place.uid


def test_mounts_options_working_directory_and_credentials_of_the_container(contained: Place) -> None:
    shown = contained.write({"word": "mounted\n"}, under="shown")
    written = contained.write({"keep": ""}, under="written")
    told = ask(
        contained,
        """
        runner = run(ident=ident, module="shell", module_args="cat word; pwd; hostname; touch /written/made",
                     host_pattern="localhost", **given, **engine)
        (event,) = [e for e in runner.events if e["event"] == "runner_on_ok"]
        answer(lines=event["event_data"]["res"]["stdout_lines"], options=runner.config.container_options)
        """,
        private_data_dir=str(contained.write({"env/keep": ""}, under="pdd")),
        container_workdir="/shown",
        container_volume_mounts=[f"{shown}:/shown:ro", f"{written}:/written/:rw"],
        container_options=["--hostname", "named-by-option"],
        container_auth_data={"host": "registry.invalid", "username": "someone", "password": TOKEN},
    )
    assert told["lines"] == ["mounted", "/shown", "named-by-option"]
    assert told["options"] == ["--hostname", "named-by-option"]
    assert (written / "made").stat().st_uid == contained.uid
    assert all(TOKEN not in path.read_text() for path in (contained.root / "pdd").rglob("*") if path.is_file())


def test_the_args_file_is_the_whole_command(place: Place) -> None:
    directory = place.write(
        {
            "args": "ansible localhost --inventory ../inventory/hosts\n  -m debug -a 'msg=\"from args: * $HOME\"'\n",
            "inventory/hosts": "localhost ansible_connection=local\n",
            "project/keep": "",
        },
        under="pdd",
    )
    told = ask(
        place,
        """
        runner = run(ident=ident, **given, **engine)
        messages = [e["event_data"]["res"]["msg"] for e in runner.events if e["event"] == "runner_on_ok"]
        answer(rc=runner.rc, messages=messages, command=runner.config.command[:2])
        """,
        private_data_dir=str(directory),
    )
    assert told == {"rc": 0, "messages": ["from args: * $HOME"], "command": ["ansible", "localhost"]}


def test_events_come_while_two_jobs_run_on_one_private_data_directory(place: Place) -> None:
    directory = place.write(
        {
            "inventory/hosts": INVENTORY,
            "project/site.yml": (
                "- hosts: one\n  gather_facts: false\n  tasks:\n"
                "    - debug: msg='{{ mine }}'\n"
                "    - name: met\n      wait_for: {path: '{{ playbook_dir }}/seen-{{ mine }}', timeout: 60}\n"
            ),
        },
        under="pdd",
    )
    told = ask(
        place,
        """
        def job(number):
            thread, runner = run_async(
                ident=f"{ident}-{number}", playbook="site.yml", extravars={"mine": number}, **given, **engine
            )
            for event in runner.events:
                task = event.get("event_data", {}).get("task")
                if event["event"] == "runner_on_start" and task == "met":  # the job waits until it is seen
                    alive = thread.is_alive()
                    open(os.path.join(given["private_data_dir"], "project", f"seen-{number}"), "w").close()
            thread.join()
            messages = [e["event_data"]["res"].get("msg") for e in runner.events if e["event"] == "runner_on_ok"]
            return runner.status, alive, messages[0]
        with ThreadPoolExecutor() as pool:
            answer(jobs=list(pool.map(job, (1, 2))))
        """,
        private_data_dir=str(directory),
    )
    assert told["jobs"] == [["successful", True, 1], ["successful", True, 2]]


# run_command


def test_a_service_that_runs_at_the_root_directory_can_run_commands_there(place: Place) -> None:
    told = ask(
        place,
        """
        os.chdir("/")
        said = run_command("pwd", runner_mode="subprocess", ident=ident, **engine)
        try:
            answer(said=said, named=run_command("pwd", host_cwd="/", ident=ident, runner_mode="subprocess", **engine))
        except ee_runner.MountRefused as error:
            answer(said=said, named=str(error))
        """,
    )
    assert told["said"] == ["/\n", "", 0]
    assert told["named"] == ["/\n", "", 0] if place.name == "local" else "would hide the system" in told["named"]


def test_a_command_runs_in_the_host_cwd_and_its_output_is_returned_as_it_is(place: Place) -> None:
    directory = place.write({"file": "of the host\n"}, under="a directory")
    told = ask(
        place,
        """
        words = ["-c", "cat file; pwd; test -t 1 && echo terminal; touch made; echo oops >&2; exit 3"]
        both = [run_command("sh", words, ident=ident + mode, runner_mode=mode, **given, **engine)
                for mode in ("subprocess", "pexpect")]
        thread, runner = run_command_async("id", ["-u"], ident=ident, quiet=True, **given, **engine)
        thread.join()
        with runner.stdout as stdout, runner.stderr as stderr:
            who = stdout.read(), stderr.read(), runner.rc
        temporary = runner.config.private_data_dir
        del runner, thread
        answer(both=both, who=who, left=[temporary] if os.path.exists(temporary) else [])
        """,
        host_cwd=str(directory),
    )
    piped, on_terminal = told["both"]
    assert piped == [f"of the host\n{directory}\n", "oops\n", 3]
    assert on_terminal == [f"of the host\n{directory}\nterminal\noops\n", "", 3]
    assert (directory / "made").stat().st_uid == place.uid
    assert told["who"][1:] == ["", 0]
    assert told["who"][0].strip().isdigit()
    assert told["left"] == []


def test_arguments_arrive_unchanged(place: Place) -> None:
    told = ask(
        place,
        """
        script = "import sys, json; print(json.dumps(sys.argv[1:]))"
        python = given["python"]
        answer(seen=[json.loads(run_command(python, ["-c", script, *given["words"]], ident=ident + mode,
                                            runner_mode=mode, **engine)[0]) for mode in ("subprocess", "pexpect")])
        """,
        words=ODD_WORDS,
        python="python3" if place.contained else "/usr/bin/python3",
    )
    assert told["seen"] == [ODD_WORDS, ODD_WORDS]


def test_files_that_the_arguments_name_are_there(place: Place) -> None:
    place.write(
        {
            "inventories/hosts": "localhost ansible_connection=local ansible_python_interpreter="
            "'{{ ansible_playbook_python }}'\n",
            "secrets/vault": "the vault's password\n",
            "secrets/key": "no key at all\n",
            "books/site.yml": (
                "- hosts: all\n  gather_facts: false\n  tasks: [{debug: {msg: \"{{ lookup('file', key) }}\"}}]\n"
            ),
            "work/keep": "",
        }
    )
    told = ask(
        place,
        """
        base, events = given["base"], []
        options = {**engine, "ident": ident, "event_handler": events.append, "host_cwd": base + "/work"}
        words = ["-i", base + "/inventories/hosts", "--vault-password-file", "../secrets/vault",
                 "--private-key", base + "/secrets/key", "-e", "key=" + base + "/secrets/key", base + "/books/site.yml"]
        result = run_command("ansible-playbook", words, runner_mode="subprocess", **options)
        done = [event["event_data"]["res"] for event in events if event["event"] == "runner_on_ok"]
        answer(result=result, messages=[result["msg"] for result in done])
        """,
        base=str(place.root),
    )
    assert told["result"][1:] == ["", 0], told
    assert told["messages"] == ["no key at all"]


def test_input_that_is_a_pipe_reaches_the_command_which_has_no_terminal(place: Place) -> None:
    told = ask(
        place,
        """
        answer(
            piped=run_command("sh", ["-c", "tty; cat"], input_fd=sys.stdin, ident=ident, **engine),
            none=run_command("cat", runner_mode="subprocess", ident=ident + "2", **engine),
        )
        """,
        text="first\nzwölf\n",
    )
    assert told["piped"] == ["not a tty\nfirst\nzwölf\n", "", 0]
    assert told["none"] == ["", "", 0]


def test_prompts_of_a_command_are_answered_from_the_passwords(place: Place) -> None:
    play = "- hosts: localhost\n  gather_facts: false\n  vars_prompt: [{name: word, prompt: say it, private: false}]\n"
    place.write({"site.yml": play + "  tasks: [{debug: {msg: 'heard {{ word }}'}}]\n"})
    told = ask(
        place,
        """
        passwords = {"say it.*: ?$": "zwölf words"}
        out, err, rc = run_command("ansible-playbook", ["site.yml"], ident=ident, passwords=passwords, **engine)
        answer(out=out, err=err, rc=rc)
        """,
    )
    assert (told["rc"], told["err"]) == (0, "")
    assert "heard zwölf words" in told["out"]


@pytest.mark.parametrize("output", ["terminal", "returned"])
def test_there_is_a_terminal_inside_when_input_and_output_are_one(place: Place, output: str) -> None:
    ours, inner = os.openpty()
    if place.user is not None:
        os.fchown(inner, place.user.uid, place.user.gid)
    child = start(
        place,
        """
        where = {"output_fd": sys.stdout, "error_fd": sys.stderr} if given["shown"] else {}
        script = "for fd in 0 1 2; do test -t $fd && echo terminal-$fd; done; echo; cat"
        result = run_command("sh", ["-c", script], input_fd=sys.stdin, ident=ident, **where, **engine)
        print("answer", json.dumps(result), "end", flush=True)
        """,
        terminal=inner,
        shown=output == "terminal",
    )
    try:
        shown = read_terminal(ours, until="terminal-2" if output == "terminal" else None, seconds=15)
        os.write(ours, b"typed by hand\r\x04")
        shown += read_terminal(ours, until=" end", seconds=60)
        assert child.wait(60) == 0, shown
    finally:
        child.kill()
        child.wait()
        os.close(ours)
        os.close(inner)
    assert containers(place) == []
    if output == "terminal":
        assert all(f"terminal-{number}\r\n" in shown for number in (0, 1, 2)), shown
        assert shown.count("typed by hand") == 2, "typed and shown by the terminal, then by cat"
        assert 'answer ["", "", 0] end' in shown
    else:
        seen = "" if place.contained else "terminal-0\\n"  # what there is to be inherited
        assert f'answer ["{seen}\\ntyped by hand\\n", "", 0] end' in shown


def read_terminal(descriptor: int, *, until: str | None, seconds: float) -> str:
    """Read until a text has come; without one, for as long as nothing is to be expected."""
    text = ""
    deadline = time.monotonic() + (seconds if until else 1)
    while (until is None or until not in text) and time.monotonic() < deadline:
        if select.select([descriptor], [], [], 0.1)[0]:
            text += os.read(descriptor, 65536).decode(errors="replace")
    assert until is None or until in text, text
    return text


def test_exit_codes_are_the_commands_own_and_what_is_not_there_is_127(place: Place) -> None:
    told = ask(
        place,
        """
        def end(code, mode):
            return run_command("sh", ["-c", f"exit {code}"], ident=f"{ident}-{code}-{mode}", runner_mode=mode, **engine)
        def miss(mode):
            return run_command("no-such-command", ["x"], ident=f"{ident}-missing-{mode}", runner_mode=mode, **engine)
        cases = [(code, mode) for code in given["codes"] for mode in ("subprocess", "pexpect")]
        with ThreadPoolExecutor(4) as pool:
            ends = pool.map(lambda case: end(*case), cases)
            missing = pool.map(miss, ("subprocess", "pexpect"))
            killed = pool.submit(run_command, "sh", ["-c", "kill -9 $$"], ident=ident + "killed", **engine)
            answer(ends=list(ends), missing=list(missing), killed=killed.result())
        """,
        codes=(0, 1, 125, 126, 127, 255),
    )
    assert told["ends"] == [["", "", code] for code in (0, 0, 1, 1, 125, 125, 126, 126, 127, 127, 255, 255)]
    assert told["killed"][2] == 137
    for out, err, rc in told["missing"]:
        assert rc == 127
        assert "no-such-command" in out + err


def test_an_image_that_is_not_there_raises_image_error(contained: Place) -> None:
    told = ask(
        contained,
        """
        raised = []
        for mode in ("subprocess", "pexpect"):
            try:
                run_command("true", ident=ident, runner_mode=mode, **{**engine, "container_image": "localhost/none:1"})
            except ee_runner.ImageError as error:
                raised.append([error.image, str(error)])
        answer(raised=raised)
        """,
    )
    assert [image for image, _ in told["raised"]] == ["localhost/none:1"] * 2
    assert all("localhost/none:1" in text for _, text in told["raised"])


STOPPED = """
def stopped(number):
    mode, how = [(mode, how) for mode in ("subprocess", "pexpect") for how in ("callback", "cancel", "timeout")][number]
    own = f"{ident}-{mode}-{how}"
    words = {"subprocess": ["-c", "exec 2>&1; " + given["script"]], "pexpect": ["-c", given["script"]]}[mode]
    options = {**engine, "ident": own, "runner_mode": mode, "artifact_dir": given["artifacts"]}
    stdout = os.path.join(given["artifacts"], own, "stdout")
    def is_up():
        return os.path.exists(stdout) and "up" in open(stdout).read()
    if how == "callback":
        out, err, rc = run_command("sh", words, cancel_callback=is_up, **options)
        return rc, out.strip(), open(os.path.join(given["artifacts"], own, "status")).read()
    if how == "timeout":
        options["timeout"] = given["timeout"]
    thread, runner = run_command_async("sh", words, **options)
    while how == "cancel" and thread.is_alive() and not is_up():
        time.sleep(0.05)
    if how == "cancel":
        runner.cancel()
    thread.join()
    with runner.stdout as handle:
        return runner.rc, handle.read().strip(), runner.status
begun = time.monotonic()
with ThreadPoolExecutor(6) as pool:
    ends = list(pool.map(stopped, range(6)))
answer(ends=ends, seconds=time.monotonic() - begun)
"""


@pytest.mark.parametrize("script", [POLITE, DEAF], ids=["polite", "deaf to SIGTERM"])
def test_a_stopped_command_leaves_nothing_in_either_mode(place: Place, script: str) -> None:
    told = ask(place, STOPPED, script=script, artifacts=str(place.root / "artifacts"), timeout=3)
    assert [[rc, status] for rc, _, status in told["ends"]] == 2 * [
        [254, "canceled"],
        [254, "canceled"],
        [254, "timeout"],
    ]
    assert [out.split()[:1] for _, out, status in told["ends"] if status == "canceled"] == 4 * [["up"]]
    assert told["seconds"] < (30 if script == POLITE else 60), "a polite command is not waited for"
    assert NAP not in processes()


# Pulling


@pytest.fixture
def published(contained: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[registry.Registry, str]]:
    """A registry with a password, and the name of an image in it: of one program, which needs no libraries."""
    monkeypatch.setattr(registry, "one_file_layer", layer_of_a_static_program)
    with registry.serve(auth=True) as server:
        image = server.publish("tiny")
        yield server, image
        contained.command([contained.engine, "image", "rm", "-f", image])


def layer_of_a_static_program() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        layer.add("/sbin/ldconfig", "program", filter=lambda entry: entry.replace(mode=0o755))
    return buffer.getvalue()


def test_a_pull_is_silent_and_takes_the_credentials(contained: Place, published: tuple[registry.Registry, str]) -> None:
    server, image = published
    told = ask(
        contained,
        """
        options = {**engine, **given, "ident": ident}
        del options["container_pull"]
        answer(results=[
            run_command("/program", ["--version"], runner_mode=mode, container_pull=policy, **options)
            for mode, policy in (("subprocess", "missing"), ("pexpect", "always"), ("subprocess", "always"))
        ])
        """,
        container_image=image,
        container_auth_data={
            "host": server.address,
            "username": server.username,
            "password": server.password,
            "verify_ssl": False,
        },
    )
    assert [result[1:] for result in told["results"]] == [["", 0]] * 3
    assert all(result[0].startswith("ldconfig (") for result in told["results"]), told
    assert server.log.read_text().count("/v2/tiny/manifests") >= 3
