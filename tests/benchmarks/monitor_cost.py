"""What the monitor costs at its default: the same training with it and without, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch
from monitor_trainings import draws
from tasks import TASKS, Task

from batchfinder import TrainingMonitor

Row = dict[str, object]

SIZE, TURN = 64, 25
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
    for watched in (False, True):
        torch.manual_seed(seed)
        model = task.make_model()
        optimizer = task.make_optimizer(model.parameters())
        stream = draws(task.data()[0].tensors, SIZE, seed)
        clock.since = time.process_time()
        monitor = (
            TrainingMonitor(model, optimizer, batch_size=SIZE, clock=clock) if watched else None
        )
        sides.append((model, optimizer, stream, monitor))
    spent: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(2 * steps // TURN):
        model, optimizer, stream, monitor = sides[turn % 2]
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
        spent[monitor is not None].append(taken)
        if monitor is not None:
            clock.spent += taken
    watching = sides[1][3]
    assert watching is not None
    return {
        "part": "cost",
        "task": task.name,
        "seed": seed,
        "steps": steps,
        "ratio": sum(spent[True]) / sum(spent[False]),
        "ordinary": statistics.median(spent[True]) / statistics.median(spent[False]),
        "step_ms": 1e3 * statistics.median(spent[False]) / TURN,
        "looks": len(watching.history.readings),
    }


def cost_part(seeds: int = 1) -> Iterator[Row]:
    for task in TASKS:
        for seed in range(seeds if task.name in STEPS else 0):
            yield cost_of(task, STEPS[task.name], seed)


def cost_table(rows: list[Row]) -> list[str]:
    lines = [
        "| training | step | steps | looks | all time, with / without | median turns of 25 steps |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['task']} | {float(str(row['step_ms'])):.1f} ms | {row['steps']:,} | "
            f"{row['looks']} | {float(str(row['ratio'])):.3f} | "
            f"{float(str(row['ordinary'])):.3f} |"
        )
    return lines
