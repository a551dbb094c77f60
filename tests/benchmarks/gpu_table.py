"""Writes the page of ``gpu.py``.

    python tests/benchmarks/gpu_table.py gpu_results.json [more.json …]

Of a cell that stands in several files the last one counts. Writes docs/tables/gpu.json and
docs/tables/gpu.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
KEPT, PAGE = ROOT / "docs" / "tables" / "gpu.json", ROOT / "docs" / "tables" / "gpu.md"
EXPANDABLE = ", expandable segments"
BEFORE = {"ResNet-50": 91, "GPT-2 small": 41, "UNet": 22, "character GPT": 24}
"""Seconds of a whole call at commit 2c151a4, on the same kind of machine."""
UNKEPT = ("events", "report", "explained", "at")


def merged(paths: list[Path]) -> dict[str, Any]:
    """The rows of all files by cell."""
    cells: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for path in paths:
        found = json.loads(path.read_text(encoding="utf-8"))
        for row in found["rows"]:
            if "skipped" not in row:
                cells[row["cell"]] = {key: row[key] for key in row if key not in UNKEPT}
    return {"device": found["device"], "torch": found["torch"], "rows": list(cells.values())}


def table(head: str, lines: list[str]) -> str:
    aligned = "|".join("--:" if index else "---" for index in range(head.count("|") - 1))
    return "\n".join([head, f"|{aligned}|", *lines])


def searches(rows: dict[str, Any]) -> str:
    lines = []
    names = dict.fromkeys(name.removesuffix(EXPANDABLE) for name in rows if "truth" in rows[name])
    for name in names:
        row = rows.get(name, {})
        other = rows.get(name + EXPANDABLE, {})
        training, limit = name.split(", ")
        lines.append(
            f"| {training} | {limit} | {_number(row, 'found')} | {_number(row, 'truth')} | "
            f"{row.get('found/true', '–')} | {row.get('seconds', '–')} | "
            f"{row.get('out_of_memory', '–')} | {_number(other, 'found')} | "
            f"{_number(other, 'truth')} | {other.get('found/true', '–')} |"
        )
    head = (
        "| training | limit | found | trains | ratio | seconds | out of memory | found, expandable "
        "| trains, expandable | ratio |"
    )
    return table(head, lines)


def calls(rows: dict[str, Any]) -> str:
    lines = []
    for name, row in rows.items():
        if "stages" not in row:
            continue
        training, limit, _ = name.split(", ")
        stages = [row["stages"].get(each, 0) for each in ("probe", "measure", "noise", "confirm")]
        steps = next(key for key in row if key.endswith("further steps"))
        lines.append(
            f"| {training} | {limit} | {row['seconds']} | {BEFORE[training]} | "
            + " | ".join(map(str, stages))
            + f" | {row['batch_size']} of {row['max_batch_size']:,} | {row['learning_rate']:.2g} | "
            f"{'ran' if row[steps] else 'failed'} |"
        )
    head = (
        "| training | limit | seconds | before | probe | measure | noise | confirm | "
        "recommended | rate | 100 further steps |"
    )
    return table(head, lines)


def energy(rows: dict[str, Any]) -> str:
    lines = []
    for name, row in rows.items():
        told = {int(k): v for k, v in row.get("joules_per_sample", {}).items() if v}
        for size, joules in sorted(told.items()):
            rate = row["samples_per_second"][str(size)]
            lines.append(f"| {name.split(', ')[0]} | {size:,} | {rate:,} | {joules} |")
    return table("| training | batch size | samples per second | joules per sample |", lines)


def rivals(rows: dict[str, Any]) -> str:
    ours = next(row for name, row in rows.items() if name == "ResNet-50, 24GB")
    lines = [f"| batchfinder | {ours['found']} | {ours['seconds']} |"]
    for name, row in rows.items():
        if "Lightning" in name or "Accelerate" in name:
            found = row.get("found", row.get("failed", "")[:60])
            lines.append(f"| {name.split('24GB, ')[1]} | {found} | {row.get('seconds', '–')} |")
    lines.append(f"| plain steps, by bisection | {ours['truth']} | |")
    return table("| ResNet-50, 24 GB | found | seconds |", lines)


def _number(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:,}" if key in row else "–"


def main() -> None:
    kept = merged([Path(each) for each in sys.argv[1:]] or [KEPT])
    rows = {row["cell"]: row for row in kept["rows"]}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    page = f"""# On a GPU

Measured by `python tests/benchmarks/gpu.py` on one {kept["device"]} (torch {kept["torch"]}, 16
cores), in parts and each once; the page is written by `python tests/benchmarks/gpu_table.py`.
ResNet-50 (SGD with momentum, 224 × 224), GPT-2 small (Transformers, fused AdamW, 1024 tokens), a
UNet of 20 M parameters (64 × 64) and a GPT of 10.8 M parameters (256 characters), all under
bfloat16 autocast inside of the step, with a loader of 8 workers. Limits are the process's, its
context included. Ten to seventeen other processes of the lowest priority ran on the 16 cores. Not
measured for want of time: the UNet on the whole card, and expandable segments elsewhere than
under 24 GB.

## What is found, and what trains

"Trains" is the largest size at which four plain steps ran, outside of the library and from an empty
cache, by bisection to 1%. With expandable segments GPT-2 small runs at 14, where the allocator
retries in every step: the search calls that the edge and returns 13. Under 16 GB the search found
308 for ResNet-50 (0.94) while a trial had eight steps to settle; 324 is with sixteen.

{searches(rows)}

## A whole call

Seconds by stage. "Before" is the call of commit 2c151a4 on the same kind of machine, with a ResNet,
a UNet and a loader of its own, so that the two compare roughly. Since these were taken the warm-up
of the noise scale may end early; that has not run on a GPU in its present form.

{calls(rows)}

## Beside other finders

Under the same cap of the allocator, three steps a trial.

{rivals(rows)}

## Energy

Of the whole device, its idle draw included.

{energy(rows)}
"""
    PAGE.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
