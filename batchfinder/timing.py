"""Medians with intervals, and which sizes are worth a measurement. Numbers only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Interval", "half_steps_around_knee", "median_interval", "sizes_worth_measuring"]


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
    count = len(ordered)
    rank = 1
    while 2 * (rank + 1) <= count and _coverage(count, rank + 1) >= confidence:
        rank += 1
    return Interval(ordered[rank - 1], median(ordered), ordered[count - rank])


def _coverage(count: int, rank: int) -> float:
    """How often the ``rank``-th smallest and largest of ``count`` values enclose the median."""
    tail = sum(math.comb(count, below) for below in range(rank))
    return 1 - 2 * tail / float(2**count)


def sizes_worth_measuring(largest: int, *also: int | None, most: int = 14) -> tuple[int, ...]:
    """Powers of two up to ``largest``, ``largest`` itself, and what else is asked for.

    Where there are more than ``most``, the smallest go first: they are the cheapest to guess and
    the least likely to be recommended.
    """
    powers = [2**exponent for exponent in range(max(1, largest).bit_length())]
    asked = {size for size in also if size is not None and 1 <= size <= largest} | {largest}
    kept = sorted(set(powers) | asked)
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
