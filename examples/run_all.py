"""Runs every example script in a process of its own; the exit code is the number that failed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    failed = 0
    for script in sorted(HERE.glob("*.py")):
        if script.name == Path(__file__).name:
            continue
        started = time.perf_counter()
        # One thread: small networks gain nothing from more, and a busy machine loses much.
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "BATCHFINDER_QUIET": "1"}
        done = subprocess.run(
            [sys.executable, str(script)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        failed += done.returncode != 0
        print(f"== {script.name}: {time.perf_counter() - started:.0f} s", flush=True)
        print(done.stdout + (done.stderr if done.returncode else ""), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
