"""The default estimator compared with the exact noise scale, and its cost.

``python tests/benchmarks/noise_accuracy.py [SEEDS [TASK …]]`` trains four kinds of model for 0, 100
and 1000 steps of batch 32, computes the exact noise scale over 2048 samples from the gradient of
each, then estimates it ``SEEDS`` times (200) from samples drawn out of these with replacement,
spending at most three times the noise scale. Then the processor time of a measured warm-up step
beside that of a plain one. Reports; asserts nothing.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parent.parent / "support"))
from noise_cases import PlainStep, Population, exact_noise_scale, sample_gradients
from tasks import TASKS, Task
from torch import Tensor

from batchfinder.noise import MicroBatchVariance
from batchfinder.noise.gradient_hooks import metric_of
from batchfinder.noise.sampling import FreshBatches, TrainingBatches, cut
from batchfinder.noise.training_loop import TrainingLoop
from batchfinder.noise.warmup import PIECES, STRIDE
from batchfinder.results import BatchPlan

KINDS = {
    "digits MLP": "MLP",
    "Mackey–Glass forecast": "CNN",
    "character GPT, AdamW": "GPT",
    "denoising UNet": "UNet",
}
ROWS = 2048
STEPS = (0, 100, 1000)
PER_SAMPLE_SEEDS = 1000


def population(task: Task) -> tuple[Tensor, ...]:
    """Samples of which each has one gradient: a denoising sample keeps its noise and level."""
    columns = tuple(column[:ROWS] for column in task.data()[0].tensors)
    if task.name == "denoising UNet":
        generator = torch.Generator().manual_seed(5)
        level = torch.rand(ROWS, 1, generator=generator)
        columns += (level, torch.randn(columns[0].shape, generator=generator))
    return columns


def trained(task: Task, columns: tuple[Tensor, ...], steps: int) -> PlainStep:
    torch.manual_seed(0)
    model = task.make_model()
    step = PlainStep(
        model,
        lambda model, batch: task.loss(model, list(batch)),
        task.make_optimizer(model.parameters()),
    )
    source = Population(*columns, replacement=True)
    for _ in range(steps):
        step.zero_grad()
        step.forward_backward(source.draw(32))
        step.update()
    step.zero_grad()
    return step


def accuracy(step: PlainStep, columns: tuple[Tensor, ...], seeds: int, adam: bool) -> str:
    """Median error, coverage and samples spent, over seeds."""
    weights = None
    if adam:
        metric = metric_of(step)
        ones = [torch.ones_like(parameter) for parameter in step.parameters()]
        weights = [metric(index, one).detach() for index, one in enumerate(ones)]
    truth, _ = exact_noise_scale(step.model, step.loss, columns, weights)
    most = max(48, round(3 * truth))
    size = max(1, min(32, most // 16))
    estimator = MicroBatchVariance(samples=most, preconditioned=adam)
    source = Population(*columns, replacement=True)
    errors, spent, held, bounded = [], [], 0, 0
    for seed in range(seeds):
        found = estimator.estimate(step, FreshBatches.shuffled(source, size, seed), BatchPlan(size))
        errors.append(abs(math.log(found.value / truth)))
        held += found.low <= truth <= found.high
        bounded += found.is_bounded
        spent.append(found.samples)
    gradients = torch.cat(list(sample_gradients(step.model, step.loss, columns, weights)))
    cells = (
        f"{truth:.1f}",
        f"× {math.exp(statistics.median(errors)):.2f}",
        f"× {per_sample_median(gradients @ gradients.T, truth, most):.2f}",
        f"× {math.exp(float(np.quantile(errors, 0.95))):.2f}",
        f"{held / seeds:.3f}",
        f"{bounded / seeds:.2f}",
        f"{statistics.median(spent) / truth:.1f}",
        str(size),
    )
    return " | ".join(cells)


def per_sample_median(gram: Tensor, truth: float, samples: int) -> float:
    """The median error were the gradient of each of as many samples known: none does better.

    The U-statistic |G|² = mean of g_i · g_j over i ≠ j, and tr Σ = mean of |g_i|² less it.
    """
    errors = []
    for seed in range(PER_SAMPLE_SEEDS):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(gram), (samples,), generator=generator)
        part = gram[drawn][:, drawn]
        own = float(part.diagonal().sum())
        signal = (float(part.sum()) - own) / (samples * (samples - 1))
        found = (own / samples - signal) / signal if signal > 0 else math.inf
        errors.append(abs(math.log(found / truth)))
    return math.exp(statistics.median(errors))


def cost(task: Task, base: int) -> str:
    """Processor time of a measured step over that of a plain one, and of a whole warm-up so."""
    columns = population(task)
    step = trained(task, columns, 25)
    walk = TrainingLoop(step, TrainingBatches(Population(*columns), 0), sum_reduced=False)
    if task.family == "adam":
        walk.metric = metric_of(step)
    pieces = cut(base, base, PIECES)
    plain, parts, measured = [], [], []
    for _ in range(30):
        plain.append(seconds(lambda: walk.train([base])))
        parts.append(seconds(lambda: walk.train(pieces)))
        measured.append(seconds(lambda: walk.train(pieces, measured=True)))
    one = statistics.median(plain)
    divided, looked = statistics.median(parts) / one, statistics.median(measured) / one
    share = (1 - 1 / 4) / STRIDE
    return (
        f"{base} | {one * 1e3:.2f} | × {divided:.2f} | × {looked:.2f} | "
        f"× {1 + share * (looked - 1):.2f}"
    )


def seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


ACCURACY = """\
| model | metric | exact | median error | per sample | 95% below | held | closed | spent | size |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"""
COST = """
| model | batch | plain step, ms | cut in two | and measured | a whole warm-up |
|---|--:|--:|--:|--:|--:|"""


def main() -> None:
    torch.set_num_threads(1)
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    chosen = sys.argv[2:] or list(KINDS)
    tasks = [task for task in TASKS if task.name in KINDS and task.name in chosen]
    print(ACCURACY)
    for task, steps in itertools.product(tasks, STEPS):
        columns = population(task)
        step = trained(task, columns, steps)
        kind = f"| {KINDS[task.name]} after {steps} steps |"
        print(kind, f"plain | {accuracy(step, columns, seeds, adam=False)} |", flush=True)
        if task.family == "adam" and steps:
            print(kind, f"Adam's | {accuracy(step, columns, seeds, adam=True)} |", flush=True)
    print(COST)
    for task, base in itertools.product(tasks, (32, 128, 512)):
        print(f"| {KINDS[task.name]} | {cost(task, base)} |", flush=True)


if __name__ == "__main__":
    main()
