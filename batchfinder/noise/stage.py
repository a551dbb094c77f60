"""What does a larger batch buy? The noise scale along a short real warm-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from batchfinder.base_pair import Base, check_loss
from batchfinder.meter import Meter
from batchfinder.noise import noise_along_warmup, train_steps, warmup_estimator
from batchfinder.protocols import NoiseEstimator
from batchfinder.recommend import Pair
from batchfinder.results import (
    Measurement,
    NoiseFindings,
    NoiseScale,
    Note,
    ProbeResult,
    Stage,
)
from batchfinder.run.attempt import Shortage
from batchfinder.run.bench import Bench
from batchfinder.session import Call, stage
from batchfinder.wording import Caveat

__all__ = ["Choice", "decides", "estimate_here", "estimate_noise", "is_same_pair", "with_noise"]

_SHARE = 0.5
"""Of the time left, for the warm-up; the rest is the confirmation's."""

_FEWEST_STEPS = 12
"""No warm-up is planned shorter; the time may end it earlier."""

_OVERHEAD = 1.15
"""A step of the warm-up, measured, over a plain one."""

Choice: TypeAlias = Callable[[NoiseScale | None], Pair]
"""The plan and the learning rate that are chosen at a noise scale."""

_SAME_RATE = 1.1

_STEPS, _STEPS_MID_TRAINING = 200, 50
"""Weights at initialisation need a way to go before their noise tells of the training."""


def estimate_noise(
    call: Call,
    estimator: NoiseEstimator | None,
    probed: ProbeResult,
    base: Base,
    *,
    measured: Sequence[Measurement] = (),
    choices: Sequence[Choice] = (),
) -> NoiseFindings:
    """The noise scale along a short warm-up of real training; the caller puts everything back.

    The warm-up is as long as usual (200 steps, or 50 in the middle of a training) where there is
    time for it, and ends earlier once nothing that the rest of it may show changes one of the
    ``choices``.
    """
    bench = call.bench
    if estimator is None:
        return NoiseFindings(training=None)
    if bench.step.updates_itself:
        absent = Caveat("noise.updates_itself")
        call.observe(Note(absent))
        return NoiseFindings(training=None, caveats=(absent,))
    seconds = call.budget.share(_SHARE)
    one_step = _step_seconds_at(base.batch_size, measured)
    wanted = warmup_estimator(estimator).warmup_steps
    usual = _STEPS_MID_TRAINING if bench.is_mid_training else _STEPS
    steps = _affordable(usual, seconds, one_step) if wanted is None else wanted
    detail = f"{steps} warm-up steps at batch {base.batch_size}"
    with stage(call, Stage.NOISE, detail, one_step and one_step * steps):
        bench.training()
        bench.set_learning_rate(base.learning_rate)
        return noise_along_warmup(
            bench.step,
            bench.source,
            base_batch=base.batch_size,
            micro_batch=base.micro_batch(probed.max_batch_size),
            warmup_steps=steps,
            estimator=estimator,
            budget_seconds=seconds,
            clock=call.budget.clock,
            observe=call.observe,
            allowed=bench.sizes.allows,
            usual_steps=usual if wanted is None else wanted,
            is_enough=partial(decides, choices) if choices else None,
            sizes=_sizes_to_measure(bench, base, [each.batch_size for each in measured]),
            seed=bench.seed,
            advance=Meter(
                Stage.NOISE, call.observe, of=steps, seconds=seconds, clock=call.budget.here
            ),
        )


def _step_seconds_at(batch: int, measured: Sequence[Measurement]) -> float | None:
    """What one step of ``batch`` will take, reading included, by the measurement nearest to it."""
    if not measured:
        return None
    nearest = min(measured, key=lambda each: abs(each.batch_size - batch))
    one = max(nearest.step_seconds, nearest.loader_seconds or 0.0)
    return one * batch / nearest.batch_size


def _affordable(usual: int, seconds: float | None, one_step: float | None) -> int:
    """As many steps as there is time for, planned so that the second half is seen."""
    if seconds is None or not one_step:
        return usual
    return max(min(usual, _FEWEST_STEPS), min(usual, int(seconds / (_OVERHEAD * one_step))))


def decides(choices: Sequence[Choice], outcomes: Sequence[NoiseScale]) -> bool:
    """Whether each choice is the same batch, at nearly the same rate, at all these noise scales."""
    for choose in choices:
        first, *others = outcomes
        at_first = choose(first)
        others.sort(key=lambda each: each.value, reverse=True)  # the first to differ, if any does
        if not all(is_same_pair(at_first, choose(other)) for other in others):
            return False
    return True


def is_same_pair(one: Pair, other: Pair) -> bool:
    """Whether both are the same plan, at rates within a tenth of each other."""
    (plan, rate), (other_plan, other_rate) = one, other
    if plan != other_plan or (rate is None) != (other_rate is None):
        return False
    if rate is None or other_rate is None:
        return True
    return max(rate, other_rate) <= _SAME_RATE * min(rate, other_rate)


def _sizes_to_measure(bench: Bench, base: Base, sizes: Sequence[int]) -> list[int]:
    """The base size, and 4 and 16 times it: does the noise scale depend on the micro-batch?

    It must not, but for batch norm and losses that couple samples. Four distinct micro-batches
    are needed of each.
    """
    most = (bench.source.length or 4 * max(sizes, default=1)) // 4
    wanted = (factor * base.batch_size for factor in (1, 4, 16))
    near = (min(sizes, key=lambda size: abs(size - each), default=0) for each in wanted)
    return sorted({size for size in near if 2 <= size <= most})


def estimate_here(
    call: Call,
    estimator: NoiseEstimator,
    *,
    micro_batch: int | None,
) -> NoiseFindings:
    """The noise scale at the weights as they are after the warm-up, which stays taken."""
    bench = call.bench
    warmup_steps = warmup_estimator(estimator).warmup_steps or 0
    size = micro_batch or bench.source.base_batch_size or 32
    size = min(size, bench.source.ceiling or size)
    with stage(call, Stage.NOISE, f"after {warmup_steps} warm-up steps at batch {size}"):
        try:
            fitting = check_loss(bench, size)
            if bench.step.updates_itself:
                return NoiseFindings(training=None, caveats=(Caveat("noise.updates_itself"),))
            allowed = bench.sizes.allows
            if micro_batch is not None:
                allowed = partial(_is_multiple, bench.sizes.allows, fitting)
            fitting = train_steps(
                bench.step,
                bench.source,
                batch=size,
                micro_batch=fitting,
                steps=warmup_steps,
                seed=bench.seed,
                allowed=allowed,
                advance=Meter(Stage.NOISE, call.observe, of=warmup_steps, clock=call.budget.here),
            )
        except Shortage as error:
            return NoiseFindings(training=None, caveats=(Caveat("noise.no_room", why=str(error)),))
        found = noise_along_warmup(
            bench.step,
            bench.source,
            base_batch=size,
            micro_batch=fitting,
            warmup_steps=0,
            estimator=estimator,
            observe=call.observe,
            seed=bench.seed,
            allowed=allowed,
            advance=Meter(Stage.NOISE, call.observe, clock=call.budget.here),
        )
    return found if fitting == size else _with_smaller(found, size, fitting)


def _is_multiple(allowed: Callable[[int], bool], of: int, size: int) -> bool:
    """Whether ``size`` is made of whole micro-batches that the caller asked for."""
    return size % of == 0 and allowed(size)


def _with_smaller(found: NoiseFindings, size: int, fitting: int) -> NoiseFindings:
    said = Caveat("noise.fell_back", size=size, fitting=fitting)
    training = found.training
    if training is not None:
        training = replace(training, caveats=(said, *training.caveats))
    return replace(found, training=training, caveats=(said, *found.caveats))


def with_noise(
    measurements: tuple[Measurement, ...], findings: NoiseFindings
) -> tuple[Measurement, ...]:
    """The measurements, each with the noise scale measured at its own micro-batch, if any."""
    by_size = {found.micro_batch: found for found in findings.per_size}
    return tuple(
        replace(each, noise_scale=by_size[each.batch_size]) if each.batch_size in by_size else each
        for each in measurements
    )
