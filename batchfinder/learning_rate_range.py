"""A learning-rate range test: which rate does the user's batch size stand?

For a caller who knows no rate at all. The rate rises exponentially from step to step until the
loss runs away (Smith 2017, arXiv:1506.01186). Known faults of such tests are avoided: the loss
is smoothed on both sides, so that it does not lag behind the rate; the first steps, where the
rate is too small to matter, measure the scatter instead of being searched; the steepest single
step is not taken for a slope; and where the loss never fell, there is no answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from statistics import fmean, stdev

from batchfinder.protocols import Batch, BatchSource, TrainStep
from batchfinder.run.batches import Kept

__all__ = ["range_test", "suggest_rate"]

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 120
QUIET = 10
"""Steps at the lowest rate, before it rises: they show how the loss scatters by itself."""
HALF_WINDOW = 3
BELOW_THE_EDGE = 10.0
"""The suggestion lies this factor below the rate at which the smoothed loss is lowest. On the
tasks of tests/benchmarks/tasks.py that is within a factor of 6 of the tuned rate, either way."""
NOTICEABLE = 3.0
SHARE = 0.3
"""How much of the seconds that are left the test may take."""
FEWEST = 40
"""With time for fewer rising rates they lie too far apart for the loss to show an edge."""


def _without_end() -> float:
    return math.inf


def range_test(
    step: TrainStep,
    source: BatchSource,
    batch_size: int,
    *,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
    seconds_left: Callable[[], float] = _without_end,
) -> float | None:
    """A rate for ``batch_size`` samples per step, or ``None`` where the test shows none.

    Takes up to ``steps`` real optimizer steps; weights and rate are the caller's to put back.
    The rate found is a start for a search, within a small factor of a good one at best.

    With ``seconds_left`` it takes about ``SHARE`` of them: where reading is slow its first batches
    come again, where the steps are, there are fewer; and with no time for ``FEWEST`` it gives up.
    """
    batches = Kept(source, batch_size)
    try:
        rates, losses = _rising(step, batches, (lowest, highest), steps, seconds_left)
    finally:
        batches.close()
    step.zero_grad()
    return suggest_rate(rates, losses)


def _rising(
    step: TrainStep,
    batches: Kept,
    between: tuple[float, float],
    steps: int,
    seconds_left: Callable[[], float],
) -> tuple[list[float], list[float]]:
    """The rates of one test and the loss at each; none of them where time is too short."""
    rates: list[float] = []
    losses: list[float] = []

    def goes_on(rate: float, batch: Batch) -> bool:
        step.set_learning_rate(rate)
        step.zero_grad()
        rates.append(rate)
        losses.append(float(step.forward_backward(batch)))
        step.update()
        return not _ran_away(losses)

    (lowest, highest), feed = between, batches.onward()
    began, reading = seconds_left(), 0.0
    until = (1 - SHARE) * began
    for _ in range(QUIET):
        before = seconds_left()
        if before < until:
            return [], []
        handed = [next(feed)]
        reading += before - seconds_left()
        if not goes_on(lowest, handed.pop()):
            return rates, losses
    if math.isfinite(began):
        left = seconds_left()
        taken, room = began - left, QUIET * (left - until)
        if taken * steps > room:
            feed = _again_and_again(batches, QUIET)
            taken -= reading
        if taken * steps > room:
            steps = int(room / taken)
            if steps < FEWEST:
                return [], []
    for number in range(steps):
        if not goes_on(lowest * (highest / lowest) ** (number / max(1, steps - 1)), next(feed)):
            break
    return rates, losses


def _again_and_again(batches: Kept, count: int) -> Iterator[Batch]:
    while True:
        yield from islice(batches.again(), count)


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
