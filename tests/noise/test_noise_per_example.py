"""Single samples' gradients: the brute force that the default is checked against."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from noise_cases import PlainStep, Population, blobs, cross_entropy, exact_noise_scale, perceptron
from torch import Tensor, nn

from batchfinder import formulas
from batchfinder.errors import InvalidArgument, NoiseNotMeasured
from batchfinder.noise import MicroBatchVariance, PerExample, noise_along_warmup
from batchfinder.noise.sampling import FreshBatches
from batchfinder.results import BatchPlan
from batchfinder.wording import Caveat

PLAN = BatchPlan(32)


def test_over_the_whole_set_it_is_exact() -> None:
    model, data = perceptron(), blobs(512)
    step, source = PlainStep(model, cross_entropy), Population(*data)
    truth, _ = exact_noise_scale(model, cross_entropy, data)
    found = PerExample(model, cross_entropy).estimate(
        step, FreshBatches.shuffled(source, 32, 0), PLAN
    )
    assert found.value == pytest.approx(truth, rel=0.01)
    assert found.low <= truth <= found.high
    assert found.samples == 512
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_agrees_with_the_default_on_the_same_samples() -> None:
    model, data = perceptron(), blobs(2048)
    step, source = PlainStep(model, cross_entropy), Population(*data)
    slow = PerExample(model, cross_entropy, samples=1024)
    fast = MicroBatchVariance(samples=1024, narrow_enough=1)
    one = slow.estimate(step, FreshBatches.shuffled(source, 32, 1), PLAN)
    two = fast.estimate(step, FreshBatches.shuffled(source, 32, 1), PLAN)
    assert one.samples == two.samples == 1024
    assert one.value == pytest.approx(two.value, rel=0.3)
    assert one.gradient_squared == pytest.approx(two.gradient_squared, rel=0.1)


@pytest.mark.slow
def test_the_interval_covers_the_truth() -> None:
    model, data = perceptron(), blobs(4096)
    step, source = PlainStep(model, cross_entropy), Population(*data, replacement=True)
    truth, _ = exact_noise_scale(model, cross_entropy, data)
    estimator = PerExample(model, cross_entropy, samples=256, chunk_size=16)
    held = 0
    for seed in range(40):
        found = estimator.estimate(step, FreshBatches.shuffled(source, 16, seed), BatchPlan(16))
        held += found.low <= truth <= found.high
    assert 30 <= held <= 40


def test_leaving_one_group_out_is_leaving_one_group_out() -> None:
    random = np.random.default_rng(0)
    groups = [random.standard_normal((size, 20)) + 0.3 for size in (3, 8, 5, 6)]
    means = np.stack([group.mean(0) for group in groups])
    squares = [float((group**2).sum()) for group in groups]
    found = formulas.leave_one_group_out([3, 8, 5, 6], squares, means @ means.T)
    for left, u in enumerate(found):
        rows = np.concatenate([group for index, group in enumerate(groups) if index != left])
        assert u == pytest.approx(formulas.from_gram(np.ones(len(rows)), rows @ rows.T).reciprocal)


def test_batch_norm_is_refused() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    estimator = PerExample(model, cross_entropy)
    step, source = PlainStep(model, cross_entropy), Population(*blobs(256))
    with pytest.raises(InvalidArgument, match=r"BatchNorm1d.*MicroBatchVariance"):
        estimator.estimate(step, FreshBatches.shuffled(source, 32, 0), PLAN)
    model.eval()
    assert estimator.estimate(step, FreshBatches.shuffled(source, 32, 0), PLAN).value > 0


def test_gradients_that_are_not_finite_are_left_out_and_said() -> None:
    inputs, labels = blobs(256)
    inputs[17] = math.nan
    model = perceptron()
    step, source = PlainStep(model, cross_entropy), Population(inputs, labels)
    found = PerExample(model, cross_entropy).estimate(
        step, FreshBatches.shuffled(source, 32, 0), PLAN
    )
    assert found.caveats == (Caveat("noise.not_finite", count=1, of=8),)
    assert math.isfinite(found.value)
    source = Population(inputs * math.nan, labels)
    with pytest.raises(NoiseNotMeasured, match="found 0 of 8"):
        PerExample(model, cross_entropy).estimate(step, FreshBatches.shuffled(source, 32, 0), PLAN)


def test_dropout_draws_a_mask_for_every_sample() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 4))
    step, source = PlainStep(model, cross_entropy), Population(*blobs(512))
    estimator = PerExample(model, cross_entropy)
    noisy = estimator.estimate(step, FreshBatches.shuffled(source, 32, 0), PLAN)
    model.eval()
    still = estimator.estimate(step, FreshBatches.shuffled(source, 32, 0), PLAN)
    assert noisy.noise_trace > 1.2 * still.noise_trace


def test_a_batch_may_be_a_mapping() -> None:
    model = perceptron()

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch["inputs"]), batch["labels"])

    inputs, labels = blobs(128)
    batches = [
        {"inputs": inputs[start : start + 32], "labels": labels[start : start + 32]}
        for start in range(0, 128, 32)
    ]
    found = PerExample(model, loss).estimate(
        PlainStep(model, loss), FreshBatches(batches, 32), PLAN
    )
    assert found.samples == 128


def test_along_a_warm_up_it_is_asked_at_a_few_moments() -> None:
    model = perceptron()
    step = PlainStep(model, cross_entropy, torch.optim.SGD(model.parameters(), 0.1, 0.9))
    found = noise_along_warmup(
        step,
        Population(*blobs(1024)),
        base_batch=32,
        micro_batch=32,
        warmup_steps=40,
        estimator=PerExample(model, cross_entropy, samples=256),
    )
    assert found.training.estimator == "per-example gradients"
    assert found.training.samples == 8 * 256
