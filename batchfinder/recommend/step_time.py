"""Step times as a curve: a floor, a slope, and how far each size lies off it. Numbers only.

t(B) = (floor^p + (slope · B)^p)^(1/p): overhead at small batches, work in proportion at large
ones; p = 1 adds the two, a large p hides the smaller. What was measured is moved toward the curve
by the share of its variance that is measurement noise, an empirical Bayes estimate (Efron and
Morris 1975, doi:10.1080/01621459.1975.10479864): the smallest of many noisy prices is small by
luck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from batchfinder.timing import interval_rank

__all__ = ["StepTimes", "fitted", "variances"]

Vector: TypeAlias = "NDArray[np.float64]"

FEWEST_SIZES = 4
LEAST_MISFIT = 0.03
"""Relative: no device's times are closer to a curve than this."""
SHARPNESS = (1.0, 1.5, 2.0, 4.0)
"""Values of p that are averaged over, each as likely as its fit makes it."""
USUAL_SCATTER, USUAL_COUNT = 0.1, 2
"""Relative standard deviation of one visit, before any was seen, and the visits it counts for."""
SHARED_COUNT = 4
"""Visits that the scatter of all sizes together counts for at each."""
OUTLIER = 2.0
"""Residuals beyond this many standard deviations count less, in proportion."""
ITERATIONS = 30


@dataclass(frozen=True)
class StepTimes:
    """Estimates: ``seconds`` (n,) and the covariance of their logarithms (n, n)."""

    seconds: Vector
    covariance: Vector

    @property
    def spread(self) -> Vector:
        """Relative standard deviation of each, shape (n,)."""
        return np.asarray(np.sqrt(np.diag(self.covariance)), dtype=np.float64)


def variances(widths: Sequence[float], visits: Sequence[int]) -> Vector:
    """Variance of the logarithm of each size's median, shape (n,).

    Args:
        widths: of each 90% interval, over its median; the whole range below five visits.
        visits: how many values each median is of. A size with one has no interval of its own
            and takes the scatter of the others; 0 says that the interval is to be believed.
    """
    width = np.asarray(widths, dtype=np.float64)
    count = np.asarray(visits, dtype=np.float64)
    believed = (width / 3.29) ** 2  # a 90% interval is 2 · 1.645 standard deviations wide
    if not count.any():
        return np.asarray(believed, dtype=np.float64)
    own = np.array([_of_one_visit(w, int(n)) for w, n in zip(width, count, strict=True)])
    freedom = np.maximum(count - 1, 0)
    shared = (USUAL_COUNT * USUAL_SCATTER**2 + freedom @ own) / (USUAL_COUNT + freedom.sum())
    one_visit = (SHARED_COUNT * shared + freedom * own) / (SHARED_COUNT + freedom)
    # The variance of the median of n normal values, within 3% but for n = 2.
    of_median = math.pi / 2 / (count + math.pi / 2 - 1)
    return np.asarray(np.where(count > 0, of_median * one_visit, believed), dtype=np.float64)


def _of_one_visit(width: float, visits: int) -> float:
    """The variance of one visit, from the interval of their median.

    The ends are order statistics, whose expected distance in standard deviations is Blom's
    (1958): twice the quantile at (n − r + 1 − 3/8) / (n + 1/4).
    """
    if visits < 2:
        return 0.0
    rank = visits - interval_rank(visits) + 1
    reach = NormalDist().inv_cdf((rank - 0.375) / (visits + 0.25))
    return (width / (2 * reach)) ** 2


def fitted(
    sizes: Sequence[float], seconds: Sequence[float], noise: Vector, visits: Sequence[int]
) -> StepTimes:
    """The times with their noise shared out; below four sizes, and without noise, as they are.

    How far true times lie off the curve is read from the residuals of sizes timed more than once,
    so that a device whose times are no such curve keeps its own. Where every size was timed only
    once, what is off the curve counts as noise.

    Args:
        sizes: batch sizes, in increasing order.
        seconds: the median time at each.
        noise: the variance of the logarithm of each.
        visits: how many values each is the median of, 0 where that is not known.
    """
    measured = np.asarray(seconds, dtype=np.float64)
    if len(measured) < FEWEST_SIZES or not noise.any():
        return StepTimes(measured, np.diag(noise))
    batches, logs = np.asarray(sizes, dtype=np.float64), np.log(measured)
    curve, between = _averaged(batches, logs, noise)
    again = np.asarray(visits) != 1
    if again.any():
        residual = logs - curve
        misfit = _misfit(residual[again], noise[again], chance=1)
        at_most = _misfit(residual[again], noise[again], chance=-1)
    else:
        noise = np.maximum(noise, float(np.mean((logs - curve) ** 2)))
        curve, between = _averaged(batches, logs, noise)
        residual, misfit, at_most = logs - curve, LEAST_MISFIT**2, LEAST_MISFIT**2
    kept = misfit / (noise + misfit)
    far = np.sqrt(noise + misfit) * OUTLIER
    likely = np.minimum(1.0, far / np.maximum(np.abs(residual), 1e-12))
    pulled = kept * residual * (kept + (1 - kept) * likely)  # an outlier is noise, where there is
    share = 1 - kept
    # What the small misfit that moves the times leaves out may still be there.
    left = at_most * noise / (at_most + noise)
    covariance = share[:, None] * between * share[None, :] + np.diag(left)
    return StepTimes(np.exp(curve + pulled), np.asarray(covariance))


def _averaged(sizes: Vector, logs: Vector, noise: Vector) -> tuple[Vector, Vector]:
    """The curve, (n,), and its covariance, (n, n), averaged over p."""
    fits = _fits(sizes, logs, noise, np.array(SHARPNESS))
    weights = np.exp(-(fits.costs - fits.costs.min()) / 2)
    weights = weights / weights.sum()
    curve = weights @ fits.curves
    off = fits.curves - curve
    between = off.T @ (weights[:, None] * off)
    within = np.tensordot(weights, fits.covariances, axes=1)
    return curve, within + between


def _misfit(residual: Vector, noise: Vector, *, chance: int) -> float:
    """Variance of true times about the curve: what the noise leaves of the residuals' variance.

    The noise is taken one standard error of its mean larger (``chance`` 1) or smaller (-1).
    """
    scale = np.sqrt(noise + LEAST_MISFIT**2)
    clipped = np.clip(residual, -3 * scale, 3 * scale)
    share = max(0.0, 1 + chance * math.sqrt(2 / len(residual)))
    return max(LEAST_MISFIT**2, float(np.mean(clipped**2 - share * noise)))


@dataclass(frozen=True)
class _Fits:
    """One for each p: curves (k, n), covariances (k, n, n), costs (k,)."""

    curves: Vector
    covariances: Vector
    costs: Vector


def _fits(sizes: Vector, logs: Vector, noise: Vector, sharpness: Vector) -> _Fits:
    """Floor and slope of least relative error, outliers counting less, at every p."""
    variance = noise + LEAST_MISFIT**2
    far = OUTLIER * np.sqrt(variance)
    places = np.log(sizes)
    parameters = np.tile([logs.min(), logs[-1] - places[-1]], (len(sharpness), 1))
    weights = np.zeros((len(sharpness), len(sizes)))
    going = np.arange(len(sharpness))
    for _ in range(ITERATIONS):
        curves, jacobians = _curves(places, parameters[going], sharpness[going])
        residuals = logs - curves
        weights[going] = np.minimum(1, far / np.maximum(np.abs(residuals), 1e-12)) / variance
        weighted = weights[going, None] * jacobians
        slopes = weighted @ residuals[:, :, None]
        changes = np.linalg.solve(_normal(weighted, jacobians), slopes)[:, :, 0]
        parameters[going] += np.clip(changes, -1, 1)
        going = going[np.abs(changes).max(axis=1) >= 1e-6]
        if not len(going):
            break
    curves, jacobians = _curves(places, parameters, sharpness)
    inverse = np.linalg.inv(_normal(weights[:, None] * jacobians, jacobians))
    return _Fits(
        curves,
        jacobians.transpose(0, 2, 1) @ inverse @ jacobians,
        np.sum(weights * (logs - curves) ** 2, axis=1),
    )


def _normal(weighted: Vector, jacobians: Vector) -> Vector:
    """The normal matrices, (k, 2, 2), with a small ridge."""
    return np.asarray(weighted @ jacobians.transpose(0, 2, 1) + 1e-3 * np.eye(2))


def _curves(places: Vector, parameters: Vector, sharpness: Vector) -> tuple[Vector, Vector]:
    """Logarithms of the times, (k, n), and their derivatives by log floor and slope, (k, 2, n)."""
    p = sharpness[:, None]
    floor, rise = p * parameters[:, :1], p * (parameters[:, 1:] + places)
    total = np.logaddexp(floor, rise)
    share = np.exp(floor - total)
    return np.asarray(total / p), np.stack([share, 1 - share], axis=1)
