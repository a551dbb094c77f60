"""Regret: time to target of the recommended pair over the best pair of a full sweep.

``python tests/benchmarks/regret.py [CELLS.jsonl] [--out docs/tables/regret.md]`` trains every
task of ``tasks.py`` and ``held_out.py`` over sizes × rates × seeds (kept in the file, about an hour
of one core when empty), lets batchfinder recommend and confirm a pair from the user's own (batch
32 at its best rate), trains that pair too, and prints the table beside policies that people use.
``--base`` gives the user a rate four times too low or too high. Targets that take 1,000 steps are
in ``long_regret.py``.
``--minutes`` leaves the rest for another call. It asserts nothing.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from held_out import HELD_OUT
from regret_table import BASE, CAP, PREAMBLE, Pair, Row, markdown
from sweep import OTHER_SEEDS, SEEDS, Cells, OutOfTime, step_seconds, sweep
from targets import FACTORS
from tasks import TASKS, Task
from users import Bench, Times, noise_of, recommended_pair

from batchfinder.learning_rate_range import range_test

PROFILES: dict[str, Callable[[float], float]] = {
    "overhead-bound": lambda size: 1 + size / 1024,
    "saturating": lambda size: (1 + (size / 256) ** 4) ** 0.25,
}
RUN_AGAIN = 3
THROUGHPUT = 0.9


def profiles(cells: Cells, task: Task) -> dict[str, Times]:
    synthetic = {
        name: {size: seconds(size) for size in task.sizes} for name, seconds in PROFILES.items()
    }
    return {"this CPU": step_seconds(cells, task), **synthetic}


# --- what others do ------------------------------------------------------------------------------


def policies(cells: Cells, task: Task, times: Times, base: Pair) -> dict[str, Pair]:
    """What people do instead, from the same pair."""
    top = max(task.sizes)
    fastest = max(size / times[size] for size in task.sizes)
    enough = min(size for size in task.sizes if size / times[size] >= THROUGHPUT * fastest)
    pairs = {
        "always 32": (BASE, base.rate),
        "largest, same rate": (top, base.rate),
        "largest, linear rate": (top, base.rate * top / BASE),
        "largest, square root": (top, base.rate * (top / BASE) ** 0.5),
        "90% of throughput, square root": (enough, base.rate * (enough / BASE) ** 0.5),
    }
    tested = range_test_rate(cells, task, top)
    if tested is not None:
        pairs["largest, range test"] = (top, tested)
    return {name: Pair(size, rate, times[size]) for name, (size, rate) in pairs.items()}


def range_test_rate(cells: Cells, task: Task, size: int) -> float | None:
    """A learning-rate range test at ``size``, as rate finders do it; ``None`` without a find."""
    key = {"kind": "range test", "task": task.name, "size": size}
    for row in cells.find(**key):
        return None if row["found"] is None else float(row["found"])
    cells.check_time()
    bench = Bench(task, task.first_rate, SEEDS[0])
    found = range_test(bench.step, bench.source, size)
    cells.add(**key, found=found)
    return found


# --- what it costs -------------------------------------------------------------------------------


def time_of(cells: Cells, task: Task, pair: Pair, best: float) -> float:
    """Mean time to the target over the other seeds; ``inf`` beyond six times the best."""
    limit = (1 + CAP) * best / pair.seconds
    return cells.mean_steps(task, pair.size, pair.rate, limit, OTHER_SEEDS) * pair.seconds


def best_of(cells: Cells, task: Task, swept: dict[Pair, float]) -> tuple[Pair, float]:
    """The fastest on the other seeds of the three that were fastest on the first."""
    again = {}
    for pair in sorted(swept, key=lambda each: swept[each]):
        limit = 3 * swept[pair] / pair.seconds
        steps = cells.mean_steps(task, pair.size, pair.rate, limit, OTHER_SEEDS)
        if math.isfinite(steps):
            again[pair] = pair.seconds * steps
        if len(again) == RUN_AGAIN:
            break
    return min(again.items(), key=lambda each: each[1])


def regret(seconds: float, best: float) -> float:
    return min(CAP, max(0.0, seconds / best - 1))


def rows_of(cells: Cells, task: Task, base: str = "right") -> list[Row]:
    table = sweep(cells, task)
    base_rate = table[BASE][0] * FACTORS[base]
    noises = [noise_of(cells, task, base_rate, seed) for seed in SEEDS]
    shown = "/".join("?" if noise is None else f"{noise.value:.0f}" for noise in noises)
    rows = []
    for profile, times in profiles(cells, task).items():
        pair = Pair(BASE, base_rate, times[BASE])
        swept = {Pair(b, rate, times[b]): steps * times[b] for b, (rate, steps) in table.items()}
        winner, best = best_of(cells, task, swept)
        ours = [recommended_pair(cells, task, profile, times, pair, seed=seed) for seed in SEEDS]
        others = policies(cells, task, times, pair)
        spent = {each: time_of(cells, task, each, best) for each in {*others.values(), *ours}}
        regrets = {"ours": statistics.fmean(regret(spent[each], best) for each in ours)}
        regrets |= {name: regret(spent[each], best) for name, each in others.items()}
        rows.append(Row(task.name, profile, winner, shown, ours, regrets, base))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(tempfile.gettempdir()) / "batchfinder-regret.jsonl"
    parser.add_argument("cells", nargs="?", type=Path, default=default)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--task", default="")
    parser.add_argument("--base", choices=tuple(FACTORS), action="append")
    parser.add_argument("--minutes", type=float)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(asked.cells, asked.minutes)
    rows = []
    try:
        for task in (*TASKS, *HELD_OUT):
            if asked.task in task.name:
                for base in asked.base or ["right"]:
                    rows += rows_of(cells, task, base)
    except OutOfTime:
        print("The minutes are up; the cells so far are kept, and the same command goes on.")
    text = markdown(rows)
    print(text)
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(PREAMBLE + text + "\n")


if __name__ == "__main__":
    main()
