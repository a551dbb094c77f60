"""What breaks the noise scale is seen, said, and refused where nothing honest is left."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from noise_cases import Loss, PlainStep, Population, blobs, cross_entropy, perceptron
from torch import Tensor, nn

from batchfinder.noise.preflight import half_size, look_for_hazards, loss_ratio


def found(loss: Loss, model: nn.Module | None = None, **population: bool) -> float | None:
    step = PlainStep(perceptron() if model is None else model, loss)
    return loss_ratio(step, Population(*blobs(256), **population))


def contrastive(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """InfoNCE: every other sample of the batch is a negative."""
    one, two = (nn.functional.normalize(model(batch[0] + noise)) for noise in (0.0, 0.1))
    return nn.functional.cross_entropy(one @ two.T / 0.5, torch.arange(len(one)))


def summed(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def random_in_itself(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """A denoising loss: noise level and noise are drawn within it."""
    level = torch.rand(len(batch[0]), 1) ** 4
    noise = torch.randn_like(batch[0])
    return (model[0](batch[0] + level * noise).mean(1) - level[:, 0] * 3).square().mean()


def test_a_mean_over_samples_passes() -> None:
    assert found(cross_entropy) in (None, pytest.approx(1))


def test_a_sum_over_samples_is_told_from_a_mean() -> None:
    assert found(summed) == pytest.approx(2, abs=1e-4)
    step = PlainStep(perceptron(), summed)
    assert look_for_hazards(step, Population(*blobs(256))).sum_reduced


def test_a_contrastive_loss_is_refused() -> None:
    step = PlainStep(perceptron(), contrastive)
    hazards = look_for_hazards(step, Population(*blobs(256)))
    assert "couples samples" in hazards.refusal
    assert not hazards.sum_reduced


def test_a_pairwise_sum_is_refused() -> None:
    def pairs(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return torch.cdist(model(batch[0]), model(batch[0])).sum()

    assert found(pairs) == pytest.approx(4, rel=0.2)
    hazards = look_for_hazards(PlainStep(perceptron(), pairs), Population(*blobs(256)))
    assert hazards.refusal


@pytest.mark.slow
def test_a_loss_that_is_random_in_itself_is_not_taken_for_a_coupled_one() -> None:
    step, source = PlainStep(perceptron(), random_in_itself), Population(*blobs(256))
    found = [look_for_hazards(step, source, 100 * seed) for seed in range(100)]
    assert not any(hazards.refusal or hazards.sum_reduced for hazards in found)


def test_batch_norm_and_dropout_do_not_pass_for_a_coupled_loss() -> None:
    model = nn.Sequential(
        nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)
    )
    step = PlainStep(model, cross_entropy)
    hazards = look_for_hazards(step, Population(*blobs(256)))
    assert hazards.batch_norm
    assert not hazards.refusal
    assert all(module.training for module in model.modules())


def test_batch_norm_in_evaluation_is_no_hazard() -> None:
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
    model[1].eval()
    assert not look_for_hazards(PlainStep(model, cross_entropy), Population(*blobs(256))).batch_norm
    assert not model[1].training


def test_the_running_statistics_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
    look_for_hazards(PlainStep(model, cross_entropy), Population(*blobs(256)))
    assert model[1].num_batches_tracked == 0


def test_looking_leaves_no_trace() -> None:
    step = PlainStep(perceptron(), random_in_itself)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    look_for_hazards(step, Population(*blobs(256)))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()
    assert all(parameter.grad is None for parameter in step.parameters())
    assert step.updates == 0


def test_too_little_data_to_look_at_is_passed_over() -> None:
    step = PlainStep(perceptron(), contrastive)
    assert loss_ratio(step, Population(*(column[:5] for column in blobs()))) is None
    assert half_size(Population(*blobs()), 4, lambda size: True) == 2
    assert not look_for_hazards(step, Population(*blobs()), most=4).refusal


@pytest.mark.parametrize("most", [6, 8, 16, 64])
def test_a_contrastive_loss_is_told_from_a_sum_at_any_size(most: int) -> None:
    step = PlainStep(perceptron(), contrastive)
    hazards = look_for_hazards(step, Population(*blobs(256)), 0, most)
    assert hazards.refusal
    assert not hazards.sum_reduced


def test_no_batch_is_larger_than_allowed() -> None:
    sizes = []

    def spy(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        sizes.append(len(batch[0]))
        return cross_entropy(model, batch)

    look_for_hazards(PlainStep(perceptron(), spy), Population(*blobs(256)), most=10)
    assert max(sizes) == 10
