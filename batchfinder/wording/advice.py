"""What else to change with the batch size: sentences, each with its source."""

from __future__ import annotations

import math
from collections.abc import Iterator

from batchfinder.plans import BatchPlan, Change, Counted, Schedule
from batchfinder.rates import OptimizerFamily
from batchfinder.units import format_count, format_factor, format_size

__all__ = ["advice"]

LITTLE_CHANGE = 1.1
FEWEST_WARM_UP_STEPS = 20


def advice(change: Change | None, plan: BatchPlan, unit: str = "samples") -> Iterator[str]:
    """Advice on steps, schedule, warm-up, betas, weight decay, EMA, clipping and BatchNorm.

    None where the batch stays about as it was.
    """
    if change is None or max(change.factor, 1 / change.factor) < LITTLE_CHANGE:
        return
    yield from _steps(change, unit)
    yield from _adam(change)
    yield (
        "EMA of the weights: to average over the same number of samples, raise its decay to the "
        f"power {change.factor:.3g} (0.999 becomes {0.999**change.factor:.4g}; arXiv:2307.13813)."
    )
    yield (
        "Gradient clipping: a larger batch has less gradient noise, and so a smaller gradient "
        "norm: the same threshold clips less often (arXiv:1812.06162)."
    )
    yield (
        "BatchNorm, if the model uses it, computes its statistics over one micro-batch of "
        f"{format_size(plan.micro_batch)}, regardless of accumulation (arXiv:1502.03167)"
        + ("; below 32 they are noisy (arXiv:1803.08494)." if plan.micro_batch < 32 else ".")
    )


def _steps(change: Change, unit: str) -> Iterator[str]:
    share = 1 / change.factor
    yield (
        f"Steps and epochs: an optimizer step now uses {format_factor(change.factor)} the {unit}. "
        f"The same number of epochs has {format_factor(share)} the optimizer steps; the same "
        f"number of steps uses {format_factor(change.factor)} the {unit}."
    )
    if change.steps_factor is not None:
        yield (
            "Training length: reaching the same loss takes about "
            f"{format_factor(change.steps_factor)} the optimizer steps, or "
            f"{format_factor(change.steps_factor * change.factor)} the {unit} (arXiv:1812.06162)."
        )
    yield (
        f"Schedule: multiply every interval counted in steps by {format_count(share)}, including "
        "evaluation and checkpoints, or count in samples or epochs (arXiv:1811.03600)."
    )
    if change.schedule is not None and change.schedule.counted:
        yield _counts(change, change.schedule)
    if change.factor > 1:
        yield (
            f"Warm-up: multiply its steps by {format_count(share)}, but keep at least "
            f"{FEWEST_WARM_UP_STEPS}, and increase the rate linearly (arXiv:1706.02677)."
        )


def _counts(change: Change, schedule: Schedule) -> str:
    """What the user's scheduler counts, with its new numbers."""
    same_epochs = 1 / change.factor
    same_loss = same_epochs if change.steps_factor is None else change.steps_factor
    if schedule.counts_epochs:
        same_epochs, same_loss = 1.0, same_loss * change.factor
    now = ", ".join(
        f"{each.name} {_number(each, each.value)} -> {_number(each, each.at(same_loss))}"
        for each in schedule.counted
    )
    said = f"Your scheduler counts {'epochs' if schedule.counts_epochs else 'steps'}: {now}"
    if math.isclose(same_loss, same_epochs):
        return f"{said}."
    longest = max(schedule.counted, key=lambda each: (not each.is_factor, each.value))
    other = _number(longest, longest.at(same_epochs))
    return f"{said} for the same loss (for the same epochs, {longest.name} -> {other})."


def _number(counted: Counted, value: float) -> str:
    return f"{value:.4g}" if counted.is_factor else format_size(max(1, round(value)))


def _adam(change: Change) -> Iterator[str]:
    if change.family != OptimizerFamily.ADAM:
        return
    factor = change.factor
    first, second = 1 - factor * (1 - 0.9), 1 - factor * (1 - 0.999)
    scaled = (
        f"beta1 0.9 would become {first:.3g} and beta2 0.999 {second:.4g}"
        if first > 0
        else "undefined for a change this large"
    )
    yield (
        "Betas: leave them unchanged. Theory suggests scaling 1 - beta with the batch size "
        f"(arXiv:2205.10287): {scaled}. Another proposal keeps beta2's half-life in samples: "
        f"0.999 becomes {0.999**factor:.4g} (arXiv:2507.07101)."
    )
    if change.rate and change.base_rate:
        decay = factor * change.base_rate / change.rate
        yield (
            "Weight decay (decoupled): to keep its time scale in samples, multiply it by "
            f"{decay:.2g} (arXiv:2405.13698, arXiv:2505.13738; untested here)."
        )
