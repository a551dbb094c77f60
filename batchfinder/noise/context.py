"""What is fixed along one warm-up, what was seen along it, and how that becomes one figure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from batchfinder import formulas
from batchfinder.errors import NoiseNotMeasured
from batchfinder.formulas import Moments
from batchfinder.meter import unmetered
from batchfinder.noise.gradient_hooks import EUCLIDEAN, Metric
from batchfinder.noise.preflight import NORM_BATCH, Hazards
from batchfinder.noise.sampling import (
    Allowed,
    FreshBatches,
    any_size,
    cut,
    in_all,
    nearest_allowed,
    samples_in,
)
from batchfinder.protocols import Advance, BatchSource, Clock, TrainStep, WarmupEstimator
from batchfinder.results import BatchPlan, NoiseScale
from batchfinder.run.attempt import attempt
from batchfinder.wording import Caveat

FEWEST_GROUPS = 4
"""Micro-batches compared at one moment, and points pooled to one figure."""

BLOCKS = 10
"""Blocks of consecutive steps left out in turn. The noise scale wanders from step to step (by a
factor of 1.5 or so), and steps close together wander together."""


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
            confidence=self.confidence,
            caveats=said_of(whole),
        )


def said_of(found: Moments) -> tuple[Caveat, ...]:
    """What moments give reason to say."""
    return (Caveat("noise.alike"),) if found.is_alike else ()


def may_grow(found: NoiseScale, taken: int, steps: int) -> NoiseScale:
    """What was seen after ``taken`` of ``steps`` steps, with room for what the rest would add."""
    return replace(found, high=found.high * max(1.0, steps / taken))


def refuse_zero(found: Moments) -> None:
    """Raise ``NoiseNotMeasured`` where every gradient was zero."""
    if found.is_zero:
        raise NoiseNotMeasured(
            f"expected gradients that are not zero; found that every gradient was zero over "
            f"{found.samples:.0f} samples: check that the loss depends on the parameters, and that "
            "it does not underflow"
        )


def _blocks(moments: Sequence[Moments]) -> list[Sequence[Moments]]:
    count = min(BLOCKS, len(moments))
    edges = [round(index * len(moments) / count) for index in range(count + 1)]
    return [moments[a:b] for a, b in itertools.pairwise(edges)]


@dataclass(frozen=True)
class Factor:
    """How much larger the critical batch size of a run is than the noise scale late in a warm-up.

    The noise scale grows while the loss falls, and the critical batch size is its average over
    the run (McCandlish et al. 2018, appendix D). ``spread`` is the factor within which nine of
    ten tasks fall; it joins the interval of the measurement as an independent error of the
    logarithm. Over seven small tasks the prediction after 200 steps is off by 1.9x (rms), against
    2.7x without the optimizer's metric; carrying on the growth seen in the warm-up made it worse
    (2.6x and 3.6x). All from ``tests/benchmarks/noise_growth.py``.
    """

    value: float
    spread: float

    def __call__(self, found: NoiseScale) -> NoiseScale:
        """The run's noise scale, from that of the second half of a warm-up."""
        return replace(
            found,
            value=found.value * self.value,
            low=found.low * self.value / self._widened(found.low, found.value),
            high=found.high * self.value * self._widened(found.value, found.high),
        )

    def _widened(self, low: float, high: float) -> float:
        """What the spread adds to the ratio of two limits, where they have one."""
        if not 0 < low <= high < math.inf:
            return self.spread
        own = math.log(high / low)
        return math.exp(math.hypot(math.log(self.spread), own) - own)


EUCLIDEAN_FACTOR = Factor(2.0, 3.0)
PRECONDITIONED_FACTOR = Factor(1.5, 3.0)


@dataclass(frozen=True)
class WarmupContext:
    """What stays the same along one warm-up."""

    step: TrainStep
    source: BatchSource
    base_batch: int
    micro_batch: int
    estimator: WarmupEstimator
    hazards: Hazards
    deadline: tuple[Clock, float] | None
    seed: int
    advance: Advance = unmetered
    allowed: Allowed = any_size
    """Which micro-batches may reach the step, beside the user's own."""
    is_enough: Callable[[NoiseScale], bool] | None = None
    """Whether a prediction as uncertain as this one decides what is to be decided."""
    largest: float = math.inf
    """The largest micro-batch for which memory may last beside gradients and their sketches."""

    @property
    def splits(self) -> bool:
        """Whether training steps may be cut smaller than the user's own micro-batch."""
        if not self.step.ranks.alone:  # whose gradients are compared, the steps left whole
            return self.estimator.along_training
        return (
            self.estimator.along_training
            and not self.hazards.batch_norm
            and len(self.parts(2)) >= 2
        )

    @property
    def size(self) -> int:
        """The micro-batch that the user's training works with."""
        return min(self.base_batch, self.micro_batch)

    def parts(self, pieces: int) -> list[int]:
        """The micro-batches of one optimizer step, at least ``pieces`` where sizes allow."""
        return cut(self.base_batch, self.micro_batch, pieces, self.allowed)

    def smaller(self, size: int) -> int | None:
        """The next size to try where memory ran out with ``size``; ``None`` below the smallest."""
        return nearest_allowed(size // 2, self.allowed, size // 2)

    @property
    def largest_estimate(self) -> int:
        """The largest micro-batch for an estimate beside the training."""
        return int(max(1, min(self.micro_batch, self.largest)))

    def estimate_size(self, samples: int) -> int:
        """A micro-batch as large as in training, but never so large that few can be compared.

        Where no such size is allowed, the smallest that is.
        """
        most = self.largest_estimate
        if self.source.ceiling is not None:
            most = min(most, max(1, self.source.ceiling // (2 * FEWEST_GROUPS)))
        if self.hazards.batch_norm:
            wanted = min(max(NORM_BATCH, self.base_batch), most)
        else:
            wanted = max(1, min(self.size, most, samples // FEWEST_GROUPS))
        return nearest_allowed(wanted, self.allowed, self.largest_estimate) or self.size

    def pooling(self, record: WarmupRecord) -> Pooling:
        name = " ".join(filter(None, (self.estimator.name, record.metric.name)))
        population = in_all(samples_in(self.source), self.step.ranks.replicas)
        return Pooling(name, self.estimator.confidence, self.source.unit, population)

    def predict(self, record: WarmupRecord) -> NoiseScale | None:
        """The run's noise scale from what is pooled so far; ``None`` where that is too little.

        Raises:
            NoiseNotMeasured: where every gradient was zero.
        """
        factor = PRECONDITIONED_FACTOR if record.preconditioned else EUCLIDEAN_FACTOR
        half = record.since(record.steps / 2)
        if len(half) < FEWEST_GROUPS:
            return None
        return factor(self.pooling(record)(half, self.size))

    def out_of_time(self) -> bool:
        return self.deadline is not None and self.deadline[0]() > self.deadline[1]

    def estimate(self, estimator: WarmupEstimator, size: int, salt: int) -> NoiseScale:
        """``estimator`` at the weights as they are, on samples shuffled by ``salt``.

        Raises:
            NoiseNotMeasured: where there is none.
            Shortage: where there is no memory for it.
        """
        batches = FreshBatches.shuffled(
            self.source,
            size,
            self.seed + 7919 * (salt + 1),
            sum_reduced=self.hazards.sum_reduced,
            deadline=self.deadline,
            advance=self.advance,
            wanted=estimator.samples // size,
        )
        with attempt(self.step, size):
            return estimator.estimate(self.step, batches, BatchPlan(size))


@dataclass
class WarmupRecord:
    """What was seen along the warm-up."""

    points: list[Point] = field(default_factory=list)
    estimates: list[NoiseScale] = field(default_factory=list)
    """Made with the weights held still, on samples beyond those trained on."""
    steps: int = 0
    enough: bool = False
    """Whether the warm-up ended as its interval was narrow enough for the choice."""
    metric: Metric = EUCLIDEAN
    caveats: list[Caveat] = field(default_factory=list)

    @property
    def preconditioned(self) -> bool:
        return self.metric is not EUCLIDEAN

    def since(self, step: float, until: float = math.inf) -> list[Point]:
        return [point for point in self.points if step < point.step <= until]
