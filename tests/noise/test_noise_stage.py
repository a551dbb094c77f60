"""How long the warm-up is, and when it has told enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from recommend_cases import affine, line, noise, problem, recommended
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.base_pair import Base
from batchfinder.noise import MicroBatchVariance
from batchfinder.noise.stage import _affordable, _decides, estimate_here, estimate_noise
from batchfinder.outcomes import Limit, Outcome
from batchfinder.recommend import recommend
from batchfinder.results import NoiseScale, ProbeResult, Recommendation, StageStarted, Trial
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


def choose(half_speed: float, **given: Any) -> Callable[[NoiseScale | None], Recommendation]:
    def chosen(noise: NoiseScale | None) -> Recommendation:
        return recommended(affine(half_speed=half_speed), noise=noise, **given)

    return chosen


def each(choose: Any) -> Any:
    """As the call asks: for every way to look at the times one recommendation, here for one."""
    return lambda noise: (choose(noise),)


def test_an_interval_decides_where_both_its_ends_recommend_the_same() -> None:
    wide, narrow = noise(1000, 100, 10_000), noise(1000, 999, 1001)
    assert not _decides(each(choose(100)), wide)
    assert _decides(each(choose(100)), narrow)


def test_where_memory_decides_the_noise_need_not() -> None:
    small = partial(recommended, affine((1, 2, 4), half_speed=1000), base_batch=4)

    def chosen(noise: NoiseScale | None) -> Recommendation:
        return small(noise=noise, can_accumulate=False)

    assert _decides(each(chosen), noise(1000, 300, 10_000))
    assert _decides(each(chosen), noise(1000, 300, float("inf")))


def test_a_rate_that_hangs_on_the_noise_is_not_decided() -> None:
    one = choose(100)(noise(1000, 999, 1001))

    def chosen(noise: NoiseScale | None) -> Recommendation:
        assert noise is not None
        return replace(one, learning_rate=noise.value)

    assert not _decides(each(chosen), noise(1.0, 0.9, 1.1))
    assert _decides(each(chosen), noise(1.0, 0.97, 1.03))


def test_times_that_scatter_do_not_make_the_noise_scale_look_idle() -> None:
    """A keeper at any noise scale, since the times are bad: with better ones it would matter."""
    timed = [
        replace(found, samples_per_second_low=0.3 * found.samples_per_second, repeats=2)
        for found in affine((32, 64, 128, 256, 512), half_speed=50)
    ]
    made = problem(timed, base_batch=32, base_is_yours=True)
    wide = noise(50, 20, 120)

    def as_it_is(found: NoiseScale | None) -> tuple[Recommendation, ...]:
        return (recommend(made.at_noise(found)),)

    def both(found: NoiseScale | None) -> tuple[Recommendation, ...]:
        return tuple(recommend(p.at_noise(found)) for p in (made, made.timed_exactly()))

    assert _decides(as_it_is, wide)
    assert not _decides(both, wide)


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
