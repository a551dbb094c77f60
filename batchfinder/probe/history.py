"""The trials so far: the bracket that they leave, and the memory line through their peaks.

The peak of a training step is the largest of several straight lines in the batch size: one per
moment of the step (forward's end, backward's widest layer, the update). So it is convex, the
line through two small sizes promises too much, and the line through two large ones is nearly
exact. Some losses (all pairs in a batch) add a square.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from batchfinder.results import Trial


@dataclass(frozen=True)
class History:
    """What the trials say, size by size; where a size was repeated, its last trial counts.

    ``fits`` and ``fails`` increase in size; ``in_order`` is the order in which sizes were run.
    Whatever does not fit counts alike: no memory, too close to it, an index limit, a kill.
    """

    in_order: tuple[Trial, ...]
    fits: tuple[Trial, ...]
    fails: tuple[Trial, ...]

    @property
    def low(self) -> int:
        """The largest size that fits; 0 if none does."""
        return self.fits[-1].batch_size if self.fits else 0

    @property
    def high(self) -> int | None:
        """The smallest size above ``low`` that does not fit.

        A failure below a success (memory that is not monotone) bounds nothing.
        """
        return next((t.batch_size for t in self.fails if t.batch_size > self.low), None)

    @property
    def is_cached(self) -> bool:
        """Whether a caching allocator stands between the tensors and the limit."""
        return any(trial.reserved_bytes is not None for trial in self.in_order)

    def until_first_bracket(self) -> History:
        """The history as it was when a success first had a failure above it."""
        for count in range(1, len(self.in_order) + 1):
            earlier = history(self.in_order[:count])
            if earlier.low and earlier.high is not None:
                return earlier
        return self


def latest(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The last trial at each size, sizes in the order of their first: those that count.

    An earlier one was disturbed, and says nothing any more.
    """
    return tuple({trial.batch_size: trial for trial in trials}.values())


def history(trials: Iterable[Trial]) -> History:
    """Sort ``trials``, of which the last at each size counts."""
    counting = latest(trials)
    by_size = sorted(counting, key=lambda trial: trial.batch_size)
    return History(
        in_order=counting,
        fits=tuple(trial for trial in by_size if trial.fits),
        fails=tuple(trial for trial in by_size if not trial.fits),
    )


def to_repeat(trials: Sequence[Trial]) -> int | None:
    """The size of the last trial if another process disturbed it and it was run only once."""
    if not trials or not trials[-1].disturbed:
        return None
    size = trials[-1].batch_size
    return size if sum(trial.batch_size == size for trial in trials) == 1 else None


MAX_SIZE_RATIO = 0.75
"""Two sizes show a slope if the smaller is at most this share of the larger …"""

MIN_RELATIVE_RISE = 0.03
"""… or if their peaks differ by this share: below both, rounding would be read as slope."""

SLOPE_TOLERANCE = 0.1
"""Slopes that differ by less than this, relatively, are of one line."""


@dataclass(frozen=True)
class MemoryLine:
    """``fixed_bytes + per_sample_bytes · batch``, fitted to the peaks by least squares.

    ``residual`` is the largest relative error on the peaks; ``inf`` where fewer than two sizes
    were run, so that no slope is known.
    """

    fixed_bytes: int
    per_sample_bytes: float
    residual: float


def memory_line(trials: Iterable[Trial]) -> MemoryLine:
    """The line through the peaks of the trials that fit."""
    points = _points(trials)
    if len(points) < 2:
        return MemoryLine(points[0][1] if points else 0, 0.0, math.inf)
    mean_size = sum(size for size, _ in points) / len(points)
    mean_peak = sum(peak for _, peak in points) / len(points)
    spread = sum((size - mean_size) ** 2 for size, _ in points)
    slope = sum((size - mean_size) * (peak - mean_peak) for size, peak in points) / spread
    fixed = mean_peak - slope * mean_size
    residual = max(abs(fixed + slope * size - peak) / max(peak, 1) for size, peak in points)
    return MemoryLine(round(fixed), slope, residual)


@dataclass(frozen=True)
class Forecast:
    """The peak beyond the largest size that fits: a line, bent upwards where the slopes rise.

    Newton's form through the last two or three sizes that lie well apart:
    ``peak + slope · (B - size) + bend · (B - size) · (B - previous)``.
    ``disagreement`` is the relative difference of the last two slopes, ``inf`` with only one.
    """

    size: int
    previous: int
    peak: int
    slope: float
    bend: float
    disagreement: float

    @property
    def shows_a_line(self) -> bool:
        """Whether three sizes lie on one rising line."""
        return self.slope > 0 and self.disagreement <= SLOPE_TOLERANCE

    def largest_within(self, limit_bytes: float) -> float:
        """The size at which the forecast meets the limit; ``inf`` where it never does."""
        if self.slope <= 0:
            return math.inf
        room = limit_bytes - self.peak
        if room <= 0:
            return self.size
        half = self.slope + self.bend * (self.size - self.previous)
        return self.size + 2 * room / (half + math.sqrt(half**2 + 4 * self.bend * room))


def forecast(trials: Iterable[Trial]) -> Forecast | None:
    """The forecast from the trials that fit; ``None`` before two sizes lie well apart."""
    chosen = _well_apart(_points(trials))
    if len(chosen) < 2:
        return None
    (size, peak), (previous, peak_before) = chosen[:2]
    slope = (peak - peak_before) / (size - previous)
    if len(chosen) == 2 or slope <= 0:
        return Forecast(size, previous, peak, slope, 0.0, math.inf)
    oldest, oldest_peak = chosen[2]
    earlier = (peak_before - oldest_peak) / (previous - oldest)
    disagreement = abs(slope - earlier) / slope
    bends = slope > earlier and disagreement > SLOPE_TOLERANCE
    bend = (slope - earlier) / (size - oldest) if bends else 0.0
    return Forecast(size, previous, peak, slope, bend, disagreement)


def _points(trials: Iterable[Trial]) -> list[tuple[int, int]]:
    counting = (trial for trial in latest(trials) if trial.fits)
    return sorted((t.batch_size, t.peak_bytes) for t in counting if t.peak_bytes is not None)


def _well_apart(points: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The largest size, then each next smaller one that lies well apart; at most three."""
    chosen: list[tuple[int, int]] = []
    for size, peak in reversed(points):
        if (
            not chosen
            or size <= MAX_SIZE_RATIO * chosen[-1][0]
            or peak <= (1 - MIN_RELATIVE_RISE) * chosen[-1][1]
        ):
            chosen.append((size, peak))
    return chosen[:3]
