"""Every batch that could be recommended, what it costs, and how sure its price is.

Source: McCandlish et al. 2018, arXiv:1812.06162 (steps to a target fall as 1 + φ/B, samples
rise as 1 + B/φ); for the product with the step time: Qiao et al. 2021 (Pollux),
arXiv:2008.12260.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from batchfinder.recommend.objectives import samples_per_second
from batchfinder.recommend.situation import Situation, Timing
from batchfinder.recommend.step_time import Vector
from batchfinder.results import SAME, BatchPlan, Candidate, NoiseScale, Role
from batchfinder.scaling import critical_batch_size

__all__ = ["Draws", "Option", "Spread", "drawn", "options", "priced", "with_roles", "within_noise"]


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


def with_roles(
    candidates: list[Candidate], situation: Situation, max_batch_size: int
) -> list[tuple[Role, ...]]:
    """The roles of each candidate, ``Role.YOURS`` kept.

    What a constraint excludes is no candidate, but may be larger or have a higher throughput: the
    largest candidate is then no more than that, and none has the highest throughput.
    """
    plain = [each for each in candidates if each.plan.accumulation_steps == 1] or candidates
    top = max(plain, key=lambda each: each.plan.global_batch)
    largest = Role.LARGEST_CONSIDERED
    if top.plan.micro_batch >= max_batch_size:
        largest = Role.LARGEST_THAT_FITS
    named = {
        largest: top,
        Role.FEWEST_SAMPLES: min(plain, key=lambda each: each.plan.global_batch),
    }
    fastest = max(plain, key=samples_per_second)
    run = [each for each in situation.timings if each.was_run]
    highest = max(run, key=lambda each: each.micro_batch / each.step_seconds())
    if fastest.plan.micro_batch == highest.micro_batch:
        named[Role.HIGHEST_THROUGHPUT] = fastest
    order = (largest, Role.HIGHEST_THROUGHPUT, Role.FEWEST_SAMPLES)
    return [
        each.roles + tuple(role for role in order if named.get(role) is each) for each in candidates
    ]


DRAWS = 2000
OPEN_END = 16.0
"""How far above the estimate the 95% point is taken to lie where the interval has no upper end."""
RATE_SCATTER = 0.04
"""Steps that a rule's rate costs beyond those of the best rate: |normal| times this, relatively,
for every doubling or halving of the batch. Four doublings away the rules cost 9% on average
and 36% at worst (ten tasks, tests/benchmarks/regret.py)."""


@dataclass(frozen=True)
class Spread:
    """A 90% interval about a median."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Draws:
    """Joint draws: ``times`` of every option to the target, shape (n, DRAWS).

    ``penalties``, of the same shape, is what the learning-rate rule may cost at each batch,
    at least 1.
    """

    times: Vector
    penalties: Vector

    def relative_to(self, chosen: int) -> list[Spread]:
        """Every option's time over that of the option at index ``chosen``."""
        ratios = self.times / self.times[chosen]
        return _spreads(ratios)

    def slowness(self, option: int, other: int) -> Spread:
        """The time of one option over that of another, what the rule may cost at both included."""
        priced = self.times[[option, other]] * self.penalties[[option, other]]
        return _spreads(priced[:1] / priced[1])[0]

    def speedups(self, yours: int) -> list[Spread]:
        """The time of the option at index ``yours`` over every option's, the rule's cost included.

        At the user's own batch their rate is taken as it is.
        """
        ratios = self.times[yours] / (self.times * self.penalties)
        return _spreads(ratios)


def _spreads(rows: Vector) -> list[Spread]:
    points = np.quantile(rows, (0.05, 0.5, 0.95), axis=1)
    return [Spread(*map(float, column)) for column in points.T]


def drawn(
    found: Sequence[Option], situation: Situation, noise: NoiseScale | None, seed: int = 0
) -> Draws:
    """``DRAWS`` joint draws of noise scale, step times and the cost of the rule's rate.

    The noise scale is log-normal, each half with the width of its half of its interval; step
    times are log-normal with the covariance of the fitted curve, shared by the plans built on one
    micro-batch. Same seed, same answer.
    """
    random = np.random.default_rng(seed)
    critical = _critical_draws(noise, random)
    micro = [timing.micro_batch for timing in situation.timings]
    slowness = np.exp(random.standard_normal((DRAWS, len(micro))) @ _root(situation.covariance))
    size_of = {size: index for index, size in enumerate(micro)}
    cost = np.abs(random.standard_normal(DRAWS))
    times, penalties = [], []
    for option in found:
        batch = option.plan.global_batch
        factor = 1 / batch if critical is None else 1 + critical / batch
        slower = slowness[:, size_of[option.timing.micro_batch]]
        times.append(option.step_seconds * slower * factor)
        doublings = abs(math.log2(batch / situation.base_batch))
        penalties.append(np.exp(RATE_SCATTER * doublings * cost))
    return Draws(np.stack(times), np.stack(penalties))


def _root(covariance: Vector) -> Vector:
    """The symmetric square root of a covariance, (n, n).

    Of all roots the one that depends continuously on it: eigenvectors do not, where eigenvalues
    meet, so that draws made of those would differ between linear algebra libraries.
    """
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def _critical_draws(
    noise: NoiseScale | None, random: np.random.Generator
) -> NDArray[np.float64] | None:
    middle = critical_batch_size(noise)
    if noise is None or middle is None:
        return None
    below = math.log(middle / noise.low) if noise.low > 0 else math.log(OPEN_END)
    above = math.log(noise.high / middle) if noise.is_bounded else math.log(OPEN_END)
    normal = random.standard_normal(DRAWS)
    deviations = NormalDist().inv_cdf((1 + noise.confidence) / 2)
    widths = np.where(normal < 0, max(0.0, below), max(0.0, above)) / deviations
    return np.asarray(middle * np.exp(widths * normal), dtype=np.float64)


def within_noise(found: Sequence[Option], spreads: Sequence[Spread]) -> tuple[int, int]:
    """Smallest and largest global batch whose time is indistinguishable from the chosen one's.

    Those whose interval meets 1 ± 3%; the chosen one's does.
    """
    sizes = [
        option.plan.global_batch
        for option, spread in zip(found, spreads, strict=True)
        if spread.low <= 1 + SAME and spread.high >= 1 / (1 + SAME)
    ]
    return min(sizes), max(sizes)
