"""The monitor, measured: its noise scale, its alarms, its cost, and batches that grow.

``python tests/benchmarks/monitor.py OUT.jsonl [noise|alarms|cost|growth …] [--seeds N]`` runs the
parts named (all by default), appends one line per result to OUT.jsonl, and prints tables.
``docs/tables/monitor.md`` is from such a run.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.append(str(Path(__file__).parent.parent / "support"))
from monitor_trainings import BROKEN, HEALTHY, draws, run
from noise_cases import PlainStep
from tasks import TASKS, Task

from batchfinder import BatchSizeScheduler, TrainingMonitor
from batchfinder.monitor import Doubling, FollowMonitor, Kind
from batchfinder.noise import MicroBatchVariance
from batchfinder.noise.sampling import FreshBatches
from batchfinder.results import BatchPlan

BY_NAME = {task.name: task for task in TASKS}
NOISE_TASKS = ("digits MLP", "digits ResNet, BatchNorm", "character GPT, AdamW", "denoising UNet")
GROWTH_TASKS = ("digits MLP", "character GPT, AdamW", "denoising UNet", "Mackey–Glass forecast")
SIZE, EVERY, WINDOW, WINDOWS = 64, 10, 40, 3
EXACT_SAMPLES, EXACT_EVERY = 1024, 2
"""Samples of the exact ratio at one look, and every how many looks it is taken."""
SIZES, FACTORS, MOST_STEPS = (64, 128, 256, 512, 1024), (1.0, 2.0), 800
LOOKS = WINDOW // EXACT_EVERY
KNEE = 1024
"""Step times of a wide GPU, 1 + B / knee in units of the smallest step."""
STEP_SECONDS = {2**power: 1 + 2**power / KNEE for power in range(5, 13)}


# ---- noise scale against exact values -----------------------------------------------------------


def noise_of(task: Task, seed: int) -> Iterator[dict[str, object]]:
    """Windows of the monitor's noise scale beside the ratio from 1,024 samples at some looks."""
    torch.manual_seed(seed)
    model = task.make_model()
    optimizer = task.make_optimizer(model.parameters())
    data = task.data()[0].tensors
    stream, other = draws(data, SIZE, seed), draws(data, SIZE // 2, seed + 100)
    monitor = TrainingMonitor(
        model, optimizer, batch_size=SIZE, every=EVERY, window=WINDOW, split_batch_norm=True
    )
    exact = MicroBatchVariance(
        micro_batches=EXACT_SAMPLES * 2 // SIZE,
        samples=EXACT_SAMPLES,
        narrow_enough=0,
        preconditioned=task.family == "adam",
    )
    step = PlainStep(model, lambda net, batch: task.loss(net, list(batch)), optimizer)
    signals, traces = [], []
    for number in range(1, EVERY * WINDOW * WINDOWS + 1):
        if number % (EVERY * EXACT_EVERY) == 0:
            buffers = [buffer.clone() for buffer in model.buffers()]
            monitor.close()  # its hooks would see these backward passes too
            found = exact.estimate(step, FreshBatches(other, SIZE // 2), BatchPlan(SIZE // 2))
            signals.append(found.gradient_squared)
            traces.append(found.noise_trace)
            for buffer, kept in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(kept)
            monitor._prepare_next()
        train_step(task, model, optimizer, list(next(stream)), monitor.parts)
        monitor.step(LOSS[0])
        noise = monitor.noise_scale
        if number % (EVERY * WINDOW) == 0 and noise is not None:
            truth = statistics.fmean(traces[-LOOKS:]) / statistics.fmean(signals[-LOOKS:])
            yield {
                "part": "noise",
                "task": task.name,
                "seed": seed,
                "step": number,
                "exact": truth,
                "value": noise.value,
                "low": noise.low,
                "high": noise.high if math.isfinite(noise.high) else None,
            }


LOSS: list[Tensor] = [torch.zeros(())]


def train_step(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: list[Tensor],
    parts: Callable[[list[Tensor]], Iterator[tuple[list[Tensor], float]]],
) -> None:
    optimizer.zero_grad()
    for part, share in parts(batch):
        loss = task.loss(model, part)
        (loss * share).backward()
    optimizer.step()
    LOSS[0] = loss.detach()


def noise_part(seeds: int) -> Iterator[dict[str, object]]:
    for name in NOISE_TASKS:
        for seed in range(seeds):
            yield from noise_of(BY_NAME[name], seed)


def noise_table(rows: list[dict[str, object]]) -> None:
    print("| task | windows | median factor off | 90th percentile | interval holds |")
    print("|---|--:|--:|--:|--:|")
    for name in (*NOISE_TASKS, "all"):
        mine = [row for row in rows if name in (row["task"], "all")]
        if mine:
            off = sorted(
                math.exp(abs(math.log(float(row["value"]) / float(row["exact"]))))
                for row in mine
                if float(row["exact"]) > 0
            )
            inside = [
                float(row["low"]) <= float(row["exact"]) <= float(row["high"] or math.inf)
                for row in mine
            ]
            tail = off[math.ceil(0.9 * len(off)) - 1]
            print(
                f"| {name} | {len(mine)} | {statistics.median(off):.2f} | {tail:.2f} | "
                f"{100 * statistics.fmean(inside):.0f}% |"
            )


# ---- alarms -------------------------------------------------------------------------------------


def alarms_part(seeds: int) -> Iterator[dict[str, object]]:
    for training in HEALTHY:
        for seed in range(seeds):
            done = run(training.make(seed + 1000), 1000)
            yield {
                "part": "alarms",
                "healthy": True,
                "name": training.name,
                "seed": seed,
                "steps": len(done.losses),
                "events": [event.kind.name for event in done.monitor.events],
            }
    for training in BROKEN:
        for seed in range(seeds):
            steps = 1200 if training.name == "no signal" else 700
            done = run(training.make(seed + 1000), steps)
            events = [event for event in done.monitor.events if event.kind is training.expected]
            told = min((event.step for event in done.monitor.events), default=None)
            yield {
                "part": "alarms",
                "healthy": False,
                "name": training.name,
                "expected": training.expected.name,
                "seed": seed,
                "breaks_at": training.breaks_at,
                "collapse": done.collapse(training.breaks_at),
                "told": events[0].step if events else None,
                "first": told,
            }


def alarms_table(rows: list[dict[str, object]]) -> None:
    healthy = [row for row in rows if row["healthy"]]
    steps = sum(int(row["steps"]) for row in healthy)
    alarms = sum(len(row["events"]) for row in healthy)
    print(
        f"{alarms} alarms in {len(healthy)} healthy trainings, {steps:,} steps: "
        f"{10_000 * alarms / max(1, steps):.1f} per 10,000\n"
    )
    print("| made to go wrong | told as | caught | steps after it begins | steps before collapse |")
    print("|---|---|--:|--:|--:|")
    for training in BROKEN:
        mine = [row for row in rows if row["name"] == training.name]
        told = [row for row in mine if row["told"] is not None]
        after = [int(row["told"]) - int(row["breaks_at"]) for row in told]
        lead = [int(row["collapse"]) - int(row["told"]) for row in told if row["collapse"]]
        print(
            f"| {training.name} | {Kind[training.expected.name].value} | {len(told)} of "
            f"{len(mine)} | {_middle(after)} | {_middle(lead)} |"
        )


def _middle(numbers: list[int]) -> str:
    return f"{statistics.median(numbers):.0f}" if numbers else "–"


# ---- cost ---------------------------------------------------------------------------------------


def cost_part(seeds: int) -> Iterator[dict[str, object]]:
    """Time with a monitor at its default over time without, in turns of 100 steps."""
    for name in NOISE_TASKS:
        task = BY_NAME[name]
        for seed in range(seeds):
            torch.manual_seed(seed)
            model = task.make_model()
            optimizer = task.make_optimizer(model.parameters())
            stream = draws(task.data()[0].tensors, SIZE, seed)
            monitor = TrainingMonitor(model, optimizer, batch_size=SIZE, split_batch_norm=True)
            spent = {True: [], False: []}
            for turn in range(12):
                watched = turn % 2 == 1
                started = time.process_time()
                for _ in range(100):
                    batch = list(next(stream))
                    if watched:
                        train_step(task, model, optimizer, batch, monitor.parts)
                        monitor.step(LOSS[0])
                    else:
                        train_step(task, model, optimizer, batch, lambda one: iter([(one, 1.0)]))
                spent[watched].append(time.process_time() - started)
            ratio = statistics.median(spent[True][1:]) / statistics.median(spent[False][1:])
            ms = 10 * statistics.median(spent[False][1:])
            yield {"part": "cost", "task": name, "seed": seed, "ratio": ratio, "step_ms": ms}


def cost_table(rows: list[dict[str, object]]) -> None:
    print("| task | step | time with the monitor / without |")
    print("|---|--:|--:|")
    for name in NOISE_TASKS:
        mine = [row for row in rows if row["task"] == name]
        if mine:
            ratio = statistics.median(float(row["ratio"]) for row in mine)
            step = statistics.median(float(row["step_ms"]) for row in mine)
            print(f"| {name} | {step:.1f} ms | {ratio:.3f} |")


# ---- growing batches ----------------------------------------------------------------------------


def validated(task: Task, model: nn.Module) -> float:
    held = list(task.data()[1].tensors)
    model.eval()
    with torch.no_grad():
        loss = float(task.loss(model, held))
    model.train()
    return loss


def to_target(
    task: Task, seed: int, size: int, rate: float, schedule: object = None
) -> tuple[float, int, int] | None:
    """Time, steps and last size at which the validation loss reaches the target."""
    torch.manual_seed(seed)
    model = task.make_model()
    optimizer = task.make_optimizer(model.parameters())
    for group in optimizer.param_groups:
        group["lr"] = rate
    generator = torch.Generator().manual_seed(seed)
    tensors = TensorDataset(*task.data()[0].tensors)
    loader = DataLoader(tensors, size, shuffle=True, drop_last=True, generator=generator)
    growth = monitor = None
    if schedule is not None:
        monitor = TrainingMonitor(model, optimizer, batch_size=size, every=5, split_batch_norm=True)
        growth = BatchSizeScheduler(loader, optimizer, schedule, monitor=monitor)
    spent, steps, smooth, last = 0.0, 0, math.inf, size
    while steps < MOST_STEPS * 32 / min(size, 32):
        for batch in loader if growth is None else growth.loader:
            parts = (lambda one: iter([(one, 1.0)])) if growth is None else growth.parts
            last = len(batch[0])
            train_step(task, model, optimizer, list(batch), parts)
            if growth is not None and monitor is not None:
                growth.step()
                monitor.step(LOSS[0])
            steps += 1
            spent += 1 + last / KNEE
            if not math.isfinite(float(LOSS[0])):
                return None
            if steps % 10 == 0:
                now = validated(task, model)
                smooth = now if math.isinf(smooth) else 0.5 * (smooth + now)
                if smooth <= task.target:
                    return spent, steps, last
            if steps >= MOST_STEPS:
                return None
    return None


def growth_part(seeds: int) -> Iterator[dict[str, object]]:
    """Constant pairs are picked on seed 0; they and the schedules are timed on later seeds."""
    for name in GROWTH_TASKS:
        yield from growth_of(BY_NAME[name], range(1, seeds + 1))


def growth_of(task: Task, seeds: range) -> Iterator[dict[str, object]]:
    power = 0.5 if task.family == "adam" else 1.0
    picked: dict[int, tuple[float, float]] = {}
    for size in SIZES:
        for factor in FACTORS:
            rate = task.first_rate * factor * min(8.0, (size / 32) ** power)
            found = to_target(task, 0, size, rate)
            if found is not None:
                picked[size] = min(picked.get(size, (math.inf, 0.0)), (found[0], rate))
    if not picked:
        return
    best = min(picked, key=lambda size: picked[size][0])
    priced = FollowMonitor(at_most=4 * best, step_seconds=STEP_SECONDS)
    runs: list[tuple[str, int, object]] = [("constant", best, None), ("follow", best, priced)]
    smaller = best // 2
    if smaller in picked:
        doubling = Doubling(4096, at_most=4 * best)
        runs += [("follow from half", smaller, priced), ("double from half", smaller, doubling)]
    for what, size, schedule in runs:
        found = [to_target(task, seed, size, picked[size][1], schedule) for seed in seeds]
        times = [each[0] if each else math.inf for each in found]
        mean = statistics.fmean(times)
        yield {
            "part": "growth",
            "task": task.name,
            "what": what,
            "from": f"{size} at {picked[size][1]:.2g}",
            "time": mean if math.isfinite(mean) else None,
            "times": [each if math.isfinite(each) else None for each in times],
            "last": [each[2] for each in found if each],
        }


def growth_table(rows: list[dict[str, object]]) -> None:
    kinds = ("follow", "follow from half", "double from half")
    print("| task | best constant pair | followed | followed from half | doubled from half |")
    print("|---|---|--:|--:|--:|")
    for name in GROWTH_TASKS:
        mine = {str(row["what"]): row for row in rows if row["task"] == name}
        if "constant" not in mine or mine["constant"]["time"] is None:
            continue
        base = float(mine["constant"]["time"])
        cells = []
        for kind in kinds:
            found = mine.get(kind, {})
            time = found.get("time")
            cells.append(f"{float(time) / base:.2f} (to {found['last']})" if time else "–")
        print(f"| {name} | {mine['constant']['from']} | {' | '.join(cells)} |")


PARTS = {
    "noise": (noise_part, noise_table),
    "alarms": (alarms_part, alarms_table),
    "cost": (cost_part, cost_table),
    "growth": (growth_part, growth_table),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.parts or PARTS:
        work, table = PARTS[name]
        rows = []
        started = time.perf_counter()
        for row in work(asked.seeds):
            rows.append(row)
            with asked.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
        print(f"## {name} ({time.perf_counter() - started:.0f} s)\n")
        table(rows)
        print(flush=True)


if __name__ == "__main__":
    main()
