"""What the monitor costs at its default: one training with it and two without, in turns.

The two without tell how far such ratios are off by themselves on the machine as it was.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator

import torch
from monitor_trainings import draws
from tasks import TASKS, Task

from batchfinder import TrainingMonitor

Row = dict[str, object]

SIZE, TURN = 64, 10
STEPS: dict[str, int] = {
    "digits MLP": 4000,
    "digits ResNet, BatchNorm": 2000,
    "denoising UNet": 2000,
    "character GPT, AdamW": 2000,
}


class TurnClock:
    """Processor time of the watched turns alone."""

    def __init__(self) -> None:
        self.spent, self.since = 0.0, 0.0

    def __call__(self) -> float:
        return self.spent + time.process_time() - self.since


def cost_of(task: Task, steps: int, seed: int) -> Row:
    clock = TurnClock()
    sides = []
    for watched in (False, True, False):
        torch.manual_seed(seed)
        model = task.make_model()
        optimizer = task.make_optimizer(model.parameters())
        stream = draws(task.data()[0].tensors, SIZE, seed)
        clock.since = time.process_time()
        monitor = (
            TrainingMonitor(model, optimizer, batch_size=SIZE, clock=clock) if watched else None
        )
        sides.append((model, optimizer, stream, monitor))
    spent: list[list[float]] = [[], [], []]
    for turn in range(3 * steps // TURN):
        side = turn % 3
        model, optimizer, stream, monitor = sides[side]
        started = clock.since = time.process_time()
        for _ in range(TURN):
            batch = list(next(stream))
            optimizer.zero_grad()
            for part, share in [(batch, 1.0)] if monitor is None else monitor.parts(batch):
                loss = task.loss(model, list(part))
                (loss * share).backward()
            optimizer.step()
            if monitor is not None:
                monitor.step(loss)
        taken = time.process_time() - started
        spent[side].append(taken)
        if monitor is not None:
            clock.spent += taken
    watching = sides[1][3]
    assert watching is not None
    before, watched_turns, after = spent
    rounds = [2 * w / (a + b) for a, w, b in zip(before, watched_turns, after, strict=True)]
    return {
        "part": "cost",
        "task": task.name,
        "seed": seed,
        "steps": steps,
        "ratio": 2 * sum(watched_turns) / (sum(before) + sum(after)),
        "ordinary": statistics.median(rounds),
        "without": sum(after) / sum(before),
        "step_ms": 1e3 * statistics.median(before) / TURN,
        "looks": len(watching.history.readings),
        "load": os.getloadavg()[0],
    }


def cost_part(seeds: int = 1) -> Iterator[Row]:
    for task in TASKS:
        for seed in range(seeds if task.name in STEPS else 0):
            yield cost_of(task, STEPS[task.name], seed)


def cost_table(rows: list[Row]) -> list[str]:
    lines = [
        "| training | step | steps | looks | with / without | median of rounds | "
        "without / without | load |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        number = {name: float(str(row[name])) for name in row if name not in {"part", "task"}}
        lines.append(
            f"| {row['task']} | {number['step_ms']:.1f} ms | {row['steps']:,} | {row['looks']} | "
            f"{number['ratio']:.3f} | {number['ordinary']:.3f} | {number['without']:.3f} | "
            f"{number['load']:.0f} |"
        )
    return lines
