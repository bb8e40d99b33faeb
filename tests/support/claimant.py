"""A program that holds the record of a job until it is killed; it says where the record is when it is there.

python -m tests.support.claimant '{"mark": ..., "with": "fork"}'
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ee_runner import names, underway

_LONG = 120


def main() -> None:
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    company = wanted.pop("with", "")
    for name in ("private_data_dir", "artifact_dir"):
        wanted[name] = Path(wanted[name])
    for name in ("paths", "bases"):
        wanted[name] = [Path(path) for path in wanted.get(name, ())]
    for base in wanted["bases"]:
        (base / f"{names.run_prefix()}directory").mkdir()
    with underway.claim(**wanted) as claim:
        others = _company(company)
        print(json.dumps({"file": str(claim.file), "others": others}), flush=True)
        sys.stdin.read()
    print("ended", flush=True)


def _company(kind: str) -> list[int]:
    """Start a process that lives on when this one is killed, and return its pid."""
    if kind == "fork":
        told, telling = os.pipe()
        child = os.fork()
        if not child:
            os.write(telling, b"x")
            time.sleep(_LONG)
            os._exit(0)
        os.read(told, 1)  # it runs, and has let go of what is not its own
        return [child]
    if kind == "command":
        return [subprocess.Popen(["sleep", str(_LONG)], close_fds=False).pid]
    return []


if __name__ == "__main__":
    main()
