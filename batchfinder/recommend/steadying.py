"""Noisy step times drawn toward the line through all of them, steady ones left as they are.

The smallest of many noisy prices is small by luck. Each time is moved toward the line a + b · B
by the share of its variance that is measurement noise: an empirical Bayes estimate (Efron and
Morris 1975, doi:10.1080/01621459.1975.10479864). How far true times lie off the line is read from
the residuals themselves, so that a device whose times are no line keeps its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from batchfinder.recommend.situation import Timing

__all__ = ["steadied"]

FEWEST = 4
LEAST_MISFIT = 0.03
"""Relative: no device's times are closer to a line than this."""


def steadied(timings: Sequence[Timing]) -> list[Timing]:
    """Timings whose noise is shared out. Below four sizes, and without noise, the same."""
    noise = np.array([timing.spread for timing in timings]) ** 2
    if len(timings) < FEWEST or not noise.any():
        return list(timings)
    measured = np.array([t.forward_backward + t.update for t in timings])
    line = _line(np.array([t.micro_batch for t in timings], dtype=float), measured, noise)
    residual = np.log(measured / line)
    misfit = max(LEAST_MISFIT**2, float(np.mean(residual**2 - noise)))
    kept = misfit / (noise + misfit)
    factors = np.exp((kept - 1) * residual)
    return [
        _scaled(timing, float(factor), math.sqrt(share))
        for timing, factor, share in zip(timings, factors, kept, strict=True)
    ]


def _line(
    sizes: NDArray[np.float64], seconds: NDArray[np.float64], noise: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The line of least relative error, noisy sizes counting less; neither end below zero."""
    weights = 1 / np.sqrt(noise + LEAST_MISFIT**2)
    columns = np.stack([np.ones_like(sizes), sizes], axis=1) * (weights / seconds)[:, None]
    (intercept, slope), *_ = np.linalg.lstsq(columns, weights, rcond=None)
    if intercept < 0 or slope < 0:
        kept = 1 if intercept < 0 else 0
        column = columns[:, kept]
        only = float(column @ weights / (column @ column))
        intercept, slope = (0.0, only) if kept else (only, 0.0)
    return np.asarray(intercept + slope * sizes, dtype=np.float64)


def _scaled(timing: Timing, factor: float, narrower: float) -> Timing:
    return replace(
        timing,
        forward_backward=timing.forward_backward * factor,
        update=timing.update * factor,
        spread=timing.spread * narrower,
    )
