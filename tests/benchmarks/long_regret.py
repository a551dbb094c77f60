"""Long targets and decayed runs: regret of the pair, inflation of the rate, and cost of a race.

``python tests/benchmarks/long_regret.py [--task NAME] [--minutes 40] [--out FILE]``

On tasks that were written after the rules (``unseen.py``, ``later.py``, ``fresh.py``): targets
that take 1,000 steps at batch 128, and runs whose rate decays to 0 along a cosine, judged at
their end; users whose rate is right, four times too low and four times too high; beside what
people do instead. Every cell is kept in ``docs/tables/long_regret.jsonl``: what is in it is not
run again, and ``--minutes`` leaves the rest for another call. Trainings at one size run side by
side (``stacked.py``). It asserts nothing.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from fresh import FRESH
from later import LATER
from long_regret_table import page
from regret import range_test_rate
from regret_table import BASE, Pair
from stacked import Curve, curves
from sweep import Cells, OutOfTime
from tasks import Task
from unseen import SIZES, UNSEEN
from users import Bench, recommended_pair

from batchfinder.errors import LossIsNotFinite
from batchfinder.results import BatchPlan

CELLS = Path(__file__).parents[2] / "docs" / "tables" / "long_regret.jsonl"
CONSTANT, COSINE = "constant", "cosine"
TASKS = (*UNSEEN, *LATER, *FRESH)
SEEDS = (10, 11)
LENGTH, AT = 1000, 128
"""The target is what the best rate reaches in so many steps at this size."""
CAP = 1.0
"""A pair that takes over twice the best, or misses the target, counts as this regret."""
GRID = 1
"""Rates either side of a size's guess that are tried at first, a factor of two apart."""
FACTORS = {"right": 1.0, "4x too low": 0.25, "4x too high": 4.0}
PATIENCE = 1.6
"""A rate of the sweep is given up after so many times the steps of the fastest at its size."""
MOST_RATES = 12
USER_SEEDS = (0,)
PROFILES: dict[str, Callable[[float], float]] = {
    "saturating": lambda size: (1 + (size / 256) ** 4) ** 0.25,
    "overhead-bound": lambda size: 1 + size / 1024,
}
DECAYED_PROFILE = "saturating"


def seconds_at(profile: str) -> dict[int, float]:
    return {size: PROFILES[profile](size) for size in SIZES}


@dataclass(frozen=True)
class Place:
    """One task under one schedule, with the cells that are known."""

    cells: Cells
    task: Task
    schedule: str

    def key(self, size: int, rate: float, seed: int, steps: int) -> dict[str, object]:
        key = {"task": self.task.name, "schedule": self.schedule, "size": size}
        return key | {"rate": float(f"{rate:.4g}"), "seed": seed, "steps": steps}

    # --- trainings ---

    def found(
        self, size: int, rates: Iterable[float], steps: int, patience: float = math.inf
    ) -> dict[float, list[float]]:
        """What each rate comes to at a size, seed by seed.

        The steps to the target, ``inf`` beyond ``steps`` and beyond ``patience`` times the fastest
        of them; of a decayed run the loss at its end.
        """
        rates = sorted({float(f"{rate:.4g}") for rate in rates})
        wanted = [(rate, seed) for rate in rates for seed in SEEDS]
        missing = [p for p in wanted if self._row(size, *p, steps, patience) is None]
        if missing:
            self.cells.check_time()
            targets = None if self.schedule == COSINE else self.targets
            ran = curves(
                self.task,
                size,
                missing,
                steps,
                cosine=self.schedule == COSINE,
                targets=targets,
                patience=patience,
            )
            for curve in ran:
                self._keep(size, steps, curve, targets, patience)
        rows = {pair: self._row(size, *pair, steps, patience) or {} for pair in wanted}
        return {rate: [float(rows[rate, seed]["found"]) for seed in SEEDS] for rate in rates}

    def _row(
        self, size: int, rate: float, seed: int, steps: int, patience: float
    ) -> dict[str, object] | None:
        """The cell, unless it was given up too early to answer."""
        for row in self.cells.find(**self.key(size, rate, seed, steps)):
            if math.isfinite(float(row["found"])) or row.get("patience", math.inf) >= patience:
                return row
        return None

    def _keep(
        self,
        size: int,
        steps: int,
        curve: Curve,
        targets: dict[int, float] | None,
        patience: float = math.inf,
    ) -> None:
        found = curve.at(steps) if targets is None else curve.reached(targets[curve.seed])
        given_up = math.isfinite(patience) and math.isinf(found)
        self.cells.add(
            **self.key(size, curve.rate, curve.seed, steps),
            found=float(f"{found:.5g}"),
            **({"patience": patience} if given_up else {}),
        )

    # --- the target ---

    @cached_property
    def targets(self) -> dict[int, float]:
        """What the best rate reaches in ``LENGTH`` steps at ``AT``, for each seed its own.

        Seeds differ by more than rates do in what they come to.
        """
        key = {"task": self.task.name, "kind": "target"}
        for row in self.cells.find(**key):
            return dict(zip(SEEDS, row["losses"], strict=True))
        self.cells.check_time()
        guess = self.task.first_rate
        kept: dict[float, list[Curve]] = {}
        while True:
            best = min(kept, key=lambda rate: _end(kept[rate]), default=guess)
            rates = [best * 2.0**k for k in range(-GRID, GRID + 1)]
            rates = [rate for rate in rates if rate not in kept]
            if kept and best / 2 in kept and best * 2 in kept:
                break
            pairs = [(rate, seed) for rate in rates for seed in SEEDS]
            for curve in curves(self.task, AT, pairs, 2 * LENGTH):
                kept.setdefault(curve.rate, []).append(curve)
        targets = {run.seed: float(f"{run.at(LENGTH):.5g}") for run in kept[best]}
        for each in kept.values():
            for curve in each:
                self._keep(AT, self.limit(AT), curve, targets)
        self.cells.add(**key, losses=[targets[seed] for seed in SEEDS], rate=best)
        return targets

    def limit(self, size: int) -> int:
        """Steps at a size after which a constant run is given up."""
        if size == AT:
            return 2 * LENGTH
        if size < AT:
            return round(1.5 * LENGTH * AT / size)
        return round((1 + CAP) * LENGTH / max(1.0, seconds_at("saturating")[size]))

    # --- the sweep ---

    def steps(self, size: int, profile: str = DECAYED_PROFILE, share: float = 1.0) -> int:
        """Of a run at a size: of a decayed one, what a time that is the same for all allows."""
        if self.schedule == CONSTANT:
            return self.limit(size)
        times = seconds_at(profile)
        return round(share * LENGTH * times[AT] / times[size])

    def sweep(self, size: int, guess: float) -> dict[float, float]:
        """Mean by rate, on a grid of factors of two that the best lies inside of."""
        steps, rates = self.steps(size), {guess * 2.0**k for k in range(-GRID, GRID + 1)}
        while True:
            found = self.found(size, rates, steps, PATIENCE)
            means = {r: statistics.fmean(x) for r, x in found.items()}
            best = min(means, key=means.__getitem__)
            if len(rates) > MOST_RATES:
                return means
            if not math.isfinite(means[best]):
                more = {min(means) / 2, min(means) / 4}
            elif best == min(means):
                more = {best / 2}
            elif best == max(means):
                more = {best * 2}
            else:
                return means
            rates |= more

    def table(self, size: int) -> dict[float, float]:
        """The sweep at a size, begun where that at ``AT`` says."""
        if size != AT:
            octaves = math.log2(size / AT) / (2 if self.task.family == "adam" else 1)
            whole = math.copysign(math.floor(abs(octaves)), octaves)
            return self.sweep(size, self.best_rate(AT) * 2.0**whole)
        if self.schedule == COSINE:
            return self.sweep(AT, Place(self.cells, self.task, CONSTANT).best_rate(AT))
        _ = self.targets
        (row,) = self.cells.find(task=self.task.name, kind="target")
        return self.sweep(AT, float(row["rate"]))

    def best_rate(self, size: int) -> float:
        table = self.table(size)
        return min(table, key=table.__getitem__)

    # --- what a pair costs ---

    def costs(self, size: int, rate: float, profile: str) -> list[float]:
        """Time to the target, or the loss at the end of the time, seed by seed."""
        found = self.found(size, [rate], self.steps(size))[float(f"{rate:.4g}")]
        scale = seconds_at(profile)[size] if self.schedule == CONSTANT else 1.0
        return [scale * each for each in found]

    def cost(self, size: int, rate: float, profile: str) -> float:
        return statistics.fmean(self.costs(size, rate, profile))

    def best(self, profile: str) -> tuple[Pair, float]:
        """The best pair of the sweep and its cost."""
        times = seconds_at(profile)
        pairs = {
            Pair(size, rate, times[size]): (times[size] if self.schedule == CONSTANT else 1) * mean
            for size in SIZES
            for rate, mean in self.table(size).items()
        }
        return min(pairs.items(), key=lambda each: each[1])

    def slower(self, cost: float, best: float, half: float | None) -> float:
        """How many times the time of the best pair: of a decayed run by its loss.

        Read off the losses of the best pair after the whole time and after half of it, between
        which the loss is taken to fall with the logarithm of the time.
        """
        if half is None:
            return cost / best
        share = (cost - best) / max(half - best, 1e-9)
        return float(2 ** min(share, 10.0)) if math.isfinite(share) else math.inf

    def half(self, profile: str) -> float | None:
        """The loss that the best pair ends at after half the time; ``None`` at a constant rate."""
        if self.schedule == CONSTANT:
            return None
        pair, _ = self.best(profile)
        steps = self.steps(pair.size, profile, 0.5)
        means = self.found(pair.size, [pair.rate, 2 * pair.rate], steps).values()
        return min(statistics.fmean(each) for each in means)


def _end(runs: list[Curve]) -> float:
    return statistics.fmean(run.at(LENGTH) for run in runs)


# --- what is done by whom ------------------------------------------------------------------------


def policies(place: Place, base_rate: float, profile: str) -> dict[str, tuple[int, float]]:
    """What people do instead, from the same pair."""
    times, top = seconds_at(profile), max(SIZES)
    fastest = max(size / times[size] for size in SIZES)
    enough = min(size for size in SIZES if size / times[size] >= 0.9 * fastest)
    pairs = {
        "keep 32": (BASE, base_rate),
        "largest, same rate": (top, base_rate),
        "largest, linear": (top, base_rate * top / BASE),
        "largest, square root": (top, base_rate * (top / BASE) ** 0.5),
        "90% of throughput, square root": (enough, base_rate * (enough / BASE) ** 0.5),
    }
    tested = range_test_rate(place.cells, place.task, top)
    if tested is not None:
        pairs["largest, range test"] = (top, tested)
    return pairs


def ours(place: Place, base_rate: float, profile: str) -> dict[str, list[tuple[int, float]]]:
    """The product's pairs, with the length of the run and without."""
    base = Pair(BASE, base_rate, seconds_at(profile)[BASE])
    if place.schedule == CONSTANT:
        length = round(min(place.limit(BASE), *place.table(BASE).values()))
    else:
        length = place.steps(BASE)
    found = {}
    for name, steps in {"ours": None, "ours, raced": length}.items():
        pairs = [
            _answer(
                place,
                profile,
                base,
                seed=seed,
                training_steps=steps,
                averaged=place.schedule == COSINE,
            )
            for seed in USER_SEEDS
        ]
        found[name] = [(pair.size, pair.rate) for pair in pairs]
    return found


def _answer(
    place: Place,
    profile: str,
    base: Pair,
    *,
    seed: int,
    training_steps: int | None,
    averaged: bool,
) -> Pair:
    """The product's pair; the user's own where its loss is refused, which is not finite there."""
    key = {"kind": "refused", "task": place.task.name, "rate": base.rate, "seed": seed}
    if list(place.cells.find(**key)):
        return base
    try:
        return recommended_pair(
            place.cells,
            place.task,
            profile,
            seconds_at(profile),
            base,
            seed=seed,
            training_steps=training_steps,
            averaged=averaged,
        )
    except LossIsNotFinite:
        place.cells.add(**key)
        return base


def rows_of(place: Place, base: str, profile: str) -> dict[str, object]:
    """One row of the table of regrets."""
    base_rate = place.best_rate(BASE) * FACTORS[base]
    ask = {name: [pair] for name, pair in policies(place, base_rate, profile).items()}
    ask |= ours(place, base_rate, profile)
    by_size: dict[int, set[float]] = {}
    for size, rate in (pair for pairs in ask.values() for pair in pairs):
        by_size.setdefault(size, set()).add(rate)
    for size, rates in by_size.items():  # those of one size run side by side
        place.found(size, rates, place.steps(size))
    pair, best = place.best(profile)
    half = place.half(profile)
    regrets = {
        name: statistics.fmean(
            min(CAP, max(0.0, place.slower(place.cost(*each, profile), best, half) - 1))
            for each in pairs
        )
        for name, pairs in ask.items()
    }
    row: dict[str, object] = {"task": place.task.name, "schedule": place.schedule, "base": base}
    row |= {"profile": profile, "best": (pair.size, pair.rate), "regrets": regrets}
    row |= {"ours": ask["ours"][0], "raced": ask["ours, raced"][0]}
    seeds = {
        name: [
            place.slower(cost, best, half)
            for pair in ask[name]
            for cost in place.costs(*pair, profile)
        ]
        for name in ("keep 32", "ours", "ours, raced")
    }
    return row | {"times": seeds}


# --- the rate alone ------------------------------------------------------------------------------

RACED_AT = AT
ARM_STEPS = 100


def raced(place: Place, rate: float, run_steps: int) -> dict[str, object]:
    """What the product's race makes of a user's rate at ``RACED_AT``."""
    key = {"task": place.task.name, "schedule": place.schedule, "kind": "race"}
    key |= {"rate": float(f"{rate:.4g}"), "run_steps": run_steps, "arm_steps": ARM_STEPS}
    for row in place.cells.find(**key):
        return row
    place.cells.check_time()
    bench = Bench(place.task, rate, USER_SEEDS[0])
    averaged = place.schedule == COSINE
    found = bench.race(BatchPlan(RACED_AT), rate, run_steps, averaged=averaged, steps=ARM_STEPS)
    outcome = {"to": found.learning_rate, "best": found.best_rate}
    refusal = found.refusal and found.refusal.code
    arms = [(arm.learning_rate, arm.loss, arm.loss_error, arm.order) for arm in found.arms]
    outcome |= {"refusal": refusal, "start_loss": found.start_loss, "arms": arms}
    return place.cells.add(**key, **outcome, taken=found.steps_taken)


def inflation_of(place: Place) -> dict[str, object]:
    """Steps at the raced rate, and at the user's, over those of the best of the grid."""
    best = place.best_rate(RACED_AT)
    steps = place.steps(RACED_AT)
    mean = place.table(RACED_AT)[best]
    length = round(mean) if place.schedule == CONSTANT else steps
    half = None
    if place.schedule == COSINE:
        shorter = place.found(RACED_AT, [best, 2 * best], steps // 2).values()
        half = min(statistics.fmean(each) for each in shorter)
    races = {name: raced(place, best * factor, length) for name, factor in FACTORS.items()}
    rates = {name: float(race["to"]) for name, race in races.items()}
    rates |= {f"{name}, as started": best * factor for name, factor in FACTORS.items()}
    found = place.found(RACED_AT, rates.values(), steps)
    inflations = {
        name: min(
            1 + CAP,
            place.slower(statistics.fmean(found[float(f"{rate:.4g}")]), mean, half),
        )
        for name, rate in rates.items()
    }
    row: dict[str, object] = {"task": place.task.name, "schedule": place.schedule, "best": best}
    row |= {"steps": length, "rates": rates, "inflations": inflations}
    return row | {"taken": {name: int(race["taken"]) for name, race in races.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="?", type=Path, default=CELLS)
    parser.add_argument("--task", default="")
    parser.add_argument("--schedule", action="append", choices=(CONSTANT, COSINE))
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(asked.cells, asked.minutes)
    rows: list[dict[str, object]] = []
    rates: list[dict[str, object]] = []
    missing: list[tuple[str, str]] = []
    for schedule in asked.schedule or (CONSTANT, COSINE):
        for task in (each for each in TASKS if asked.task in each.name):
            place = Place(cells, task, schedule)
            name = f"{task.name}{' (cosine)' if schedule == COSINE else ''}"
            try:
                rates.append(inflation_of(place))
            except OutOfTime:
                missing.append(("the rate alone", name))
            for base in FACTORS:
                for profile in PROFILES if schedule == CONSTANT else (DECAYED_PROFILE,):
                    try:
                        rows.append(rows_of(place, base, profile))
                    except OutOfTime:
                        missing.append(("pairs", name))
    text = page(rows, rates, missing)
    print(text)
    if asked.out is not None:
        asked.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
