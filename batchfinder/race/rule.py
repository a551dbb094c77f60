"""The rule that measures, and the arms that it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from batchfinder.errors import InvalidArgument, OutOfTime
from batchfinder.keywords import options_named
from batchfinder.protocols import LearningRateRule
from batchfinder.race.arithmetic import FEWEST_STEPS, best_of, next_arm, offset_of
from batchfinder.results import NoiseScale, RaceArm

__all__ = ["Finish", "LossAt", "Race", "Raced", "run_arms"]


@options_named
@dataclass(frozen=True)
class Race:
    """The learning rate is measured: short trainings at factors of two, judged on data left out.

    Pass ``learning_rate_rule=Race()``. It takes 300 to 900 optimizer steps at the recommended
    batch, from the weights as they are, and everything is put back. With ``training_steps`` the
    best rate is carried to the length of the run, by its power of -1/3 (-1/6 under SGD), and the
    rule's rate moved as far as that gives reason to; without, it is only kept within a factor of
    four below the best.

    Args:
        steps: optimizer steps of one arm. Left out: 100, and up to 400 for long runs.
        ramp: steps over which the rate rises at the start of an arm.
        arms: the most rates that are tried, apart from repeats.
        decays: whether the run's rate decays, or its weights are averaged, so that averaged
            weights are judged. Left out: told from ``scheduler=``.
        start: the rule whose rate is tried first. Left out: that of the optimizer's family.
    """

    steps: int | None = None
    ramp: int = 20
    arms: int = 8
    decays: bool | None = None
    start: LearningRateRule | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < FEWEST_STEPS:
            raise InvalidArgument(
                f"expected Race(steps=) of at least {FEWEST_STEPS}; found {self.steps}: shorter "
                "trainings favour rates that fail later"
            )
        if self.arms < 3:
            raise InvalidArgument(
                f"expected Race(arms=) of at least 3; found {self.arms}: a best rate is one with "
                "worse rates on either side"
            )
        if self.ramp < 0:
            raise InvalidArgument(f"expected Race(ramp=) of 0 or more; found {self.ramp}")


@dataclass(frozen=True)
class Raced:
    """A rule put right by a race: ``rate`` at ``batch``, and as the rule goes from there."""

    rule: LearningRateRule
    batch: int
    rate: float

    @property
    def __name__(self) -> str:
        return "race"

    def __call__(
        self, base_rate: float, base_batch: float, batch: float, noise: NoiseScale | None = None
    ) -> float:
        at_race = self.rule(base_rate, base_batch, self.batch, noise)
        return self.rate * (self.rule(base_rate, base_batch, batch, noise) / at_race)


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
    arms: list[RaceArm] = []

    def run(k: int, order: int) -> float:
        arms.append(loss_at(start * 2.0**k, order))
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
    kept = best
    for _ in range(most):
        if len(arms) >= total or enough():
            return Finish(tuple(arms), _rate(start, kept), at_edge, repeated=False)
        try:
            again = run(kept, 2)
        except OutOfTime:
            return Finish(tuple(arms), _rate(start, kept), at_edge, repeated=False)
        both = (losses.get(kept, again) + again) / 2
        if math.isfinite(both) and both <= losses.get(kept - 1, math.inf):
            offset = offset_of(losses, best) if kept == best else 0.0
            return Finish(tuple(arms), _rate(start, kept + offset), at_edge)
        kept -= 1
    return Finish(tuple(arms), None)


def _rate(start: float, octaves: float) -> float:
    return float(start * 2.0**octaves)
