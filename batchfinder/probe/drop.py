"""Where memory cannot be forecast: few failures first, few trials second.

The problem of the dropped eggs: with at most ``failures`` failures, ``trials`` trials tell at most
C(trials, 1) + … + C(trials, failures) sizes apart. Bisection needs the fewest trials, but half of
them fail, and a failure on a device costs more than a success and fragments its memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
