"""The arithmetic of the gradient noise scale: numbers in, numbers out.

Notation: micro-batch ``j`` of ``b_j`` samples has the mean gradient ``g_j``; ``n = Σ b_j``;
``G`` is the gradient over the whole population and ``Σ`` the covariance of one sample's gradient.
The noise scale is ``tr Σ / |G|²`` (McCandlish et al. 2018, arXiv:1812.06162, equation 2.9).

Everything is built on its reciprocal ``u = |G|² / tr Σ``: the estimate of ``|G|²`` in its
numerator may well be zero or negative, and then ``u`` is still an ordinary number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np

__all__ = [
    "ROUNDING_NOISE",
    "Interval",
    "Moments",
    "finite_population",
    "from_gram",
    "jackknife",
    "leave_one_block_out",
    "leave_one_group_out",
    "leave_one_out",
    "mean_loss_ratio",
    "moments",
    "noise_interval",
    "pool",
    "student_quantile",
]

MOST_PER_SAMPLE = 4
"""Where the interval is open, the largest value claimed, as a multiple of the samples spent."""

ROUNDING_NOISE = 1e-3
"""A noise scale below this is rounding: the gradients of the samples do not differ."""

Vector: TypeAlias = "Sequence[float] | np.ndarray"


@dataclass(frozen=True)
class Moments:
    """Unbiased |G|² and tr Σ from ``groups`` independent gradients over ``samples`` samples."""

    gradient_squared: float
    noise_trace: float
    samples: float
    groups: int

    @property
    def reciprocal(self) -> float:
        """The reciprocal u = |G|² / tr Σ, at most 1 / ``ROUNDING_NOISE``; 0 where all is zero."""
        return float(_ratio(self.gradient_squared, self.noise_trace))

    def reciprocal_within(self, population: float | None) -> float:
        """``reciprocal`` for samples drawn without replacement; 0 where all is zero."""
        return 0.0 if self.is_zero else finite_population(self.reciprocal, population)

    @property
    def is_alike(self) -> bool:
        """Whether the gradients do not differ, but for rounding."""
        return self.reciprocal >= 1 / ROUNDING_NOISE

    @property
    def is_zero(self) -> bool:
        """Whether every gradient was zero, so that neither figure says anything."""
        return self.noise_trace <= 0 and self.gradient_squared <= 0


@dataclass(frozen=True)
class Interval:
    """A noise scale with its confidence limits; ``high`` may be ``inf``."""

    value: float
    low: float
    high: float

    @property
    def ratio(self) -> float:
        """Its width, high / low; ``inf`` where it is open above, 1 where there is no noise."""
        if self.low > 0:
            return self.high / self.low
        return 1.0 if self.high <= ROUNDING_NOISE else math.inf


def moments(sizes: Vector, squared_norms: Vector, squared_mean: float) -> Moments:
    """One-way analysis of variance of gradients taken at the same weights.

    ``sizes`` and ``squared_norms`` hold b_j and |g_j|²; ``squared_mean`` is |Σ b_j g_j / n|².
    With A = Σ b_j |g_j|² and D = n |ḡ|²: tr Σ = (A − D)/(k − 1) and |G|² = |ḡ|² − tr Σ / n.
    Sizes may differ; sizes of one make it the per-example U-statistic, and two equal sizes the
    pair of equation A.1 of McCandlish et al. 2018.

    Raises:
        ValueError: for fewer than two gradients, from which no variance follows.
    """
    b = np.asarray(sizes, dtype=np.float64)
    if len(b) < 2:
        raise ValueError(f"expected at least two gradients to compare; found {len(b)}")
    n = float(b.sum())
    spread = float(b @ np.asarray(squared_norms, dtype=np.float64)) - n * squared_mean
    trace = max(spread, 0.0) / (len(b) - 1)
    return Moments(squared_mean - trace / n, trace, n, len(b))


def from_gram(sizes: Vector, gram: np.ndarray) -> Moments:
    """``moments`` from the matrix of inner products g_i · g_j (k × k)."""
    b = np.asarray(sizes, dtype=np.float64)
    return moments(b, np.diag(gram), float(b @ gram @ b) / float(b.sum()) ** 2)


def leave_one_out(sizes: Vector, gram: np.ndarray) -> np.ndarray:
    """The reciprocals u with each of the k ≥ 3 gradients left out in turn, shape (k,).

    Same algebra as ``from_gram``, all rows at once: leaving out j takes b_j |g_j|² from A, and
    row and column j from the weighted sum of inner products.
    """
    b = np.asarray(sizes, dtype=np.float64)
    squares = np.diag(gram)
    weighted = gram @ b
    n = b.sum() - b
    mean = (b @ weighted - 2 * b * weighted + b**2 * squares) / n**2
    spread = float(b @ squares) - b * squares - n * mean
    trace = np.maximum(spread, 0.0) / (len(b) - 2)
    return _ratio(mean - trace / n, trace)


def _ratio(gradient_squared: np.ndarray | float, trace: np.ndarray | float) -> np.ndarray:
    """The reciprocals u, at most 1 / ``ROUNDING_NOISE``, so that no noise is still a number."""
    signal = np.asarray(gradient_squared, dtype=np.float64)
    out: np.ndarray = np.where(signal > 0, 1 / ROUNDING_NOISE, 0.0)
    np.divide(signal, trace, out=out, where=np.asarray(trace) > 0)
    return np.asarray(np.minimum(out, 1 / ROUNDING_NOISE))


def leave_one_group_out(sizes: Vector, squares: Vector, gram: np.ndarray) -> np.ndarray:
    """The reciprocals u of per-example moments, with each of the groups left out in turn.

    ``squares`` are the sums of |g_i|² within each group, ``gram`` the inner products of the
    groups' mean gradients.
    """
    b = np.asarray(sizes, dtype=np.float64)
    inside = np.asarray(squares, dtype=np.float64)
    weighted = gram @ b
    n = b.sum() - b
    mean = (b @ weighted - 2 * b * weighted + b**2 * np.diag(gram)) / n**2
    trace = np.maximum(inside.sum() - inside - n * mean, 0.0) / (n - 1)
    return _ratio(mean - trace / n, trace)


def leave_one_block_out(blocks: Sequence[Sequence[Moments]]) -> np.ndarray:
    """The reciprocals u pooled over all blocks but one, for each block in turn."""
    sums = np.array(
        [
            [
                math.fsum(point.samples * point.gradient_squared for point in block),
                math.fsum(point.samples * point.noise_trace for point in block),
            ]
            for block in blocks
        ]
    )
    rest = sums.sum(axis=0) - sums
    return _ratio(rest[:, 0], rest[:, 1])


def pool(points: Sequence[Moments]) -> Moments:
    """Many points of a trajectory as one: means of |G|² and of tr Σ, weighted by samples.

    The ratio of the means is taken afterwards, once. The mean of the ratios would have a heavy
    tail, as single points have |G|² near or below zero.

    Raises:
        ValueError: where there is no point.
    """
    if not points:
        raise ValueError("expected at least one point to pool; found none")
    weights = np.array([point.samples for point in points])
    weights = weights / weights.sum()
    return Moments(
        float(weights @ [point.gradient_squared for point in points]),
        float(weights @ [point.noise_trace for point in points]),
        float(sum(point.samples for point in points)),
        sum(point.groups for point in points),
    )


def finite_population(u: float, population: float | None) -> float:
    """The reciprocal u when batches are drawn without replacement from ``population`` samples.

    Distinct samples of a finite set repel: the mean of g_i · g_j over pairs i ≠ j is
    |G|² − tr Σ / N, so that |G|² grows by tr Σ / N, and u by 1/N. None stands for a stream.
    """
    return u if population is None else u + 1.0 / population


def jackknife(replicates: Vector, confidence: float, centre: float) -> tuple[float, float]:
    """Confidence limits about ``centre`` from delete-one replicates, by Student's t (k − 1)."""
    values = np.asarray(replicates, dtype=np.float64)
    k = len(values)
    deviation = float(np.sqrt((k - 1) / k * np.sum((values - values.mean()) ** 2)))
    reach = student_quantile(0.5 + confidence / 2, k - 1) * deviation
    return centre - reach, centre + reach


def noise_interval(u: float, u_low: float, u_high: float, samples: float) -> Interval:
    """The noise scale 1/u and its limits.

    Where ``u_low`` is not above zero, |G|² is zero within error: ``high`` is ``inf``, ``low``
    claims at most ``samples`` and the value at most four times that. From n samples u is known to
    about √(2 / d) / n, with d the effective dimension of the noise, often near 100: noise scales
    above 4n are within that error of infinity. Where the gradients do not differ, it lies between
    0 and ``ROUNDING_NOISE``.
    """
    if u >= 1 / ROUNDING_NOISE:
        return Interval(ROUNDING_NOISE, 0.0, ROUNDING_NOISE)
    if u_low > 0:
        return Interval(1 / u, 1 / u_high, 1 / u_low)
    low = min(1 / u_high if u_high > 0 else math.inf, samples)
    value = min(1 / u if u > 0 else math.inf, MOST_PER_SAMPLE * samples)
    return Interval(max(value, low), low, math.inf)


def student_quantile(probability: float, freedom: int) -> float:
    """Student's t quantile, to about three digits (Cornish and Fisher 1937; exact for 1, 2, ∞)."""
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        spread = 2 * probability - 1
        return spread * math.sqrt(2 / (1 - spread**2))
    z, v = NormalDist().inv_cdf(probability), float(freedom)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v ** (power + 1) for power, term in enumerate(terms))


def mean_loss_ratio(whole: float, halves: Sequence[float]) -> float:
    """Loss of a batch over the mean of its halves' losses.

    1 for a mean over independent samples, 2 for a sum, and something else where samples meet in
    the loss (contrastive losses, in-batch negatives).
    """
    mean = math.fsum(halves) / len(halves)
    return whole / mean if mean else (1.0 if whole == 0 else math.inf)
