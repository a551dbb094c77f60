"""A call with default arguments on three trainings, and the speed of training with its answer.

    python tests/benchmarks/first_minutes.py [image] [language] [diffusion]

Each training starts from the pair that most people start from: AdamW at 0.001, batch size 32. The
call gets nothing but model, loader, loss and optimizer. Then both pairs are trained to the same
loss on samples left out, in turn, over three seeds, on one thread; processor time is counted,
validation left out. Writes docs/tables/first_minutes.json and .md, and goes on
from there where it was interrupted (delete the file for a new call); asserts nothing.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sweep import Crossing, validation_loss
from tasks import TASKS, Task
from torch.utils.data import DataLoader

from batchfinder import Report, find_batch_size

TABLES = Path(__file__).parent.parent.parent / "docs" / "tables"
NAMES = {
    "image": ("a ResNet with BatchNorm on handwritten digits", "digits ResNet, BatchNorm"),
    "language": ("a character GPT on Python's help texts", "character GPT, AdamW"),
    "diffusion": ("a denoising UNet on handwritten digits", "denoising UNet"),
}
BATCH, RATE, SEEDS, RAMP = 32, 1e-3, (0, 1, 2), 20
LONGEST = 60.0
"""Seconds of processor time after which a training is given up."""


def fresh(task: Task, seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = task.make_model()
    return model, torch.optim.AdamW(model.parameters(), lr=RATE)


def loader_of(task: Task, size: int, seed: int = 0) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(task.data()[0], batch_size=size, shuffle=True, generator=generator)


def called(task: Task) -> tuple[Report, dict[str, float]]:
    """The newcomer's call, its seconds and its processor time."""
    model, optimizer = fresh(task, 0)
    started, spent = time.perf_counter(), time.process_time()
    report = find_batch_size(
        model, loader_of(task, BATCH), train_step=task.loss, optimizer=optimizer
    )
    return report, {
        "seconds": time.perf_counter() - started,
        "processor": time.process_time() - spent,
    }


def endless(loader: DataLoader[Any]) -> Iterator[list[torch.Tensor]]:
    while True:
        yield from loader


def trained(task: Task, micro: int, parts: int, rate: float, seed: int) -> dict[str, Any]:
    """Steps and processor seconds until the loss on samples left out meets the task's target."""
    model, optimizer = fresh(task, seed)
    feed, crossing = endless(loader_of(task, micro, seed)), Crossing(task.target)
    step = spent = 0.0
    look = 8
    while spent < LONGEST:
        started = time.process_time()
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / RAMP)
        optimizer.zero_grad()
        for _ in range(parts):
            (task.loss(model, next(feed)) / parts).backward()
        optimizer.step()
        spent += time.process_time() - started
        if step < look:
            continue
        look = max(int(step) + 1, round(step * 1.05))
        value = validation_loss(task, model)
        if not math.isfinite(value):
            break
        reached = crossing.look(int(step), value)
        if reached is not None:
            return {"steps": reached, "seconds": spent * reached / step}
    return {"steps": None, "seconds": None}


def first_call(name: str, task: Task) -> dict[str, Any]:
    """The call as one row, nothing trained yet."""
    report, cost = called(task)
    print(report, flush=True)
    return {
        "name": name,
        **{key: round(value, 1) for key, value in cost.items()},
        "load": os.getloadavg()[0],
        "machine": f"{os.cpu_count()} cores, torch {torch.__version__}, {platform.system()}",
        "sentence": str(report).split("\n\n")[0].replace("\n", " "),
        "pair": [report.batch_size, report.accumulation_steps, report.learning_rate],
        "target": task.target,
        "parameters": sum(p.numel() for p in task.make_model().parameters()),
        "yours": [],
        "theirs": [],
    }


def minutes(row: dict[str, Any], task: Task) -> Iterator[None]:
    """Both pairs trained where the answer moves; what an interrupted run did is not repeated."""
    size, parts, rate = row["pair"]
    if size * parts == BATCH and rate in (None, RATE):
        return
    for seed in SEEDS[len(row["theirs"]) :]:
        yours = trained(task, BATCH, 1, RATE, seed)
        row["theirs"].append(trained(task, size, parts, rate or RATE, seed))
        row["yours"].append(yours)
        print(seed, row["yours"][-1], row["theirs"][-1], flush=True)
        yield


def faster(row: dict[str, Any]) -> str:
    """How many times faster the answer trained, over seeds; or that nothing was moved."""
    size, parts, rate = row["pair"]
    if size * parts == BATCH and rate in (None, RATE):
        return "your pair was kept"
    if len(row["yours"]) < len(SEEDS):
        return f"{len(row['yours'])} of {len(SEEDS)} seeds trained"
    pairs = list(zip(row["yours"], row["theirs"], strict=True))
    if any(one["seconds"] is None or other["seconds"] is None for one, other in pairs):
        met = [sum(each["seconds"] is not None for each in row[key]) for key in ("yours", "theirs")]
        return f"target met by {met[0]} of {len(pairs)} at yours, {met[1]} at the answer"
    ratios = sorted(one["seconds"] / other["seconds"] for one, other in pairs)
    middle = statistics.median(ratios)
    verdict = "yes" if ratios[0] > 1 else "no" if ratios[-1] < 1 else "not in every seed"
    return f"{verdict}: {middle:.2f}x ({ratios[0]:.2f}–{ratios[-1]:.2f})"


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| training | the call took | it said | trained by it, faster? |",
        "|---|--:|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {NAMES[row['name']][0]}, {row['parameters']:,} parameters "
            f"| {row['seconds']:.0f} s ({row['processor']:.0f} s of processor time) "
            f"| {row['sentence']} | {faster(row)} |"
        )
    loads = sorted(row["load"] for row in rows)
    return "\n".join(
        [
            "## First minutes",
            "",
            "From AdamW at 0.001 with batch size 32, which the call was told nothing else about. "
            "Faster: processor time of training to one loss on samples left out, at your pair over "
            "at the answer, median of three seeds (least–most), reading included. One thread of "
            f"{rows[0]['machine']}, busy with other work (load {loads[0]:.0f} to {loads[-1]:.0f}); "
            "`python tests/benchmarks/first_minutes.py`.",
            "",
            *lines,
            "",
        ]
    )


def main() -> None:
    torch.set_num_threads(1)
    kept = TABLES / "first_minutes.json"
    rows = {row["name"]: row for row in (json.loads(kept.read_text()) if kept.exists() else [])}

    def keep() -> None:
        ordered = [rows[each] for each in NAMES if each in rows]
        kept.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
        (TABLES / "first_minutes.md").write_text(table(ordered), encoding="utf-8")

    for name in sys.argv[1:] or NAMES:
        task = next(each for each in TASKS if each.name == NAMES[name][1])
        if name not in rows:
            rows[name] = first_call(name, task)
        keep()
        for _ in minutes(rows[name], task):
            keep()


if __name__ == "__main__":
    main()
