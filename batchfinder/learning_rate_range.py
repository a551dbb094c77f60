"""A learning-rate range test: which rate does the user's batch size stand?

For a caller who knows no rate at all. The rate rises exponentially from step to step until the
loss runs away (Smith 2017, arXiv:1506.01186). Known faults of such tests are avoided: the loss
is smoothed on both sides, so that it does not lag behind the rate; the first steps, where the
rate is too small to matter, measure the scatter instead of being searched; the steepest single
step is not taken for a slope; and where the loss never fell, there is no answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from batchfinder.protocols import BatchSource, TrainStep
from batchfinder.run.batches import endless

__all__ = ["range_test", "suggest_rate"]

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 120
QUIET = 10
"""Steps at the lowest rate, before it rises: they show how the loss scatters by itself."""
HALF_WINDOW = 3
BELOW_THE_EDGE = 10.0
"""The suggestion lies this factor below the rate at which the smoothed loss is lowest. On the
tasks of tests/benchmarks/tasks.py that is within a factor of 6 of the tuned rate, either way."""
NOTICEABLE = 3.0


def range_test(
    step: TrainStep,
    source: BatchSource,
    batch_size: int,
    *,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
) -> float | None:
    """A rate for ``batch_size`` samples per step, or ``None`` where the test shows none.

    Takes up to ``steps`` real optimizer steps; weights and rate are the caller's to put back.
    The rate found is a start for a search, within a small factor of a good one at best.
    """
    rates, losses = [], []
    feed = endless(source, batch_size)
    for number in range(QUIET + steps):
        share = max(0, number - QUIET) / max(1, steps - 1)
        rate = lowest * (highest / lowest) ** share
        step.set_learning_rate(rate)
        step.zero_grad()
        loss = float(step.forward_backward(next(feed)))
        step.update()
        rates.append(rate)
        losses.append(loss)
        if _ran_away(losses):
            break
    step.zero_grad()
    return suggest_rate(rates, losses)


def suggest_rate(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate a factor 10 below that of the lowest smoothed loss.

    ``rates`` begin with equal ones, whose losses show the scatter. ``None`` where the loss is not
    finite from the start, or falls by less than three times its scatter.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(finite) < len(losses):
        losses = losses[: next(k for k, loss in enumerate(losses) if not math.isfinite(loss))]
    if len(losses) < 2 * QUIET:
        return None
    quiet = losses[:QUIET]
    # a mean over both sides, fewer at the ends: no lag
    smooth = [
        fmean(losses[max(0, k - HALF_WINDOW) : k + HALF_WINDOW + 1]) for k in range(len(losses))
    ]
    low = min(range(QUIET, len(smooth)), key=smooth.__getitem__)
    scatter = stdev(quiet) / math.sqrt(2 * HALF_WINDOW + 1)
    if fmean(quiet) - smooth[low] <= NOTICEABLE * scatter:
        return None
    return rates[low] / BELOW_THE_EDGE


def _ran_away(losses: Sequence[float]) -> bool:
    """Whether the loss has left its range, upward: twice over, so that one odd batch ends nothing.

    Its range is what it has fallen by so far, or at first its scatter.
    """
    if not math.isfinite(losses[-1]):
        return True
    if len(losses) < 2 * QUIET:
        return False
    start, low = fmean(losses[:QUIET]), min(losses)
    fallen = max(start - low, 3 * stdev(losses[:QUIET]))
    return all(loss > start + fallen for loss in losses[-2:])
