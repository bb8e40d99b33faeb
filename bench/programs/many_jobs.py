"""many_jobs.py bare|runner AT_ONCE DIRECTORY...: run a job for each directory, by a pool; tells the seconds."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def main(how: str, at_once: str, *directories: str) -> None:
    run = bare if how == "bare" else by_runner()
    start = time.monotonic()
    with ThreadPoolExecutor(int(at_once)) as pool:
        ends = list(pool.map(run, directories))
    if any(end != 0 for end in ends):
        sys.exit(f"exit codes {ends}")
    print(json.dumps({"seconds": time.monotonic() - start}))


def bare(directory: str) -> int:
    argv = ["ansible-playbook", "-i", f"{directory}/inventory/hosts", f"{directory}/project/site.yml"]
    with Path(directory, "output").open("wb") as output:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False).returncode


def by_runner() -> Callable[[str], int | None]:
    import ansible_runner

    return lambda directory: ansible_runner.run(private_data_dir=directory, playbook="site.yml", quiet=True).rc


main(*sys.argv[1:])
