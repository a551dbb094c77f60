"""The recommended pair compared with the user's own, on twelve trainings.

``python tests/benchmarks/own_pair.py [--task NAME] [--minutes 20] [--out FILE]``

The user trains 1,000 steps at batch 32 with the rate that the task came with. The product is asked
once for each seed, as from the first step of that training, and what it recommends is trained on
the same seed until it reaches the loss that the user's training ends at. Times are steps times a
step time that is flat to 256 and then in proportion. Cells are kept in
``docs/tables/own_pair.jsonl``: what is in it is not run again. It asserts nothing.
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from held_out import HELD_OUT
from long_tasks import LONG
from regret import PROFILES
from regret_table import BASE, Pair
from stacked import curves
from sweep import Cells, OutOfTime
from tasks import TASKS, Task
from unseen import UNSEEN
from users import recommended_pair

CELLS = Path(__file__).parents[2] / "docs" / "tables" / "own_pair.jsonl"
SEEDS = (0, 1, 2)
LENGTH = 1000
MISSED = 2.0
"""A target that is not met within so many times the user's own time is missed."""
SIZES = (16, 32, 64, 128, 256, 512)
PROFILE = "saturating"
MADE_ON = ("digits MLP", "Mackey–Glass forecast", "teacher, tabular")
HELD = ("photograph by place", "Friedman, LayerNorm")
LONGER = ("clusters, BatchNorm, SGD", "Lorenz forecast, residual", "digits autoencoder, AdamW")


def trainings() -> list[Task]:
    """Twelve that can be trained side by side; those that no rule was made on come last."""
    known = {task.name: task for task in (*TASKS, *HELD_OUT, *(long.task for long in LONG))}
    seen = [known[name] for name in (*MADE_ON, *HELD, *LONGER)]
    return [replace(task, sizes=SIZES) for task in (*seen, *UNSEEN[:4])]


@dataclass(frozen=True)
class Row:
    task: str
    unseen: bool
    pairs: tuple[tuple[int, float], ...]
    """What was recommended, seed by seed."""
    gains: tuple[float, ...]
    """The user's own time over that of the recommended pair; 0 where the target was missed."""


def row_of(cells: Cells, task: Task) -> Row:
    targets = targets_of(cells, task)
    times = {size: PROFILES[PROFILE](size) for size in SIZES}
    base = Pair(BASE, task.first_rate, times[BASE])
    pairs, gains = [], []
    for seed, target in zip(SEEDS, targets, strict=True):
        found = recommended_pair(cells, task, PROFILE, times, base, seed=seed)
        theirs = steps_of(cells, task, base, seed, target)
        theirs = min(theirs, 2.0 * LENGTH)
        ours = steps_of(cells, task, found, seed, target, limit=theirs * MISSED)
        pairs.append((found.size, found.rate))
        gains.append(theirs * base.seconds / (ours * found.seconds))
    return Row(task.name, task.name in {u.name for u in UNSEEN}, tuple(pairs), tuple(gains))


def targets_of(cells: Cells, task: Task) -> list[float]:
    """The validation loss that the user's own training ends at, seed by seed."""
    key = {"task": task.name, "kind": "target"}
    for row in cells.find(**key):
        return [float(loss) for loss in row["losses"]]
    cells.check_time()
    ran = curves(task, BASE, [(task.first_rate, seed) for seed in SEEDS], LENGTH)
    targets = [float(f"{curve.at(LENGTH):.5g}") for curve in ran]
    for curve, target in zip(ran, targets, strict=True):
        key_of_own = key_of(task, Pair(BASE, curve.rate, 1.0), curve.seed, target)
        cells.add(**key_of_own, found=float(f"{curve.reached(target):.5g}"))
    cells.add(**key, losses=targets)
    return targets


def steps_of(
    cells: Cells,
    task: Task,
    pair: Pair,
    seed: int,
    target: float,
    *,
    limit: float = 2.0 * LENGTH,
) -> float:
    """Steps to the target, ``inf`` beyond ``limit`` steps of the time that one at 32 takes."""
    key = key_of(task, pair, seed, target)
    for row in cells.find(**key):
        return float(row["found"])
    cells.check_time()
    most = math.ceil(limit / pair.seconds)
    (curve,) = curves(task, pair.size, [(pair.rate, seed)], most, targets={seed: target})
    cells.add(**key, found=float(f"{curve.reached(target):.5g}"))
    return curve.reached(target)


def key_of(task: Task, pair: Pair, seed: int, target: float) -> dict[str, object]:
    key = {"task": task.name, "kind": "run", "size": pair.size, "seed": seed, "target": target}
    return key | {"rate": float(f"{pair.rate:.4g}")}


def markdown(rows: list[Row]) -> str:
    lines = [
        "| training | no rule was made on it | recommended, by seed | faster than yours, by seed "
        "| median | missed |",
        "| --- | --- | --- | --- | ---: | ---: |",
    ]
    for row in rows:
        pairs = ", ".join(f"{size} at {rate:.2g}" for size, rate in row.pairs)
        gains = ", ".join(f"{gain:.2f}x" if gain else "missed" for gain in row.gains)
        missed = sum(not gain for gain in row.gains)
        middle = statistics.median(row.gains)
        unseen = "yes" if row.unseen else "no"
        lines.append(f"| {row.task} | {unseen} | {pairs} | {gains} | {middle:.2f}x | {missed} |")
    if rows:
        middles = [statistics.median(row.gains) for row in rows]
        mean = statistics.geometric_mean([max(each, 1e-9) for each in middles])
        lines.append(f"| **mean** (geometric) | | | | {mean:.2f}x | |")
        lines.append(f"| **least** | | | | {min(middles):.2f}x | |")
    return "\n".join(lines)


PREAMBLE = f"""# Against the user's own pair

Twelve trainings at a constant rate: batch {BASE} with the rate that the task came with, {LENGTH:,}
steps. What is recommended is trained on the same seed until it reaches the validation loss that the
user's own training ends at; missed, where that takes over twice the time. Times are steps times a
step time that is flat to 256 and then in proportion, as on a GPU. The user's rates were not tuned,
so that part of the gain is a better rate.

Made by `python tests/benchmarks/own_pair.py --out docs/tables/own_pair.md`; every cell is in
`docs/tables/own_pair.jsonl`.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="?", type=Path, default=CELLS)
    parser.add_argument("--task", default="")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cells, rows, missing = Cells(asked.cells, asked.minutes), [], []
    for task in (each for each in trainings() if asked.task in each.name):
        try:
            rows.append(row_of(cells, task))
        except OutOfTime:
            missing.append(task.name)
    text = markdown(rows)
    if missing:
        text += f"\n\nNot run: {', '.join(missing)}."
    print(text)
    if asked.out is not None:
        asked.out.write_text(PREAMBLE + text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
