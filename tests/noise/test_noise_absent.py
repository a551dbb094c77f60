"""Where no noise scale can be had: it is left out and said, never invented."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from noise_cases import PlainStep, Population, blobs, cross_entropy, perceptron
from torch import Tensor, nn

from batchfinder.errors import NoiseNotMeasured
from batchfinder.formulas import ROUNDING_NOISE, Moments
from batchfinder.noise import MicroBatchVariance, NoiseFindings, PerExample, noise_along_warmup
from batchfinder.noise.context import Point, Pooling
from batchfinder.noise.sampling import FreshBatches
from batchfinder.results import BatchPlan


def nothing(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return (model(batch[0]) * 0).sum(1).mean()


def training(loss: Any = cross_entropy) -> PlainStep:
    model = perceptron()
    return PlainStep(model, loss, torch.optim.SGD(model.parameters(), 0.1, 0.9))


def look(step: PlainStep, **chosen: Any) -> NoiseFindings:
    given = {"base_batch": 32, "micro_batch": 32, "warmup_steps": 40}
    estimator = chosen.pop("estimator", MicroBatchVariance(samples=1024))
    source = chosen.pop("source", None) or Population(*blobs(1000))
    return noise_along_warmup(step, source, estimator=estimator, **given | chosen)


def test_gradients_that_are_all_zero_have_no_noise_scale() -> None:
    step = training(nothing)
    batches = [Population(*blobs(1000)).draw(16) for _ in range(20)]
    for estimator in (MicroBatchVariance(samples=256), PerExample(step.model, nothing)):
        with pytest.raises(NoiseNotMeasured, match="every gradient was zero"):
            estimator.estimate(step, FreshBatches(batches, 16), BatchPlan(16))


@pytest.mark.parametrize("steps", [0, 3, 40])
@pytest.mark.parametrize("base", [1, 32])
def test_a_warm_up_without_gradients_says_so(steps: int, base: int) -> None:
    found = look(training(nothing), warmup_steps=steps, base_batch=base, micro_batch=base)
    assert (found.training, found.points) == (None, ())
    assert any("every gradient was zero" in said for said in found.caveats)


def test_zero_gradients_at_first_do_not_hide_later_ones() -> None:
    calls = iter(range(100_000))

    def late(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return cross_entropy(model, batch) * float(next(calls) > 70)

    found = look(training(late))
    assert found.training is not None
    assert found.training.gradient_squared > 0


def test_a_zero_that_means_unknown_is_not_corrected_for_the_population() -> None:
    nothing = Moments(0.0, 0.0, 64.0, 4)
    assert nothing.reciprocal_within(1000) == 0.0
    assert Moments(0.5, 2.0, 64.0, 4).reciprocal_within(4) == 0.5


def test_points_without_any_noise_pool_to_none() -> None:
    alike = Moments(1.0, 0.0, 64.0, 4)
    found = Pooling("any", population=1000)([Point(1, alike)] * 4, 16)
    assert (found.low, found.high) == (0.0, ROUNDING_NOISE)
    assert "equal up to rounding" in found.caveats[0]


class Repeated(Population):
    """Every sample is the same one."""

    def __init__(self, rows: int = 1000) -> None:
        inputs, labels = blobs(1)
        super().__init__(inputs.expand(rows, -1).clone(), labels.expand(rows).clone())


@pytest.mark.parametrize("steps", [0, 3, 40])
@pytest.mark.parametrize("base", [1, 32])
def test_samples_that_are_all_the_same_have_a_noise_scale_of_zero(steps: int, base: int) -> None:
    given = {"warmup_steps": steps, "base_batch": base, "micro_batch": base}
    found = look(training(), source=Repeated(), **given)
    assert found.training is not None
    assert found.training.is_bounded
    assert found.training.low == 0.0
    assert found.training.value <= found.training.high < 0.05
    (said,) = {each for each in found.training.caveats if "equal up to rounding" in each}
    assert "a larger batch adds nothing" in said
    assert not any("at least" in each or "interval is wide" in each for each in found.caveats)


def test_single_samples_that_are_all_the_same_too() -> None:
    step, source = training(), Repeated()
    estimator = PerExample(step.model, cross_entropy, samples=128)
    batches = FreshBatches([source.draw(16) for _ in range(8)], 16)
    found = estimator.estimate(step, batches, BatchPlan(16))
    assert (found.low, found.high) == (0.0, ROUNDING_NOISE)
    assert "equal up to rounding" in found.caveats[0]
