"""The noise scale from the scatter of micro-batch gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from batchfinder import formulas
from batchfinder.errors import InvalidArgument, NoiseNotMeasured
from batchfinder.formulas import Interval, Moments
from batchfinder.keywords import options_named
from batchfinder.noise.context import refuse_zero, said_of
from batchfinder.noise.gradient_hooks import EUCLIDEAN, Metric, metric_of
from batchfinder.noise.reduced import GradientReader, gradient_reader
from batchfinder.noise.sampling import in_all
from batchfinder.protocols import Batch, MicroBatches, NoiseEstimator, TrainStep, WarmupEstimator
from batchfinder.results import BatchPlan, NoiseScale
from batchfinder.wording import Caveat

SAMPLES = 1024
"""Samples that one estimate may spend, where the estimator does not say."""


@dataclass(frozen=True)
class OnlyEstimates:
    """An estimator that has ``estimate`` and no more, kept within its budget by its batches."""

    estimator: NoiseEstimator
    samples: int = SAMPLES
    least: int = 1
    along_training: bool = False
    confidence: float = 0.90
    warmup_steps: int | None = None

    @property
    def name(self) -> str:
        return self.estimator.name

    def with_budget(self, samples: int, *, at_least: int) -> Self:
        return replace(self, samples=samples, least=at_least)

    def in_optimizer_metric(self) -> Self:
        return self

    def estimate(self, step: TrainStep, batches: MicroBatches, plan: BatchPlan) -> NoiseScale:
        most = max(self.least, self.samples // plan.micro_batch)
        return self.estimator.estimate(step, batches.first(most), plan)


def warmup_estimator(given: NoiseEstimator) -> WarmupEstimator:
    """``given`` itself where it is a whole ``WarmupEstimator``, else with what it lacks."""
    return given if isinstance(given, WarmupEstimator) else OnlyEstimates(given)


FEWEST = 3
"""Gradients needed for an interval: with one left out, two must remain."""

NARROW = 4.0
"""A factor between an interval's ends above which it is wide: ± a factor of two."""


class TooFew(NoiseNotMeasured):
    """Too few gradients for an interval: the batches or the time ended, or they were not finite.

    Way out: more samples, or more time.
    """


@options_named
@dataclass(frozen=True)
class MicroBatchVariance:
    """One-way analysis of variance over micro-batches, with a jackknife interval on 1/B.

    Unbiased tr Σ and |G|² from the norms of the micro-batches' gradients and of their mean
    (McCandlish et al. 2018, arXiv:1812.06162, appendix A.1, for any number of batches of any
    sizes). Norms are read while gradients accumulate in ``.grad``: no gradient is stored twice.
    The interval is the delete-one jackknife on |G|² / tr Σ, from sketches of the gradients.

    At least ``micro_batches`` are drawn, then more until the ends of the interval are within a
    factor of ``narrow_enough`` (0 for never), ``samples`` are used, or the batches end. With
    ``preconditioned``, gradients are measured as the optimizer scales them (``SecondMoments``) if
    it has such a state; this is not the textbook tr Σ / |G|², but closer to the critical batch size
    of Adam. The micro-batches of other ranks count too. ``warmup_steps`` is the number of optimizer
    steps during the measurement, which are undone afterwards. By default, ``find_batch_size`` takes
    up to 200, as time allows (50 if the optimizer is in the middle of a training), and
    ``gradient_noise_scale`` none.

    Raises:
        InvalidArgument: if a value is out of range.
    """

    micro_batches: int = 16
    samples: int = 4096
    confidence: float = 0.90
    narrow_enough: float = NARROW
    sketch_size: int = 1024
    seed: int = 0
    preconditioned: bool = False
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        if self.micro_batches < FEWEST:
            raise InvalidArgument(
                f"expected micro_batches of at least {FEWEST}, which an interval needs; found "
                f"{self.micro_batches}"
            )
        if not isinstance(self.samples, int) or self.samples < 1:
            raise InvalidArgument(
                f"expected samples to be a whole number of at least 1; found {self.samples!r}: "
                "leave it out to stop where the interval is narrow enough"
            )
        steps = self.warmup_steps
        if steps is not None and (not isinstance(steps, int) or steps < 0):
            raise InvalidArgument(
                f"expected warmup_steps to be a whole number, 0 or more; found {steps!r}: leave "
                "it out for the default"
            )
        if not 0 < self.confidence < 1:
            raise InvalidArgument(f"expected a confidence in (0, 1); found {self.confidence}")

    @property
    def name(self) -> str:
        return "micro-batch variance"

    @property
    def along_training(self) -> bool:
        return True

    def with_budget(self, samples: int, *, at_least: int) -> Self:
        return replace(self, samples=samples, micro_batches=at_least)

    def in_optimizer_metric(self) -> Self:
        return replace(self, preconditioned=True)

    def estimate(self, step: TrainStep, batches: MicroBatches, plan: BatchPlan) -> NoiseScale:
        """The noise scale at the weights as they are; gradients are ``None`` afterwards.

        ``batches`` are micro-batches of distinct samples, such as ``FreshBatches``.

        Raises:
            NoiseNotMeasured: where fewer than three micro-batches gave finite gradients, or every
                gradient was zero.
        """
        metric = metric_of(step) if self.preconditioned else EUCLIDEAN
        reader = gradient_reader(step, metric, sketch_size=self.sketch_size, seed=self.seed)
        gathered = _Gathered(batches, step, reader, metric)
        step.zero_grad()
        try:
            with reader:
                enough = self.micro_batches
                for batch in batches:
                    step.forward_backward(batch, batches.weight(batch))
                    gathered.add(batch)
                    if self._spent(gathered):
                        break
                    if len(gathered.sizes) >= enough:
                        if self._judge(gathered)[1].ratio <= self.narrow_enough:
                            break
                        enough = math.ceil(enough * 1.5)
            return self._conclude(gathered, plan)
        finally:
            step.zero_grad()

    def _spent(self, gathered: _Gathered) -> bool:
        spent = gathered.spent + (gathered.spent / max(gathered.tried, 1))
        return gathered.tried >= self.micro_batches and spent > self.samples

    def _judge(self, gathered: _Gathered) -> tuple[Moments, Interval]:
        sizes, gram = gathered.everywhere()
        point = gathered.moments(sizes, gram)
        u = point.reciprocal_within(gathered.population)
        left = formulas.leave_one_out(sizes, gram)
        low, high = formulas.jackknife(left, self.confidence, u)
        return point, formulas.noise_interval(u, low, high, point.samples)

    def _conclude(self, gathered: _Gathered, plan: BatchPlan) -> NoiseScale:
        if len(gathered.sizes) < FEWEST:
            raise TooFew(
                f"expected at least {FEWEST} micro-batches of {plan.micro_batch} with finite "
                f"gradients; found {len(gathered.sizes)} of {gathered.tried}"
            )
        point, interval = self._judge(gathered)
        refuse_zero(point)
        wide = interval.ratio > (self.narrow_enough or NARROW)
        return NoiseScale(
            value=interval.value,
            low=interval.low,
            high=interval.high,
            samples=gathered.spent,
            estimator=" ".join(filter(None, (self.name, gathered.metric.name))),
            unit=gathered.batches.unit,
            gradient_squared=point.gradient_squared,
            noise_trace=point.noise_trace,
            micro_batch=plan.micro_batch,
            confidence=self.confidence,
            caveats=(*gathered.caveats(wide), *said_of(point)),
        )


@dataclass
class _Gathered:
    """What was read so far at one point in weight space, by all ranks."""

    batches: MicroBatches
    step: TrainStep
    reader: GradientReader
    metric: Metric = EUCLIDEAN
    sizes: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)
    own_sizes: list[float] = field(default_factory=list)
    """Of this rank's micro-batches, whose sketches these are."""
    sketches: list[np.ndarray] = field(default_factory=list)
    tried: int = 0
    spent: int = 0
    in_parts: bool = False

    @property
    def population(self) -> int | None:
        """Samples in the whole set, of every replica's part."""
        return in_all(self.batches.population, self.step.ranks.replicas)

    def add(self, batch: Batch) -> None:
        count = self.batches.count(batch)
        size = count * self.step.weight
        reading = self.reader.read(self.step.loss_scale() * size / self.batches.size)
        if math.isfinite(reading.squared_norm) and reading.sketch is not None:
            self.own_sizes.append(size)
            self.sketches.append(reading.sketch)
        own = (count, size, reading.squared_norm, reading.whole)
        for samples, of, square, is_whole in self.step.ranks.tell("norms of gradients", own):
            self.tried += 1
            self.spent += samples
            if math.isfinite(square):
                self.sizes.append(of)
                self.squares.append(square)
                self.in_parts |= not is_whole

    def everywhere(self) -> tuple[np.ndarray, np.ndarray]:
        """Sizes and inner products of the micro-batches of all ranks."""
        every = self.step.ranks.tell("sketches", (self.own_sizes, self.sketches))
        sizes = np.array([size for each, _ in every for size in each])
        rows = np.stack([row for _, each in every for row in each])
        return sizes, rows @ rows.T

    def moments(self, sizes: np.ndarray, gram: np.ndarray) -> Moments:
        """Exact from norms; from the sketches alone where the accumulated gradient is not whole."""
        if self.in_parts or len(self.sizes) < self.tried:
            return formulas.from_gram(sizes, gram)
        divisor = self.step.loss_scale() * sum(self.own_sizes) / self.batches.size
        return formulas.moments(self.sizes, self.squares, self.reader.mean_square(divisor))

    def caveats(self, wide: bool) -> Iterator[Caveat]:
        lost = self.tried - len(self.sizes)
        if lost:
            yield Caveat("noise.not_finite", count=lost, of=self.tried)
        if wide:
            yield Caveat(
                "noise.wide",
                ended=self.batches.ended,
                samples=self.spent,
                unit=self.batches.unit,
            )
