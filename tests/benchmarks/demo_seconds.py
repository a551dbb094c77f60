"""Duration and recommendation of the demo, over several calls in separate processes.

Seconds are those of a machine without other work (``quiet.py``), importing torch included::

    python tests/benchmarks/demo_seconds.py [calls]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

ONE = """
import sys, time
from quiet import Said
from batchfinder.demo import demo
errors, sys.stderr = sys.stderr, Said()
report = demo()
sys.stderr.pause()
stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in report.seconds)
print(f"{time.perf_counter() - START:.1f} s, silent for at most {sys.stderr.longest:.1f} s, "
      f"batch {report.batch_size} at {report.learning_rate:.3g} ({stages})")
"""
START = "import quiet, time; START = time.perf_counter()\n"


def main(calls: int) -> None:
    for _ in range(calls):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", START + ONE],
            check=True,
            env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        )
        print(f"    {time.perf_counter() - started:.0f} s with what ran beside it", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 3)
