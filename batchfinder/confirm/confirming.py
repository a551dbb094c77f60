"""Dozens of real steps of one plan at one rate, and as many at twice the rate.

A rule built on gradient noise cannot see a curvature ceiling: a rate just below it trains for a
while and fails later. Twice the rate, failing at once, shows it. The rate with the lowest loss
after a few steps is never chosen: such a rate is too small (Wu et al. 2018, arXiv:1803.02021).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from batchfinder.confirm.branch import run_branch
from batchfinder.confirm.judging import ALLOWANCE_AT_TWICE, Trace, judge, lead
from batchfinder.protocols import BatchSource, Clock, MemoryBackend, Observer, TrainStep
from batchfinder.results import BatchPlan, Confirmation

__all__ = ["confirm"]


def _nothing() -> None:
    """The default of ``fresh``: the branches then run one after the other."""


def confirm(
    step: TrainStep,
    source: BatchSource,
    memory: MemoryBackend,
    plan: BatchPlan,
    learning_rate: float | None,
    *,
    steps: int = 40,
    clock: Clock = time.perf_counter,
    observe: Observer | None = None,
    fresh: Callable[[], None] = _nothing,
) -> Confirmation:
    """Train ``steps`` steps of ``plan`` on the real loader at ``learning_rate``, then at twice it.

    Twice the rate is tried where ``fresh`` puts the state, since some models stand least at their
    start; under SGD also from where the first branch ended, since the ceiling comes down as
    training goes on. ``fresh`` is called before the first branch and the last; the caller
    restores after. In each the rate rises over the first quarter. Without a rate the step keeps
    its own, and only the first branch is run.

    Raises:
        DeviceLost: where the device cannot be used again in this process.
        Exception: a mistake in the user's code, as itself, with a note.
    """
    started = clock()

    def branch(factor: float) -> Trace:
        _set_rate(step, learning_rate, factor)
        trace = run_branch(step, source, memory, plan, steps=steps, ramp=steps // 4)
        _set_rate(step, learning_rate, 1.0)
        return trace

    fresh()
    traces = [branch(1.0)]
    wrong = judge(traces[0])
    at_twice = ""
    if not wrong and learning_rate is not None and not traces[0].says_nothing:
        for start in _starts(step, fresh):
            start()
            traces.append(branch(2.0))
            wrong = wrong or traces[-1].failure
            at_twice = at_twice or judge(traces[-1], ALLOWANCE_AT_TWICE)
            if at_twice:
                break
    first = traces[0]
    confirmation = Confirmation(
        plan=plan,
        learning_rate=learning_rate,
        steps=steps,
        held=not wrong,
        reason=wrong or _reason(first, at_twice, steps),
        first_loss=first.first,
        last_loss=first.last,
        double_rate_held=None if len(traces) == 1 or wrong else not at_twice,
        peak_bytes=max((t.peak_bytes for t in traces if t.peak_bytes is not None), default=None),
        seconds=clock() - started,
        out_of_memory=any(trace.out_of_memory for trace in traces),
        double_rate_lead=None if len(traces) == 1 or wrong or at_twice else lead(first, traces[-1]),
    )
    if observe is not None:
        observe(confirmation)
    return confirmation


def _starts(step: TrainStep, fresh: Callable[[], None]) -> tuple[Callable[[], None], ...]:
    """Where twice the rate is tried from.

    Under an adaptive optimizer, whose steps do not grow with the slope, a rate that is doubled
    midway lifts the loss for a while even where it trains well from the start: only that is tried.
    """
    if step.optimizer_family.startswith("sgd"):
        return _nothing, fresh
    return (fresh,)


def _reason(first: Trace, at_twice: str, steps: int) -> str:
    if first.says_nothing:
        return f"{steps} steps ran within memory; the step returns no loss to look at"
    held = f"the loss went from {first.first:.4g} to {first.last:.4g} in {steps} steps"
    return f"{held}, but at twice the rate {at_twice}" if at_twice else held


def _set_rate(step: TrainStep, rate: float | None, factor: float) -> None:
    if rate is not None:
        step.set_learning_rate(rate * factor)
