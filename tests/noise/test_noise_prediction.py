"""From the end of a warm-up to the whole run."""

from __future__ import annotations

import math

import pytest

from batchfinder.noise.prediction import EUCLIDEAN_FACTOR, PRECONDITIONED_FACTOR, Factor, outcomes
from batchfinder.results import NoiseScale


def scale(value: float, low: float, high: float) -> NoiseScale:
    return NoiseScale(value, low, high, 1000, "any", after_steps=200)


def test_a_measurement_without_error_leaves_the_factors_own() -> None:
    found = Factor(2.0, 3.0)(scale(100, 100, 100))
    assert found.value == 200
    assert found.low == pytest.approx(200 / 3)
    assert found.high == pytest.approx(600)


def test_errors_of_the_logarithm_join_in_quadrature() -> None:
    found = Factor(2.0, math.exp(0.3))(scale(100, 100 * math.exp(-0.4), 100 * math.exp(0.4)))
    assert math.log(found.value / found.low) == pytest.approx(0.5)
    assert math.log(found.high / found.value) == pytest.approx(0.5)


def test_an_open_interval_stays_open() -> None:
    found = EUCLIDEAN_FACTOR(scale(400, 50, math.inf))
    assert found.high == math.inf
    assert 0 < found.low < 100


def test_nothing_else_changes() -> None:
    before = scale(100, 50, 200)
    after = PRECONDITIONED_FACTOR(before)
    assert (after.samples, after.estimator, after.after_steps) == (1000, "any", 200)
    assert after.low < before.value < after.high


@pytest.mark.parametrize("value", [0.0, 100.0, math.inf])
def test_an_interval_that_starts_at_zero_keeps_doing_so(value: float) -> None:
    found = Factor(2.0, 3.0)(scale(value, 0.0, math.inf))
    assert (found.value, found.low, found.high) == (2 * value, 0.0, math.inf)


def test_a_value_of_zero_keeps_its_upper_end() -> None:
    assert Factor(2.0, 3.0)(scale(0.0, 0.0, 50.0)).high == pytest.approx(300)


def test_a_value_without_end_keeps_its_lower_end() -> None:
    assert Factor(2.0, 3.0)(scale(math.inf, 30.0, math.inf)).low == pytest.approx(20)


def test_what_a_warm_up_may_come_to_predict() -> None:
    """From a little below its own interval to the growth of a warm-up four times as long above."""
    *ends, now = outcomes(scale(400, 130, 800), Factor(2.0, 3.0), 50, 200)
    assert [each.value for each in ends] == pytest.approx([200, 2 * (100 * 12_800) ** 0.5, 25_600])
    assert [each.high / each.value for each in ends] == pytest.approx([3, 3, 3])
    assert now.high == pytest.approx(16 * EUCLIDEAN_FACTOR(scale(400, 130, 800)).high)


def test_what_a_gpt_on_a_gpu_came_to_was_among_what_its_first_steps_left_open() -> None:
    """6.6 (4.3 to 14) after 24 steps, 656 over the second half of 200."""
    *ends, now = outcomes(scale(6.6, 4.3, 14), PRECONDITIONED_FACTOR, 24, 200)
    assert ends[0].value < 1.5 * 656 < ends[-1].value
    assert now.low < 1.5 * 656 < now.high


def test_a_noise_scale_without_an_upper_end_may_come_to_be_very_large() -> None:
    *ends, now = outcomes(scale(400, 130, math.inf), Factor(2.0, 3.0), 200, 200)
    assert (ends[0].value, ends[-1].value) == pytest.approx((200, 800_000))
    assert now.high == math.inf
