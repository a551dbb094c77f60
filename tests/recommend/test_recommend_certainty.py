"""How sure the choice is, against intervals that are known."""

import math
from dataclasses import replace

import pytest
from recommend_cases import affine, noise, recommended


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


def test_an_interval_of_another_confidence_is_taken_as_such():
    """Half of all draws lie in 50-200: the 90% interval is 1.645 / 0.674 times as wide."""
    half = replace(noise(100, 50, 200), confidence=0.5)
    wide = 2 ** (1.645 / 0.6745)
    whole = noise(100, 100 / wide, 100 * wide)
    for one, other in zip(
        recommended(affine(), noise=half).candidates,
        recommended(affine(), noise=whole).candidates,
        strict=True,
    ):
        assert one.relative_time_low == pytest.approx(other.relative_time_low, rel=1e-3)
        assert one.relative_time_high == pytest.approx(other.relative_time_high, rel=1e-3)


def test_the_timing_noise_reaches_the_intervals():
    found = recommended(affine((64, 128, 512), spread=0.1), noise=noise(100, 100, 100))
    (other,) = (each for each in found.candidates if each.plan.global_batch == 512)
    # Two independent 90% intervals of ± 10%: the ratio's is ± √2 · 10%.
    half = math.log(other.relative_time_high / other.relative_time_low) / 2
    assert half == pytest.approx(math.sqrt(2) * 0.1, rel=0.05)


def test_wider_intervals_leave_more_within_noise():
    tight = recommended(affine(), noise=noise(100, 99, 101)).within_noise
    wide = recommended(affine(), noise=noise(100, 20, 500)).within_noise
    assert wide[0] <= tight[0] <= tight[1] <= wide[1]
    assert wide != tight
    assert recommended(affine(), noise=noise(100, 20, 500)).within_noise == wide
