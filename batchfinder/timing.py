"""Medians with intervals, and which sizes are worth a measurement. Numbers only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = [
    "Interval",
    "half_steps_around_knee",
    "interval_rank",
    "median_interval",
    "outward",
    "sizes_worth_measuring",
    "unbeaten",
]

SAME = 0.05
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


def sizes_worth_measuring(largest: int, *also: int | None, most: int = 14) -> tuple[int, ...]:
    """Powers of two up to ``largest``, ``largest`` itself, and what else is asked for.

    A power of two within 5% of a size that is asked for says nothing more than that one. Where
    there are more than ``most``, the smallest go first: they are the cheapest to guess and the
    least likely to be recommended.
    """
    powers = [2**exponent for exponent in range(max(1, largest).bit_length())]
    asked = {size for size in also if size is not None and 1 <= size <= largest} | {largest}
    told_apart = {p for p in powers if all(abs(p - size) > SAME * size for size in asked)}
    kept = sorted(told_apart | asked)
    while len(kept) > most:
        spare = next((size for size in kept if size not in asked), None)
        if spare is None:
            break
        kept.remove(spare)
    return tuple(kept)


def half_steps_around_knee(throughputs: Mapping[int, float], share: float = 0.9) -> tuple[int, ...]:
    """Sizes × √2 on both sides of the knee, which is where the choice is usually made.

    The knee is the smallest size with ``share`` of the best throughput.
    """
    sizes = sorted(throughputs)
    best = max(throughputs.values())
    knee = next(size for size in sizes if throughputs[size] >= share * best)
    wanted = (round(knee / math.sqrt(2)), round(knee * math.sqrt(2)))
    return tuple(
        size
        for size in wanted
        if sizes[0] < size < sizes[-1] and all(abs(size - near) > 0.15 * near for near in sizes)
    )


def outward(sizes: Sequence[int], first: int) -> list[int]:
    """``sizes``, the nearest to ``first`` by ratio before the others; of two, the larger."""
    return sorted(set(sizes), key=lambda size: (abs(math.log(size / first)), -size))


def unbeaten(seconds: Mapping[int, float]) -> frozenset[int]:
    """The batches that some noise scale lets beat the others, by more than ``SAME``.

    The time to a target is s · (1 + φ / B): at φ = 0 it goes by the seconds s of a step, at φ = ∞
    by the seconds s / B of a sample, in between by a mean of both. So a batch that is no slower by
    either measure is no slower at any φ: one at least twice as large whose step takes no longer, or
    a smaller one whose samples take no longer.

    Args:
        seconds: of one step, by batch.
    """
    kept: list[int] = []
    for size in sorted(seconds, reverse=True):
        as_quick = (other for other in kept if seconds[other] <= (1 + SAME) * seconds[size])
        if not any(other >= 2 * size for other in as_quick):
            kept.append(size)
    frugal: list[int] = []
    for size in sorted(kept):
        a_sample = (1 + SAME) * seconds[size] / size
        if not any(seconds[other] / other <= a_sample for other in frugal):
            frugal.append(size)
    return frozenset(frugal)
