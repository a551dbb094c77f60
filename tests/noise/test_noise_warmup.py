"""Along a warm-up: the training is the user's own, and the figure that of its second half."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FakeClock
from noise_cases import (
    Loss,
    PlainStep,
    Population,
    blobs,
    cross_entropy,
    exact_noise_scale,
    perceptron,
)
from torch import Tensor, nn

from batchfinder.errors import LossIsNotFinite
from batchfinder.noise import MicroBatchVariance, NoiseFindings, noise_along_warmup
from batchfinder.noise.prediction import EUCLIDEAN_FACTOR
from batchfinder.protocols import Batch, TrainStep
from batchfinder.results import BatchPlan, Event, NoiseScale


def training(
    loss: Loss = cross_entropy, seed: int = 0, model: nn.Module | None = None, rate: float = 0.1
) -> PlainStep:
    model = perceptron(seed) if model is None else model
    return PlainStep(model, loss, torch.optim.SGD(model.parameters(), rate, 0.9))


def with_batch_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4))


def look(step: PlainStep, rows: int = 4096, **chosen: Any) -> NoiseFindings:
    given = {"base_batch": 32, "micro_batch": 32, "warmup_steps": 100}
    source = chosen.pop("source", None) or Population(*blobs(rows))
    return noise_along_warmup(
        step, source, estimator=chosen.pop("estimator", MicroBatchVariance()), **given | chosen
    )


@pytest.mark.slow
def test_the_second_half_of_the_warm_up_is_what_is_reported() -> None:
    """Against exact moments at every fifth step of the second half, over five trajectories."""
    exact, found = np.zeros(2), np.zeros(2)
    for seed in range(5):
        source = Population(*blobs(2048), replacement=True)
        step = training(seed=seed)
        take: list[Any] = []

        def look_and_update(
            step: PlainStep = step, take: list[Any] = take, update: Any = step.update
        ) -> None:
            if step.updates >= 50 and step.updates % 5 == 0:
                scale, square = exact_noise_scale(step.model, cross_entropy, blobs(2048))
                take.append((scale * square, square))
            update()

        step.update = look_and_update
        late = look(step, source=source, seed=seed).points[-1]
        found += (late.noise_trace, late.gradient_squared)
        exact += np.mean(take, axis=0)
    assert found[0] == pytest.approx(exact[0], rel=0.05)
    assert found[1] == pytest.approx(exact[1], rel=0.25)


def test_cutting_the_steps_does_not_change_the_training() -> None:
    one, other = training(), training()
    source = Population(*blobs(4096), replacement=True)
    look(one, source=source, estimator=MicroBatchVariance(samples=16))
    source.rewind(1)
    for _ in range(100):
        other.zero_grad()
        parts = [source.draw(8) for _ in range(4)]
        other.forward_backward(tuple(torch.cat(column) for column in zip(*parts, strict=True)))
        other.update()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)


def test_a_loss_that_is_a_sum_trains_and_measures_as_its_mean_at_a_smaller_rate() -> None:
    def summed(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    mean = look(training(rate=0.1))
    total = look(training(summed, rate=0.1 / 32))
    assert mean.training is not None
    assert total.training is not None
    assert total.training.value == pytest.approx(mean.training.value, rel=0.02)
    assert any("summed over the batch" in caveat for caveat in total.caveats)


def test_a_loss_scale_changes_neither_training_nor_measurement() -> None:
    plain = look(training())
    scaled = training()
    scaled.factor = 256.0
    found = look(scaled)
    assert found.training.value == pytest.approx(plain.training.value, rel=0.02)


def test_points_are_seen_along_the_way_and_the_growth_with_them() -> None:
    heard: list[Event] = []
    found = look(training(), warmup_steps=200, observe=heard.append)
    assert [point.after_steps for point in found.points] == [99, 199]
    assert heard == [*found.points, found.training]
    assert found.training.value == pytest.approx(EUCLIDEAN_FACTOR.value * found.points[-1].value)


def test_a_noise_scale_that_has_no_upper_end_is_said_to_have_none() -> None:
    def aimless(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return (model(batch[0]) * torch.randn(len(batch[0]), 4)).mean()

    found = look(training(aimless, rate=1e-6), estimator=MicroBatchVariance(samples=512))
    assert found.training.high == math.inf
    assert any("not distinguishable from zero" in said for said in found.caveats)


def test_batch_norm_is_looked_at_with_whole_batches_only() -> None:
    sizes = []

    def spy(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        sizes.append(len(batch[0]))
        return cross_entropy(model, batch)

    found = look(training(spy, model=with_batch_norm()), base_batch=64, micro_batch=64)
    assert set(sizes[12:]) == {64}
    assert found.training.micro_batch == 64
    assert found.training.samples >= 4096 - 64 * 8
    assert len(found.caveats) == 1
    assert "is for micro-batches of 64" in found.caveats[0]


def test_looks_before_the_second_half_say_how_many_samples_it_needs() -> None:
    def noise_of(rate: float) -> NoiseScale:
        step = training(model=with_batch_norm(), rate=rate)
        given = {"base_batch": 32, "micro_batch": 32, "is_enough": lambda outcomes: False}
        return look(step, warmup_steps=200, **given).training

    small, large = noise_of(1e-6), noise_of(0.03)
    assert 10 * small.value < large.value
    assert (small.samples, large.samples) == (1024, 4096)
    assert small.high / small.value < 1.1 * EUCLIDEAN_FACTOR.spread


def test_where_few_samples_were_planned_and_do_not_do_more_are_measured() -> None:
    """The noise scale grows threefold in the second half."""
    given = {"base_batch": 32, "micro_batch": 32, "is_enough": lambda outcomes: False}
    step = training(model=with_batch_norm(), rate=0.1)
    found = look(step, warmup_steps=200, seed=2, **given).training
    assert 1024 < found.samples < 4096
    assert found.is_bounded


def test_batch_norm_with_small_batches_is_said() -> None:
    found = look(training(model=with_batch_norm()), base_batch=8, micro_batch=8)
    assert any("with micro-batches of 8 (below" in said for said in found.caveats)


def test_dropout_is_said() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 4))
    assert any("dropout was active" in said for said in look(training(model=model)).caveats)
    model[1].p = 0.0
    assert not any("dropout" in said for said in look(training(model=model)).caveats)


@pytest.mark.slow
def test_a_small_base_batch_gets_more_samples_than_it_trains_on_where_there_is_time() -> None:
    patient = {"budget_seconds": 60.0, "clock": FakeClock()}
    found = look(training(), base_batch=2, micro_batch=2, warmup_steps=200, **patient)
    assert found.training.samples > 1000
    assert found.training.is_bounded


@pytest.mark.parametrize("seconds", [None, 400.0])
def test_a_small_base_batch_gets_as_many_where_there_is_not(seconds: float | None) -> None:
    """A step takes a second, and as long again is left once half of them are taken."""
    step, clock = training(), FakeClock()
    update = step.update

    def slow() -> None:
        clock.pass_by(1.0)
        update()

    step.update = slow
    found = look(
        step, base_batch=2, micro_batch=2, warmup_steps=200, budget_seconds=seconds, clock=clock
    )
    assert 200 < found.training.samples <= 400
    assert found.training.after_steps == 200


@pytest.mark.parametrize("base", [1, 2, 3, 5, 33])
def test_any_base_batch_serves(base: int) -> None:
    few = MicroBatchVariance(samples=512)
    found = look(training(), base_batch=base, micro_batch=4, warmup_steps=40, estimator=few)
    assert found.training.value > 0


def test_without_a_warm_up_the_estimate_is_given_as_it_is() -> None:
    step = training()
    found = look(step, warmup_steps=0)
    truth, _ = exact_noise_scale(step.model, cross_entropy, blobs(4096))
    assert found.training.low <= truth <= found.training.high
    assert found.training.after_steps == 0
    assert step.updates == 0
    assert "at the current weights" in found.caveats[-1]


def test_single_sizes_are_looked_at_where_asked_for() -> None:
    step = training()
    found = look(step, sizes=(8, 32, 128), warmup_steps=200)
    assert [scale.micro_batch for scale in found.per_size] == [8, 32, 128]
    truth, _ = exact_noise_scale(step.model, cross_entropy, blobs(4096))
    assert all(0.5 < scale.value / truth < 2 for scale in found.per_size)
    assert all(scale.low < truth < scale.high for scale in found.per_size)


def test_a_size_that_the_data_cannot_fill_thrice_is_left_out_and_said() -> None:
    found = look(training(), rows=300, sizes=(16, 128), warmup_steps=200)
    assert [scale.micro_batch for scale in found.per_size] == [16]
    assert any("micro-batch size 128" in said for said in found.caveats)


def test_a_finite_dataset_is_corrected_for() -> None:
    """A whole pass over N samples: without S / N the noise scale would be far too large."""
    step = training()
    source = Population(*blobs(256))
    look(step, source=source, warmup_steps=60)
    truth, _ = exact_noise_scale(step.model, cross_entropy, source.columns)
    all_of_it = MicroBatchVariance(narrow_enough=1.0)
    found = [
        look(step, source=source, warmup_steps=0, estimator=all_of_it, seed=seed).training.value
        for seed in range(20)
    ]
    assert float(np.median(found)) == pytest.approx(truth, rel=0.1)


def test_the_time_being_up_ends_the_walk_and_is_said() -> None:
    ticks = iter(range(10_000))
    few = MicroBatchVariance(samples=16)
    found = look(training(), estimator=few, budget_seconds=60, clock=lambda: float(next(ticks)))
    assert any("there was time for 58 of 100 warm-up steps" in said for said in found.caveats)
    assert found.training.after_steps == 58


def test_no_time_at_all_still_gives_an_answer_or_says_why_not() -> None:
    ticks = iter(range(10_000))
    found = look(training(), budget_seconds=0, clock=lambda: float(next(ticks)))
    assert found.training is None
    (said,) = found.caveats
    assert said.startswith("there was time for 0 of 100 warm-up steps, too few for a noise scale")


@pytest.mark.parametrize("seconds", [3, 12, 40])
def test_a_short_time_is_said_once(seconds: int) -> None:
    """Whether nothing could be measured, the weights as they are, or a short way."""
    ticks = iter(range(100_000))
    found = look(training(), budget_seconds=seconds, clock=lambda: next(ticks), sizes=(4, 16))
    (said,) = [c for c in found.caveats if "interval is wide" not in c and "at least" not in c]
    assert said.startswith("there was time for")
    assert ("too few" in said) is (found.training is None)


def test_a_step_that_updates_itself_has_no_noise_scale() -> None:
    step = training()
    step.updates_itself = True
    found = look(step)
    assert (found.training, step.updates) == (None, 0)
    assert "clipping" in found.caveats[0]


def test_a_coupled_loss_has_no_noise_scale() -> None:
    def contrastive(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        rows = nn.functional.normalize(model(batch[0]))
        return nn.functional.cross_entropy(rows @ rows.T / 0.5, torch.arange(len(rows)))

    found = look(training(contrastive))
    assert found.training is None
    assert "couples samples" in found.caveats[0]


def test_training_without_a_finite_loss_is_an_error_that_says_at_which_rate() -> None:
    step = training(lambda model, batch: cross_entropy(model, batch) * math.nan)
    with pytest.raises(LossIsNotFinite, match=r"learning rate \(0.1\)"):
        look(step)


def test_single_steps_that_are_not_finite_are_left_out_and_said() -> None:
    calls = iter(range(100_000))

    def spoilt(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return cross_entropy(model, batch) * (math.inf if next(calls) % 11 == 5 else 1.0)

    step = training(spoilt)
    update = step.update
    step.update = lambda: (
        update() if all(bool(p.grad.isfinite().all()) for p in step.parameters()) else None
    )
    found = look(step)
    assert any("gradients that are not finite" in said for said in found.caveats)
    assert math.isfinite(found.training.value)


def test_a_rising_loss_is_said() -> None:
    step = training(rate=0.01)
    step.optimizer.param_groups[0]["maximize"] = True
    found = look(step)
    assert any("the loss rose during the warm-up" in said for said in found.caveats)


def test_a_short_warm_up_is_said() -> None:
    found = look(training(), warmup_steps=20)
    assert any("20 steps is short" in said for said in found.caveats)


class Fixed:
    """An estimator of the user's own: ``estimate``, and no more."""

    name = "fixed"

    def __init__(self) -> None:
        self.values = iter([100.0, 900.0, 300.0, 200.0, 400.0, 300.0, 1.0, 300.0])

    def estimate(self, step: TrainStep, batches: Any, plan: BatchPlan) -> NoiseScale:
        self.batch: Batch = next(iter(batches))
        value = next(self.values)
        return NoiseScale(value, value / 2, value * 2, plan.micro_batch, self.name)


def test_an_estimator_of_the_users_own_is_asked_along_the_second_half() -> None:
    estimator = Fixed()
    found = look(training(), estimator=estimator)
    assert [point.after_steps for point in found.points] == [56, 62, 69, 75, 81, 88, 94, 100]
    assert found.training.value == 300 * EUCLIDEAN_FACTOR.value
    assert len(estimator.batch[0]) == 32


class Greedy:
    """Takes every batch that it is given."""

    name = "greedy"

    def __init__(self) -> None:
        self.taken: list[int] = []

    def estimate(self, step: TrainStep, batches: Any, plan: BatchPlan) -> NoiseScale:
        self.taken.append(sum(batches.count(batch) for batch in batches))
        return NoiseScale(100.0, 50.0, 200.0, self.taken[-1], self.name)


def test_an_estimator_that_names_no_budget_gets_one() -> None:
    estimator = Greedy()
    look(training(), estimator=estimator)
    assert estimator.taken == [1024] * 8


class Halves:
    """A whole estimator of the user's own, whose figure is a ratio of moments."""

    name = "halves"
    along_training = True
    samples = 640
    confidence = 0.5
    warmup_steps = 60

    def __init__(self, metric: bool = False) -> None:
        self.asked: list[tuple[int, int]] = []
        self.metric = metric

    def with_budget(self, samples: int, *, at_least: int) -> Halves:
        self.asked.append((samples, at_least))
        return self

    def in_optimizer_metric(self) -> Halves:
        self.metric = True
        return self

    def estimate(self, step: TrainStep, batches: Any, plan: BatchPlan) -> NoiseScale:
        return MicroBatchVariance(samples=64, micro_batches=4).estimate(step, batches, plan)


def test_a_whole_estimator_of_the_users_own_is_had_from_the_training_too() -> None:
    """As precise as ours: from the same steps, over the same samples."""
    own, ours = Halves(), MicroBatchVariance(samples=640, confidence=0.5)
    found, reference = look(training(), estimator=own), look(training(), estimator=ours)
    assert found.training.value == reference.training.value
    assert found.training.estimator == "halves"
    assert found.training.confidence == 0.5
    assert found.training.high - found.training.low == pytest.approx(
        reference.training.high - reference.training.low
    )


def test_a_whole_estimator_is_told_what_it_may_spend_and_in_which_metric() -> None:
    own, step = Halves(), training()
    step.optimizer = torch.optim.Adam(step.model.parameters(), 1e-3)
    look(step, estimator=own, base_batch=2, micro_batch=2)
    assert own.metric
    assert set(own.asked) == {(12, 6)}  # no more in all than the warm-up itself takes


def test_a_warm_up_ends_once_nothing_that_it_may_still_show_matters() -> None:
    asked: list[NoiseScale] = []

    def is_enough(outcomes: Sequence[NoiseScale]) -> bool:
        asked.append(outcomes[-1])
        return len(asked) == 4

    step = training()
    found = look(step, warmup_steps=100, is_enough=is_enough)
    assert (step.updates, found.training.after_steps) == (50, 49)
    assert [each.after_steps for each in asked] == [0, 33, 45, 49]  # the last that was measured
    assert found.training == replace(asked[-1], whole_training=True)
    (said,) = [each for each in found.caveats if "ended early, after" in each]
    assert said.startswith("the warm-up ended early, after 50 of 100 steps")
    assert not any("is short" in each or "there was time" in each for each in found.caveats)


def test_a_warm_up_does_not_end_before_a_share_of_its_steps() -> None:
    """Batch norm: its first moment comes then too."""
    asked: list[Sequence[NoiseScale]] = []

    def is_enough(outcomes: Sequence[NoiseScale]) -> bool:
        asked.append(outcomes)
        return True

    step = training(model=with_batch_norm())
    found = look(step, warmup_steps=200, is_enough=is_enough)
    (outcomes,) = asked
    assert outcomes[-1].high > 10 * outcomes[0].value
    assert (step.updates, found.training.after_steps) == (36, 36)


def test_one_moment_may_be_enough() -> None:
    """Batch norm: the first is early, and what it shows is asked about at once."""
    step = training(model=with_batch_norm())
    found = look(
        step, warmup_steps=200, is_enough=lambda outcomes: outcomes[-1].estimator != "none"
    )
    assert (step.updates, found.training.after_steps) == (36, 36)
    assert any("ended early, after 36 of 200 steps" in each for each in found.caveats)


def test_a_warm_up_whose_interval_never_decides_is_taken_whole() -> None:
    step = training()
    found = look(step, warmup_steps=40, is_enough=lambda found: False)
    assert step.updates == 40
    assert not any("ended early, after" in each for each in found.caveats)


@pytest.mark.parametrize(("taken", "room"), [(0, 40_000), (20, 100), (150, (200 / 150) ** 2)])
def test_a_warm_up_cut_by_time_leaves_room_for_what_the_noise_scale_may_grow(
    taken: int, room: float
) -> None:
    """After 20 of 200 steps it may be a hundredth of what it comes to."""
    short = look(training(), warmup_steps=taken, usual_steps=200).training
    asked_for = look(training(), warmup_steps=taken).training
    assert short.high == pytest.approx(room * asked_for.high)
    assert (short.low, short.value) == (asked_for.low, asked_for.value)


class Growing(Halves):
    """The noise scale is the square of the steps taken, known within a quarter."""

    along_training = False

    def estimate(self, step: TrainStep, batches: Any, plan: BatchPlan) -> NoiseScale:
        assert isinstance(step, PlainStep)
        value = float(step.updates**2)
        return NoiseScale(value, value / 1.25, 1.25 * value, 1000, self.name)


def test_whether_time_or_a_decision_ends_a_warm_up_the_interval_is_the_same() -> None:
    """A noise scale that grows with the square of the steps stays within both."""
    step = training()
    by_time = look(step, estimator=Growing(), warmup_steps=36, usual_steps=200)
    by_decision = look(
        training(), estimator=Growing(), warmup_steps=200, is_enough=lambda outcomes: True
    )
    whole = look(training(), estimator=Growing(), warmup_steps=200)
    found = [each.training for each in (by_time, by_decision)]
    assert found[0].high / found[0].value == pytest.approx(found[1].high / found[1].value)
    assert all(each.low < whole.training.value < each.high for each in found)


def test_fewer_steps_than_usual_are_named_as_a_lack_of_time() -> None:
    found = look(training(), warmup_steps=30, usual_steps=200)
    assert any("there was time for 30 of 200 warm-up steps" in each for each in found.caveats)


class Foretold(Population):
    """Notes every batch that was not expected to be of its size."""

    def rewind(self, seed: int) -> None:
        super().rewind(seed)
        self.coming: list[int] = []
        self.wrong: list[int] = getattr(self, "wrong", [])

    def expect(self, sizes: Any) -> None:
        self.coming = list(sizes)

    def draw(self, size: int) -> Any:
        if not self.coming or self.coming.pop(0) != size:
            self.wrong.append(size)
        return super().draw(size)


def test_every_batch_of_a_warm_up_is_foretold() -> None:
    source = Foretold(*blobs(1500))
    look(training(), source=source, is_enough=lambda found: False, sizes=(8,))
    assert source.wrong == []
