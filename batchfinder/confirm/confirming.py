"""Dozens of real steps of one plan at one rate, and as many at twice the rate.

A rule built on gradient noise cannot see a curvature ceiling: a rate just below it trains for a
while and fails later. Twice the rate, failing at once, shows it. The rate with the lowest loss
after a few steps is never chosen: such a rate is too small (Wu et al. 2018, arXiv:1803.02021).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing

from batchfinder.confirm.branch import (
    ALLOWANCE_AT_TWICE,
    STEPS,
    Trace,
    judge,
    judge_updates,
    lead,
    run_branch,
)
from batchfinder.meter import unmetered
from batchfinder.protocols import (
    Advance,
    Batch,
    Clock,
    Observer,
    Setup,
    WholeStep,
)
from batchfinder.rates import OptimizerFamily
from batchfinder.results import BatchPlan, Confirmation, Judgement
from batchfinder.run.batches import Kept
from batchfinder.scaling import is_sgd

__all__ = ["confirm", "goes_on_at_twice"]


def _nothing() -> None:
    """The default of ``fresh``: the branches then run one after the other."""


def confirm(
    setup: Setup[WholeStep],
    plan: BatchPlan,
    learning_rate: float | None,
    *,
    steps: int = STEPS,
    clock: Clock = time.perf_counter,
    observe: Observer | None = None,
    fresh: Callable[[], None] = _nothing,
    advance: Advance = unmetered,
) -> Confirmation:
    """Train ``steps`` steps of ``plan`` on the real loader at ``learning_rate``, then at twice it.

    Twice the rate is tried where ``fresh`` puts the state, since some models stand least at their
    start; under SGD also from where the first branch ended, since the ceiling comes down as
    training goes on, on batches not seen before. From the start it sees those of the first branch,
    which are read once. ``fresh`` is called before the first branch and the last; the caller
    restores after. In each the rate rises over the first quarter. Without a rate the step keeps
    its own, and only the first branch is run.

    Raises:
        DeviceLost: where the device cannot be used again in this process.
        Exception: a mistake in the user's code, as itself, with a note.
    """
    started, step = clock(), setup.step

    is_counted = setup.memory.is_simulated or step.device.type == "cpu"
    slows = is_counted and not step.is_compiled  # which runs uncompiled while it is counted

    def branch(factor: float, batches: Iterator[Batch]) -> Trace:
        _set_rate(step, learning_rate, factor)
        # at twice the rate a plan needs no other memory, and to count it slows a small step by half
        trace = run_branch(
            setup,
            plan,
            batches,
            steps=steps,
            ramp=steps // 4,
            watched=factor == 1.0 or not slows,
            advance=advance,
        )
        _set_rate(step, learning_rate, 1.0)
        return trace

    fresh()
    with closing(Kept(setup.source, plan.micro_batch)) as read:
        with step.watched() as watch:
            once = branch(1.0, read.onward())
            effect = watch.effect()
        twice, at_twice = None, None
        judgement = judge_updates(
            judge(once), effect, rate=learning_rate, by_itself=step.updates_itself
        )
        if judgement is Judgement.HELD and learning_rate is not None:
            if goes_on_at_twice(step.optimizer_family):
                twice = branch(2.0, read.onward())
                at_twice = judge(twice, ALLOWANCE_AT_TWICE)
            if at_twice is None or at_twice.is_good:
                fresh()
                twice = branch(2.0, read.again())
                at_twice = judge(twice, ALLOWANCE_AT_TWICE)
    both = once if twice is None else twice
    peaks = [trace.peak_bytes for trace in (once, both) if trace.peak_bytes is not None]
    confirmation = Confirmation(
        plan=plan,
        learning_rate=learning_rate,
        steps=steps,
        judgement=both.failure or judgement,
        at_double_rate=None if both.failure else at_twice,
        first_loss=once.first,
        last_loss=once.last,
        double_rate_last_loss=math.nan if twice is None else twice.last,
        double_rate_lead=lead(once, twice) if twice and at_twice is Judgement.HELD else None,
        peak_bytes=max(peaks, default=None),
        seconds=clock() - started,
        detail=both.detail,
        effect=effect,
    )
    if observe is not None:
        observe(confirmation)
    return confirmation


def goes_on_at_twice(optimizer_family: OptimizerFamily) -> bool:
    """Whether twice the rate is tried from where the first branch ended too.

    Not under an adaptive optimizer, whose steps do not grow with the slope: a rate that is doubled
    midway lifts the loss for a while even where it trains well from the start.
    """
    return is_sgd(optimizer_family)


def _set_rate(step: WholeStep, rate: float | None, factor: float) -> None:
    if rate is not None:
        step.set_learning_rate(rate * factor)
