"""Medians with intervals, and which sizes are worth a measurement. Numbers only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

__all__ = [
    "Interval",
    "half_steps_around_knee",
    "interval_rank",
    "median_interval",
    "outward",
    "scatter",
    "sizes_worth_measuring",
    "unbeaten",
    "without_drift",
]

SAME_TIME = 0.05
"""Times that differ by less than this share are the same."""


@dataclass(frozen=True)
class Interval:
    """A median and the interval that holds the true one with the asked probability."""

    low: float
    middle: float
    high: float

    @property
    def relative_width(self) -> float:
        return (self.high - self.low) / self.middle if self.middle else math.inf


def median_interval(values: Sequence[float], confidence: float = 0.9) -> Interval:
    """The median, with the narrowest pair of order statistics that covers it often enough.

    Free of assumptions on the distribution: the share of samples below the median is binomial
    (David and Nagaraja, Order Statistics, section 7.1). Below 5 values no pair reaches 90%;
    then the interval is the whole range.
    """
    ordered = sorted(values)
    count, rank = len(ordered), interval_rank(len(ordered), confidence)
    return Interval(ordered[rank - 1], median(ordered), ordered[count - rank])


def interval_rank(count: int, confidence: float = 0.9) -> int:
    """Which smallest and largest of ``count`` values are the ends of their median's interval."""
    rank = 1
    while 2 * (rank + 1) <= count and _coverage(count, rank + 1) >= confidence:
        rank += 1
    return rank


def _coverage(count: int, rank: int) -> float:
    """How often the ``rank``-th smallest and largest of ``count`` values enclose the median."""
    tail = sum(math.comb(count, below) for below in range(rank))
    return 1 - 2 * tail / float(2**count)


FEWEST_IN_A_ROUND = 3
"""Sizes visited in one round, below which nothing of it can be told from their own scatter."""


def without_drift(
    visits: Mapping[int, Sequence[tuple[int, float]]],
) -> dict[int, list[float]]:
    """The seconds of every visit, less what all sizes of one round have in common.

    A machine that other work slows down for a while slows every size of that round: a two-way
    median polish (Tukey 1977, Exploratory Data Analysis, chapter 11) of the logarithms takes it
    out. Rounds are as slow as the median of them.

    Args:
        visits: by size, the number of the round and the seconds of each visit.
    """
    numbers = sorted({number for each in visits.values() for number, _ in each})
    inside = {
        number: [size for size, each in visits.items() if any(n == number for n, _ in each)]
        for number in numbers
    }
    shared = [number for number in numbers if len(inside[number]) >= FEWEST_IN_A_ROUND]
    logs = {
        size: [(number, math.log(max(seconds, 1e-12))) for number, seconds in each]
        for size, each in visits.items()
    }
    slow = dict.fromkeys(numbers, 0.0)
    for _ in range(POLISHINGS if len(shared) > 1 else 0):
        middle = {
            size: median(log - slow[number] for number, log in each)
            for size, each in logs.items()
            if each
        }
        for number in shared:
            slow[number] = median(
                log - middle[size]
                for size in inside[number]
                for n, log in logs[size]
                if n == number
            )
        usual = median(slow[number] for number in shared)
        slow = {number: slow[number] - usual if number in shared else 0.0 for number in numbers}
    return {
        size: [math.exp(log - slow[number]) for number, log in each] for size, each in logs.items()
    }


POLISHINGS = 6


def scatter(values: Mapping[int, Sequence[float]]) -> float | None:
    """Relative standard deviation of one value, pooled over all sizes; ``None`` below two each.

    Args:
        values: by size, each about a middle of its own.
    """
    squares, freedom = 0.0, 0
    for each in values.values():
        if len(each) > 1:
            logs = [math.log(max(value, 1e-12)) for value in each]
            middle = fmean(logs)
            squares += sum((log - middle) ** 2 for log in logs)
            freedom += len(logs) - 1
    return math.sqrt(squares / freedom) if freedom else None


def sizes_worth_measuring(largest: int, *also: int | None, most: int = 14) -> tuple[int, ...]:
    """Powers of two up to ``largest``, ``largest`` itself, and what else is asked for.

    A power of two within 5% of a size that is asked for says nothing more than that one. Where
    there are more than ``most``, the smallest go first: they are the cheapest to guess and the
    least likely to be recommended.
    """
    powers = [2**exponent for exponent in range(max(1, largest).bit_length())]
    asked = {size for size in also if size is not None and 1 <= size <= largest} | {largest}
    told_apart = {p for p in powers if all(abs(p - size) > SAME_TIME * size for size in asked)}
    kept = sorted(told_apart | asked)
    while len(kept) > most:
        spare = next((size for size in kept if size not in asked), None)
        if spare is None:
            break
        kept.remove(spare)
    return tuple(kept)


def half_steps_around_knee(throughputs: Mapping[int, float], share: float = 0.9) -> tuple[int, ...]:
    """Three quarters of the knee and one and a half times it, where the choice is usually made.

    The knee is the smallest size with ``share`` of the best throughput. Where a step's time turns
    from a floor to a slope at once, a size between two powers of two can be faster than both.
    Multiples of 8 from 64 on.
    """
    sizes = sorted(throughputs)
    best = max(throughputs.values())
    knee = next(size for size in sizes if throughputs[size] >= share * best)
    wanted = (_rounded(0.75 * knee), _rounded(1.5 * knee))
    return tuple(
        size
        for size in wanted
        if sizes[0] < size < sizes[-1] and all(abs(size - near) > 0.15 * near for near in sizes)
    )


def _rounded(size: float) -> int:
    return 8 * round(size / 8) if size >= 64 else round(size)


def outward(sizes: Sequence[int], first: int) -> list[int]:
    """``sizes``, the nearest to ``first`` by ratio before the others; of two, the larger."""
    return sorted(set(sizes), key=lambda size: (abs(math.log(size / first)), -size))


def unbeaten(seconds: Mapping[int, float]) -> frozenset[int]:
    """The batches that some noise scale lets beat the others, by more than ``SAME_TIME``.

    The time to a target is s · (1 + φ / B): at φ = 0 it goes by the seconds s of a step, at φ = ∞
    by the seconds s / B of a sample, in between by a mean of both. So a batch that is no slower by
    either measure is no slower at any φ: one at least twice as large whose step takes no longer, or
    a smaller one whose samples take no longer.

    Args:
        seconds: of one step, by batch.
    """
    kept: list[int] = []
    for size in sorted(seconds, reverse=True):
        as_quick = (other for other in kept if seconds[other] <= (1 + SAME_TIME) * seconds[size])
        if not any(other >= 2 * size for other in as_quick):
            kept.append(size)
    frugal: list[int] = []
    for size in sorted(kept):
        a_sample = (1 + SAME_TIME) * seconds[size] / size
        if not any(seconds[other] / other <= a_sample for other in frugal):
            frugal.append(size)
    return frozenset(frugal)
