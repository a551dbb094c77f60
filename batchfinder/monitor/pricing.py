"""Which batch size would be faster now? The report's step times at today's noise scale."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchfinder.monitor.history import Suggestion
from batchfinder.protocols import LearningRateRule
from batchfinder.rates import OptimizerFamily
from batchfinder.results import Candidate, NoiseScale
from batchfinder.scaling import rule_for
from batchfinder.wording import Caveat

__all__ = ["Now", "Suggestions", "seconds_at", "steps_to_target", "suggestion"]

WORTH = 0.9
"""A change is suggested where the rest takes at most this share of the time, at both ends of the
noise scale's interval."""


@dataclass(frozen=True)
class Now:
    """Where the training stands. ``batch_size`` counts samples per step over all devices."""

    step: int
    batch_size: int
    learning_rate: float
    noise: NoiseScale


def suggestion(
    candidates: Sequence[Candidate], now: Now, rule: LearningRateRule
) -> Suggestion | None:
    """The candidate with the shortest predicted rest, if that is worth a change.

    Time ∝ step time · (1 + φ/B) with φ the noise scale (McCandlish et al. 2018, arXiv:1812.06162);
    the step time of the present batch is interpolated between the candidates' where it is none of
    them. ``None`` where nothing is gained, or where the present batch lies outside of them.
    """
    times_of = {each.plan.global_batch: each.step_seconds for each in candidates}
    present = seconds_at(times_of, now.batch_size)
    if present is None:
        return None
    noise = now.noise

    def relative(candidate: Candidate, critical: float) -> float:
        there = candidate.step_seconds * steps_to_target(candidate.plan.global_batch, critical)
        return there / (present * steps_to_target(now.batch_size, critical))

    best = min(candidates, key=lambda candidate: relative(candidate, noise.value))
    times = [relative(best, critical) for critical in (noise.value, noise.low, noise.high)]
    if max(times) > WORTH:
        return None
    batch = best.plan.global_batch
    rate = rule(now.learning_rate, now.batch_size, batch, noise)
    said = Caveat(
        "monitor.suggestion",
        noise=noise.value,
        low=noise.low,
        high=noise.high,
        batch=batch,
        rate=rate,
        time=times[0],
        time_low=min(times[1:]),
        time_high=max(times[1:]),
    )
    return Suggestion(now.step, batch, rate, times[0], min(times[1:]), max(times[1:]), said)


class Suggestions:
    """What was suggested along a training, each change of the batch size once."""

    def __init__(self, candidates: Sequence[Candidate], family: OptimizerFamily) -> None:
        self.made: list[Suggestion] = []
        self._candidates = tuple(candidates)
        self._rule = rule_for(family).rule
        self._devices = self._candidates[0].plan.world_size if self._candidates else 1

    def at(self, now: Now) -> Suggestion | None:
        """What is suggested now, if that is new; ``now.batch_size`` counts one device's samples."""
        if not self._candidates:
            return None
        now = dataclasses.replace(now, batch_size=now.batch_size * self._devices)
        found = suggestion(self._candidates, now, self._rule)
        if found is None or (self.made and self.made[-1].batch_size == found.batch_size):
            return None
        self.made.append(found)
        return found


def steps_to_target(batch: float, critical: float) -> float:
    """Steps to a target: 1 + φ/B, and 1/B where φ has no end."""
    return 1 + critical / batch if math.isfinite(critical) else 1 / batch


def seconds_at(times: Mapping[int, float], batch: int) -> float | None:
    """The step time at ``batch``, between the neighbours on both sides in proportion."""
    below = max((size for size in times if size <= batch), default=None)
    above = min((size for size in times if size >= batch), default=None)
    if below is None or above is None:
        return None
    if below == above:
        return times[below]
    share = (batch - below) / (above - below)
    return times[below] * (1 - share) + times[above] * share
