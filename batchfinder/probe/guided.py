"""The search that a memory line guides."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchfinder.probe.history import Forecast, History, forecast, history
from batchfinder.probe.space import SearchSpace
from batchfinder.results import Trial

PRICE_OF_A_FAILURE = 8
"""In trials. With it a bracket of two thousand sizes meets at most three failures."""


def reach(trials: int, failures: int) -> int:
    """How many sizes ``trials`` trials can search with at most ``failures`` failures."""
    return sum(math.comb(trials, k) for k in range(1, failures + 1))


def trials_needed(sizes: int, failures: int) -> int:
    """The fewest trials that search ``sizes`` sizes with at most ``failures`` failures."""
    few, enough = 0, 1
    while reach(enough, failures) < sizes:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (middle, enough) if reach(middle, failures) < sizes else (few, middle)
    return enough


def cheapest_trials(sizes: int) -> int:
    """In how many trials to search ``sizes`` sizes, a failure being worth several."""
    plans = [(trials_needed(sizes, k), k) for k in range(1, sizes.bit_length() + 1)]
    trials, _ = min(plans, key=lambda plan: plan[0] + PRICE_OF_A_FAILURE * plan[1])
    return trials


def failures_needed(sizes: int, trials: int) -> int:
    """The fewest failures with which ``trials`` trials can search; bisection's where none can."""
    bisection = max(sizes.bit_length(), 1)
    affordable = (k for k in range(1, bisection) if reach(max(trials, 0), k) >= sizes)
    return next(affordable, bisection)


def next_drop(sizes: Sequence[int], trials: int) -> int:
    """The size among the untried ``sizes`` (increasing, not empty) to run next.

    ``trials`` are those left of what ``cheapest_trials`` granted to the first bracket.
    """
    failures = failures_needed(len(sizes), trials)
    needed = trials_needed(len(sizes), failures)
    return sizes[min(reach(needed - 1, failures - 1), len(sizes) - 1)]


MAX_JUMP_FACTOR = 8
"""Times the largest size that fits, once a line is seen; twice before."""

SHARE_LEFT_WITHOUT_LINE = 0.2
"""Which share of the way to the forecast maximum to leave while no line is seen."""

CHORD_RATIO = 1.15
"""Sizes within this ratio are near: a chord reaches from one to the other."""

GUESS_TOLERANCE = 1.05
"""A forecast above a guess by at most this ratio confirms it: then the guess is tried first."""

FEWEST_FOR_A_LINE = 3
"""With fewer sizes that fit, no line can have been seen."""

SHARE_FORESEEN = 0.8
"""A failure at less than this share of the way to the forecast maximum was not foreseen at all."""

SLACK = 0.01
"""Share of the limit that a caching allocator cannot give to tensors, whatever the layout."""

SHARE_OF_MEMORY_FAILURES = 0.5
"""A trial that failed below this share of the limit did not fail for what the peak counts."""


def guided(trials: Sequence[Trial], space: SearchSpace) -> int | None:
    """The next size to run, or ``None`` when the largest that fits is known well enough.

    A pure function of its arguments. Enough is known when the ceiling fits, when the smallest
    failure lies within ``space.resolution`` of the largest success (next to it, at 0), or, for a
    resolution above 0, when a line seen in three sizes says that nothing larger by more than the
    resolution can fit; and when nothing fits at all. A line says no more once a size has failed
    under a caching allocator, which may fail, or may yet find room, where bytes do not tell.
    """
    seen = history(trials)
    if not seen.low:
        return _descend(seen, space)
    if _is_settled(seen, space):
        return None
    if space.first_guess is not None and len(seen.in_order) == 1:
        # one small size has shown that anything fits
        guess = _just_inside(space.first_guess, space)
        if guess > seen.low:
            return guess
    return _climb(seen, space) if seen.high is None else _close(seen, seen.high, space)


def _descend(seen: History, space: SearchSpace) -> int | None:
    """Nothing fits yet: begin, or go down by quarters, which meets fewer failures than halves."""
    if not seen.fails:
        return space.first
    smallest_failure = seen.fails[0].batch_size
    if smallest_failure <= space.smallest:
        return None
    return space.at_most(smallest_failure // 4)


def _just_inside(largest: float, space: SearchSpace) -> int:
    """Somewhat below ``largest``, unless that would leave a size worth another trial.

    The ceiling itself is not shied away from: a user who set it, or a dataset that ends there,
    asks whether just that fits.
    """
    inside, edge = space.at_most(largest * (1 - space.resolution / 2)), space.at_most(largest)
    at_ceiling = space.after(edge) is None
    return edge if at_ceiling or edge > space.within_resolution(inside) else inside


def _is_settled(seen: History, space: SearchSpace) -> bool:
    if space.after(seen.low) is None:
        return True
    good_enough = space.within_resolution(seen.low)
    if seen.high is not None:
        if space.before(seen.high) <= good_enough:
            return True
        if seen.is_cached:
            return False
    return space.resolution > 0 and _largest_believable(seen, space) <= good_enough


def _largest_believable(seen: History, space: SearchSpace) -> float:
    """The largest size that can fit, where that may be believed without a failure; else ``inf``."""
    ahead = _steering(seen, space)
    if ahead is None or space.limit_bytes is None:
        return math.inf
    largest = space.at_most(ahead.largest_within(space.limit_bytes))
    guess = space.first_guess
    as_predicted = guess is not None and abs(largest - guess) <= space.resolution * guess
    return largest if ahead.shows_a_line or ahead.bend > 0 or as_predicted else math.inf


def _steering(seen: History, space: SearchSpace) -> Forecast | None:
    """The forecast, if it reaches from the largest success and rises towards a known limit."""
    ahead = forecast(seen.fits)
    if ahead is None or space.limit_bytes is None or ahead.slope <= 0 or ahead.size < seen.low:
        return None
    return ahead


def _climb(seen: History, space: SearchSpace) -> int:
    """Nothing failed near: twice the size, or as far as the forecast reaches, by way of a guess."""
    ahead = _steering(seen, space)
    if ahead is None:
        return _above(seen.low, 2 * seen.low, space)
    cap = (MAX_JUMP_FACTOR if ahead.shows_a_line else 2) * seen.low
    target = min(cap, _aim(ahead, seen, space))
    if space.first_guess is not None and seen.low < space.first_guess <= target <= (
        GUESS_TOLERANCE * space.first_guess
    ):
        target = space.first_guess
    return _above(seen.low, target, space)


def _close(seen: History, high: int, space: SearchSpace) -> int:
    """Between the largest success and the smallest failure: by the line, by halves, or blind.

    A failure far above the first few successes, such as of a wrong guess, is climbed towards.
    """
    if len(seen.fits) < FEWEST_FOR_A_LINE and high > 4 * seen.low:
        return _climb(seen, space)
    if _is_unforeseen(seen, high, space):
        first = seen.until_first_bracket()
        granted = cheapest_trials(len(space.between(first.low, first.high or high)))
        spent = len(seen.in_order) - len(first.in_order)
        return next_drop(space.between(seen.low, high), granted - spent)
    return min(_above(seen.low, _target(seen, high, space), space), space.before(high))


def _target(seen: History, high: int, space: SearchSpace) -> float:
    """By the line; below a failure that it just missed; by halves where it is wrong."""
    ahead = _steering(seen, space)
    if ahead is None or space.limit_bytes is None:
        return _half(seen.low, high)
    # how many sizes failed that should have fitted by the forecast
    contradictions = sum(
        ahead.size < trial.batch_size <= ahead.largest_within(space.limit_bytes)
        for trial in seen.fails
    )
    if contradictions > 1 or not _is_foreseen(ahead, high, space.limit_bytes):
        return _half(seen.low, high)
    if contradictions:
        # somewhat below a size that failed, so that a slope is seen close to the limit
        return 0.9 * high if high > 1.2 * seen.low else _half(seen.low, high)
    return min(_aim(ahead, seen, space), MAX_JUMP_FACTOR * seen.low)


def _is_unforeseen(seen: History, high: int, space: SearchSpace) -> bool:
    """Whether ``high`` failed for something that no peak shows: then no slope will lead to it."""
    ahead = _steering(seen, space)
    if space.limit_bytes is None or ahead is None:
        return True
    if _is_foreseen(ahead, high, space.limit_bytes):
        return False
    peak = next(trial.peak_bytes for trial in seen.fails if trial.batch_size == high)
    return peak is None or peak < SHARE_OF_MEMORY_FAILURES * space.limit_bytes


def _is_foreseen(ahead: Forecast, high: int, limit_bytes: int) -> bool:
    """Whether ``high`` is about where the forecast meets the limit, or beyond."""
    return high - ahead.size >= SHARE_FORESEEN * (ahead.largest_within(limit_bytes) - ahead.size)


def _half(low: int, high: int) -> float:
    """The middle: by ratio while the bracket is wide."""
    return math.sqrt(low * high) if high > 2 * low else (low + high) / 2


def _aim(ahead: Forecast, seen: History, space: SearchSpace) -> float:
    """Just inside the forecast maximum; just above what is settled where that says no more."""
    assert space.limit_bytes is not None  # a forecast steers only towards a known limit
    largest = ahead.largest_within((1 - SLACK if seen.is_cached else 1) * space.limit_bytes)
    doubt = ahead.disagreement if ahead.shows_a_line else SHARE_LEFT_WITHOUT_LINE
    inside = largest - doubt * (largest - seen.low)
    if space.resolution > 0 and largest <= CHORD_RATIO * seen.low:
        # so near, a size just within the resolution spares another trial
        inside = max(inside, largest * (1 - 0.9 * space.resolution))
    if ahead.shows_a_line:
        inside = min(inside, _just_inside(largest, space))
    return inside if inside > seen.low else space.within_resolution(seen.low)


def _above(low: int, target: float, space: SearchSpace) -> int:
    """The size to try for ``target``: above ``low``, within the ceiling."""
    following = space.after(low)
    assert following is not None  # at the ceiling the search has ended
    return max(following, space.at_most(target))
