"""Dozens of real steps of one plan at one rate, and as many at twice the rate.

A rule built on gradient noise cannot see a curvature ceiling: a rate just below it trains for a
while and fails later. Twice the rate, failing at once, shows it. The rate with the lowest loss
after a few steps is never chosen: such a rate is too small (Wu et al. 2018, arXiv:1803.02021).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from batchfinder.confirm.branch import run_branch
from batchfinder.confirm.judging import ALLOWANCE_AT_TWICE, Trace, judge
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

    The rate rises over the first quarter. Both branches start where ``fresh`` puts the state:
    called before each; the caller restores after. Without a rate the step keeps its own, and
    there is no second branch.

    Raises:
        DeviceLost: where the device cannot be used again in this process.
        Exception: a mistake in the user's code, as itself, with a note.
    """
    started = clock()

    def branch(factor: float) -> Trace:
        fresh()
        _set_rate(step, learning_rate, factor)
        trace = run_branch(step, source, memory, plan, steps=steps, ramp=steps // 4)
        _set_rate(step, learning_rate, 1.0)
        return trace

    first = branch(1.0)
    wrong = judge(first)
    twice = None if wrong or learning_rate is None or first.says_nothing else branch(2.0)
    wrong = wrong or (twice.failure if twice is not None else "")
    at_twice = "" if twice is None else judge(twice, ALLOWANCE_AT_TWICE)
    confirmation = Confirmation(
        plan=plan,
        learning_rate=learning_rate,
        steps=steps,
        held=not wrong,
        reason=wrong or _reason(first, at_twice, steps),
        first_loss=first.first,
        last_loss=first.last,
        double_rate_held=None if twice is None or twice.failure else not at_twice,
        peak_bytes=_larger(first.peak_bytes, None if twice is None else twice.peak_bytes),
        seconds=clock() - started,
        out_of_memory=first.out_of_memory or (twice is not None and twice.out_of_memory),
    )
    if observe is not None:
        observe(confirmation)
    return confirmation


def _reason(first: Trace, at_twice: str, steps: int) -> str:
    if first.says_nothing:
        return f"{steps} steps ran within memory; the step returns no loss to look at"
    held = f"the loss went from {first.first:.4g} to {first.last:.4g} in {steps} steps"
    return f"{held}, but at twice the rate {at_twice}" if at_twice else held


def _set_rate(step: TrainStep, rate: float | None, factor: float) -> None:
    now = step.learning_rate()
    if rate is None:
        return
    if now:
        step.scale_learning_rate(rate * factor / now)
    elif hasattr(step, "set_learning_rate"):
        step.set_learning_rate(rate * factor)


def _larger(one: int | None, other: int | None) -> int | None:
    known = [peak for peak in (one, other) if peak is not None]
    return max(known, default=None)
