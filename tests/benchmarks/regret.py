"""Regret, end to end: time to target of the recommended pair over the best of a whole sweep.

``python tests/benchmarks/regret.py [CELLS.jsonl] [--out docs/tables/regret.md]`` trains every
task of ``tasks.py`` and ``held_out.py`` over sizes × rates × seeds (kept in the file, about an hour
of one core when empty), lets batchfinder recommend and confirm a pair from the user's own (batch
32 at its best rate), trains that pair too, and prints the table. It asserts nothing.
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
from sweep import OTHER_SEEDS, SEEDS, Cells, step_seconds, sweep
from tasks import TASKS, Task
from torch.utils.data import DataLoader

from batchfinder.confirm import OwnPair, confirm, confirm_recommendation
from batchfinder.noise import MicroBatchVariance, noise_along_warmup
from batchfinder.recommend import Problem, recommend
from batchfinder.results import (
    BatchPlan,
    Confirmation,
    Measurement,
    MemoryBreakdown,
    NoiseScale,
)
from batchfinder.run.batches import source_from
from batchfinder.run.memory import backend_for
from batchfinder.run.state import preserved
from batchfinder.run.step import step_from

PROFILES: dict[str, Callable[[float], float]] = {
    "overhead-bound": lambda size: 1 + size / 1024,
    "saturating": lambda size: (1 + (size / 256) ** 4) ** 0.25,
}
Times = dict[int, float]
RUN_AGAIN = 3


def profiles(cells: Cells, task: Task) -> dict[str, Times]:
    synthetic = {
        name: {size: seconds(size) for size in task.sizes} for name, seconds in PROFILES.items()
    }
    return {"this CPU": step_seconds(cells, task), **synthetic}


# --- what batchfinder says -----------------------------------------------------------------------


class Bench:
    """One task at its base pair, as find_batch_size sets it up."""

    def __init__(self, task: Task, rate: float, seed: int) -> None:
        torch.manual_seed(seed)
        model = task.make_model()
        self.optimizer = task.make_optimizer(model.parameters())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model = model
        loader = DataLoader(task.data()[0], batch_size=BASE, shuffle=True, drop_last=True)
        self.source = source_from(loader, seed=seed)
        self.step = step_from(model, train_step=task.loss, optimizer=self.optimizer)


def noise_of(cells: Cells, task: Task, rate: float, seed: int) -> NoiseScale | None:
    key = {"kind": "noise", "task": task.name, "rate": rate, "seed": seed}
    for row in cells.find(**key):
        return None if row["value"] is None else _noise(row)
    bench = Bench(task, rate, seed)
    found = noise_along_warmup(
        bench.step,
        bench.source,
        base_batch=BASE,
        micro_batch=BASE,
        warmup_steps=200,
        estimator=MicroBatchVariance(),
        seed=seed,
    ).training
    values = (None,) * 3 if found is None else (found.value, found.low, found.high)
    row = cells.add(**key, **dict(zip(("value", "low", "high"), values, strict=True)))
    return None if found is None else _noise(row)


def _noise(row: dict[str, object]) -> NoiseScale:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    return NoiseScale(value, low, high, samples=0, estimator="micro-batch variance")


def problem(task: Task, times: Times, rate: float, noise: NoiseScale | None) -> Problem:
    largest = max(task.sizes)
    return Problem(
        tuple(
            Measurement(size, size / t, size / t, size / t, t, t, 0.0) for size, t in times.items()
        ),
        noise,
        base_batch=BASE,
        base_learning_rate=rate,
        max_batch_size=largest,
        memory=MemoryBreakdown(0, 0, 0, 0, 1.0, 0, largest, per_sample_bytes=1.0),
        headroom=0.0,
        dataset_length=len(task.data()[0]),
        optimizer_family=task.family,
    )


def confirmed_pair(
    cells: Cells, task: Task, profile: str, base: Pair, *, noise: NoiseScale | None, seed: int
) -> Pair:
    """The pair after confirmation, from the weights at the start as find_batch_size does it."""
    times = profiles(cells, task)[profile]
    whole = problem(task, times, base.rate, noise)
    found = recommend(whole)
    size, rate = found.plan.global_batch, float(found.learning_rate)
    key = {"kind": "confirmed", "task": task.name, "size": size, "rate": rate, "seed": seed}
    key["profile"] = profile
    for row in cells.find(**key):
        return Pair(row["to_size"], row["to_rate"], times[row["to_size"]])
    bench = Bench(task, base.rate, seed)
    memory = backend_for(torch.device("cpu"))
    with preserved(bench.model, bench.optimizer) as snapshot:

        def run(plan: BatchPlan, at: float | None) -> Confirmation:
            return confirm(bench.step, bench.source, memory, plan, at, fresh=snapshot.restore)

        settled, evidence = confirm_recommendation(whole, run, own=OwnPair(BASE, base.rate))
    to = {"to_size": settled.plan.global_batch, "to_rate": float(settled.learning_rate)}
    outcome = {"judgement": evidence.judgement.name, "lead": evidence.double_rate_lead}
    cells.add(**key, **to, **outcome)
    return Pair(to["to_size"], to["to_rate"], times[to["to_size"]])


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


def rows_of(cells: Cells, task: Task) -> list[Row]:
    table = sweep(cells, task)
    base_rate = table[BASE][0]
    noises = [noise_of(cells, task, base_rate, seed) for seed in SEEDS]
    shown = "/".join("?" if noise is None else f"{noise.value:.0f}" for noise in noises)
    rows = []
    for profile, times in profiles(cells, task).items():
        base = Pair(BASE, base_rate, times[BASE])
        swept = {Pair(b, rate, times[b]): steps * times[b] for b, (rate, steps) in table.items()}
        winner, best = best_of(cells, task, swept)
        ours = [
            confirmed_pair(cells, task, profile, base, noise=noise, seed=seed)
            for noise, seed in zip(noises, SEEDS, strict=True)
        ]
        top = max(task.sizes)
        others = {
            "always 32": base,
            "largest, same rate": Pair(top, base_rate, times[top]),
            "largest, linear rate": Pair(top, base_rate * top / BASE, times[top]),
        }
        spent = {pair: time_of(cells, task, pair, best) for pair in {*ours, *others.values()}}
        regrets = {"ours": statistics.fmean(regret(spent[pair], best) for pair in ours)}
        regrets |= {name: regret(spent[pair], best) for name, pair in others.items()}
        rows.append(Row(task.name, profile, winner, shown, ours, regrets))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(tempfile.gettempdir()) / "batchfinder-regret.jsonl"
    parser.add_argument("cells", nargs="?", type=Path, default=default)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--task", default="")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(asked.cells)
    rows = [
        row
        for task in (*TASKS, *HELD_OUT)
        if asked.task in task.name
        for row in rows_of(cells, task)
    ]
    text = markdown(rows)
    print(text)
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(PREAMBLE + text + "\n")


if __name__ == "__main__":
    main()
