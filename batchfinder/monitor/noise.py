"""The noise scale along a training: one point for each look, pooled over the last ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

import numpy as np

from batchfinder import formulas
from batchfinder.errors import NoiseNotMeasured
from batchfinder.formulas import Moments
from batchfinder.monitor.ranks import Exchange
from batchfinder.noise import Point, Pooling
from batchfinder.results import NoiseScale

__all__ = ["FEWEST_LOOKS", "NoiseWindow", "alike"]

FEWEST_LOOKS = 8
"""Looks before a noise scale is told: fewer leave too few blocks for an interval."""


DRIFT = 2.0
"""By how much the square of the gradient may have changed within a window."""


def alike(points: Sequence[Point]) -> Sequence[Point]:
    """The last points, back to where the gradient's square was ``DRIFT`` times what it is now.

    A ratio of means goes by the looks with the largest gradients. While those fall tenfold, that
    would be the noise scale of long ago. Squares are medians over ``FEWEST_LOOKS`` points, so that
    one look does not decide, and so many are always kept.
    """
    size = points[-1].moments.samples
    squares = [
        each.moments.noise_trace / size + max(each.moments.gradient_squared, 0.0) for each in points
    ]
    start = len(points) - FEWEST_LOOKS
    now = median(squares[start:])
    while start > 0:
        before = median(squares[start - 1 : start - 1 + FEWEST_LOOKS])
        if not now / DRIFT <= before <= now * DRIFT:
            # half of the looks in the last median may still be of another size
            return points[min(start + FEWEST_LOOKS // 2, len(points) - FEWEST_LOOKS) :]
        start -= 1
    return points[start:]


class NoiseWindow:
    """The last ``looks`` points that are alike, as one noise scale with an interval.

    The estimator is the finder's: |G|² and tr(Σ) from the gradients of the micro-batches of one
    step (McCandlish et al. 2018, arXiv:1812.06162, appendix A.1), the ratio of their means over
    the window, and the jackknife over blocks of consecutive looks.
    """

    def __init__(self, looks: int, population: int | None, ranks: Exchange) -> None:
        self._population = population
        self._ranks = ranks
        self._points: deque[Point] = deque(maxlen=looks)
        self._metric = ""

    @property
    def alone(self) -> bool:
        """Whether no other rank's micro-batches are counted in."""
        return self._ranks.alone

    def add(
        self, step: int, sizes: Sequence[float], rows: np.ndarray, metric: str
    ) -> Moments | None:
        """The moments of one look, from sketches (k, size) of mean gradients over ``sizes``.

        Every rank must call this at the same looks, with no rows where it has none. ``None``
        where there are fewer than two gradients, or one that is not finite.
        """
        if metric != self._metric:
            self._points.clear()  # lengths in two metrics have no mean
            self._metric = metric
        if not self._ranks.alone:
            both = np.column_stack([np.asarray(sizes, float), rows])
            both = self._ranks.gather(both)
            sizes, rows = both[:, 0].tolist(), both[:, 1:]
        if len(sizes) < 2 or not np.isfinite(rows).all():
            return None
        found = formulas.from_gram(sizes, rows @ rows.T)
        self._points.append(Point(step, found))
        return found

    def noise_scale(self, micro_batch: int) -> NoiseScale | None:
        """The window as one figure; ``None`` before ``FEWEST_LOOKS``, or without any gradient."""
        if len(self._points) < FEWEST_LOOKS:
            return None
        name = " ".join(filter(None, ("micro-batch variance in training", self._metric)))
        pooling = Pooling(name, population=self._population)
        try:
            return pooling(alike([*self._points]), micro_batch)
        except NoiseNotMeasured:
            return None
