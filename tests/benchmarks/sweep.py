"""Steps to a target loss over batch sizes × learning rates × seeds, saved cell by cell.

``python tests/benchmarks/sweep.py CELLS.jsonl [TASK …]`` fills the file and may be interrupted:
what is in the file is not run again.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tasks import TASKS, Task
from torch import Tensor, nn

SEEDS, OTHER_SEEDS = (0, 1, 2), (3, 4, 5, 6, 7, 8)
"""Pairs that were picked on the first are timed on the others: the best of many is so by luck."""
RAMP = 20


def batches(task: Task, size: int, generator: torch.Generator) -> Iterator[list[Tensor]]:
    tensors = task.data()[0].tensors
    while True:
        order = torch.randperm(len(tensors[0]), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            index = order[start : start + size]
            yield [tensor[index] for tensor in tensors]


def validation_loss(task: Task, model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        loss = task.loss(model, list(task.data()[1].tensors)).item()
    model.train()
    return loss


@dataclass
class Crossing:
    """When the validation loss, median of three looks 5% of the steps apart, meets the target."""

    target: float
    looks: deque[float] = field(default_factory=lambda: deque(maxlen=3))
    last: tuple[float, float] = (0.0, math.inf)

    def look(self, step: int, loss: float) -> float | None:
        self.looks.append(loss)
        smooth = statistics.median(self.looks)
        before, above = self.last
        self.last = (step, smooth)
        if smooth > self.target:
            return None
        share = (above - self.target) / (above - smooth) if math.isfinite(above) else 1.0
        return before + share * (step - before)


def train(task: Task, size: int, rate: float, seed: int, limit: int) -> dict[str, object]:
    """Train to the target: constant rate after a ramp of 20 steps, at most ``limit`` steps."""
    torch.manual_seed(seed)
    model = task.make_model()
    optimizer = task.make_optimizer(model.parameters())
    crossing, next_look, started = Crossing(task.target), 8, time.process_time()
    first = math.nan
    feed = batches(task, size, torch.Generator().manual_seed(seed))
    for step in range(1, limit + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / RAMP)
        loss = task.loss(model, next(feed))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 1:
            first = loss.item()
        if step < next_look:
            continue
        next_look = max(step + 1, round(step * 1.05))
        value = validation_loss(task, model)
        if not math.isfinite(value) or not loss.item() < 3 * first:
            return {"steps": None, "limit": step, "diverged": True}
        reached = crossing.look(step, value)
        if reached is not None:
            return {"steps": reached, "limit": limit, "diverged": False}
        if time.process_time() - started > task.longest_seconds:
            limit = step
            break
    return {"steps": None, "limit": limit, "diverged": False}


class OutOfTime(Exception):
    """The minutes are up: what is in the file stays."""


class Cells:
    """The cells run so far, in a file of JSON lines; none is begun after ``minutes``."""

    def __init__(self, path: Path, minutes: float | None = None) -> None:
        self.path = path
        self.deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.rows: list[dict[str, object]] = []
        if path.exists():
            self.rows = [json.loads(line) for line in path.read_text().splitlines()]

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTime

    def add(self, **row: object) -> dict[str, object]:
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def find(self, **wanted: object) -> list[dict[str, object]]:
        return [row for row in self.rows if wanted.items() <= row.items()]

    def steps(self, task: Task, size: int, rate: float, seed: int, limit: float) -> float:
        """Steps to the target, ``inf`` where it was not met within ``limit``."""
        rate = float(f"{rate:.4g}")
        key = {"task": task.name, "target": task.target, "size": size}
        key |= {"rate": rate, "seed": seed}
        limit = max(30, math.ceil(limit))
        for row in self.find(**key):
            if row["steps"] is not None or row["diverged"] or row["limit"] >= limit:
                return math.inf if row["steps"] is None else float(row["steps"])
        self.check_time()
        started = time.process_time()
        row = train(task, size, rate, seed, limit)
        row = self.add(**key, **row, seconds=round(time.process_time() - started, 2))
        return math.inf if row["steps"] is None else float(row["steps"])

    def mean_steps(
        self, task: Task, size: int, rate: float, limit: float, seeds: tuple[int, ...] = SEEDS
    ) -> float:
        return statistics.fmean(self.steps(task, size, rate, seed, limit) for seed in seeds)


def explore(cells: Cells, task: Task, size: int, guess: float, limit: float) -> tuple[float, float]:
    """The best rate at one size on a grid of factors of two: one seed to find it, all to judge."""
    found: dict[float, float] = {}

    def at(rate: float) -> float:
        if rate not in found:
            best = min(found.values(), default=math.inf)
            found[rate] = cells.steps(task, size, rate, 0, min(limit, 1.4 * best))
        return found[rate]

    while not math.isfinite(at(guess)) and guess > task.first_rate / 300:
        guess /= 2
    for factor in (2.0, 0.5):
        rate = guess
        while at(rate * factor) <= 1.02 * at(rate) and math.isfinite(at(rate * factor)):
            rate *= factor
    best = min(found, key=lambda rate: found[rate])
    judged = {
        rate: cells.mean_steps(task, size, rate, 2.5 * found[best])
        for rate in (best, best / 2, best * 2)
    }
    while not math.isfinite(min(judged.values())) and min(judged) > task.first_rate / 300:
        lower = min(judged) / 2  # what one seed held was too high for another
        judged[lower] = cells.mean_steps(task, size, lower, 2.5 * found[best])
    best = min(judged, key=lambda rate: judged[rate])
    return best, judged[best]


def sweep(cells: Cells, task: Task) -> dict[int, tuple[float, float]]:
    """Best rate and mean steps at every size, from 32 outwards."""
    table: dict[int, tuple[float, float]] = {}
    middle = task.sizes.index(32)
    for size in (*task.sizes[middle:], *reversed(task.sizes[:middle])):
        if not table:
            table[size] = explore(cells, task, size, task.first_rate, task.longest_steps)
            continue
        near = min(table, key=lambda other: abs(math.log(other / size)))
        rate, steps = table[near]
        if not math.isfinite(steps):
            break
        guess = rate if task.family == "adam" and size > near else rate * (size / near)
        guess = rate / 2 if size < near and task.family == "adam" else guess
        limit = steps * (2.5 if size > near else 3.5)
        table[size] = explore(cells, task, size, guess, limit)
        print(f"{task.name:26s} {size:5d} rate {table[size][0]:<8g} steps {table[size][1]:.0f}")
    return table


def step_seconds(cells: Cells, task: Task, repeats: int = 12) -> dict[int, float]:
    """Median processor seconds of one step at each size, sizes in rotated order."""
    known = cells.find(task=task.name, kind="time")
    if known:
        return {size: float(known[-1]["table"][str(size)]) for size in task.sizes}
    model = task.make_model()
    optimizer = task.make_optimizer(model.parameters())
    feeds = {size: batches(task, size, torch.Generator().manual_seed(0)) for size in task.sizes}
    seconds: dict[int, list[float]] = {size: [] for size in task.sizes}
    for _ in range(repeats + 2):
        for size in task.sizes:
            batch = next(feeds[size])
            started = time.process_time()
            loss = task.loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seconds[size].append(time.process_time() - started)
    table = {size: statistics.median(values[2:]) for size, values in seconds.items()}
    cells.add(task=task.name, kind="time", table=table)
    return table


def main() -> None:
    torch.set_num_threads(1)
    cells = Cells(Path(sys.argv[1]))
    chosen = [task for task in TASKS if not sys.argv[2:] or any(a in task.name for a in sys.argv)]
    for task in chosen:
        started = time.process_time()
        print(task.name, {b: f"{s * 1e3:.2f} ms" for b, s in step_seconds(cells, task).items()})
        sweep(cells, task)
        print(f"{time.process_time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
