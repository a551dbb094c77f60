"""The pooled noise scale, and which batch size it makes faster."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from batchfinder import formulas
from batchfinder.errors import CannotBuildBatch, NoiseNotMeasured
from batchfinder.formulas import Moments
from batchfinder.monitor.history import Suggestion
from batchfinder.monitor.losses import Exchange
from batchfinder.noise import Point, Pooling
from batchfinder.protocols import Batch, LearningRateRule
from batchfinder.results import Candidate, NoiseScale
from batchfinder.run.batches import leaves, map_leaves, rows_in, size_along
from batchfinder.wording import Caveat

__all__ = [
    "FEWEST_LOOKS",
    "NoiseWindow",
    "Now",
    "count_of",
    "cut",
    "seconds_at",
    "steps_to_target",
    "suggestion",
    "why_whole",
]


WORTH = 0.9
"""A change is suggested where the rest takes at most this share of the time, at both ends of the
noise scale's interval."""


@dataclass(frozen=True)
class Now:
    """Where the training stands. ``batch_size`` counts samples per step over all devices."""

    step: int
    batch_size: int
    learning_rate: float
    noise: NoiseScale


def suggestion(
    candidates: Sequence[Candidate], now: Now, rule: LearningRateRule
) -> Suggestion | None:
    """The candidate with the shortest predicted rest, if that is worth a change.

    Time ∝ step time · (1 + φ/B) with φ the noise scale (McCandlish et al. 2018, arXiv:1812.06162);
    the step time of the present batch is interpolated between the candidates' where it is none of
    them. ``None`` where nothing is gained, or where the present batch lies outside of them.
    """
    times_of = {each.plan.global_batch: each.step_seconds for each in candidates}
    present = seconds_at(times_of, now.batch_size)
    if present is None:
        return None
    noise = now.noise

    def relative(candidate: Candidate, critical: float) -> float:
        there = candidate.step_seconds * steps_to_target(candidate.plan.global_batch, critical)
        return there / (present * steps_to_target(now.batch_size, critical))

    best = min(candidates, key=lambda candidate: relative(candidate, noise.value))
    times = [relative(best, critical) for critical in (noise.value, noise.low, noise.high)]
    if max(times) > WORTH:
        return None
    batch = best.plan.global_batch
    rate = rule(now.learning_rate, now.batch_size, batch, noise)
    said = Caveat(
        "monitor.suggestion",
        noise=noise.value,
        low=noise.low,
        high=noise.high,
        batch=batch,
        rate=rate,
        time=times[0],
        time_low=min(times[1:]),
        time_high=max(times[1:]),
    )
    return Suggestion(now.step, batch, rate, times[0], min(times[1:]), max(times[1:]), said)


def steps_to_target(batch: float, critical: float) -> float:
    """Steps to a target: 1 + φ/B, and 1/B where φ has no end."""
    return 1 + critical / batch if math.isfinite(critical) else 1 / batch


def seconds_at(times: Mapping[int, float], batch: int) -> float | None:
    """The step time at ``batch``, between the neighbours on both sides in proportion."""
    below = max((size for size in times if size <= batch), default=None)
    above = min((size for size in times if size >= batch), default=None)
    if below is None or above is None:
        return None
    if below == above:
        return times[below]
    share = (batch - below) / (above - below)
    return times[below] * (1 - share) + times[above] * share


FEWEST_LOOKS = 8
"""Looks before a noise scale is told: fewer leave too few blocks for an interval."""


class NoiseWindow:
    """The last ``looks`` points, as one noise scale with an interval.

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
            return pooling(tuple(self._points), micro_batch)
        except NoiseNotMeasured:
            return None


_PLAIN = (str, bytes, int, float, bool, type(None))


def count_of(batch: Batch) -> int | None:
    """Samples in a batch; ``None`` where that cannot be told."""
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], torch.Tensor):
        shape = batch[0].shape
        return shape[0] if shape else None
    try:
        return rows_in(batch)
    except CannotBuildBatch:
        return None


def why_whole(batch: Batch, parts: int) -> str:
    """Why ``batch`` cannot be cut into ``parts``, in a few words; empty where it can.

    Every tensor must have the samples along its first dimension: of one that has not, nobody
    knows which rows belong to which sample.
    """
    count = count_of(batch)
    if count is None or count < parts:
        return f"{count or 'no'} samples that can be counted"
    sized = 0
    for _, leaf in leaves(batch):
        size = size_along(leaf)
        if size is not None and size != count:
            return f"a part of it has {size} rows for {count} samples"
        if size is None and not isinstance(leaf, (torch.Tensor, np.ndarray, *_PLAIN)):
            return f"it holds a {type(leaf).__name__}"
        sized += size is not None
    return "" if sized else "no part of it has rows"


def cut(batch: Batch, parts: int) -> list[tuple[Batch, int]]:
    """``parts`` nearly equal parts with their counts; views, not copies, of tensors and arrays.

    Raises:
        CannotBuildBatch: where ``why_whole`` has a reason against it.
    """
    if why := why_whole(batch, parts):
        raise CannotBuildBatch(
            f"expected a batch that can be cut into {parts} micro-batches; {why}: cut it yourself "
            "from what the loader yields"
        )
    count = rows_in(batch)
    edges = [count * index // parts for index in range(parts + 1)]

    def rows(start: int, stop: int) -> Batch:
        def piece(leaf: Any) -> Any:
            return leaf if size_along(leaf) is None else leaf[start:stop]

        return map_leaves(piece, batch)

    return [(rows(start, stop), stop - start) for start, stop in itertools.pairwise(edges)]
