"""The monitor: accuracy of its noise scale, alarms, cost, and growing batches.

``python tests/benchmarks/monitor.py OUT.jsonl [noise|alarms|cost|growth …]`` runs the parts named
(all by default) and appends one line per result to OUT.jsonl. ``monitor_table.py`` writes the page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent.parent / "support"))
from monitor_alarms import alarms_part
from monitor_cost import cost_part
from monitor_growth import growth_part
from monitor_noise import noise_part

PARTS: dict[str, Callable[[], Iterator[dict[str, object]]]] = {
    "noise": noise_part,
    "alarms": alarms_part,
    "cost": cost_part,
    "growth": growth_part,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.parts or PARTS:
        for row in PARTS[name]():
            with asked.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
