"""What could be chosen, and its price: relative time = step time(B) · (1 + φ/B).

Source: McCandlish et al. 2018, arXiv:1812.06162 (steps to a target fall as 1 + φ/B, samples
rise as 1 + B/φ); for the product with the step time: Qiao et al. 2021 (Pollux),
arXiv:2008.12260.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from batchfinder.recommend.objectives import samples_per_second
from batchfinder.recommend.situation import Situation, Timing
from batchfinder.results import BatchPlan, Candidate, Role

__all__ = ["Option", "options", "priced", "with_roles"]

ACCUMULATION = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Option:
    """A plan and the timing that it rests on."""

    plan: BatchPlan
    timing: Timing

    @property
    def step_seconds(self) -> float:
        return self.timing.step_seconds(self.plan.accumulation_steps)

    def time_to_target(self, critical: float | None) -> float:
        """Step time · (1 + φ/B), in units of the fewest steps; seconds per sample without φ."""
        return self.step_seconds * steps_factor(self.plan.global_batch, critical)


def steps_factor(batch: float, critical: float | None) -> float:
    """1 + φ/B; with φ unknown or infinite, 1/B: every sample counts the same."""
    if critical is None or math.isinf(critical):
        return 1 / batch
    return 1 + critical / batch


def samples_factor(batch: float, critical: float | None) -> float:
    """1 + B/φ: samples to the target over the fewest. NaN where φ is not known."""
    return math.nan if critical is None else 1 + batch / critical


def options(situation: Situation) -> list[Option]:
    """Every global batch that the constraints allow, in increasing size, each at its fastest.

    Up to the largest micro-batch that fits: one micro-batch per step. Beyond: accumulation.
    """
    plain = {
        each.micro_batch: Option(BatchPlan(each.micro_batch, 1, situation.world_size), each)
        for each in situation.timings
        if situation.allows(each)
    }
    top = max(plain, default=0)
    fastest = {option.plan.global_batch: option for option in plain.values()}
    for option in _accumulated(situation, top):
        known = fastest.get(option.plan.global_batch)
        if known is None or option.step_seconds < known.step_seconds:
            fastest[option.plan.global_batch] = option
    return [fastest[size] for size in sorted(fastest)]


def _accumulated(situation: Situation, top: int) -> Iterator[Option]:
    if not situation.can_accumulate:
        return
    for timing in situation.timings:
        own, rest = divmod(situation.base_batch, timing.micro_batch * situation.world_size)
        counts = {*ACCUMULATION, own} if rest == 0 else ACCUMULATION
        for count in counts:
            larger = count > 1 and timing.micro_batch * count > top
            if larger and situation.allows(timing, count):
                yield Option(BatchPlan(timing.micro_batch, count, situation.world_size), timing)


def priced(situation: Situation, found: Iterable[Option]) -> list[Candidate]:
    """Options as candidates; prices relative to the best of them, the user's own marked."""
    found = list(found)
    critical = situation.critical
    times = [option.time_to_target(critical) for option in found]
    samples = [samples_factor(option.plan.global_batch, critical) for option in found]
    peaks = [situation.peak_bytes(each.timing, each.plan.accumulation_steps) for each in found]
    least_time, fewest = min(times, default=1.0), min(samples, default=1.0)
    return [
        Candidate(
            plan=option.plan,
            relative_time=time / least_time,
            relative_samples=used / fewest,
            step_seconds=option.step_seconds,
            peak_bytes=None if peak is None else round(peak),
            roles=(Role.YOURS,) if situation.is_yours(option.plan) else (),
            joules_per_sample=option.timing.joules_per_sample,
        )
        for option, time, used, peak in zip(found, times, samples, peaks, strict=True)
    ]


def with_roles(candidates: list[Candidate]) -> list[tuple[Role, ...]]:
    """The roles of each candidate, ``Role.YOURS`` kept."""
    plain = [each for each in candidates if each.plan.accumulation_steps == 1] or candidates
    named = {
        Role.LARGEST_THAT_FITS: max(plain, key=lambda each: each.plan.global_batch),
        Role.HIGHEST_THROUGHPUT: max(plain, key=samples_per_second),
        Role.FEWEST_SAMPLES: min(plain, key=lambda each: each.plan.global_batch),
    }
    return [
        each.roles + tuple(role for role, holder in named.items() if holder is each)
        for each in candidates
    ]
