"""flood.py FILE how: `run_command` of `cat FILE`; tells the seconds, the bytes and the peak of memory in kB.

`how` is "returned", or "passed on": to a descriptor of the caller.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import ansible_runner


def main(path: str, how: str) -> None:
    with tempfile.TemporaryDirectory() as directory, open(os.devnull, "w") as nowhere:  # noqa: PTH123
        more = {} if how == "returned" else {"output_fd": nowhere}
        start = time.monotonic()
        _, _, rc = ansible_runner.run_command("cat", [path], private_data_dir=directory, quiet=True, **more)
        seconds = time.monotonic() - start
    if rc:
        sys.exit(f"cat {path}: exit code {rc}")
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    print(json.dumps({"seconds": seconds, "size": Path(path).stat().st_size, "peak": peak}))


main(*sys.argv[1:])
