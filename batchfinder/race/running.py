"""The race itself: arms run one after the other until the best lies between worse ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from batchfinder.errors import OutOfTime
from batchfinder.race.arithmetic import are_alike, best_of, next_arm, offset_of, scatter_of
from batchfinder.results import RaceArm

__all__ = ["Finish", "LossAt", "run_arms"]

LossAt = Callable[[float, int], RaceArm]
"""(rate, data order) -> one arm, run from the start."""


@dataclass(frozen=True)
class Finish:
    """How a race ended. ``best_rate`` is ``None`` where every rate ran away, or none was run."""

    arms: tuple[RaceArm, ...]
    best_rate: float | None
    at_edge: bool = False
    """Whether the best was the last one tried, so that a better one may lie beyond."""
    repeated: bool = True
    """Whether the best rate was seen to hold on a second order of the data."""
    first_best_rate: float | None = None
    """That of the lowest loss on the first order, where it did not hold on another."""
    scatter: float = 0.0
    """By how much its loss differs between the two orders."""
    alike: bool = False
    """Whether the losses of all rates differ by no more than that."""


def run_arms(
    loss_at: LossAt,
    start: float,
    *,
    most: int,
    total: int | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> Finish:
    """Walk from ``start`` by factors of two to the best rate, and repeat that on another order.

    Where the repeat runs away, or makes the mean of both orders worse than the next lower rate,
    that one takes its place and is repeated, and so on: a rate may diverge on one order of the data
    and be the fastest on another, and the best of many is so by luck too. An arm for which no time
    is left to read samples ends it, and does not count.

    Args:
        loss_at: runs one arm.
        start: the first rate.
        most: arms on the first order, and repeats on the second, at most.
        total: arms and repeats together, at most; at least one is left for a repeat.
        enough: asked before every arm but the first; true ends the race there.
    """
    losses: dict[int, float] = {}
    errors: dict[int, float] = {}
    arms: list[RaceArm] = []

    def run(k: int, order: int) -> float:
        arms.append(loss_at(start * 2.0**k, order))
        errors.setdefault(k, arms[-1].loss_error)
        return arms[-1].loss

    total = 2 * most if total is None else total
    first = min(most, total - 1)
    k = next_arm(losses, first)
    while k is not None:
        try:
            losses[k] = run(k, 1)
        except OutOfTime:
            break
        k = None if enough() else next_arm(losses, first)
    best = best_of(losses)
    if best is None:
        return Finish(tuple(arms), None)
    at_edge = not {best - 1, best + 1} <= losses.keys()
    kept, scatter = best, 0.0
    for _ in range(most):
        if len(arms) >= total or enough():
            return Finish(tuple(arms), _rate(start, kept), at_edge, repeated=False)
        try:
            again = run(kept, 2)
        except OutOfTime:
            return Finish(tuple(arms), _rate(start, kept), at_edge, repeated=False)
        if kept == best:
            scatter = scatter_of((losses[best], errors[best]), (again, arms[-1].loss_error))
        both = (losses.get(kept, again) + again) / 2
        if math.isfinite(both) and both <= losses.get(kept - 1, math.inf):
            offset = offset_of(losses, best) if kept == best else 0.0
            return Finish(
                tuple(arms),
                _rate(start, kept + offset),
                at_edge,
                first_best_rate=_rate(start, best) if kept < best else None,
                scatter=scatter,
                alike=are_alike(losses, scatter),
            )
        kept -= 1
    return Finish(tuple(arms), None)


def _rate(start: float, octaves: float) -> float:
    return float(start * 2.0**octaves)
