"""The same call, the same answer, where step times scatter."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from statistics import fmean

from recommend_cases import measured, noise, recommended

from batchfinder.results import Measurement
from batchfinder.timing import median_interval

BUSY = {8: 14.5, 16: 17.7, 32: 22.2, 64: 32.3, 128: 58.0, 256: 104.0, 512: 216.0, 1024: 503.5}
"""Milliseconds of a step by batch: a small CNN on one core of a machine kept busy."""
SCATTER = 0.15
"""Relative standard deviation of one visit there, what slows a whole round taken out."""


def timed(draws: random.Random, visits: int) -> list[Measurement]:
    found = []
    for size, milliseconds in BUSY.items():
        seconds = [milliseconds / 1000 * math.exp(draws.gauss(0, SCATTER)) for _ in range(visits)]
        interval = median_interval(seconds)
        found.append(
            replace(
                measured(size, interval.middle, 0.0),
                samples_per_second_low=size / interval.high,
                samples_per_second_high=size / interval.low,
                repeats=visits,
            )
        )
    return found


def agreement(critical: float, visits: int, calls: int = 8) -> float:
    """The share of calls that keep the user's 32, or move to where most that move do."""
    draws = random.Random(round(critical))
    chosen: Counter[int] = Counter()
    for _ in range(calls):
        found = recommended(
            timed(draws, visits),
            critical,
            noise=noise(critical, critical / 1.6, critical * 1.6),
            base_batch=32,
            base_is_yours=True,
        )
        chosen[found.plan.global_batch] += 1
    moved = [count for batch, count in chosen.items() if batch != 32]
    return (chosen[32] + max(moved, default=0)) / calls


def test_calls_agree_or_keep_whatever_the_noise_scale() -> None:
    shares = [agreement(critical, 8) for critical in (150, 300, 600, 1200, 2500, 5000, 10_000)]
    assert fmean(shares) >= 0.9, shares
