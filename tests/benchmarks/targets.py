"""Long runs of one task at one size: their losses, their targets, and the grid's best rate."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from long_tasks import Long
from sweep import RAMP, Cells, Crossing, batches, validation_loss

SEEDS = (10, 11)
"""Runs are timed on these; a race has another start and other orders of the data."""
FACTORS = {"right": 1.0, "4x too low": 0.25, "4x too high": 4.0}
LONGEST = 2.5
"""A run is followed for so many times the steps of the best rate."""
FAILED = 6.0
CONSTANT, COSINE = "constant", "cosine"


@dataclass(frozen=True)
class Place:
    """One task at its size, under one schedule, with the cells that are known."""

    cells: Cells
    long: Long
    schedule: str = CONSTANT

    @property
    def key(self) -> dict[str, object]:
        return {"task": self.long.task.name, "size": self.long.size, "schedule": self.schedule}

    def run(self, rate: float, seed: int, steps: int, target: float | None = None) -> float:
        """The loss at the end of ``steps``; with a target the steps that it took to meet it."""
        key = self.key | {"kind": "run", "rate": float(f"{rate:.4g}"), "seed": seed}
        key |= {"steps": steps, "target": target}
        for row in self.cells.find(**key):
            return float(row["found"])
        self.cells.check_time()
        started = time.process_time()
        found = train(self, rate, seed, steps, target)
        taken = round(time.process_time() - started, 2)
        self.cells.add(**key, found=found, seconds=taken)
        return found

    def mean(self, rate: float, steps: int, target: float | None = None) -> float:
        return statistics.fmean(self.run(rate, seed, steps, target) for seed in SEEDS)


def train(place: Place, rate: float, seed: int, steps: int, target: float | None) -> float:
    """Train with a ramp of 20 steps, then at a constant rate or along a cosine to 0."""
    task = place.long.task
    torch.manual_seed(seed)
    model = task.make_model()
    optimizer = task.make_optimizer(model.parameters())
    feed = batches(task, place.long.size, torch.Generator().manual_seed(seed))
    crossing, next_look, first, recent = Crossing(target or -math.inf), 8, math.nan, []
    for step in range(1, steps + 1):
        decay = 0.5 * (1 + math.cos(math.pi * step / steps)) if place.schedule == COSINE else 1.0
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / RAMP) * decay
        loss = task.loss(model, next(feed))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first = loss.item() if step == 1 else first
        if step < next_look and step < steps:
            continue
        next_look = max(step + 1, round(step * 1.05))
        value = validation_loss(task, model)
        if not math.isfinite(value) or not loss.item() < 3 * first:
            return math.inf
        recent = [*recent[-2:], value]
        if target is not None:
            reached = crossing.look(step, value)
            if reached is not None:
                return reached
    if target is not None:
        return math.inf
    return recent[-1] if place.schedule == COSINE else statistics.median(recent)


def best_on_grid(loss_of: Callable[[float], float], first: float) -> float:
    """The best of rates a factor of two apart, from ``first`` outwards."""
    found = {first: loss_of(first)}
    for factor in (2.0, 0.5):
        rate = min(found, key=found.__getitem__)
        while True:
            rate *= factor
            if rate not in found:
                found[rate] = loss_of(rate)
            if not found[rate] <= min(found.values()):
                break
    return min(found, key=found.__getitem__)


def long_target(place: Place) -> tuple[float, float]:
    """The best rate of the grid, and what it reaches at the end of the run."""
    steps, first = place.long.steps, SEEDS[0]
    near = best_on_grid(lambda rate: place.run(rate, first, steps), place.long.task.first_rate)
    return near, float(f"{place.mean(near, steps):.5g}")
