"""What the monitor costs at its default: turns of one training with it and without.

Both kinds of turns train the same model in the same memory; turns without are the plain loop, with
no parts and no share. The monitor sees its own turns alone, as if they followed one another.
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
from batchfinder.monitor.pace import LATER, MOST, UPDATES, Pace

Row = dict[str, object]

SIZE, TURN, STEPS = 64, 10, 4000
NAMES = (
    "digits MLP",
    "digits ResNet, BatchNorm",
    "denoising UNet",
    "character GPT, AdamW",
)


def turns(steps: int) -> Iterator[tuple[int, bool]]:
    """The lengths of the monitor's turns, and whether there is a look in one; none is cut."""
    pace = Pace(None)
    look, start = pace.after(0), 0
    while start < steps:
        end = start + TURN
        if look - 1 <= end < look + UPDATES - 1:
            end = look + UPDATES - 1
        has_look = start < look <= end
        yield end - start, has_look
        look, start = pace.after(look) if has_look else look, end


def cost_of(task: Task, seed: int, steps: int = STEPS) -> Row:
    torch.manual_seed(seed)
    model = task.make_model()
    optimizer = task.make_optimizer(model.parameters())
    stream = draws(task.data()[0].tensors, SIZE, seed)
    monitor = TrainingMonitor(model, optimizer, batch_size=SIZE)

    def plain(length: int) -> float:
        started = time.process_time()
        for _ in range(length):
            batch = list(next(stream))
            optimizer.zero_grad()
            loss = task.loss(model, list(batch))
            loss.backward()
            optimizer.step()
        return time.process_time() - started

    def watched(length: int) -> float:
        started = time.process_time()
        for _ in range(length):
            batch = list(next(stream))
            optimizer.zero_grad()
            for part, share in monitor.parts(batch):
                loss = task.loss(model, list(part))
                (share * loss).backward()
            optimizer.step()
            monitor.step(loss)
        return time.process_time() - started

    spent: dict[bool, list[float]] = {False: [], True: []}
    looked, lengths = [], []
    for number, (length, has_look) in enumerate(turns(steps)):
        for with_it in (False, True) if number % 2 else (True, False):
            spent[with_it].append(watched(length) if with_it else plain(length))
        looked.append(has_look)
        lengths.append(length)
    step = statistics.median(s / n for s, n in zip(spent[False], lengths, strict=True))
    extra = [
        (look, (dear - cheap) / length / step, length)
        for look, dear, cheap, length in zip(
            looked, spent[True], spent[False], lengths, strict=True
        )
    ]
    ordinary = statistics.median(each for look, each, _ in extra if not look)
    price = statistics.median(length * (each - ordinary) for look, each, length in extra if look)
    return {
        "part": "cost",
        "task": task.name,
        "seed": seed,
        "steps": sum(lengths),
        "ratio": sum(spent[True]) / sum(spent[False]),
        "ordinary": ordinary,
        "price": price,
        "later": ordinary + price / LATER,
        "late": ordinary + price / MOST,
        "step_ms": 1e3 * step,
        "looks": sum(looked),
        "load": os.getloadavg()[0],
    }


def cost_part(seeds: int = 1) -> Iterator[Row]:
    for task in TASKS:
        for seed in range(seeds if task.name in NAMES else 0):
            yield cost_of(task, seed)


def cost_table(rows: list[Row]) -> list[str]:
    lines = [
        "| training | step | steps | looks | with / without | an ordinary step | a look | "
        "to step 8,032 | from step 32,288 on | load |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        number = {name: float(str(row[name])) for name in row if name not in {"part", "task"}}
        ordinary = round(100 * number["ordinary"], 1) + 0.0  # never -0.0
        lines.append(
            f"| {row['task']} | {number['step_ms']:.1f} ms | {number['steps']:,.0f} | "
            f"{row['looks']} | {number['ratio']:.3f} | {ordinary:+.1f}% | "
            f"{number['price']:+.1f} steps | {1 + number['later']:.3f} | "
            f"{1 + number['late']:.3f} | {number['load']:.0f} |"
        )
    return lines
