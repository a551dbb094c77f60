"""Gradients measured as the optimizer scales them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from noise_cases import (
    PlainStep,
    Population,
    blobs,
    cross_entropy,
    exact_noise_scale,
    perceptron,
    train,
)
from torch import nn

from batchfinder.noise import MicroBatchVariance, noise_along_warmup
from batchfinder.noise.gradient_hooks import EUCLIDEAN, FLOOR, MATURE, SecondMoments, metric_of
from batchfinder.noise.sampling import FreshBatches
from batchfinder.results import BatchPlan

KINDS = {
    "Adam": lambda p: torch.optim.Adam(p, 0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.001),
}


def trained(kind: str, steps: int) -> tuple[PlainStep, Population]:
    """Inputs of very different sizes, so that Adam's metric is another one than Euclid's."""
    model = perceptron()
    step = PlainStep(model, cross_entropy, KINDS[kind](model.parameters()))
    inputs, labels = blobs(2048)
    source = Population(inputs * torch.logspace(-1, 1, 12), labels, replacement=True)
    train(step, source, steps, 32)
    return step, source


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_moments_of_adams_kin_are_found_once_mature(kind: str) -> None:
    step, source = trained(kind, MATURE - 1)
    assert metric_of(step) is EUCLIDEAN
    train(step, source, 1, 32)
    assert isinstance(metric_of(step), SecondMoments)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adagrad, torch.optim.Adafactor])
def test_others_are_measured_as_they_are(optimizer: type[torch.optim.Optimizer]) -> None:
    model = perceptron()
    step = PlainStep(model, cross_entropy, optimizer(model.parameters(), lr=0.01))
    train(step, Population(*blobs(2048), replacement=True), MATURE + 1, 32)
    assert metric_of(step) is EUCLIDEAN


def test_a_step_without_optimizers_is_measured_as_it_is() -> None:
    assert metric_of(PlainStep(perceptron(), cross_entropy)) is EUCLIDEAN


@pytest.mark.slow
def test_the_exact_preconditioned_noise_scale_is_found() -> None:
    step, source = trained("Adam", 100)
    moments = [step.optimizer.state[p]["exp_avg_sq"] for p in step.parameters()]
    weights = [m.clamp(min=float(m.mean()) * FLOOR).rsqrt() for m in moments]
    truth, _ = exact_noise_scale(step.model, cross_entropy, source.columns, weights)
    plain, _ = exact_noise_scale(step.model, cross_entropy, source.columns)
    assert not 0.8 < truth / plain < 1.25
    errors, held = [], 0
    estimator = MicroBatchVariance(preconditioned=True)
    for seed in range(30):
        found = estimator.estimate(step, FreshBatches.shuffled(source, 16, seed), BatchPlan(16))
        errors.append(abs(math.log(found.value / truth)))
        held += found.low <= truth <= found.high
    assert math.exp(float(np.median(errors))) < 1.35
    assert held >= 23
    assert found.estimator.endswith("in the optimizer's metric")


def test_a_row_never_seen_before_does_not_outweigh_all_others() -> None:
    moment = torch.ones(10, 4)
    moment[7] = 0
    gradient = torch.zeros(10, 4)
    gradient[7] = 1
    assert SecondMoments([moment])(0, gradient).max() == pytest.approx(1 / math.sqrt(FLOOR * 0.9))


def test_a_parameter_without_moments_or_with_none_but_zeros_is_finite() -> None:
    metric = SecondMoments([None, torch.zeros(3)])
    assert metric(0, torch.ones(3)).tolist() == [0, 0, 0]
    assert metric(1, torch.zeros(3)).isfinite().all()


def test_a_sparse_gradient_is_scaled_as_a_dense_one() -> None:
    gradient = torch.zeros(5, 2)
    gradient[3] = 2.0
    metric = SecondMoments([torch.full((5, 2), 4.0)])
    assert torch.equal(metric(0, gradient.to_sparse()), metric(0, gradient))


def test_along_a_warm_up_adam_is_measured_in_its_metric_and_sgd_is_not() -> None:
    for optimizer, named in ((torch.optim.SGD, False), (torch.optim.Adam, True)):
        model = perceptron()
        step = PlainStep(model, cross_entropy, optimizer(model.parameters(), lr=0.01))
        found = noise_along_warmup(
            step,
            Population(*blobs(2048)),
            base_batch=32,
            micro_batch=32,
            warmup_steps=80,
            estimator=MicroBatchVariance(),
            sizes=(16,),
        )
        names = {scale.estimator for scale in (*found.points, *found.per_size, found.training)}
        assert len(names) == 1
        assert ("in the optimizer's metric" in names.pop()) is named


def test_the_scale_of_the_second_moments_falls_out() -> None:
    step, source = trained("Adam", 50)
    estimator = MicroBatchVariance(preconditioned=True)
    before = estimator.estimate(step, FreshBatches.shuffled(source, 16, 0), BatchPlan(16))
    for parameter in step.parameters():
        step.optimizer.state[parameter]["exp_avg_sq"] *= 1e-12
    after = estimator.estimate(step, FreshBatches.shuffled(source, 16, 0), BatchPlan(16))
    assert after.value == pytest.approx(before.value, rel=1e-3)


def test_shapes_that_differ_are_not_taken_for_second_moments() -> None:
    model = nn.Linear(3, 3)
    step = PlainStep(model, cross_entropy, torch.optim.SGD(model.parameters(), 0.1))
    for parameter in model.parameters():
        step.optimizer.state[parameter] = {"step": 50, "exp_avg_sq": torch.ones(())}
    assert metric_of(step) is EUCLIDEAN
