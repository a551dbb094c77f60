"""What is fixed along one warm-up, what was seen along it, and how that becomes one figure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from batchfinder import formulas
from batchfinder.errors import NoiseNotMeasured
from batchfinder.formulas import Moments
from batchfinder.meter import unmetered
from batchfinder.noise.gradient_hooks import EUCLIDEAN, Metric
from batchfinder.noise.prediction import (
    EUCLIDEAN_FACTOR,
    OPEN,
    PRECONDITIONED_FACTOR,
    Factor,
    outcomes,
)
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
    is_enough: Callable[[Sequence[NoiseScale]], bool] | None = None
    """Whether each of these noise scales decides the same."""
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
        seen = self._late(record)
        return None if seen is None else record.factor(seen)

    def _late(self, record: WarmupRecord) -> NoiseScale | None:
        """The noise scale of the second half of what was taken, as it is."""
        half = record.since(record.steps / 2)
        return None if len(half) < FEWEST_GROUPS else self.pooling(record)(half, self.size)

    def outcomes(self, record: WarmupRecord, usual: int) -> list[NoiseScale]:
        """What the whole warm-up of ``usual`` steps may come to predict, and what is predicted now.

        From the lower to the upper end of what was seen, its own error and the growth still to
        come included. Where nothing was seen yet, any noise scale.

        Raises:
            NoiseNotMeasured: where every gradient was zero.
        """
        seen = self._late(record)
        seen = seen or record.middle_estimate
        if seen is None:
            base = float(self.base_batch)
            seen = NoiseScale(base, 1.0, OPEN * base, 0, "none")
        return outcomes(seen, record.factor, record.steps, usual)

    def now(self) -> float:
        """By the clock of the deadline; 0 where there is none."""
        return 0.0 if self.deadline is None else self.deadline[0]()

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
    """Whether the warm-up ended as no outcome of the rest would have changed the choice."""
    metric: Metric = EUCLIDEAN
    caveats: list[Caveat] = field(default_factory=list)

    @property
    def preconditioned(self) -> bool:
        return self.metric is not EUCLIDEAN

    @property
    def middle_estimate(self) -> NoiseScale | None:
        """The median of ``estimates``; ``None`` where there are none."""
        ordered = sorted(self.estimates, key=lambda each: each.value)
        return ordered[len(ordered) // 2] if ordered else None

    @property
    def factor(self) -> Factor:
        """What leads from the noise scale of a warm-up to that of the run."""
        return PRECONDITIONED_FACTOR if self.preconditioned else EUCLIDEAN_FACTOR

    def since(self, step: float, until: float = math.inf) -> list[Point]:
        return [point for point in self.points if step < point.step <= until]
