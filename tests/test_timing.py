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
    sizes_worth_measuring,
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
    assert half_steps_around_knee(throughputs) == (362, 724)
    assert half_steps_around_knee({8: 1.0}) == ()


def test_a_power_of_two_near_a_size_asked_for_says_nothing_more() -> None:
    assert sizes_worth_measuring(1045, 1003, 32)[-3:] == (512, 1003, 1045)


def test_outward_from_a_size() -> None:
    assert outward([1, 2, 4, 8, 16, 32, 90], 8) == [8, 16, 4, 32, 2, 1, 90]
