"""Little programs under guard: ``python -m tests.support.guarded NAME [ARGUMENT...]``.

Each that stays says ``ready`` on stdout when it has done what it is to be killed in the midst of.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ee_runner import orphans
from ee_runner.cli import remains
from ee_runner.cli.guardian import Ward, guarded

DEAF = "exec 2>/dev/null; trap '' TERM INT HUP; while :; do sleep 0.1; done"
remains._GRACE = float(os.environ.get("GUARDED_GRACE", remains._GRACE))


def job(ward: Ward, directory: str) -> int:
    """Own directories and start processes of every kind; end in order when the guard has gone, or on SIGTERM."""
    ended = threading.Event()
    ward.on_abandoned(ended.set)
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    mine = Path(directory, "owned")
    ward.owns(mine)
    ward.owns_all(Path(directory), f"run_{os.getpid()}_")
    mine.mkdir()
    Path(directory, f"run_{os.getpid()}_a").mkdir()
    (mine / "locked" / "below").mkdir(parents=True)
    (mine / "locked" / "below" / "file").write_text("x")
    (mine / "link").symlink_to(directory)
    for locked in (mine / "locked" / "below", mine / "locked"):
        locked.chmod(0o555)
    processes = start_all()
    say("ready")
    ended.wait()
    Path(directory, "ended-in-order").touch()
    for process in processes:
        process.kill()
        process.wait()
    return 0


def start_all() -> list[subprocess.Popen[bytes]]:
    """Start a plain process, a deaf one, a stopped one, one in a session of its own, and a daemon."""
    plain = subprocess.Popen(["sleep", "600"])
    deaf = subprocess.Popen(["sh", "-c", DEAF])
    stopped = subprocess.Popen(["sleep", "600"])
    stopped.send_signal(signal.SIGSTOP)
    session = subprocess.Popen(["sh", "-c", f"sleep 600 & {DEAF}"], start_new_session=True)
    daemon(lambda: os.execvp("sh", ["sh", "-c", DEAF]))
    return [plain, deaf, stopped, session]


def daemon(work: Callable[[], object]) -> None:
    """Do the work in a process that has neither parent, session nor terminal of this one's."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    os.setsid()
    if os.fork() == 0:
        work()
    os._exit(0)


def copy(_: Ward) -> int:
    """Copy stdin to stdout, and end with the code that the last line says."""
    say("ready")
    lines = b"".join(iter(lambda: os.read(0, 4096), b"")).decode().splitlines()
    if sys.stdout is not None:
        sys.stdout.write("".join(f"{line}\n" for line in lines))  # left to the end to be flushed
    return int(lines[-1]) if lines else 0


def told(_: Ward) -> int:
    """Tell the signals that come, one a line, until SIGQUIT."""
    quit_asked = threading.Event()
    signal.signal(signal.SIGQUIT, lambda *_: quit_asked.set())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: say(signal.Signals(number).name))
    say("ready")
    while not quit_asked.wait(0.05):
        pass
    return 0


def plain(_: Ward) -> int:
    """Stay, with the signals' default actions."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    say("ready")
    time.sleep(600)
    return 0


def raising(_: Ward, what: str) -> int:
    """Leave by an exception."""
    raise {"error": ValueError("wrong"), "exit": SystemExit("told"), "code": SystemExit(7)}[what]


def leaving(_: Ward) -> int:
    """Leave a background process behind, in order."""
    sys.stdout.write(f"{subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL).pid}\n")
    return 0


def many(_: Ward, count: str) -> int:
    """Make many orphans, all deaf."""
    subprocess.run(["sh", "-c", f"trap '' TERM; for each in $(seq {count}); do sleep 600 & done"], check=True)
    say("ready")
    time.sleep(600)
    return 0


def restless(_: Ward) -> int:
    """Start processes that start their successors and end, again and again."""
    for _each in range(4):
        daemon(lambda: os.execvp("sh", ["sh", "-c", "again() { sleep 0.01; again & }; again"]))
    say("ready")
    time.sleep(600)
    return 0


def zombies(_: Ward) -> int:
    """Make orphans that end at once, and say how many stay zombies in all of /proc."""
    for _each in range(50):
        daemon(lambda: os._exit(0))
    deadline = time.monotonic() + 20
    while (left := dead()) and time.monotonic() < deadline:
        time.sleep(0.05)
    say(json.dumps({"front": os.getppid() != 1 and parent(os.getppid()), "zombies": left}))
    return 0


def dead() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if orphans.stat(entry.name)[0] == "Z":
                found.append(entry.name)
        except OSError:
            continue
    return found


def parent(pid: int) -> int:
    return int(orphans.stat(str(pid))[1])


def telling(ward: Ward, directory: str) -> int:
    """Tell from many threads, far more than a pipe holds, and take all but one back."""

    def tell(thread: int) -> None:
        for number in range(300):
            path = Path(directory, f"{thread}-{number}-{'x' * 200}")
            ward.owns(path)
            ward.released(path)
        ward.owns(Path(directory, f"{thread}"))

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        Path(directory, str(number)).touch()
    say("ready")
    time.sleep(600)
    return 0


def unprivileged_remove(path: str) -> None:
    """Remove a tree as a user whom modes hold back."""
    if os.geteuid() == 0:
        for each in (Path(path), *Path(path).rglob("*")):
            os.chown(each, 65534, 65534, follow_symlinks=False)
        os.chown(Path(path).parent, 65534, 65534)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    for each in sorted((each for each in Path(path).rglob("locked*") if each.is_dir()), reverse=True):
        each.chmod(0 if each.name == "locked-0" else 0o555)
    assert remains.remove(path)


def mounted_remove(path: str, source: str) -> None:
    """Try to remove a tree in which another place is mounted."""
    (target := Path(path, "with blank")).mkdir()
    subprocess.run(["mount", "--bind", source, target], check=True)
    claims = remains.Claims()
    claims.feed(remains.record(("owns", path, "")))
    say(remains.clean(claims))


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


WORKS: dict[str, Callable[..., int]] = {
    work.__name__: work for work in (job, copy, told, plain, raising, leaving, many, restless, zombies, telling)
}


def main(name: str, *arguments: str) -> int:
    if name == "unprivileged_remove":
        unprivileged_remove(*arguments)
        return 0
    if name == "mounted_remove":
        mounted_remove(*arguments)
        return 0
    return guarded(lambda ward: WORKS[name](ward, *arguments))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
