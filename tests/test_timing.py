"""Medians, their intervals, and the sizes worth a measurement."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchfinder.timing import (
    half_steps_around_knee,
    median_interval,
    outward,
    scatter,
    sizes_worth_measuring,
    without_drift,
)


@pytest.mark.parametrize(
    ("count", "rank"),
    [(5, 1), (8, 2), (11, 3), (20, 6), (30, 11)],
)
def test_the_ranks_are_those_of_the_binomial_table(count: int, rank: int) -> None:
    # Conover, Practical Nonparametric Statistics, table A3: P(X < rank) <= 0.05 for X ~ B(n, 1/2)
    below = sum(math.comb(count, k) for k in range(rank)) / 2**count
    next_below = sum(math.comb(count, k) for k in range(rank + 1)) / 2**count
    assert below <= 0.05 < next_below
    interval = median_interval(list(range(1, count + 1)))
    assert (interval.low, interval.high) == (rank, count + 1 - rank)


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    draws = random.Random(1)
    covered = 0
    for _ in range(2000):
        sample = [draws.lognormvariate(0.0, 1.0) for _ in range(9)]
        interval = median_interval(sample)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.9 <= covered / 2000 <= 0.98


@given(st.integers(1, 10**7), st.integers(1, 10**7))
def test_sizes_never_pass_the_largest(largest: int, base: int) -> None:
    sizes = sizes_worth_measuring(largest, base)
    assert sizes[-1] == largest
    assert all(low < high for low, high in pairwise(sizes))
    assert base > largest or base in sizes
    assert len(sizes) <= 14


def test_half_steps_lie_around_the_knee() -> None:
    throughputs = {size: size / (1 + size / 64) for size in (16, 32, 64, 128, 256, 512, 1024)}
    # 90% of the best is first reached at 512
    assert half_steps_around_knee(throughputs) == (384, 768)
    assert half_steps_around_knee({8: 1.0}) == ()


def test_a_power_of_two_near_a_size_asked_for_says_nothing_more() -> None:
    assert sizes_worth_measuring(1045, 1003, 32)[-3:] == (512, 1003, 1045)


def test_outward_from_a_size() -> None:
    assert outward([1, 2, 4, 8, 16, 32, 90], 8) == [8, 16, 4, 32, 2, 1, 90]


def test_a_round_that_was_slow_throughout_is_as_fast_as_the_others() -> None:
    truth, slow = {1: 1.0, 2: 1.5, 4: 2.0, 8: 4.0}, (1.0, 1.0, 3.0, 1.0, 0.5)
    visits = {size: [(n, t * factor) for n, factor in enumerate(slow)] for size, t in truth.items()}
    found = without_drift(visits)
    assert {size: pytest.approx([t] * 5) for size, t in truth.items()} == found


def test_two_sizes_are_no_round() -> None:
    visits = {1: [(0, 1.0), (1, 2.0)], 2: [(0, 2.0), (1, 4.0)]}
    found = without_drift(visits)
    assert found == {1: pytest.approx([1.0, 2.0]), 2: pytest.approx([2.0, 4.0])}


def test_drift_is_taken_out_of_times_that_scatter_and_nothing_else_is() -> None:
    """What is left has the scatter of single visits, and its middles are nearer to the truth."""
    draws = random.Random(0)
    errors: dict[str, list[float]] = {"as they are": [], "even": []}
    scattered = []
    for _ in range(200):
        slow = [math.exp(draws.gauss(0, 0.2)) for _ in range(6)]
        visits = {
            size: [
                (n, size**0.7 * factor * math.exp(draws.gauss(0, 0.08)))
                for n, factor in enumerate(slow)
                if n < 5 or draws.random() < 0.5
            ]
            for size in (8, 16, 32, 64, 128, 256)
        }
        even = without_drift(visits)
        scattered.append(scatter(even))
        for name, times in (
            ("as they are", {s: [t for _, t in each] for s, each in visits.items()}),
            ("even", even),
        ):
            ratio = sorted(times[256])[2] / sorted(times[32])[2]
            errors[name].append(math.log(ratio / 8**0.7))
    spread = {name: math.sqrt(sum(e * e for e in each) / 200) for name, each in errors.items()}
    assert spread["even"] < 0.7 * spread["as they are"]
    assert sum(scattered) / 200 == pytest.approx(0.08, rel=0.15)
