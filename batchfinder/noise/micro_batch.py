"""The default estimator: variance between the gradients of micro-batches at the same weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from batchfinder import formulas
from batchfinder.errors import InvalidArgument, NoiseNotMeasured
from batchfinder.formulas import Interval, Moments
from batchfinder.noise.context import refuse_zero, said_of
from batchfinder.noise.gradient_hooks import (
    EUCLIDEAN,
    GradientHooks,
    Metric,
    accumulated_square,
    metric_of,
)
from batchfinder.noise.ranks import ALONE, Exchange
from batchfinder.noise.sketch import Sketch
from batchfinder.protocols import Batch, MicroBatches, TrainStep
from batchfinder.results import BatchPlan, NoiseScale
from batchfinder.wording import Caveat

FEWEST = 3
"""Gradients needed for an interval: with one left out, two must remain."""

NARROW = 4.0
"""A factor between an interval's ends above which it is wide: ± a factor of two."""


class TooFew(NoiseNotMeasured):
    """Too few gradients for an interval: the batches or the time ended, or they were not finite.

    Way out: more samples, or more time.
    """


@dataclass(frozen=True)
class MicroBatchVariance:
    """One-way analysis of variance over micro-batches, with a jackknife interval on 1/B.

    Unbiased tr Σ and |G|² from the norms of the micro-batches' gradients and of their mean
    (McCandlish et al. 2018, arXiv:1812.06162, appendix A.1, for any number of batches of any
    sizes). Norms are read while gradients accumulate in ``.grad``: no gradient is stored twice.
    The interval is the delete-one jackknife on |G|² / tr Σ, from sketches of the gradients.

    At least ``micro_batches`` are drawn; then more, until the interval's ends are within a factor
    of ``narrow_enough`` (0 for never), or ``samples`` are spent, or the batches end. With
    ``preconditioned`` gradients are measured as the optimizer scales them (``SecondMoments``)
    where it has such a state; that is not the textbook's tr Σ / |G|², but nearer to Adam's critical
    batch size.
    ``exchange`` counts the micro-batches of other ranks in (``TorchRanks()``). ``warmup_steps``
    are optimizer steps taken, then undone, while it is measured; left out, ``find_batch_size``
    takes as many as the time allows, up to 200 (50 where the optimizer is in the middle of a
    training), and ``gradient_noise_scale`` none.

    Raises:
        InvalidArgument: where a value is out of its range.
    """

    micro_batches: int = 16
    samples: int = 4096
    confidence: float = 0.90
    narrow_enough: float = NARROW
    sketch_size: int = 1024
    seed: int = 0
    preconditioned: bool = False
    exchange: Exchange = ALONE
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        if self.micro_batches < FEWEST:
            raise InvalidArgument(
                f"expected micro_batches of at least {FEWEST}; found {self.micro_batches}"
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
                "it out for as many as usual"
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
        parameters = step.parameters()
        metric = metric_of(step) if self.preconditioned else EUCLIDEAN
        gathered = _Gathered(batches, metric, self.exchange)
        sketch = Sketch(parameters, self.sketch_size, self.seed)
        step.zero_grad()
        try:
            with GradientHooks(parameters, sketch, metric) as hooks:
                enough = self.micro_batches
                for batch in batches:
                    step.forward_backward(batch, batches.weight(batch))
                    gathered.add(hooks, batch, step)
                    if self._spent(gathered):
                        break
                    if len(gathered.sizes) >= enough:
                        if self._judge(gathered, step)[1].ratio <= self.narrow_enough:
                            break
                        enough = math.ceil(enough * 1.5)
            return self._conclude(gathered, step, plan)
        finally:
            step.zero_grad()

    def _spent(self, gathered: _Gathered) -> bool:
        spent = gathered.spent + (gathered.spent / max(gathered.tried, 1))
        return gathered.tried >= self.micro_batches and spent > self.samples

    def _judge(self, gathered: _Gathered, step: TrainStep) -> tuple[Moments, Interval]:
        sizes, gram = gathered.everywhere()
        point = gathered.moments(step, sizes, gram)
        u = point.reciprocal_within(gathered.batches.population)
        left = formulas.leave_one_out(sizes, gram)
        low, high = formulas.jackknife(left, self.confidence, u)
        return point, formulas.noise_interval(u, low, high, point.samples)

    def _conclude(self, gathered: _Gathered, step: TrainStep, plan: BatchPlan) -> NoiseScale:
        if len(gathered.sizes) < FEWEST:
            raise TooFew(
                f"expected at least {FEWEST} micro-batches of {plan.micro_batch} with finite "
                f"gradients; found {len(gathered.sizes)} of {gathered.tried}"
            )
        point, interval = self._judge(gathered, step)
        refuse_zero(point)
        wide = interval.ratio > (self.narrow_enough or NARROW)
        return NoiseScale(
            value=interval.value,
            low=interval.low,
            high=interval.high,
            samples=round(point.samples) if not self.exchange.alone else gathered.spent,
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
    """What was read so far at one point in weight space."""

    batches: MicroBatches
    metric: Metric = EUCLIDEAN
    exchange: Exchange = ALONE
    sizes: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)
    sketches: list[np.ndarray] = field(default_factory=list)
    tried: int = 0
    spent: int = 0
    in_parts: bool = False

    def add(self, hooks: GradientHooks, batch: Batch, step: TrainStep) -> None:
        count = self.batches.count(batch)
        size = count * step.weight
        reading = hooks.read(step.loss_scale() * size / self.batches.size)
        self.tried += 1
        self.spent += count
        if math.isfinite(reading.squared_norm) and reading.sketch is not None:
            self.sizes.append(size)
            self.squares.append(reading.squared_norm)
            self.sketches.append(reading.sketch)
            self.in_parts |= not reading.whole

    def everywhere(self) -> tuple[np.ndarray, np.ndarray]:
        """Sizes and inner products of the micro-batches of all ranks."""
        rows = self.exchange.gather(np.column_stack([self.sizes, np.stack(self.sketches)]))
        return rows[:, 0], rows[:, 1:] @ rows[:, 1:].T

    def moments(self, step: TrainStep, sizes: np.ndarray, gram: np.ndarray) -> Moments:
        """Exact from norms; from the sketches alone where the accumulated gradient is not ours."""
        if self.in_parts or len(self.sizes) < self.tried or not self.exchange.alone:
            return formulas.from_gram(sizes, gram)
        divisor = step.loss_scale() * sum(self.sizes) / self.batches.size
        mean = accumulated_square(step.parameters(), divisor, self.metric)
        return formulas.moments(self.sizes, self.squares, mean)

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
