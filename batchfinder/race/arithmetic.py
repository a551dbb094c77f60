"""Which rate to try next, and what the tried ones say: numbers in, numbers out.

Rates lie at factors of two: number k stands for the start rate times 2^k. A loss of ``inf`` stands
for a rate at which the training ran away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "ADAPTIVE",
    "ALIKE",
    "BAND",
    "FARTHEST",
    "SGD",
    "Fall",
    "averaged_share",
    "best_of",
    "carried",
    "clipped",
    "exponent_of",
    "fall_of",
    "for_the_run",
    "held_out_batches",
    "next_arm",
    "offset_of",
    "passes_of",
    "race_steps",
    "runs_within",
    "steps_at",
]


@dataclass(frozen=True)
class Fall:
    """By which power of the length of a run the best constant rate falls, and how that scatters.

    Under an adaptive optimizer 0 to 0.75 on small networks, and 0.32 in tokens for language models
    (Bjorck et al. 2024, arXiv:2409.19913). Under SGD -0.15 to 0.4: its steps shrink with the
    gradient, so that the noise at a rate is felt later (docs/tables/race.md).
    """

    exponent: float
    scatter: float


ADAPTIVE, SGD = Fall(1 / 3, 1 / 4), Fall(1 / 6, 1 / 6)
_SHARE_OF_SHORT_DECAYS = 3 / 4
_SHORT, FARTHEST = 10.0, 40.0
"""Up to ``FARTHEST`` times the steps of the race the power law was compared with whole runs."""
BAND = 4.0
"""Where the length of the run is not known, the rule's rate is kept this far below the best one."""
ALIKE = 1.5
"""The rule's rate is kept where it is above what the race comes to by no more than this."""
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


def fall_of(optimizer_family: str) -> Fall:
    """How the best rate falls under an optimizer of this family."""
    return SGD if optimizer_family.startswith("sgd") else ADAPTIVE


def exponent_of(ratio: float, *, decays: bool, fall: Fall = ADAPTIVE) -> float:
    """By which power of ``ratio``, run over race in steps, the best rate falls.

    A rate that decays, or weights that are averaged, make the fall slower at first: three quarters
    of the power up to ten times the race, all of it from forty times on, and in between by the
    logarithm.
    """
    if not decays:
        return fall.exponent
    share = math.log(max(ratio, 1.0) / _SHORT) / math.log(FARTHEST / _SHORT)
    share = min(1.0, max(0.0, share))
    return fall.exponent * (_SHARE_OF_SHORT_DECAYS + share * (1 - _SHARE_OF_SHORT_DECAYS))


def carried(
    best: float, run_steps: float, steps: int, *, decays: bool, fall: Fall = ADAPTIVE
) -> float:
    """``best``, found in runs of ``steps``, as the rate of a run of ``run_steps``; never higher."""
    ratio = max(1.0, run_steps / steps)
    return float(best * ratio ** -exponent_of(ratio, decays=decays, fall=fall))


def for_the_run(
    rule: float, best: float, ratio: float, *, decays: bool, fall: Fall = ADAPTIVE
) -> float:
    """The rate of a run ``ratio`` times as long: the rule's, as far as the race moves it.

    How the best rate falls differs between tasks: the longer the run is beside the race, the less
    its best rate says. A rate below what it comes to is raised to where a power that is larger by
    ``fall.scatter`` would put it; one above it by more than half of it is lowered to it, since too
    high a rate costs more than too low a one.
    """
    ratio = max(1.0, ratio)
    found = carried(best, ratio, 1, decays=decays, fall=fall)
    lowest = float(found * ratio**-fall.scatter)
    if rule > ALIKE * found:
        return found
    return max(rule, lowest)


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
    """Steps of one arm: 100, and for long runs a sixtieth of them, at most 400."""
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
