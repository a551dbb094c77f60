"""The noise scale along a short way of real training, and what it says of the whole run."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from batchfinder.errors import NoiseNotMeasured
from batchfinder.formulas import Moments
from batchfinder.noise.draws import Draws, Epochs
from batchfinder.noise.hazards import (
    NORM_BATCH,
    SMALL_NORM_BATCH,
    SUM_REDUCED,
    UPDATES_ITSELF,
    Hazards,
    look_for_hazards,
)
from batchfinder.noise.look import Point, Pooling
from batchfinder.noise.metric import EUCLIDEAN, MATURE, Metric, metric_of
from batchfinder.noise.micro_batch import MicroBatchVariance
from batchfinder.noise.prediction import EUCLIDEAN_FACTOR, PRECONDITIONED_FACTOR, UNCHANGED
from batchfinder.noise.walk import Walk, cut
from batchfinder.protocols import BatchSource, Clock, NoiseEstimator, Observer, TrainStep
from batchfinder.results import BatchPlan, Event, NoiseFindings, NoiseScale

PIECES = 4
"""Micro-batches per step: the precision of |G|² hangs on the samples, not on how they are cut."""

LOOKS = 8
"""Moments in the second half at which samples beyond those trained on are looked at."""


@dataclass(frozen=True)
class _Way:
    """What stays the same along one warm-up."""

    step: TrainStep
    source: BatchSource
    base_batch: int
    micro_batch: int
    estimator: NoiseEstimator
    hazards: Hazards
    deadline: tuple[Clock, float] | None
    seed: int

    @property
    def splits(self) -> bool:
        """Whether training steps may be cut smaller than the user's own micro-batch."""
        own = isinstance(self.estimator, MicroBatchVariance)
        return own and self.base_batch >= 2 and not self.hazards.batch_norm

    def pooling(self, seen: _Seen) -> Pooling:
        population = self.source.length if self.source.unit == "samples" else None
        confidence = getattr(self.estimator, "confidence", 0.90)
        name = " ".join(filter(None, (self.estimator.name, seen.metric.name)))
        return Pooling(name, confidence, self.source.unit, population)

    def out_of_time(self) -> bool:
        return self.deadline is not None and self.deadline[0]() > self.deadline[1]

    def estimate(self, estimator: NoiseEstimator, size: int, salt: int) -> NoiseScale:
        """``estimator`` at the weights as they are."""
        draws = Draws.fresh(
            self.source,
            size,
            self.seed + 7919 * (salt + 1),
            sum_reduced=self.hazards.sum_reduced,
            deadline=self.deadline,
        )
        return estimator.estimate(self.step, draws, BatchPlan(size))


@dataclass
class _Seen:
    """What was seen along the way."""

    points: list[Point] = field(default_factory=list)
    looks: list[NoiseScale] = field(default_factory=list)
    steps: int = 0
    metric: Metric = EUCLIDEAN
    caveats: list[str] = field(default_factory=list)

    @property
    def preconditioned(self) -> bool:
        return self.metric is not EUCLIDEAN

    def since(self, step: float, until: float = math.inf) -> list[Point]:
        return [point for point in self.points if step < point.step <= until]


def noise_along_warmup(
    step: TrainStep,
    source: BatchSource,
    *,
    base_batch: int,
    micro_batch: int,
    warmup_steps: int,
    estimator: NoiseEstimator,
    budget_seconds: float | None = None,
    clock: Clock = time.perf_counter,
    observe: Observer | None = None,
    sizes: Sequence[int] = (),
    seed: int = 0,
) -> NoiseFindings:
    """Train ``warmup_steps`` at ``base_batch``, and predict the noise scale of the whole run.

    Takes real optimizer steps at the rate that is set: the caller puts everything back. Each step
    is cut into micro-batches of at most ``micro_batch`` whose gradients are compared, so that the
    measurement comes with the training. Where the steps may not be cut (batch norm, an estimator
    of the caller's own) or hold too few samples, the weights are held still at a few moments of
    the second half and more samples looked at. The second half is pooled (ratio of means) and
    multiplied by a factor for the rest of the run. Under Adam and its kin gradients are measured
    as the optimizer scales them, which is nearer to the critical batch size. With
    ``warmup_steps=0`` the estimate at the weights as they are is given as it is. ``sizes`` are
    micro-batches to look at one by one at the last weights.

    Raises:
        LossIsNotFinite: where the training itself has no finite loss.
    """
    observe = observe or _unheard
    if step.updates_itself:
        return NoiseFindings(None, caveats=(UPDATES_ITSELF,))
    hazards = look_for_hazards(step, source, seed, micro_batch)
    if hazards.refusal:
        return NoiseFindings(None, caveats=(hazards.refusal,))
    deadline = None if budget_seconds is None else (clock, clock() + budget_seconds)
    way = _Way(step, source, base_batch, micro_batch, estimator, hazards, deadline, seed)
    seen = _walk(way, warmup_steps)
    training = _conclude(way, seen, warmup_steps)
    findings = NoiseFindings(
        training=training,
        points=tuple(_windows(way, seen)) or tuple(seen.looks),
        per_size=tuple(_per_size(way, sizes, seen)),
        caveats=(*_said(way, seen, warmup_steps), *(training.caveats if training else ())),
    )
    for event in (*findings.points, *findings.per_size, training):
        if event is not None:
            observe(event)
    return findings


def _walk(way: _Way, steps: int) -> _Seen:
    """Train, and gather the points."""
    seen = _Seen()
    walk = Walk(way.step, Epochs(way.source, way.seed), way.hazards.sum_reduced)
    whole = cut(way.base_batch, way.micro_batch, 1)
    pieces = cut(way.base_batch, way.micro_batch, PIECES) if way.splits else whole
    visits = {steps - round(index * steps / 2 / LOOKS) for index in range(LOOKS)}
    first = max(steps / 8, MATURE if steps >= 2 * MATURE else 0)
    own = isinstance(way.estimator, MicroBatchVariance)
    extra = 0
    for number in range(1, steps + 1):
        if way.out_of_time():
            break
        if own and steps >= 2 * MATURE and number > MATURE:
            seen.metric = walk.metric = metric_of(way.step)
        found = None
        if way.splits and number > first and not walk.in_parts:
            found = walk.train_and_measure(pieces)
        else:
            walk.train(whole)
        seen.steps = number
        if found is not None and not walk.in_parts:
            seen.points.append(Point(number, found))
        if number == steps // 2:
            extra = _samples_wanting(way, seen, steps)
        if extra and number in visits:
            _look(way, seen, extra // LOOKS)
            walk.epochs.left = 0
    way.step.zero_grad()
    seen.caveats.extend(walk.caveats())
    return seen


def _samples_wanting(way: _Way, seen: _Seen, steps: int) -> int:
    """Samples beyond those trained on that the second half needs for an interval worth having."""
    most = getattr(way.estimator, "samples", 4096)
    coming = (steps - steps // 2) * way.base_batch if seen.points else 0
    wanted = most
    if lately := seen.since(steps / 4):
        found = way.pooling(seen)(lately, way.micro_batch)
        wanted = min(most, round(6 * found.value)) if found.is_bounded else most
    return max(0, wanted - coming) if isinstance(way.estimator, MicroBatchVariance) else most


def _look(way: _Way, seen: _Seen, samples: int) -> None:
    """Hold the weights still and look at ``samples`` of them."""
    estimator, size = way.estimator, min(way.base_batch, way.micro_batch)
    if isinstance(estimator, MicroBatchVariance):
        size = _look_size(way, samples)
        count = max(PIECES, samples // size)
        estimator = replace(
            estimator,
            micro_batches=count,
            samples=count * size,
            narrow_enough=0,
            preconditioned=seen.preconditioned,
        )
    try:
        found = way.estimate(estimator, size, seen.steps)
    except NoiseNotMeasured as error:
        seen.caveats.append(f"after {seen.steps} steps the noise scale was left out: {error}")
        return
    seen.looks.append(replace(found, after_steps=seen.steps))
    moments = Moments(found.gradient_squared, found.noise_trace, found.samples, 2)
    if math.isfinite(moments.gradient_squared + moments.noise_trace):
        seen.points.append(Point(seen.steps, moments))


def _look_size(way: _Way, samples: int) -> int:
    """A micro-batch as large as in training, but never so large that few can be compared."""
    if way.hazards.batch_norm:
        wanted = max(NORM_BATCH, way.base_batch)
        fits = wanted if way.source.ceiling is None else max(1, way.source.ceiling // PIECES)
        return min(wanted, way.micro_batch, fits)
    return max(1, min(way.micro_batch, way.base_batch, samples // PIECES))


def _conclude(way: _Way, seen: _Seen, steps: int) -> NoiseScale | None:
    factor = PRECONDITIONED_FACTOR if seen.preconditioned else EUCLIDEAN_FACTOR
    factor = factor if steps else UNCHANGED
    half = seen.since(seen.steps / 2)
    if len(half) >= PIECES:
        return factor(way.pooling(seen)(half, min(way.base_batch, way.micro_batch)))
    if seen.looks:
        looks = sorted(seen.looks, key=lambda look: look.value)
        return factor(looks[len(looks) // 2])
    try:
        estimator = way.estimator
        size = _look_size(way, getattr(estimator, "samples", 4096) // 16)
        if isinstance(estimator, MicroBatchVariance) and seen.preconditioned:
            estimator = replace(estimator, preconditioned=True)
        found = replace(way.estimate(estimator, size, 0), after_steps=seen.steps)
    except NoiseNotMeasured as error:
        seen.caveats.append(str(error))
        return None
    return factor(found)


def _windows(way: _Way, seen: _Seen) -> Sequence[NoiseScale]:
    """Along the way, each window twice as long as the one before: the growth can be seen."""
    edges = [seen.steps / 8, seen.steps / 4, seen.steps / 2, seen.steps]
    windows = [seen.since(a, b) for a, b in itertools.pairwise(edges)]
    size = min(way.base_batch, way.micro_batch)
    return [way.pooling(seen)(window, size) for window in windows if len(window) >= PIECES]


def _per_size(way: _Way, sizes: Sequence[int], seen: _Seen) -> list[NoiseScale]:
    found = []
    for size in sizes:
        estimator = way.estimator
        if isinstance(estimator, MicroBatchVariance):
            share = estimator.samples // max(len(sizes), 1)
            count = max(PIECES, min(estimator.micro_batches, share // size))
            estimator = replace(
                estimator,
                micro_batches=count,
                samples=max(share, count * size),
                preconditioned=estimator.preconditioned or seen.preconditioned,
            )
        if way.out_of_time():
            seen.caveats.append("the noise scale of single sizes was left out: the time was up")
            break
        try:
            found.append(replace(way.estimate(estimator, size, size), after_steps=seen.steps))
        except NoiseNotMeasured as error:
            seen.caveats.append(f"no noise scale at a micro-batch of {size}: {error}")
    return found


def _said(way: _Way, seen: _Seen, steps: int) -> list[str]:
    said = list(dict.fromkeys(seen.caveats))
    if way.hazards.sum_reduced:
        said.append(SUM_REDUCED)
    size = min(way.base_batch, way.micro_batch)
    if way.hazards.batch_norm and size < NORM_BATCH:
        said.append(SMALL_NORM_BATCH.format(size=size))
    if seen.steps < steps:
        said.append(f"the time was up after {seen.steps} of {steps} warm-up steps")
    if not seen.steps:
        said.append(
            "the noise scale was measured at the weights as they are; early in training it is "
            "many times smaller than later"
        )
    elif seen.steps < 100:
        said.append(
            f"the warm-up of {seen.steps} steps is short: the noise scale still grows then, so "
            "that the prediction is more likely too low"
        )
    return said


def _unheard(event: Event) -> None:
    """An observer that does nothing."""
