"""One look at the noise scale: moments pooled over points of a trajectory, as a NoiseScale."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from batchfinder import formulas
from batchfinder.errors import NoiseNotMeasured
from batchfinder.formulas import Moments
from batchfinder.results import NoiseScale

BLOCKS = 10
"""Blocks of consecutive steps left out in turn. The noise scale wanders from step to step (by a
factor of 1.5 or so), and steps close together wander together."""


SAMPLES_ALIKE = (
    "the gradients of the samples do not differ, but for rounding: the noise scale is 0, and a "
    "larger batch only repeats what one sample says. Check that the loader's samples differ"
)


@dataclass(frozen=True)
class Point:
    """Moments at the weights after ``step`` optimizer steps."""

    step: int
    moments: Moments


@dataclass(frozen=True)
class Pooling:
    """How points become one figure."""

    estimator: str
    confidence: float = 0.90
    unit: str = "samples"
    population: int | None = None

    def __call__(self, points: Sequence[Point], micro_batch: int) -> NoiseScale:
        """Ratio of means, with the jackknife over blocks of consecutive steps.

        Raises:
            NoiseNotMeasured: where every gradient was zero.
        """
        whole = formulas.pool([point.moments for point in points])
        refuse_zero(whole)
        u = whole.reciprocal_within(self.population)
        blocks = _blocks([point.moments for point in points])
        low, high = -math.inf, math.inf
        if len(blocks) > 2:
            left = formulas.leave_one_block_out(blocks)
            low, high = formulas.jackknife(left, self.confidence, u)
        found = formulas.noise_interval(u, low, high, whole.samples)
        return NoiseScale(
            value=found.value,
            low=found.low,
            high=found.high,
            samples=round(whole.samples),
            estimator=self.estimator,
            unit=self.unit,
            gradient_squared=whole.gradient_squared,
            noise_trace=whole.noise_trace,
            micro_batch=micro_batch,
            after_steps=points[-1].step,
            caveats=said_of(whole),
        )


def said_of(found: Moments) -> tuple[str, ...]:
    """What moments give reason to say."""
    return (SAMPLES_ALIKE,) if found.is_alike else ()


def refuse_zero(found: Moments) -> None:
    """Raise ``NoiseNotMeasured`` where every gradient was zero."""
    if found.is_zero:
        raise NoiseNotMeasured(
            "every gradient was zero: expected some that are not, of which a noise scale could be "
            f"the ratio; found none over {found.samples:.0f} samples. Check that the loss depends "
            "on the parameters, and that it has not underflowed"
        )


def _blocks(moments: Sequence[Moments]) -> list[Sequence[Moments]]:
    count = min(BLOCKS, len(moments))
    edges = [round(index * len(moments) / count) for index in range(count + 1)]
    return [moments[a:b] for a, b in itertools.pairwise(edges)]
