"""The default estimator against the exact noise scale, and against what spoils gradients."""

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

from batchfinder.errors import InvalidArgument, NoiseNotMeasured
from batchfinder.noise import MicroBatchVariance
from batchfinder.noise.gradient_hooks import GradientHooks, Sketch
from batchfinder.noise.sampling import FreshBatches, cut
from batchfinder.results import BatchPlan, NoiseScale

PLAN = BatchPlan(16)


def trained(steps: int = 100, seed: int = 0) -> tuple[PlainStep, Population]:
    model = perceptron(seed)
    step = PlainStep(model, cross_entropy, torch.optim.SGD(model.parameters(), 0.1, 0.9))
    source = Population(*blobs(), replacement=True)
    train(step, source, steps, 32)
    return step, source


def estimate(
    step: PlainStep, source: Population, estimator: MicroBatchVariance, seed: int = 0
) -> NoiseScale:
    return estimator.estimate(step, FreshBatches.shuffled(source, 16, seed), PLAN)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 100])
def test_the_exact_noise_scale_is_found_over_a_hundred_seeds(steps: int) -> None:
    step, source = trained(steps)
    truth, _ = exact_noise_scale(step.model, cross_entropy, source.columns)
    errors, held, spent = [], 0, []
    for seed in range(100):
        found = estimate(step, source, MicroBatchVariance(), seed=seed)
        errors.append(abs(math.log(found.value / truth)))
        held += found.low <= truth <= found.high
        spent.append(found.samples)
    assert math.exp(float(np.median(errors))) < 1.35
    assert 80 <= held <= 98
    assert np.median(spent) <= max(3 * truth, 256)


def test_sampling_stops_when_the_interval_is_narrow_enough() -> None:
    step, source = trained(0)
    found = estimate(step, source, MicroBatchVariance(narrow_enough=4))
    assert found.samples == 256
    assert found.high / found.low <= 4
    assert found.caveats == ()


def test_sampling_goes_on_while_the_interval_is_wide_and_says_when_it_stays_so() -> None:
    step, source = trained(100)
    found = estimate(step, source, MicroBatchVariance(samples=600, narrow_enough=1.01))
    assert 584 <= found.samples <= 600
    assert "wide even after" in found.caveats[0]


def test_the_end_of_the_data_ends_the_sampling_and_is_said() -> None:
    step, _ = trained(100)
    source = Population(*(column[:320] for column in blobs()))
    found = estimate(step, source, MicroBatchVariance(narrow_enough=1.01))
    assert found.samples == 320
    assert "the data ended after 320 samples" in found.caveats[0]


def test_the_end_of_the_time_ends_the_sampling_and_is_said() -> None:
    step, source = trained(100)
    times = iter(range(1000))
    draws = FreshBatches.shuffled(source, 16, 0, deadline=(lambda: float(next(times)), 24.5))
    found = MicroBatchVariance(narrow_enough=1.01).estimate(step, draws, PLAN)
    assert found.samples == 25 * 16
    assert "the time ended" in found.caveats[0]


def test_no_signal_is_an_interval_open_above_and_a_value_that_is_finite() -> None:
    step, source = trained(0)
    step.loss = lambda model, batch: (model(batch[0]) * torch.randn(len(batch[0]), 4)).mean()
    found = estimate(step, source, MicroBatchVariance(samples=256))
    assert found.high == math.inf
    assert not found.is_bounded
    assert 0 < found.low <= found.value <= 4 * 256


def test_batches_of_the_callers_own_serve() -> None:
    step, source = trained(0)
    source.rewind(3)
    batches = [source.draw(16) for _ in range(16)]
    found = MicroBatchVariance().estimate(step, FreshBatches(batches, 16), PLAN)
    assert found == estimate(step, source, MicroBatchVariance(samples=256), seed=3)


def test_gradients_are_none_afterwards_and_hooks_are_gone() -> None:
    step, source = trained(0)
    estimate(step, source, MicroBatchVariance())
    assert all(parameter.grad is None for parameter in step.parameters())
    assert not any(parameter._backward_hooks for parameter in step.parameters())


def test_the_global_generator_is_left_alone() -> None:
    step, source = trained(0)
    before = torch.get_rng_state()
    estimate(step, source, MicroBatchVariance())
    assert torch.equal(before, torch.get_rng_state())


def test_a_loss_scale_changes_nothing() -> None:
    step, source = trained(0)
    plain = estimate(step, source, MicroBatchVariance(), seed=1)
    step.factor = 1024.0
    scaled = estimate(step, source, MicroBatchVariance(), seed=1)
    assert scaled.value == pytest.approx(plain.value, rel=1e-4)
    assert scaled.gradient_squared == pytest.approx(plain.gradient_squared, rel=1e-4)


@pytest.mark.parametrize("sum_reduced", [False, True])
def test_unequal_sizes_give_the_same_as_the_formula_over_stored_gradients(
    sum_reduced: bool,
) -> None:
    step, source = trained(0)
    if sum_reduced:
        step.loss = lambda model, batch: cross_entropy(model, batch) * len(batch[0])
    sizes = [4, 40, 16, 8, 12]
    batches = [source.draw(size) for size in sizes]
    draws = FreshBatches(batches, 16, source=source, sum_reduced=sum_reduced)
    found = MicroBatchVariance().estimate(step, draws, PLAN)
    rows = []
    for batch in batches:
        step.zero_grad()
        cross_entropy(step.model, batch).backward()
        rows.append(torch.cat([p.grad.flatten() for p in step.parameters()]).double())
    gradients = torch.stack(rows).numpy()
    b = np.array(sizes)
    mean = (b @ gradients) / b.sum()
    trace = (b @ (gradients**2).sum(1) - b.sum() * mean @ mean) / 4
    assert found.noise_trace == pytest.approx(trace, rel=1e-4)
    assert found.gradient_squared == pytest.approx(mean @ mean - trace / b.sum(), rel=1e-3)


def test_gradients_that_are_not_finite_are_left_out_and_said() -> None:
    step, source = trained(100)
    whole = estimate(step, source, MicroBatchVariance(samples=512, narrow_enough=1), seed=2)
    calls = iter(range(1000))

    def spoilt(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return cross_entropy(model, batch) * (math.nan if next(calls) % 8 == 3 else 1.0)

    step.loss = spoilt
    found = estimate(step, source, MicroBatchVariance(samples=512, narrow_enough=1), seed=2)
    assert "4 of 32 micro-batches had gradients that are not finite" in found.caveats[0]
    assert math.isfinite(found.value)
    assert found.noise_trace == pytest.approx(whole.noise_trace, rel=0.25)


def test_nothing_finite_is_an_error_that_says_so() -> None:
    step, source = trained(0)
    step.loss = lambda model, batch: cross_entropy(model, batch) * math.nan
    with pytest.raises(NoiseNotMeasured, match="found 0 of"):
        estimate(step, source, MicroBatchVariance(samples=256))


def test_gradients_that_come_in_parts_are_measured_by_their_sketch() -> None:
    step, source = trained(0)
    whole = estimate(step, source, MicroBatchVariance(samples=256), seed=5)

    def in_parts(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Adds, and takes away, a gradient of its own within the forward pass."""
        weight = model[0].weight
        torch.autograd.grad((weight * 3).sum(), weight)
        torch.autograd.grad((weight * -3).sum(), weight)
        return cross_entropy(model, batch)

    step.loss = in_parts
    found = estimate(step, source, MicroBatchVariance(samples=256), seed=5)
    assert found.value == pytest.approx(whole.value, rel=0.35)


def test_a_frozen_or_unused_parameter_counts_as_zero() -> None:
    step, source = trained(0)
    before = estimate(step, source, MicroBatchVariance(), seed=1)
    step.model.unused = nn.Linear(3, 3)
    step.model.frozen = nn.Linear(3, 3).requires_grad_(False)
    step.loss = lambda model, batch: cross_entropy(model[:3], batch)
    after = estimate(step, source, MicroBatchVariance(), seed=1)
    assert after.value == pytest.approx(before.value, rel=1e-6)


def test_parameters_of_two_precisions_are_added_up() -> None:
    step, source = trained(0)
    before = estimate(step, source, MicroBatchVariance(), seed=1)
    last = step.model[2].double()
    step.loss = lambda model, batch: nn.functional.cross_entropy(
        last(model[:2](batch[0]).double()), batch[1]
    )
    after = estimate(step, source, MicroBatchVariance(), seed=1)
    assert after.value == pytest.approx(before.value, rel=1e-3)


def test_a_sparse_gradient_is_a_gradient() -> None:
    values = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.EmbeddingBag(50, 4, sparse=sparse, mode="mean")
        source = Population(torch.randint(0, 50, (512, 6)), torch.randint(0, 4, (512,)))
        step = PlainStep(model, cross_entropy)
        values.append(estimate(step, source, MicroBatchVariance(samples=512)))
    assert values[0].value == pytest.approx(values[1].value, rel=1e-5)
    assert values[0].low == pytest.approx(values[1].low, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("width", [0, 5, 1024, 3000])
def test_a_sketch_keeps_inner_products(width: int) -> None:
    """Rank-one gradients of every shape: the hard case, as all their rows are alike."""
    torch.manual_seed(width)
    left = torch.rand(700, 1) + 0.5
    gradients = [[left @ torch.rand(1, max(width, 1)), torch.randn(7)] for _ in range(3)]
    errors = []
    for seed in range(20):
        sketch = Sketch(gradients[0], 1024, seed)
        rows = []
        for gradient in gradients:
            for index, part in enumerate(gradient):
                sketch.add(index, part)
            rows.append(sketch.finish())
        flat = [torch.cat([part.flatten() for part in gradient]).double() for gradient in gradients]
        true = torch.stack(flat) @ torch.stack(flat).T
        gram = np.stack(rows) @ np.stack(rows).T
        errors.append(gram / true.numpy() - 1)
    assert np.abs(np.mean(errors, axis=0)).max() < 0.05
    assert np.std(errors, axis=0).max() < 0.15


def test_a_sketch_is_linear_and_wraps_around_its_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchfinder.noise.gradient_hooks._FOLD", 64)
    parts = [torch.randn(50), torch.randn(30, 10), torch.randn(3)]
    sketch = Sketch(parts, 32)
    assert sketch.width == 64
    squares = []
    for seed in range(400):
        sketch = Sketch(parts, 32, seed)
        for index, part in enumerate(parts):
            sketch.add(index, part * 0.25)
            sketch.add(index, part * 0.75)
        squares.append(float((sketch.finish() ** 2).sum()))
    true = sum(float(part.square().sum()) for part in parts)
    assert np.mean(squares) == pytest.approx(true, rel=0.05)
    assert np.allclose(sketch.finish(), 0)


def test_a_tap_reads_one_backward_at_a_time() -> None:
    weight = torch.ones(3, requires_grad=True)
    with GradientHooks([weight]) as tap:
        (weight * 2).sum().backward()
        assert tap.read().squared_norm == pytest.approx(12)
        (weight * 3).sum().backward()
        assert tap.read(divisor=3).squared_norm == pytest.approx(3)
    assert weight.grad.tolist() == [5, 5, 5]


@pytest.mark.parametrize("wrong", [{"micro_batches": 2}, {"confidence": 1.0}])
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match="expected"):
        MicroBatchVariance(**wrong)


@pytest.mark.parametrize(
    ("batch", "largest", "pieces", "expected"),
    [
        (32, 32, 4, [8, 8, 8, 8]),
        (33, 32, 4, [9, 8, 8, 8]),
        (32, 4, 4, [4] * 8),
        (2, 32, 4, [1, 1]),
        (32, 32, 1, [32]),
        (33, 32, 1, [17, 16]),
    ],
)
def test_a_batch_is_cut_evenly(batch: int, largest: int, pieces: int, expected: list[int]) -> None:
    assert cut(batch, largest, pieces) == expected


def test_all_samples_spent_on_purpose_do_not_make_an_interval_wide() -> None:
    """``narrow_enough=0`` asks for no early end; it is no measure of what came of it."""
    population = Population(*blobs(4096))
    batches = [population.draw(16) for _ in range(200)]
    step = PlainStep(perceptron(), cross_entropy)
    estimator = MicroBatchVariance(samples=3000, narrow_enough=0)
    found = estimator.estimate(step, FreshBatches(batches, 16), BatchPlan(16))
    assert found.high / found.low < 4
    assert found.caveats == ()
    few = MicroBatchVariance(samples=100, narrow_enough=0, micro_batches=3)
    found = few.estimate(trained()[0], FreshBatches(batches, 16), BatchPlan(16))
    assert found.high / found.low > 4
    assert "interval is wide" in found.caveats[0]
