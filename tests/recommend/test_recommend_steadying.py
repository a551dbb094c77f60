"""Noisy step times against the truth: nearer to it after steadying, and a better choice."""

import math
from dataclasses import replace

import numpy as np
import pytest
from recommend_cases import POWERS, affine, recommended

from batchfinder.recommend.situation import Timing
from batchfinder.recommend.steadying import steadied

SIZES = np.array(POWERS, dtype=float)


def noisy(truth, spread, seed):
    draws = np.random.default_rng(seed).standard_normal(len(truth))
    return [
        Timing(size, seconds * math.exp(spread * draw), 0.0, spread=spread)
        for size, seconds, draw in zip(POWERS, truth, draws, strict=True)
    ]


def error(timings, truth):
    times = np.array([each.forward_backward for each in timings])
    return float(np.sqrt(np.mean(np.log(times / truth) ** 2)))


@pytest.mark.parametrize("spread", [0.1, 0.3])
def test_on_a_line_most_of_the_noise_goes(spread):
    truth = 1 + SIZES / 100
    runs = [noisy(truth, spread, seed) for seed in range(100)]
    before = np.mean([error(each, truth) for each in runs])
    after = np.mean([error(steadied(each), truth) for each in runs])
    assert after < 0.75 * before


@pytest.mark.parametrize("spread", [0.02, 0.1, 0.3])
def test_off_the_line_nothing_is_lost(spread):
    """Flat to 256, then in proportion, with a step at 64: no line."""
    truth = (1 + (SIZES / 256) ** 4) ** 0.25 * np.where(SIZES > 64, 1.3, 1.0)
    runs = [noisy(truth, spread, seed) for seed in range(100)]
    before = np.mean([error(each, truth) for each in runs])
    after = np.mean([error(steadied(each), truth) for each in runs])
    assert after < 1.05 * before


def test_steady_times_and_few_sizes_stay_as_they_are():
    truth = 1 + SIZES / 100
    quiet = noisy(truth, 0.0, 0)
    assert steadied(quiet) == quiet
    few = noisy(truth, 0.5, 0)[:3]
    assert steadied(few) == few
    (one, *_), (two, *_) = noisy(truth * 1.5, 0.001, 0), steadied(noisy(truth * 1.5, 0.001, 0))
    assert two.forward_backward == pytest.approx(one.forward_backward, rel=0.002)


def test_the_choice_is_better_for_it():
    """Mean regret of the true time, choosing by noisy times as they are and as steadied."""
    critical, half = 300.0, 100.0
    truth = {size: (1 + critical / size) * (1 + size / half) for size in POWERS}
    best = min(truth.values())

    def regret(seed):
        draws = np.random.default_rng(seed).standard_normal(len(POWERS))
        measurements = [
            _slowed(each, math.exp(0.3 * draw))
            for each, draw in zip(affine(half_speed=half, spread=0.5), draws, strict=True)
        ]
        chosen = recommended(measurements, critical, base_batch=1).plan.global_batch
        raw = min(
            measurements, key=lambda m: m.step_seconds * (1 + critical / m.batch_size)
        ).batch_size
        return truth[chosen] / best - 1, truth[raw] / best - 1

    ours, plain = np.mean([regret(seed) for seed in range(60)], axis=0)
    assert ours < 0.6 * plain


def _slowed(measurement, factor):
    return replace(
        measurement,
        step_seconds=measurement.step_seconds * factor,
        forward_backward_seconds=measurement.forward_backward_seconds * factor,
        samples_per_second=measurement.samples_per_second / factor,
        samples_per_second_low=measurement.samples_per_second_low / factor,
        samples_per_second_high=measurement.samples_per_second_high / factor,
    )
