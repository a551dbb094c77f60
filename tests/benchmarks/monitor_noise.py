"""The monitor's noise scale beside exact values along a run.

The exact value of a window is computed another way, at the same weights: at every look the gradient
of the whole population, and the norms of single samples' gradients by ``torch.func``; after the
first window, where little changes from look to look, at every other look. Trainings draw from that
population with replacement.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator

import torch
from noise_accuracy import ROWS, population
from noise_cases import Population
from tasks import TASKS as SMALL
from tasks import CharGPT, Task, classify, digits_data, next_character, text_data
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from batchfinder import TrainingMonitor
from batchfinder.monitor.pace import Pace
from batchfinder.noise import EUCLIDEAN, Metric, metric_for

Row = dict[str, object]

SIZE, EVERY, WINDOW, WINDOWS = 64, 10, 40, 3
DEFAULT = ("digits MLP", "digits CNN", "Mackey–Glass forecast")
"""Trainings that are also looked at as seldom as by default, for one window."""
SAMPLED = 256
"""Samples at each look whose gradient is taken one by one: 10,240 in a window."""
TUNED_SEEDS, HELD_OUT_SEEDS = (0, 1), (20, 21, 22, 23)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


NAMED = {task.name: task for task in SMALL}
CNN = Task("digits CNN", "sgd-momentum", cnn, digits_data, classify, 0.0, (64,), 0.05)
GPT = Task("GPT", "adam", CharGPT, text_data, next_character, 0.0, (64,), 0.004)
KINDS: dict[str, tuple[Task, ...]] = {
    "MLP": (NAMED["digits MLP"],),
    "CNN": (CNN, NAMED["Mackey–Glass forecast"]),
    "GPT": (GPT,),
    "UNet": (NAMED["denoising UNet"],),
}


def windows(
    kind: str, task: Task, seed: int, every: int | None = EVERY, count: int = WINDOWS
) -> Iterator[Row]:
    """Each window of the monitor's noise scale beside the exact ratio over the same weights."""
    torch.manual_seed(seed)
    model = task.make_model()
    optimizer = task.make_optimizer(model.parameters())
    columns = population(task)
    stream = Population(*columns, replacement=True)
    stream.rewind(seed + sum(map(ord, task.name)))  # other draws for each task
    monitor = TrainingMonitor(model, optimizer, batch_size=SIZE, every=every, window=WINDOW)
    chosen = torch.Generator().manual_seed(seed + 1000)
    moments: list[tuple[float, float]] = []
    before: Metric = EUCLIDEAN
    pace, looks = Pace(every), 0
    look = pace.after(0)
    while looks < WINDOW * count:
        number = monitor.steps + 1
        is_look = number == look
        if is_look:
            looks, look = looks + 1, pace.after(look)
        if is_look and (looks <= WINDOW or looks % 2 == 0):
            metric = metric_for(list(model.parameters()), [optimizer])
            if metric.name != before.name:
                moments.clear()
            before = metric
            rows = torch.randperm(ROWS, generator=chosen)[:SAMPLED]
            moments.append(exact_moments(model, task.loss, columns, rows, metric))
        optimizer.zero_grad()
        for part, share in monitor.parts(stream.draw(SIZE)):
            loss = task.loss(model, list(part))
            (loss * share).backward()
        optimizer.step()
        monitor.step(loss)
        if not is_look or looks % WINDOW:
            continue
        noise = monitor.noise_scale
        pooled = WINDOW if noise is None else round(noise.samples / SIZE)
        seen = moments[
            -math.ceil(pooled * len(moments) / WINDOW) :
        ]  # at the looks it is pooled over
        signal, trace = (statistics.fmean(part) for part in zip(*seen, strict=True))
        moments.clear()
        yield {
            "part": "noise",
            "kind": kind,
            "task": task.name,
            "seed": seed,
            "every": every,
            "step": number,
            "looks": pooled,
            "exact": trace / signal,
            "value": None if noise is None else noise.value,
            "low": None if noise is None else noise.low,
            "high": None if noise is None or math.isinf(noise.high) else noise.high,
        }


def exact_moments(
    model: nn.Module,
    loss: Callable[[nn.Module, list[Tensor]], Tensor],
    columns: tuple[Tensor, ...],
    rows: Tensor,
    metric: Metric,
) -> tuple[float, float]:
    """|G|² of the whole population and tr Σ from the gradients of single ``rows``, unbiased."""
    values = {name: value.detach() for name, value in model.named_parameters()}
    weights = {
        name: metric(index, torch.ones_like(value))
        for index, (name, value) in enumerate(values.items())
    }

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *batch: Tensor) -> Tensor:
            return loss(self.model, list(batch))

    wrapped = Wrapped()

    def whole(values: dict[str, Tensor], *batch: Tensor) -> Tensor:
        named = {f"model.{name}": value for name, value in values.items()}
        return torch.func.functional_call(wrapped, named, batch)

    def single(values: dict[str, Tensor], *sample: Tensor) -> Tensor:
        return whole(values, *(column[None] for column in sample))

    with sdpa_kernel(SDPBackend.MATH):
        mean = torch.func.grad(whole)(values, *columns)
        each = torch.func.vmap(torch.func.grad(single), (None,) + (0,) * len(columns))(
            values, *(column[rows] for column in columns)
        )
    signal = sum(float((mean[name] * weights[name]).double().square().sum()) for name in values)
    squares = sum(
        (each[name] * weights[name]).square().flatten(1).sum(1).double() for name in values
    )
    return signal, float(squares.mean()) - signal


def noise_part(seeds: tuple[int, ...] = (*TUNED_SEEDS, *HELD_OUT_SEEDS)) -> Iterator[Row]:
    for kind, tasks in KINDS.items():
        for task in tasks:
            for seed in seeds:
                yield from windows(kind, task, seed)
            for seed in HELD_OUT_SEEDS if task.name in DEFAULT else ():
                yield from windows(kind, task, seed, None, 1)


def noise_table(rows: list[Row]) -> list[str]:
    """By kind, and apart for what was looked at while the monitor was made."""
    lines = [
        "| training | seeds | windows | abstained | exact | median factor off | 90th percentile | "
        "interval holds |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    groups = {
        "looked at": [row for row in rows if row["seed"] in TUNED_SEEDS],
        "held out": [row for row in rows if row["seed"] in HELD_OUT_SEEDS and row["every"]],
        "held out, looks as by default": [row for row in rows if row["every"] is None],
    }
    for title, mine in groups.items():
        names = list(dict.fromkeys((str(row["kind"]), str(row["task"])) for row in mine))
        for kind, task in names:
            of_task = [row for row in mine if row["task"] == task]
            lines.append(f"| {kind}: {task} | {title} | {_cells(of_task)} |")
        if mine:
            lines.append(f"| **all** | **{title}** | {_cells(mine)} |")
    if rows:
        lines.append(f"| **all** | | {_cells(rows)} |")
    return lines


def _cells(rows: list[Row]) -> str:
    told = [row for row in rows if row["value"] is not None]
    off = sorted(
        math.exp(abs(math.log(float(str(row["value"])) / float(str(row["exact"]))))) for row in told
    )
    inside = sum(
        float(str(row["low"]))
        <= float(str(row["exact"]))
        <= (math.inf if row["high"] is None else float(str(row["high"])))
        for row in told
    )
    exact = sorted(float(str(row["exact"])) for row in rows)
    tail = off[math.ceil(0.9 * len(off)) - 1]
    return (
        f"{len(rows)} | {len(rows) - len(told)} | {exact[0]:.0f} to {exact[-1]:.0f} | "
        f"{statistics.median(off):.2f} | {tail:.2f} | {inside} of {len(told)} "
        f"({100 * inside / len(told):.0f}%)"
    )
