"""Long runs: steps with the rate of a race, relative to the best rate.

``python tests/benchmarks/long_runs.py [CELLS.jsonl] [--task NAME] [--minutes 40] [--out FILE]``

For each task of ``long_tasks.py``, at one batch size, a user's rate that is right, four times too
low and four times too high is handed to a race (the product's own), told the length of the run.
The rate that comes out is trained with, and its steps to the target divided by those of the best
rate of a grid of factors of two. The target is what the best rate of the grid reaches at the end of
the run, so that it is met after about as many steps as the run has. A second table decays the rate
to 0 along a cosine and judges the end of the run. Everything is kept cell by cell: what is in the
file is not run again, and with ``--minutes`` the rest is left for another call. It asserts nothing.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from long_tasks import LONG
from sweep import Cells, OutOfTime
from targets import (
    CONSTANT,
    COSINE,
    FACTORS,
    FAILED,
    LONGEST,
    SEEDS,
    Place,
    best_on_grid,
    long_target,
)
from users import Bench

from batchfinder.results import BatchPlan

RACE_SEED = 0


def raced(place: Place, rate: float) -> dict[str, object]:
    """What the product's race makes of a user's ``rate``."""
    run_steps = place.long.steps
    key = place.key | {"kind": "race", "rate": float(f"{rate:.4g}"), "run_steps": run_steps}
    for row in place.cells.find(**key):
        return row
    place.cells.check_time()
    bench = Bench(place.long.task, rate, RACE_SEED)
    plan = BatchPlan(place.long.size)
    result = bench.race(plan, rate, run_steps, averaged=place.schedule == COSINE)
    arms = [[arm.learning_rate, arm.loss, arm.order] for arm in result.arms]
    outcome = {"to": result.learning_rate, "best": result.best_rate, "refusal": result.refusal}
    return place.cells.add(**key, **outcome, arms=arms, steps=result.steps_taken)


# --- the tables ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    task: str
    size: int
    best: float
    steps: float
    started: dict[str, float]
    found: dict[str, tuple[float, float, int]]
    """By the user's rate: the rate found, its inflation, and the steps of the race."""


def row_of(place: Place, *, started: bool) -> Row:
    long = place.long
    inflation, best, steps = (constant if place.schedule == CONSTANT else decayed)(place)
    found = {}
    for name, factor in FACTORS.items():
        race = raced(place, best * factor)
        to = float(race["to"])
        found[name] = (to, inflation(to), int(race["steps"]))
    names = FACTORS if started else ()
    as_started = {name: inflation(best * FACTORS[name]) for name in names}
    return Row(long.task.name, long.size, best, steps, as_started, found)


Inflation = Callable[[float], float]


def constant(place: Place) -> tuple[Inflation, float, float]:
    """Steps to the target over the best rate's; that rate, and its steps."""
    near, target = long_target(place)
    limit = round(LONGEST * place.long.steps)
    grid = {rate: place.mean(rate, limit, target) for rate in (near, near / 2, near * 2)}
    best = min(grid, key=grid.__getitem__)

    def inflation(rate: float) -> float:
        return min(FAILED, place.mean(rate, limit, target) / grid[best])

    return inflation, best, grid[best]


def decayed(place: Place) -> tuple[Inflation, float, float]:
    """By how much longer a run would have to be to end as low; the best rate, and the steps.

    Read off the losses at the ends of the best rate's runs of the whole length and of half of it,
    between which the loss is taken to fall with the logarithm of the steps.
    """
    steps, first = place.long.steps, SEEDS[0]
    near = best_on_grid(lambda rate: place.run(rate, first, steps), place.long.task.first_rate)
    whole = {rate: place.mean(rate, steps) for rate in (near, near / 2, near * 2)}
    best = min(whole, key=whole.__getitem__)
    half = min(place.mean(rate, steps // 2) for rate in (best, 2 * best))

    def inflation(rate: float) -> float:
        share = (place.mean(rate, steps) - whole[best]) / (half - whole[best])
        return FAILED if not share < math.log2(FAILED) else float(2**share)

    return inflation, best, float(steps)


def markdown(rows: list[Row], measure: str) -> str:
    names = list(FACTORS)
    head = ["task", "batch", "best rate", measure]
    head += [f"{name}: as started" for name in names if rows and rows[0].started]
    head += [f"{name}: raced" for name in names] + ["steps of a race"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * 2 + " ---: |" * (len(head) - 2)]
    for row in rows:
        cells = [row.task, str(row.size), f"{row.best:.3g}", f"{row.steps:,.0f}"]
        cells += [_shown(row.started[name]) for name in names if row.started]
        cells += [f"{_shown(row.found[name][1])} ({row.found[name][0]:.2g})" for name in names]
        cells += ["/".join(str(row.found[name][2]) for name in names)]
        lines.append("| " + " | ".join(cells) + " |")
    for word, summary in (("mean", statistics.fmean), ("worst", max)) if rows else ():
        cells = [f"**{word}**", "", "", ""]
        if rows[0].started:
            cells += [_shown(summary([row.started[name] for row in rows])) for name in names]
        cells += [_shown(summary([row.found[name][1] for row in rows])) for name in names]
        lines.append("| " + " | ".join([*cells, ""]) + " |")
    return "\n".join(lines)


def _shown(inflation: float) -> str:
    return f"≥ {LONGEST}" if inflation >= FAILED else f"{inflation:.2f}"


def tables(cells: Cells, asked: argparse.Namespace) -> str:
    """As many rows as there is time for."""
    rows: dict[str, list[Row]] = {CONSTANT: [], COSINE: []}
    missing = []
    for schedule in asked.schedule or tuple(rows):
        for long in LONG:
            if asked.task in long.task.name:
                try:
                    place = Place(cells, long, schedule)
                    rows[schedule].append(row_of(place, started=asked.started))
                except OutOfTime:
                    missing.append(f"{long.task.name} ({schedule})")
    text = "## A constant rate, to a target\n\n" + markdown(rows[CONSTANT], "steps to the target")
    text += "\n\n## A rate decayed to 0 along a cosine, judged at its end\n\n"
    text += markdown(rows[COSINE], "steps of the run")
    return text + (f"\n\nNot run to the end: {', '.join(missing)}." if missing else "")


PREAMBLE = f"""# The learning rate found by a race, on long runs

Inflation: steps over those of the best rate of a grid of factors of two, at the same batch size; 1
is as fast. {LONGEST:g} or more, a loss that ran away and a target never met count as {FAILED:g}. A
user's rate that is right, four times too low and four times too high is handed to
`Race()` with the length of the run; "as started" is that rate without a race. Mean of
{len(SEEDS)} seeds of each run and one race; differences below about 0.1 are within their scatter.
No rule was made or changed on these tasks. The decayed runs' inflation is read off the losses at
the ends of runs of the whole length and of half of it.

Made on a 2-core CPU machine that was busy with other work, one thread, by
`python tests/benchmarks/long_runs.py --out docs/tables/race.md`.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(tempfile.gettempdir()) / "batchfinder-long-runs.jsonl"
    parser.add_argument("cells", nargs="?", type=Path, default=default)
    parser.add_argument("--task", default="")
    parser.add_argument("--schedule", action="append", choices=(CONSTANT, COSINE))
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--started", action="store_true", help="without a race too")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    text = tables(Cells(asked.cells, asked.minutes), asked)
    print(text)
    if asked.out is not None:
        asked.out.write_text(PREAMBLE + text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
