"""Ranks are micro-batches to compare: the noise scale from their own gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from noise_cases import blobs, cross_entropy, exact_noise_scale, perceptron
from processes import all_well, on_processes
from ranks_cases import wrapped
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import batchfinder as bf
from batchfinder.formulas import moments
from batchfinder.noise.gradient_hooks import EUCLIDEAN, metric_of
from batchfinder.noise.reduced import gradient_reader
from batchfinder.protocols import Setup
from batchfinder.run.ranks import TorchRanks, joined, wrapping_of
from batchfinder.run.step import step_from

SAMPLES = 1024


def shared_loader(batch: int = 16) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*blobs(SAMPLES)), batch_size=batch, shuffle=True)


def divided_loader(batch: int = 16) -> DataLoader[Any]:
    data = TensorDataset(*blobs(SAMPLES))
    return DataLoader(data, batch_size=batch, sampler=DistributedSampler(data))


def measured(rank: int, how: str, divided: bool, seeds: int, samples: int) -> list[bf.NoiseScale]:
    loader = divided_loader() if divided else shared_loader()
    estimator = bf.MicroBatchVariance(samples=samples, narrow_enough=0.0)
    model = wrapped(perceptron(), how)
    return [
        bf.gradient_noise_scale(
            model, loader, loss_fn=nn.functional.cross_entropy, noise=estimator, seed=1000 * seed
        )
        for seed in range(seeds)
    ]


def check(how: str, *, divided: bool, seeds: int, samples: int, within: float) -> None:
    every = all_well(on_processes(measured, how, divided, seeds, samples, seconds=200))
    assert every[0] == every[1]
    truth, _ = exact_noise_scale(perceptron(), cross_entropy, blobs(SAMPLES))
    squared = np.mean([each.gradient_squared for each in every[0]])
    trace = np.mean([each.noise_trace for each in every[0]])
    assert trace / squared == pytest.approx(truth, rel=within)
    assert all(each.samples >= min(samples, SAMPLES) // 2 for each in every[0])


def test_two_ranks_measure_the_noise_of_the_whole_set() -> None:
    check("ddp", divided=False, seeds=3, samples=SAMPLES, within=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "world"), [("bare", 2), ("ddp", 2), ("fsdp", 2), ("ddp", 4)])
def test_the_mean_over_200_draws_is_the_true_one(how: str, world: int) -> None:
    every = all_well(on_processes(drawn, how, 200, world=world, seconds=120))
    assert all(each == every[0] for each in every)
    truth, _ = exact_noise_scale(perceptron(), cross_entropy, blobs(SAMPLES))
    squared, trace = np.mean(every[0], axis=0)
    assert trace / squared == pytest.approx(truth, rel=0.15)


@pytest.mark.slow
def test_a_loader_that_is_divided_among_ranks_is_left_so() -> None:
    check("ddp", divided=True, seeds=3, samples=SAMPLES, within=0.15)


@pytest.mark.slow
def test_in_the_optimizers_metric_shards_say_what_whole_gradients_do() -> None:
    """The same training, sharded and not: the same samples, weights and second moments."""
    ddp, fsdp = (all_well(on_processes(norms, how)) for how in ("ddp", "fsdp"))
    for one, other in zip(ddp, fsdp, strict=True):
        assert other == pytest.approx(one, rel=1e-4)


def joint_step(how: str) -> Any:
    model = wrapped(perceptron(), how)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    own = step_from(model, loss_fn=nn.functional.cross_entropy, optimizer=optimizer)
    return joined(
        Setup(own, _Nothing(), _Nothing()), TorchRanks().meet({}), wrapping_of([model])
    ).step


def drawn(rank: int, how: str, draws: int) -> list[tuple[float, float]]:
    """|G|² and tr Σ of one step after another, from the ranks' own gradients."""
    step, (x, y) = joint_step(how), blobs(SAMPLES)
    size = 128 // step.ranks.size
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(draws):
        at = torch.randint(SAMPLES, (step.ranks.size, size), generator=generator)[rank]
        step.zero_grad()
        with gradient_reader(step) as reader:
            step.forward_backward((x[at], y[at]))
            squares = step.ranks.tell("norms", reader.read().squared_norm)
            seen = moments([size] * len(squares), squares, reader.mean_square(1.0))
        found.append((seen.gradient_squared, seen.noise_trace))
    return found


def norms(rank: int, how: str) -> list[float]:
    """Own |g|² and |mean|², after 24 steps of Adam, as they are and in its metric."""
    step = joint_step(how)
    x, y = blobs(SAMPLES)
    found = []
    for number in range(24):
        at = 32 * number + 16 * rank
        step.zero_grad()
        step.forward_backward((x[at : at + 16], y[at : at + 16]))
        step.update()
    for metric in (EUCLIDEAN, metric_of(step)):
        step.zero_grad()
        with gradient_reader(step, metric) as reader:
            step.forward_backward((x[rank::64], y[rank::64]))
            found += [reader.read().squared_norm, reader.mean_square(1.0)]
    return found


class _Nothing:
    """Neither batches nor memory are asked for."""

    base_batch_size = length = ceiling = None
    unit, smallest, varies, worker_copies = "samples", 1, False, 0

    def limit_bytes(self) -> int:
        return 0
