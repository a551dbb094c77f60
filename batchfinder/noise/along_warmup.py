"""The noise scale along a short warm-up of real training, and what it says of the whole run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from batchfinder.errors import NoiseNotMeasured
from batchfinder.meter import unmetered
from batchfinder.noise.context import (
    FEWEST_GROUPS,
    WarmupContext,
    WarmupRecord,
)
from batchfinder.noise.estimators import TooFew, warmup_estimator
from batchfinder.noise.prediction import growth, may_grow
from batchfinder.noise.preflight import hazards_in_room
from batchfinder.noise.sampling import Allowed, any_size, never
from batchfinder.noise.warmup import Warmup
from batchfinder.protocols import Advance, BatchSource, Clock, NoiseEstimator, Observer, TrainStep
from batchfinder.results import Event, NoiseFindings, NoiseScale
from batchfinder.run.attempt import Shortage
from batchfinder.wording import Caveat

ENOUGH_GROUPS = 16
"""Micro-batches of each single size, where the samples last for so many."""


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
    advance: Advance = unmetered,
    allowed: Allowed = any_size,
    usual_steps: int | None = None,
    is_enough: Callable[[Sequence[NoiseScale]], bool] | None = None,
) -> NoiseFindings:
    """Train ``warmup_steps`` at ``base_batch``, and predict the noise scale of the whole run.

    Takes real optimizer steps at the rate that is set: the caller puts everything back. Each step
    is cut into micro-batches of at most ``micro_batch`` whose gradients are compared, so that the
    measurement comes with the training. Where the steps may not be cut (batch norm, an estimator
    not ``along_training``) or hold too few samples, the weights are held still at a few moments of
    the second half and more samples measured. The second half is pooled (ratio of means) and
    multiplied by a factor for the rest of the run. Under Adam and its kin gradients are measured
    as the optimizer scales them, which is nearer to the critical batch size. With
    ``warmup_steps=0`` the estimate at the weights as they are is given as it is. ``sizes`` are
    micro-batches to measure one by one at the last weights. ``allowed``
    says which micro-batches may reach the step, beside the user's own; ``advance`` is told of every
    step. Every 12 steps and after every moment ``is_enough`` is asked whether all that the whole
    warm-up may come to predict decides the same; then it ends there.
    ``usual_steps`` are what it would take with more time, to be said where it took fewer.

    Raises:
        LossIsNotFinite: where the training itself has no finite loss.
    """
    observe = observe or _unheard
    if step.updates_itself:
        return NoiseFindings(None, caveats=(Caveat("noise.updates_itself"),))
    if step.ranks.replicas < step.ranks.size:
        return NoiseFindings(None, caveats=(Caveat("noise.shared_samples"),))
    deadline = None if budget_seconds is None else (clock, clock() + budget_seconds)
    hazards = hazards_in_room(
        step,
        source,
        seed,
        micro_batch,
        allowed=allowed,
        advance=advance,
        out_of_time=never if deadline is None else lambda: deadline[0]() > deadline[1],
    )
    if hazards.refusal:
        return NoiseFindings(None, caveats=(hazards.refusal,))
    method = warmup_estimator(estimator)
    context = WarmupContext(
        step,
        source,
        base_batch,
        micro_batch,
        method,
        hazards,
        deadline,
        seed,
        advance,
        allowed,
        is_enough,
    )
    try:
        warmup = Warmup(context, warmup_steps, usual_steps or warmup_steps)
        warmup.run()
    except Shortage as error:
        return NoiseFindings(None, caveats=(Caveat("noise.no_room", why=str(error)),))
    context, record = warmup.context, warmup.record
    training = _conclude(context, record, warmup_steps, usual_steps or warmup_steps)
    if training is not None and warmup_steps:
        training = replace(training, whole_training=True)
    findings = NoiseFindings(
        training=training,
        points=tuple(_windows(context, record)) or tuple(record.estimates),
        per_size=tuple(_per_size(context, sizes, record, warmup_steps)),
        caveats=(
            *_said(context, record, usual_steps or warmup_steps, training is not None),
            *_said_of(training),
        ),
    )
    for event in (*findings.points, *findings.per_size, training):
        if event is not None:
            observe(event)
    return findings


def _conclude(
    context: WarmupContext, record: WarmupRecord, steps: int, usual: int
) -> NoiseScale | None:
    try:
        found = context.predict(record)
        if found is None and record.middle_estimate is not None:
            found = record.factor(record.middle_estimate)
        if found is None:
            found = _at_last_weights(context, record)
            found = record.factor(found) if steps else found
        return may_grow(found, growth(record.steps, usual))
    except NoiseNotMeasured as error:
        if not (isinstance(error, TooFew) and record.steps < steps):
            record.caveats.append(Caveat("noise.absent", why=str(error)))
        return None  # where the time was up, that is said by itself


def _at_last_weights(context: WarmupContext, record: WarmupRecord) -> NoiseScale:
    """One estimate, with ever smaller micro-batches until memory lasts."""
    estimator = context.estimator
    if record.enough:
        most = min(estimator.samples, record.steps * context.base_batch)
        estimator = estimator.with_budget(most, at_least=FEWEST_GROUPS)
    if record.preconditioned:
        estimator = estimator.in_optimizer_metric()
    while True:
        size = context.estimate_size(estimator.samples // 16)
        try:
            return replace(context.estimate(estimator, size, 0), after_steps=record.steps)
        except Shortage as error:
            smaller = context.smaller(size)
            if smaller is None:
                raise NoiseNotMeasured(Caveat("noise.no_room", why=str(error))) from None
            record.caveats.append(Caveat("noise.smaller_at_last", why=str(error)))
            context = replace(context, largest=smaller)


def _windows(context: WarmupContext, record: WarmupRecord) -> Sequence[NoiseScale]:
    """The second quarter and the second half: whether it grows can be seen."""
    edges = [record.steps / 4, record.steps / 2, record.steps]
    windows = [record.since(a, b) for a, b in itertools.pairwise(edges)]
    found = []
    for window in windows:
        if len(window) >= FEWEST_GROUPS:
            with suppress(NoiseNotMeasured):  # said of the whole already, where it holds for both
                found.append(context.pooling(record)(window, context.size))
    return found


def _per_size(
    context: WarmupContext, sizes: Sequence[int], record: WarmupRecord, steps: int
) -> list[NoiseScale]:
    """Each at the last weights, with no more samples in all than a quarter of those trained on."""
    found = []
    share = context.estimator.samples // max(len(sizes), 1)
    if record.steps:
        share = min(share, record.steps * context.base_batch // (4 * max(len(sizes), 1)))
        sizes = [size for size in sizes if FEWEST_GROUPS * size <= share]
    for size in sizes:
        count = max(FEWEST_GROUPS, min(ENOUGH_GROUPS, share // size))
        estimator = context.estimator.with_budget(max(share, count * size), at_least=count)
        if record.preconditioned:
            estimator = estimator.in_optimizer_metric()
        if context.out_of_time():
            if record.steps == steps:  # else it is said already that the time was up
                record.caveats.append(Caveat("noise.sizes_left_out"))
            break
        try:
            found.append(replace(context.estimate(estimator, size, size), after_steps=record.steps))
        except (NoiseNotMeasured, Shortage) as error:
            if isinstance(error, TooFew) and context.out_of_time():
                break
            record.caveats.append(Caveat("noise.size_absent", size=size, why=str(error)))
    return found


def _said(context: WarmupContext, record: WarmupRecord, steps: int, measured: bool) -> list[Caveat]:
    said = list(dict.fromkeys(record.caveats))
    if measured:
        said.extend(context.hazards.said(context.size))
    if record.enough:
        return [*said, Caveat("noise.enough", taken=record.steps, of=steps)]
    return [*said, *_about_steps(record.steps, steps, measured)]


def _about_steps(taken: int, of: int, measured: bool) -> list[Caveat]:
    """How far the warm-up came, and what follows from it."""
    cut_short = taken < of
    if not measured:
        return [Caveat("noise.no_time", taken=taken, of=of)] if cut_short else []
    if not taken:
        return [Caveat("noise.at_start", of=of)]
    if taken < 100:
        return [Caveat("noise.short", taken=taken, of=of)]
    return [Caveat("noise.cut", taken=taken, of=of)] if cut_short else []


def _said_of(training: NoiseScale | None) -> tuple[Caveat, ...]:
    if training is None:
        return ()
    if training.is_bounded:
        return training.caveats
    unbounded = Caveat(
        "noise.unbounded", samples=training.samples, unit=training.unit, low=training.low
    )
    return (unbounded, *training.caveats)


def _unheard(event: Event) -> None:
    """An observer that does nothing."""
