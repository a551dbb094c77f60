"""The noise scale along a short way of real training, and what it says of the whole run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from batchfinder.errors import NoiseNotMeasured
from batchfinder.noise.approach import hazards_in_room
from batchfinder.noise.hazards import UPDATES_ITSELF
from batchfinder.noise.journey import FEWEST_GROUPS, look_size, travel
from batchfinder.noise.micro_batch import MicroBatchVariance, TooFew
from batchfinder.noise.prediction import EUCLIDEAN_FACTOR, PRECONDITIONED_FACTOR
from batchfinder.noise.room import NO_ROOM, NoRoom
from batchfinder.noise.way import Seen, Way
from batchfinder.protocols import BatchSource, Clock, NoiseEstimator, Observer, TrainStep
from batchfinder.results import Event, NoiseFindings, NoiseScale
from batchfinder.units import format_count


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
    hazards = hazards_in_room(step, source, seed, micro_batch)
    if hazards.refusal:
        return NoiseFindings(None, caveats=(hazards.refusal,))
    deadline = None if budget_seconds is None else (clock, clock() + budget_seconds)
    way = Way(step, source, base_batch, micro_batch, estimator, hazards, deadline, seed)
    try:
        way, seen = travel(way, warmup_steps)
    except NoRoom as error:
        return NoiseFindings(None, caveats=(NO_ROOM.format(reason=error),))
    training = _conclude(way, seen, warmup_steps)
    if training is not None and warmup_steps:
        training = replace(training, whole_training=True)
    findings = NoiseFindings(
        training=training,
        points=tuple(_windows(way, seen)) or tuple(seen.looks),
        per_size=tuple(_per_size(way, sizes, seen, warmup_steps)),
        caveats=(
            *_said(way, seen, warmup_steps, training is not None),
            *_said_of(training),
        ),
    )
    for event in (*findings.points, *findings.per_size, training):
        if event is not None:
            observe(event)
    return findings


def _conclude(way: Way, seen: Seen, steps: int) -> NoiseScale | None:
    try:
        return _concluded(way, seen, steps)
    except NoiseNotMeasured as error:
        if not (isinstance(error, TooFew) and seen.steps < steps):
            seen.caveats.append(str(error))  # else the time was up, which is said by itself
        return None


def _concluded(way: Way, seen: Seen, steps: int) -> NoiseScale:
    predict = PRECONDITIONED_FACTOR if seen.preconditioned else EUCLIDEAN_FACTOR
    half = seen.since(seen.steps / 2)
    if len(half) >= FEWEST_GROUPS:
        return predict(way.pooling(seen)(half, way.size))
    if seen.looks:
        looks = sorted(seen.looks, key=lambda look: look.value)
        return predict(looks[len(looks) // 2])
    found = _beside(way, seen)
    return predict(found) if steps else found


def _beside(way: Way, seen: Seen) -> NoiseScale:
    """At the last weights, with ever smaller micro-batches until memory lasts."""
    estimator = way.estimator
    if isinstance(estimator, MicroBatchVariance) and seen.preconditioned:
        estimator = replace(estimator, preconditioned=True)
    while True:
        size = look_size(way, getattr(estimator, "samples", 4096) // 16)
        try:
            return replace(way.estimate(estimator, size, 0), after_steps=seen.steps)
        except NoRoom as error:
            if size == 1:
                raise NoiseNotMeasured(NO_ROOM.format(reason=error)) from None
            seen.caveats.append(f"{error}: the noise scale was looked at with smaller ones")
            way = replace(way, room=size // 2)


def _windows(way: Way, seen: Seen) -> Sequence[NoiseScale]:
    """The second quarter and the second half: whether it grows can be seen."""
    edges = [seen.steps / 4, seen.steps / 2, seen.steps]
    windows = [seen.since(a, b) for a, b in itertools.pairwise(edges)]
    found = []
    for window in windows:
        if len(window) >= FEWEST_GROUPS:
            with suppress(NoiseNotMeasured):  # said of the whole already, where it holds for both
                found.append(way.pooling(seen)(window, way.size))
    return found


def _per_size(way: Way, sizes: Sequence[int], seen: Seen, steps: int) -> list[NoiseScale]:
    found = []
    for size in sizes:
        estimator = way.estimator
        if isinstance(estimator, MicroBatchVariance):
            share = estimator.samples // max(len(sizes), 1)
            count = max(FEWEST_GROUPS, min(estimator.micro_batches, share // size))
            estimator = replace(
                estimator,
                micro_batches=count,
                samples=max(share, count * size),
                preconditioned=estimator.preconditioned or seen.preconditioned,
            )
        if way.out_of_time():
            if seen.steps == steps:  # else it is said already that the time was up
                seen.caveats.append("the noise scale of single sizes was left out: the time was up")
            break
        try:
            found.append(replace(way.estimate(estimator, size, size), after_steps=seen.steps))
        except NoiseNotMeasured as error:
            seen.caveats.append(f"no noise scale at a micro-batch of {size}: {error}")
    return found


def _said(way: Way, seen: Seen, steps: int, measured: bool) -> list[str]:
    said = list(dict.fromkeys(seen.caveats))
    if measured:
        said.extend(way.hazards.said(way.size))
    how_far = _about_steps(seen.steps, steps, measured)
    return [*said, how_far] if how_far else said


def _about_steps(taken: int, of: int, measured: bool) -> str:
    """One sentence on how far the warm-up came, and what follows from it."""
    up = f"the time was up after {taken} of {of} warm-up steps" if taken < of else ""
    if not measured:
        return up and f"{up}, too early for a noise scale: it is absent. Raise budget_seconds"
    if not taken:
        at = f"{up}: the noise scale is that of" if up else "the noise scale was measured at"
        return (
            f"{at} the weights as they are; early in training it is many times smaller than later"
        )
    if taken < 100:
        short = up or f"the warm-up of {taken} steps is short"
        return (
            f"{short}: the noise scale still grows then, so that the prediction is more likely "
            "too low"
        )
    return up


def _said_of(training: NoiseScale | None) -> tuple[str, ...]:
    if training is None:
        return ()
    if training.is_bounded:
        return training.caveats
    open_above = (
        f"the mean gradient cannot be told from zero over {training.samples} {training.unit}: the "
        f"noise scale is at least {format_count(training.low)}, and may be far more"
    )
    return (open_above, *training.caveats)


def _unheard(event: Event) -> None:
    """An observer that does nothing."""
