"""How sure the choice is: the intervals of noise scale and step times, carried through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from batchfinder.recommend.candidates import Option
from batchfinder.recommend.objectives import SAME
from batchfinder.results import NoiseScale
from batchfinder.scaling import critical_batch_size

__all__ = ["Spread", "spread", "within_noise"]

DRAWS = 2000
OPEN_END = 16.0
"""How far above the estimate the 95% point is taken to lie where the interval has no upper end."""


@dataclass(frozen=True)
class Spread:
    """One option's time over the chosen one's: its 90% interval."""

    low: float
    high: float


def spread(
    found: Sequence[Option], chosen: Option, noise: NoiseScale | None, seed: int = 0
) -> list[Spread]:
    """5% and 95% points of every option's time over the chosen one's.

    ``DRAWS`` joint draws of the noise scale (log-normal, each half with the width of its half of
    its interval) and of every micro-batch's step time (log-normal, independent between
    micro-batches, shared by the plans built on one). Same seed, same answer.
    """
    random = np.random.default_rng(seed)
    critical = _critical_draws(noise, random)
    slowness = {
        micro: np.exp(scale * random.standard_normal(DRAWS))
        for micro, scale in sorted({(o.timing.micro_batch, o.timing.spread) for o in found})
    }

    def times(option: Option) -> NDArray[np.float64]:
        batch = option.plan.global_batch
        factor = 1 / batch if critical is None else 1 + critical / batch
        return option.step_seconds * slowness[option.timing.micro_batch] * factor

    reference = times(chosen)
    points = (np.quantile(times(option) / reference, (0.05, 0.95)) for option in found)
    return [Spread(float(low), float(high)) for low, high in points]


def _critical_draws(
    noise: NoiseScale | None, random: np.random.Generator
) -> NDArray[np.float64] | None:
    middle = critical_batch_size(noise)
    if noise is None or middle is None:
        return None
    below = math.log(middle / noise.low) if noise.low > 0 else math.log(OPEN_END)
    above = math.log(noise.high / middle) if noise.is_bounded else math.log(OPEN_END)
    normal = random.standard_normal(DRAWS)
    deviations = NormalDist().inv_cdf((1 + noise.confidence) / 2)
    widths = np.where(normal < 0, max(0.0, below), max(0.0, above)) / deviations
    return np.asarray(middle * np.exp(widths * normal), dtype=np.float64)


def within_noise(found: Sequence[Option], spreads: Sequence[Spread]) -> tuple[int, int]:
    """Smallest and largest global batch whose time cannot be told from the chosen one's.

    Those whose interval meets 1 ± 3%; the chosen one's does.
    """
    sizes = [
        option.plan.global_batch
        for option, each in zip(found, spreads, strict=True)
        if each.low <= 1 + SAME and each.high >= 1 / (1 + SAME)
    ]
    return min(sizes), max(sizes)
