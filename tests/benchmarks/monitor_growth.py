"""Time to a target with a growing batch over that of the best constant pair.

The constant pairs are the best of the sweeps behind ``docs/tables/regret.md`` at step times of a
GPU whose steps are bound by overhead, 1 + B/1024; those of Mackey–Glass and of the UNet are the
best of small sweeps with this loop on seed 0, where lower rates than theirs are faster. Everything
is timed on seeds of its own. The milestones of the schedules are set beforehand: at a half and
three quarters of the samples that the constant pair takes on seed 0.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

import torch
from tasks import TASKS, Task
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchfinder import BatchSizeScheduler, TrainingMonitor
from batchfinder.monitor import FollowMonitor, GrowInsteadOfDecay, Schedule

Row = dict[str, object]

KNEE = 1024
STEP_SECONDS = {2**power: 1 + 2**power / KNEE for power in range(5, 13)}
BEST: dict[str, tuple[int, float]] = {
    "digits MLP": (512, 0.32),
    "Mackey–Glass forecast": (256, 0.016),
    "denoising UNet": (256, 0.032),
    "character GPT, AdamW": (256, 0.008),
    "teacher, tabular": (512, 0.008),
}
FIRST_SEED = 50
EVERY, VALIDATED_EVERY, MOST_STEPS = 4, 4, 600
CONSTANT = "constant"
FOLLOWED = "followed"
FOLLOWED_FROM_HALF = "followed, from half"
GROWN = "grown instead of decay"
GROWN_FROM_HALF = "grown instead of decay, from half"
DECAYED = "constant size, rate decays"
POLICIES = (CONSTANT, FOLLOWED, FOLLOWED_FROM_HALF, GROWN, GROWN_FROM_HALF, DECAYED)


def validated(task: Task, model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        loss = float(task.loss(model, list(task.data()[1].tensors)))
    model.train()
    return loss


def to_target(
    task: Task, seed: int, policy: str, milestones: tuple[int, ...]
) -> tuple[float, int, int] | None:
    """Time, samples and last size where the smoothed validation loss reaches the target."""
    size, rate = BEST[task.name]
    most = 4 * size
    if policy in {GROWN_FROM_HALF, FOLLOWED_FROM_HALF}:
        size //= 2
    if policy == FOLLOWED_FROM_HALF:
        rate /= (
            2**0.5 if task.family == "adam" else 2
        )  # what a schedule multiplies it by on the way
    torch.manual_seed(seed)
    model = task.make_model()
    optimizer = task.make_optimizer(model.parameters())
    for group in optimizer.param_groups:
        group["lr"] = rate
    generator = torch.Generator().manual_seed(seed)
    tensors = TensorDataset(*task.data()[0].tensors)
    loader = DataLoader(tensors, size, shuffle=True, drop_last=True, generator=generator)
    schedules: dict[str, Schedule] = {
        FOLLOWED: FollowMonitor(most, step_seconds=STEP_SECONDS),
        FOLLOWED_FROM_HALF: FollowMonitor(most, step_seconds=STEP_SECONDS),
        GROWN: GrowInsteadOfDecay(milestones, most),
        GROWN_FROM_HALF: GrowInsteadOfDecay(milestones, most),
    }
    monitor = TrainingMonitor(model, optimizer, batch_size=size, every=EVERY)
    constant = GrowInsteadOfDecay((), size)
    growth = BatchSizeScheduler(loader, optimizer, schedules.get(policy, constant), monitor=monitor)
    spent, smooth = 0.0, math.inf
    while growth.steps < MOST_STEPS:
        for batch in growth.loader:
            if policy == DECAYED:
                decays = sum(at <= growth.samples for at in milestones)
                for group in optimizer.param_groups:
                    group["lr"] = rate / 2**decays
            optimizer.zero_grad()
            for part, share in growth.parts(batch):
                loss = task.loss(model, list(part))
                (share * loss).backward()
            optimizer.step()
            growth.step()
            monitor.step(loss)
            spent += 1 + len(batch[0]) / KNEE
            if growth.steps % VALIDATED_EVERY == 0:
                now = validated(task, model)
                smooth = now if math.isinf(smooth) else 0.5 * (smooth + now)
                if smooth <= task.target:
                    return spent, growth.samples, len(batch[0])
                if not math.isfinite(now):
                    return None
            if growth.steps >= MOST_STEPS:
                break
    return None


def growth_part(seeds: int = 4) -> Iterator[Row]:
    for task in (task for task in TASKS if task.name in BEST):
        planned = to_target(task, 0, CONSTANT, ())
        if planned is None:
            continue
        milestones = (planned[1] // 2, 3 * planned[1] // 4)
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            for policy in POLICIES:
                found = to_target(task, seed, policy, milestones)
                yield {
                    "part": "growth",
                    "task": task.name,
                    "policy": policy,
                    "seed": seed,
                    "time": None if found is None else found[0],
                    "samples": None if found is None else found[1],
                    "last": None if found is None else found[2],
                }


def growth_table(rows: list[Row]) -> list[str]:
    lines = [
        "| task | best constant pair | seeds | " + " | ".join(POLICIES[1:]) + " |",
        "|---|---|--:|" + "--:|" * (len(POLICIES) - 1),
    ]
    ratios: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    for name in dict.fromkeys(str(row["task"]) for row in rows):
        mine = _whole_seeds([row for row in rows if row["task"] == name])
        if not mine:
            continue
        base = _mean(mine, CONSTANT)
        cells = []
        for policy in POLICIES[1:]:
            ratio = _mean(mine, policy) / base
            ratios[policy].append(ratio)
            sizes = sorted(
                {int(str(r["last"])) for r in mine if r["policy"] == policy and r["last"]}
            )
            ends = f" (to {', '.join(map(str, sizes))})" if policy != DECAYED else ""
            cells.append(f"{ratio:.2f}{ends}" if math.isfinite(ratio) else "not always reached")
        size, rate = BEST[name]
        seeds = len({row["seed"] for row in mine})
        lines.append(f"| {name} | {size} at {rate:g} | {seeds} | {' | '.join(cells)} |")
    if any(ratios.values()):
        means = [
            f"**{math.exp(statistics.fmean(map(math.log, ratios[policy]))):.2f}**"
            for policy in POLICIES[1:]
        ]
        lines.append(f"| **geometric mean** | | | {' | '.join(means)} |")
    return lines


def _whole_seeds(rows: list[Row]) -> list[Row]:
    """Rows of the seeds on which every policy was run."""
    run = {(row["seed"], row["policy"]) for row in rows}
    return [row for row in rows if all((row["seed"], policy) in run for policy in POLICIES)]


def _mean(rows: list[Row], policy: str) -> float:
    times = [row["time"] for row in rows if row["policy"] == policy]
    return statistics.fmean(math.inf if time is None else float(str(time)) for time in times)
