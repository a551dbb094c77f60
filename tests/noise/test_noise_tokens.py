"""Batches under a token budget: the noise scale is in tokens, and tokens weigh."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from noise_cases import PlainStep
from torch import Tensor, nn

from batchfinder import formulas
from batchfinder.noise import MicroBatchVariance, noise_along_warmup
from batchfinder.noise.sampling import FreshBatches
from batchfinder.results import BatchPlan
from batchfinder.run.step import step_from

PAD = -100


class Sentences:
    """Sentences of 3 to 12 tokens, drawn until a budget of tokens is full."""

    unit = "tokens"
    base_batch_size = None
    length = 500
    ceiling = None

    def __init__(self) -> None:
        self.rewind(0)

    def expect(self, sizes: list[int]) -> None: ...

    def rewind(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, size: int) -> tuple[Tensor, Tensor]:
        lengths: list[int] = []
        while sum(lengths) < size:
            lengths.append(int(torch.randint(3, 13, (), generator=self.generator)))
        shape = (len(lengths), max(lengths))
        inputs = torch.randint(0, 20, shape, generator=self.generator)
        noise = torch.randint(0, 20, shape, generator=self.generator)
        heads = torch.rand(shape, generator=self.generator) < 0.5
        labels = torch.where(heads, (inputs * 7 + 3) % 20, noise)
        labels[torch.arange(shape[1])[None] >= torch.tensor(lengths)[:, None]] = PAD
        return inputs, labels

    def count(self, batch: tuple[Tensor, Tensor]) -> int:
        return int((batch[1] != PAD).sum())


def token_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    scores = model(batch[0])
    return nn.functional.cross_entropy(scores.flatten(0, 1), batch[1].flatten(), ignore_index=PAD)


def language() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))


def test_tokens_are_what_weighs_and_what_is_counted() -> None:
    model, source = language(), Sentences()
    batches = [source.draw(size) for size in (20, 100, 50, 35)]
    draws = FreshBatches(batches, 50, source=source)
    found = MicroBatchVariance().estimate(PlainStep(model, token_loss), draws, BatchPlan(50))
    counts, rows = np.array([source.count(batch) for batch in batches]), []
    for batch in batches:
        model.zero_grad()
        token_loss(model, batch).backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]).double())
    gradients = torch.stack(rows).numpy()
    exact = formulas.from_gram(counts, gradients @ gradients.T)
    assert found.unit == "tokens"
    assert found.samples == counts.sum()
    assert found.noise_trace == pytest.approx(exact.noise_trace, rel=1e-4)
    assert found.gradient_squared == pytest.approx(exact.gradient_squared, rel=1e-3)


def test_a_warm_up_of_token_budgets_gives_tokens() -> None:
    model, source = language(), Sentences()
    step = PlainStep(model, token_loss, torch.optim.SGD(model.parameters(), 0.5))
    found = noise_along_warmup(
        step,
        source,
        base_batch=400,
        micro_batch=400,
        warmup_steps=80,
        estimator=MicroBatchVariance(),
        sizes=(600,),
    )
    assert found.training.unit == found.per_size[0].unit == "tokens"
    assert 0 < found.training.low <= found.training.value
    assert found.per_size[0].samples >= 4 * 600


def test_micro_batches_that_weigh_differently_count_by_their_weight() -> None:
    """train_step gives (mean loss over tokens, tokens): squares of means, weighted as sizes."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1, bias=False)
    batches = [torch.randn(4, 3) for _ in range(6)]
    weights = [5.0, 1.0, 2.0, 8.0, 3.0, 1.0]
    in_turn = iter(weights)
    step = step_from(model, train_step=lambda m, b: (m(b).mean(), next(in_turn)))
    found = MicroBatchVariance(micro_batches=6, samples=24, narrow_enough=0).estimate(
        step, FreshBatches(batches, 4), BatchPlan(4)
    )
    means = torch.stack([batch.mean(0) for batch in batches]).double()
    shares = torch.tensor(weights, dtype=torch.float64) / weights[0]
    mean = (shares[:, None] * means).sum(0) / shares.sum()
    truth = formulas.moments(
        (4 * shares).tolist(), means.square().sum(1).tolist(), float(mean.square().sum())
    )
    assert found.gradient_squared == pytest.approx(truth.gradient_squared, rel=1e-5)
    assert found.noise_trace == pytest.approx(truth.noise_trace, rel=1e-5)
