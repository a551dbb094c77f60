"""How long a size will take, and a search that does not go where a step takes too long."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from batchfinder.probe.history import history, latest
from batchfinder.probe.loop import Propose
from batchfinder.probe.space import SearchSpace
from batchfinder.results import Trial

__all__ = ["not_tried_for_time", "step_seconds_at", "within_time"]

WORTH_ANOTHER_TRIAL = 1.5
"""Closer than this to what ran, a size that time would still allow is not tried."""


def step_seconds_at(trials: Sequence[Trial], size: int) -> float | None:
    """Seconds of one step at ``size``, by the trials that fit; ``None`` where none was timed.

    Between two sizes the line through them, beyond all the line through the two largest. Of one
    size alone, or where that line rises more than in proportion, in proportion: a step has a fixed
    part, so that this is too long, not too short. The fixed part is no longer than the fastest step
    seen: two times that scatter hide no slope.
    """
    fitting = [trial for trial in latest(trials) if trial.fits and trial.step_seconds > 0]
    timed = sorted((trial.batch_size, trial.step_seconds) for trial in fitting)
    if not timed:
        return None
    for (below, less), (above, more) in itertools.pairwise(timed):
        if below <= size <= above:
            return less + (more - less) * (size - below) / (above - below)
    largest, seconds = timed[-1]
    slope = seconds / largest
    if len(timed) > 1 and size > largest:
        smaller, less = timed[-2]
        fixed = min(each for _, each in timed)
        chord = (seconds - less) / (largest - smaller)
        slope = min(slope, max(chord, (seconds - fixed) / largest))
    return max(seconds + slope * (size - largest), 0.0)


def within_time(propose: Propose, step_seconds: float, own: int | None = None) -> Propose:
    """``propose``, kept below sizes whose step would take longer than ``step_seconds``.

    Where it goes beyond, the largest size that keeps to the time is tried in its place, which may
    show that steps are faster than in proportion; where that is hardly more than what ran, the
    search ends. The user's ``own`` size is tried however long it takes: they train with it.
    """

    def patient(trials: Sequence[Trial], space: SearchSpace) -> int | None:
        wanted = propose(trials, space)
        expected = None if wanted is None else step_seconds_at(trials, wanted)
        if wanted is None or expected is None or expected <= step_seconds or wanted == own:
            return wanted
        seen, tried = history(trials), {trial.batch_size for trial in trials}
        low, high = seen.low, math.inf if seen.high is None else seen.high
        if own is not None and low < own < high and own not in tried and space.at_most(own) == own:
            return own
        allowed = _largest_within(trials, low, wanted, step_seconds)
        if _is_first_timing(trials, step_seconds):
            allowed = max(allowed, min(2 * low, wanted))
        instead = space.at_most(allowed)
        return instead if instead >= WORTH_ANOTHER_TRIAL * low and instead not in tried else None

    return patient


def _is_first_timing(trials: Sequence[Trial], step_seconds: float) -> bool:
    """Whether one size alone was timed and keeps to the time: it may hold a cold start."""
    timed = [trial for trial in latest(trials) if trial.fits and trial.step_seconds > 0]
    return len(timed) == 1 and timed[0].step_seconds <= step_seconds


def not_tried_for_time(
    trials: Sequence[Trial],
    space: SearchSpace,
    propose: Propose,
    step_seconds: float,
    own: int | None = None,
) -> tuple[int, float] | None:
    """The size that ``propose`` would go on to, and its step's seconds, where time forbids it."""
    wanted = propose(trials, space)
    if wanted is None or within_time(propose, step_seconds, own)(trials, space) is not None:
        return None
    expected = step_seconds_at(trials, wanted)
    return None if expected is None else (wanted, expected)


def _largest_within(trials: Sequence[Trial], low: int, high: int, step_seconds: float) -> int:
    """The largest size from ``low`` to ``high`` whose step keeps to the time; ``low`` if none."""
    while high - low > 1:
        middle = (low + high) // 2
        fast = (step_seconds_at(trials, middle) or 0.0) <= step_seconds
        low, high = (middle, high) if fast else (low, middle)
    return low
