"""Which rate to try next, and what the tried ones say: numbers in, numbers out.

Rates lie at factors of two: number k stands for the start rate times 2^k. A loss of ``inf`` stands
for a rate at which the training ran away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from batchfinder.rates import OptimizerFamily
from batchfinder.scaling import is_sgd

__all__ = [
    "ADAPTIVE",
    "ALIKE",
    "BAND",
    "DECAYING",
    "FARTHEST",
    "SGD",
    "Fall",
    "are_alike",
    "averaged_share",
    "best_of",
    "carried",
    "clipped",
    "fall_of",
    "for_the_run",
    "held_out_batches",
    "next_arm",
    "offset_of",
    "open_rates",
    "passes_of",
    "race_steps",
    "runs_within",
    "scatter_of",
    "steps_at",
]


@dataclass(frozen=True)
class Fall:
    """By which powers of the length of a run its best rate falls.

    Tasks differ: a rate that falls by a power from ``least`` to ``most`` is as good a guess as any,
    and ``aim`` is where one outside is moved to (docs/tables/race.md, docs/tables/long_regret.md).
    """

    least: float
    most: float
    aim: float


ADAPTIVE = Fall(1 / 3, 3 / 4, 2 / 3)
"""At a constant rate: 0.1 to 0.9 on small networks, and 0.32 in tokens for language models
(Bjorck et al. 2024, arXiv:2409.19913)."""
SGD = Fall(1 / 6, 3 / 4, 1 / 4)
"""At a constant rate: -0.3 to 0.6; steps shrink with the gradient, so noise is felt later."""
DECAYING = Fall(0.0, 5 / 12, 1 / 8)
"""Where the rate decays or weights are averaged: -0.2 to 0.4, under either kind of optimizer."""
FARTHEST = 40.0
"""Up to ``FARTHEST`` times the steps of the race the power law was compared with whole runs."""
BAND = 4.0
"""Where the length of the run is not known, the rule's rate is kept this far below the best one."""
ALIKE = 2.0
"""Rates up to this far above what ``Fall.least`` makes of the best one stay open."""
FEWEST_STEPS, MOST_STEPS = 50, 400
_USUAL_STEPS = 100
_SHARE_OF_THE_RUN = 60
_FEWEST_HELD, _MOST_HELD, _SAMPLES_HELD = 8, 16, 512
_SHARE_HELD = 4


def next_arm(losses: Mapping[int, float], most: int) -> int | None:
    """The next number to try; ``None`` once the best one's neighbours were tried, or ``most`` were.

    Down while every rate ran away; then up while that is better, else down while that is better.
    """
    if not losses:
        return 0
    if len(losses) >= most:
        return None
    best = best_of(losses)
    if best is None:
        return min(losses) - 1
    return next((k for k in (best + 1, best - 1) if k not in losses), None)


def best_of(losses: Mapping[int, float]) -> int | None:
    """The number of the lowest loss, the lower rate of two alike; ``None`` where all ran away."""
    finite = sorted(k for k, loss in losses.items() if math.isfinite(loss))
    return min(finite, key=lambda k: losses[k], default=None)


def offset_of(losses: Mapping[int, float], best: int) -> float:
    """Where a parabola through ``best`` and its neighbours is lowest, in octaves from ``best``.

    At most half an octave either way; 0 where a neighbour was not tried or ran away.
    """
    below, here, above = (losses.get(k, math.inf) for k in (best - 1, best, best + 1))
    curvature = below - 2 * here + above
    if not math.isfinite(curvature) or curvature <= 0:
        return 0.0
    return max(-0.5, min(0.5, (below - above) / (2 * curvature)))


def fall_of(optimizer_family: OptimizerFamily, *, decays: bool) -> Fall:
    """How the best rate falls under an optimizer of this family; ``decays``: the run's rate."""
    if decays:
        return DECAYING
    return SGD if is_sgd(optimizer_family) else ADAPTIVE


def carried(best: float, ratio: float, power: float) -> float:
    """``best`` as the rate of a run ``ratio`` times as long; never higher."""
    return float(best * max(1.0, ratio) ** -power)


def open_rates(
    best: float, ratio: float, fall: Fall, *, up_to: float | None = None
) -> tuple[float, float]:
    """The lowest and the highest rate that may be the best of a run ``ratio`` times as long.

    How the best rate falls differs between tasks: the longer the run is beside the race, the less
    its best rate says. ``up_to`` is a higher rate that was the best on one order of the data.
    """
    highest = max(best, up_to or 0.0)
    return carried(best, ratio, fall.most), ALIKE * carried(highest, ratio, fall.least)


def for_the_run(
    rule: float, best: float, ratio: float, fall: Fall, *, up_to: float | None = None
) -> float:
    """The rate of a run ``ratio`` times as long: the rule's, unless the race gives reason to leave.

    That is where it is not among the ``open_rates``; then what ``fall.aim`` makes of ``best``.
    """
    lowest, highest = open_rates(best, ratio, fall, up_to=up_to)
    return rule if lowest <= rule <= highest else carried(best, ratio, fall.aim)


def scatter_of(one: tuple[float, float], other: tuple[float, float]) -> float:
    """By how much a loss differs between two orders of the data, each (loss, standard error).

    The arms of one order are judged on the same samples, and those of another order on others:
    what that alone makes of the difference is taken off.
    """
    (first, error), (second, other_error) = one, other
    square = (first - second) ** 2 - error**2 - other_error**2
    return math.sqrt(max(0.0, square)) if math.isfinite(square) else 0.0


def are_alike(losses: Mapping[int, float], scatter: float) -> bool:
    """Whether no two of several losses differ by more than ``scatter``; none ran away."""
    return len(losses) > 1 and max(losses.values()) - min(losses.values()) <= scatter


def clipped(rate: float, best: float) -> float:
    """``rate`` moved into the band below ``best``: longer runs want less, never more."""
    return min(max(rate, best / BAND), best)


def steps_at(
    batch: float, *, base_batch: float, base_steps: float, critical: float | None
) -> float:
    """Steps at ``batch`` that get as far as ``base_steps`` at ``base_batch``.

    (1 + φ/B) / (1 + φ/B₀) times as many (McCandlish et al. 2018, arXiv:1812.06162).
    Where φ is not known, the most that any φ would make of it: a length stated too large costs
    less than one stated too small.
    """
    if critical is None or not math.isfinite(critical):
        return base_steps * max(1.0, base_batch / batch)
    return base_steps * (1 + critical / batch) / (1 + critical / base_batch)


def race_steps(run_steps: float | None) -> int:
    """Steps of one arm: 100, and for long runs a sixtieth of them, at most 400.

    Arms two to four times as long say little more of a run (docs/tables/race_lengths.md).
    """
    if run_steps is None:
        return _USUAL_STEPS
    return int(max(_USUAL_STEPS, min(MOST_STEPS, run_steps / _SHARE_OF_THE_RUN)))


def passes_of(steps: int, batch: int, held: int, length: int | None) -> float:
    """How often an arm goes over the data that it trains on; 0 where they have no known end."""
    return 0.0 if length is None else steps / max(1, length // batch - held)


def held_out_batches(batch: int, length: int | None) -> int:
    """Batches to leave out of training: 8 to 16, at most a quarter of ``length`` samples.

    0 where that holds no whole batch.
    """
    wanted = max(_FEWEST_HELD, min(_MOST_HELD, _SAMPLES_HELD // batch))
    return wanted if length is None else min(wanted, length // (_SHARE_HELD * batch))


def runs_within(steps: float, each: float) -> int:
    """How many runs of ``each`` steps a tenth of ``steps`` pays for."""
    return int(steps / (10 * each))


def averaged_share(step: int) -> float:
    """By how much the running average of the weights moves to the weights after ``step`` ≥ 1.

    6 / (t + 5): the first weights count in full, late ones most (polynomial decay of degree 5;
    Shamir and Zhang 2013, arXiv:1212.1824).
    """
    return 6 / (step + 5)
