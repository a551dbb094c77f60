"""How sure a price is: noise scale, step times and learning-rate rule, drawn jointly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from batchfinder.recommend.candidates import Option
from batchfinder.recommend.situation import Situation
from batchfinder.recommend.step_time import Vector
from batchfinder.results import SAME, NoiseScale
from batchfinder.scaling import critical_batch_size

__all__ = ["Draws", "Spread", "drawn", "within_noise"]

DRAWS = 2000
OPEN_END = 16.0
"""How far above the estimate the 95% point is taken to lie where the interval has no upper end."""
RATE_SCATTER = 0.04
"""Steps that a rule's rate costs beyond those of the best rate: |normal| times this, relatively,
for every doubling or halving of the batch. Four doublings away the rules cost 9% on average
and 36% at worst (ten tasks, tests/benchmarks/regret.py)."""


@dataclass(frozen=True)
class Spread:
    """A 90% interval about a median."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Draws:
    """Joint draws: ``times`` of every option to the target, shape (n, DRAWS).

    ``penalties``, of the same shape, is what the learning-rate rule may cost at each batch,
    at least 1.
    """

    times: Vector
    penalties: Vector

    def relative_to(self, chosen: int) -> list[Spread]:
        """Every option's time over that of the option at index ``chosen``."""
        ratios = self.times / self.times[chosen]
        return _spreads(ratios)

    def slowness(self, option: int, other: int) -> Spread:
        """The time of one option over that of another, what the rule may cost at both included."""
        priced = self.times[[option, other]] * self.penalties[[option, other]]
        return _spreads(priced[:1] / priced[1])[0]

    def speedups(self, yours: int) -> list[Spread]:
        """The time of the option at index ``yours`` over every option's, the rule's cost included.

        At the user's own batch their rate is taken as it is.
        """
        ratios = self.times[yours] / (self.times * self.penalties)
        return _spreads(ratios)


def _spreads(rows: Vector) -> list[Spread]:
    points = np.quantile(rows, (0.05, 0.5, 0.95), axis=1)
    return [Spread(*map(float, column)) for column in points.T]


def drawn(
    found: Sequence[Option], situation: Situation, noise: NoiseScale | None, seed: int = 0
) -> Draws:
    """``DRAWS`` joint draws of noise scale, step times and the cost of the rule's rate.

    The noise scale is log-normal, each half with the width of its half of its interval; step
    times are log-normal with the covariance of the fitted curve, shared by the plans built on one
    micro-batch. Same seed, same answer.
    """
    random = np.random.default_rng(seed)
    critical = _critical_draws(noise, random)
    micro = [timing.micro_batch for timing in situation.timings]
    slowness = np.exp(random.standard_normal((DRAWS, len(micro))) @ _root(situation.covariance))
    size_of = {size: index for index, size in enumerate(micro)}
    cost = np.abs(random.standard_normal(DRAWS))
    times, penalties = [], []
    for option in found:
        batch = option.plan.global_batch
        factor = 1 / batch if critical is None else 1 + critical / batch
        slower = slowness[:, size_of[option.timing.micro_batch]]
        times.append(option.step_seconds * slower * factor)
        doublings = abs(math.log2(batch / situation.base_batch))
        penalties.append(np.exp(RATE_SCATTER * doublings * cost))
    return Draws(np.stack(times), np.stack(penalties))


def _root(covariance: Vector) -> Vector:
    """The symmetric square root of a covariance, (n, n).

    Of all roots the one that depends continuously on it: eigenvectors do not, where eigenvalues
    meet, so that draws made of those would differ between linear algebra libraries.
    """
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


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
        for option, spread in zip(found, spreads, strict=True)
        if spread.low <= 1 + SAME and spread.high >= 1 / (1 + SAME)
    ]
    return min(sizes), max(sizes)
