"""How long the warm-up is, and when it has told enough."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from recommend_cases import affine, line, noise, problem, recommended
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.base_pair import Base
from batchfinder.noise import MicroBatchVariance
from batchfinder.noise.stage import _affordable, decides, estimate_here, estimate_noise
from batchfinder.outcomes import Limit, Outcome
from batchfinder.recommend import Pair, pair_by_noise, recommend
from batchfinder.results import NoiseScale, ProbeResult, StageStarted, Trial
from batchfinder.session import opened

PROBED = ProbeResult((Trial(64, Outcome.FITS),), line(), Limit.MEMORY)


def training(steps_before: int = 0) -> bf.Training:
    torch.manual_seed(0)
    model = nn.Linear(8, 2)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(steps_before):
        model(torch.randn(4, 8)).sum().backward()
        optimizer.step()
    data = TensorDataset(torch.randn(400, 8), torch.randint(2, (400,)))
    return bf.Training(model, DataLoader(data, batch_size=16, shuffle=True), optimizer=optimizer)


@pytest.mark.parametrize(("steps_before", "steps"), [(0, 200), (1, 50)])
def test_the_middle_of_a_training_needs_a_shorter_warm_up(steps_before: int, steps: int) -> None:
    events: list[Any] = []
    with opened(training(steps_before), observe=events.append) as call:
        found = estimate_noise(call, MicroBatchVariance(samples=512), PROBED, Base(16, 0.001))
    (started,) = [event for event in events if isinstance(event, StageStarted)]
    assert started.detail == f"{steps} warm-up steps at batch 16"
    assert found.training is not None


def test_the_estimator_knows_its_own_warm_up() -> None:
    events: list[Any] = []
    estimator = MicroBatchVariance(samples=512, warmup_steps=30)
    with opened(training(), observe=events.append) as call:
        found = estimate_noise(call, estimator, PROBED, Base(16, 0.001))
    (started,) = [event for event in events if isinstance(event, StageStarted)]
    assert started.detail.startswith("30 warm-up steps")
    assert found.training is not None


def test_a_warm_up_is_as_long_as_there_is_time_for() -> None:
    assert _affordable(200, None, 1.0) == 200
    assert _affordable(200, 30.0, None) == 200
    assert _affordable(200, 1000.0, 1.0) == 200
    assert _affordable(200, 115.0, 1.0) == 100
    assert _affordable(200, 1.0, 1.0) == 12


NARROW = [noise(value, value / 3, 3 * value) for value in (999, 1000, 1001)]
WIDE = [noise(value, value / 3, 3 * value) for value in (100, 1000, 10_000)]


def test_outcomes_decide_where_all_recommend_the_same() -> None:
    choice = pair_by_noise(problem(affine(half_speed=100)))
    assert not decides([choice], WIDE)
    assert decides([choice], NARROW)


def test_the_farthest_outcome_is_asked_first() -> None:
    asked = []

    def choice(found: NoiseScale | None) -> Pair:
        assert found is not None
        asked.append(found.value)
        return recommended(affine(half_speed=100)).plan, found.value

    assert not decides([choice, choice], [*WIDE, noise(2000)])
    assert asked == [100, 10_000]


def test_where_memory_decides_the_noise_need_not() -> None:
    small = problem(affine((1, 2, 4), half_speed=1000), base_batch=4, can_accumulate=False)
    assert decides([pair_by_noise(small)], WIDE)


def test_a_rate_that_hangs_on_the_noise_is_not_decided() -> None:
    plan = recommended(affine(half_speed=100)).plan

    def choice(noise: NoiseScale | None) -> Pair:
        assert noise is not None
        return plan, noise.value

    assert not decides([choice], WIDE)
    assert decides([choice], NARROW)


@pytest.mark.parametrize("critical", [3, 30, 300, 3000])
@pytest.mark.parametrize("more", [{}, {"base_is_yours": True, "base_batch": 32}, {"ceiling": 64}])
def test_the_choice_at_a_noise_scale_is_that_of_a_recommendation(
    critical: float, more: dict[str, Any]
) -> None:
    given, found = problem(affine(half_speed=100), **more), noise(critical)
    told = recommend(given.at_noise(found))
    assert pair_by_noise(given)(found) == (told.plan, told.learning_rate)


def test_times_that_scatter_do_not_make_the_noise_scale_look_idle() -> None:
    """A keeper at any noise scale, since the times are bad: with better ones it would matter."""
    timed = [
        replace(found, samples_per_second_low=0.3 * found.samples_per_second, repeats=2)
        for found in affine((32, 64, 128, 256, 512), half_speed=50)
    ]
    made = problem(timed, base_batch=32, base_is_yours=True)
    wide = [noise(value, value, value) for value in (20, 120)]
    as_it_is, as_if_exact = pair_by_noise(made), pair_by_noise(made.timed_exactly())
    assert decides([as_it_is], wide)
    assert not decides([as_it_is, as_if_exact], wide)


def test_a_micro_batch_that_is_asked_for_is_the_only_one() -> None:
    sizes: set[int] = set()

    def step(model: nn.Module, batch: Any) -> torch.Tensor:
        sizes.add(len(batch[0]))
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    given = training()
    with opened(
        bf.Training(given.model, given.loader, train_step=step, optimizer=given.optimizer),
        observe=lambda event: None,
    ) as call:
        sizes.clear()
        found = estimate_here(call, MicroBatchVariance(samples=256), micro_batch=32)
    assert found.training is not None
    assert sizes == {32, 64}
