"""How sure the choice is, against intervals that are known; and what a confirmation changes."""

import math

import pytest
from recommend_cases import affine, noise, recommended

from batchfinder.recommend import settled
from batchfinder.results import BatchPlan


def chosen_of(recommendation):
    (chosen,) = (each for each in recommendation.candidates if each.chosen)
    return chosen


def test_without_uncertainty_the_intervals_are_points():
    exact = recommended(affine(), noise=noise(100, 100, 100))
    for each in exact.candidates:
        assert each.relative_time_low == pytest.approx(each.relative_time)
        assert each.relative_time_high == pytest.approx(each.relative_time)


def test_the_noise_scale_reaches_the_intervals():
    """Without timing noise an option's time is monotone in φ: its interval is known exactly."""
    found = recommended(affine(half_speed=100), noise=noise(100, 50, 200))
    for each in found.candidates:
        if each.plan.accumulation_steps > 1:
            continue
        ratios = sorted(
            (1 + phi / each.plan.global_batch)
            * (1 + each.plan.global_batch / 100)
            / ((1 + phi / found.plan.global_batch) * (1 + found.plan.global_batch / 100))
            for phi in (50, 200)
        )
        assert each.relative_time_low == pytest.approx(ratios[0], rel=0.02)
        assert each.relative_time_high == pytest.approx(ratios[1], rel=0.02)


def test_the_timing_noise_reaches_the_intervals():
    found = recommended(affine((64, 128, 512), spread=0.1), noise=noise(100, 100, 100))
    (other,) = (each for each in found.candidates if each.plan.global_batch == 512)
    # Two independent 90 % intervals of ± 10 %: the ratio's is ± √2 · 10 %.
    half = math.log(other.relative_time_high / other.relative_time_low) / 2
    assert half == pytest.approx(math.sqrt(2) * 0.1, rel=0.05)


def test_wider_intervals_leave_more_within_noise():
    tight = recommended(affine(), noise=noise(100, 99, 101)).within_noise
    wide = recommended(affine(), noise=noise(100, 20, 500)).within_noise
    assert wide[0] <= tight[0] <= tight[1] <= wide[1]
    assert wide != tight
    assert recommended(affine(), noise=noise(100, 20, 500)).within_noise == wide


# --- after the confirmation ----------------------------------------------------------------------


def test_settling_elsewhere_moves_the_prices():
    before = recommended(affine(half_speed=100), 100, base_batch=1)
    after = settled(before, BatchPlan(64), 0.05, "128 ran out of memory.")
    assert after.plan == chosen_of(after).plan == BatchPlan(64)
    assert after.learning_rate == chosen_of(after).learning_rate == 0.05
    assert chosen_of(after).relative_time == 1
    assert "128 ran out of memory." in after.caveats
    assert settled(before, before.plan, before.learning_rate, "") is before
