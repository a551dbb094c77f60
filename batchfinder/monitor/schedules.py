"""Batch-size schedules as values: from how far a training has come to the size of its next batch.

All sizes count samples per optimizer step and device, all positions samples per device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from batchfinder.errors import InvalidArgument
from batchfinder.monitor.checks import check_count
from batchfinder.monitor.pricing import seconds_at, steps_to_target
from batchfinder.results import NoiseScale

__all__ = [
    "Doubling",
    "FollowMonitor",
    "GrowInsteadOfDecay",
    "Linear",
    "Milestones",
    "Progress",
    "Schedule",
    "Target",
]


@dataclass(frozen=True)
class Progress:
    """How far the training has come when a batch is drawn.

    ``samples`` were drawn before it. ``noise_scale`` is the monitor's latest, in samples over all
    ``devices``; ``None`` without a monitor, and where it abstains. ``family`` is the optimizer's:
    "sgd", "sgd-momentum", "adam", ….
    """

    samples: int
    batch_size: int
    base_batch_size: int
    family: str = "unknown"
    noise_scale: NoiseScale | None = None
    devices: int = 1


@dataclass(frozen=True)
class Target:
    """The size of the next batch.

    ``rate_factor`` is what the learning rate is multiplied by, ``None`` to leave that to the rule
    of the optimizer's family.
    """

    batch_size: int
    rate_factor: float | None = None


class Schedule(Protocol):
    """What a schedule is: any callable like this."""

    def __call__(self, progress: Progress) -> Target: ...


@dataclass(frozen=True)
class Milestones:
    """Given sizes from given positions on: ``Milestones({100_000: 128, 400_000: 512})``."""

    sizes: Mapping[int, int]

    def __post_init__(self) -> None:
        if not isinstance(self.sizes, Mapping):
            raise InvalidArgument(
                f"expected Milestones({{samples: batch size, …}}); found {self.sizes!r}"
            )
        for at, size in self.sizes.items():
            check_count("a milestone", at, 0)
            check_count("a batch size", size, 1)

    def __call__(self, progress: Progress) -> Target:
        passed = [at for at in self.sizes if at <= progress.samples]
        return Target(self.sizes[max(passed)] if passed else progress.base_batch_size)


@dataclass(frozen=True)
class Linear:
    """From the loader's own size to ``to``, in proportion to the samples seen.

    Source: the batch-size warm-up of Brown et al. 2020, arXiv:2005.14165, section 2.3.
    """

    to: int
    over_samples: int
    multiple_of: int = 1

    def __post_init__(self) -> None:
        for name in ("to", "over_samples", "multiple_of"):
            check_count(name, getattr(self, name), 1)

    def __call__(self, progress: Progress) -> Target:
        share = min(1.0, progress.samples / self.over_samples)
        size = progress.base_batch_size + share * (self.to - progress.base_batch_size)
        steps = round(size / self.multiple_of)
        return Target(self.to if share == 1 else max(1, steps * self.multiple_of))


@dataclass(frozen=True)
class Doubling:
    """Twice the size after every ``every_samples`` samples, up to ``at_most``."""

    every_samples: int
    at_most: int

    def __post_init__(self) -> None:
        check_count("every_samples", self.every_samples, 1)
        check_count("at_most", self.at_most, 1)

    def __call__(self, progress: Progress) -> Target:
        times = min(progress.samples // self.every_samples, 62)
        size = progress.base_batch_size * 2**times
        return Target(max(min(size, self.at_most), progress.base_batch_size))


@dataclass(frozen=True)
class GrowInsteadOfDecay:
    """Where the learning rate would be divided by ``factor``, the batch grows instead.

    By ``factor`` for SGD (Smith et al. 2018, arXiv:1711.00489); by its square for the Adam family,
    whose rate goes with the square root of the batch (Malladi et al. 2022, arXiv:2205.10287).
    The rate itself stays, until the batch reaches ``at_most``: what is missing from there on is
    taken from the rate. Leave the decay out of the learning-rate scheduler.
    """

    at_samples: tuple[int, ...]
    at_most: int
    factor: float = 2.0

    def __post_init__(self) -> None:
        check_count("at_most", self.at_most, 1)
        if not isinstance(self.at_samples, Sequence):
            raise InvalidArgument(
                f"expected at_samples as positions, such as (100_000, 150_000); found "
                f"{self.at_samples!r}"
            )
        for at in self.at_samples:
            check_count("a position in at_samples", at, 0)
        if self.factor <= 1:
            raise InvalidArgument(f"expected a factor above 1; found {self.factor}")

    def __call__(self, progress: Progress) -> Target:
        decays = sum(at <= progress.samples for at in self.at_samples)
        power = 2 if progress.family == "adam" else 1
        most = max(self.at_most, progress.base_batch_size) / progress.base_batch_size
        grown = min(self.factor ** (power * decays), most)
        size = round(progress.base_batch_size * grown)
        return Target(size, grown ** (1 / power) / self.factor**decays)


@dataclass(frozen=True)
class FollowMonitor:
    """Grows with the monitor's noise scale, up to ``at_most``; it never shrinks.

    With ``step_seconds``, seconds of a step by batch size, the next size is the listed one from
    which the predicted time to a target, step time · (1 + φ/B), is shortest at the lower end of
    the interval of the noise scale φ, if that is at most ``worth`` of the present size's
    (McCandlish et al. 2018, arXiv:1812.06162). Without, the batch doubles once the lower end is at
    least ``margin`` times the doubled batch: that saves samples, and time only where a larger batch
    makes steps no longer. Give the scheduler the monitor.

    Attributes:
        at_most: the largest size.
        margin: how far the noise scale must be above the doubled batch.
        step_seconds: ``{batch size: seconds of a step}``, such as a report's candidates.
        worth: the share of the present time below which a change is made.
    """

    at_most: int
    margin: float = 1.0
    step_seconds: Mapping[int, float] | None = None
    worth: float = 0.97

    def __post_init__(self) -> None:
        check_count("at_most", self.at_most, 1)
        for name, share in (("margin", self.margin), ("worth", self.worth)):
            if not isinstance(share, (int, float)) or not share > 0:
                raise InvalidArgument(f"expected {name} as a number above 0; found {share!r}")
        for size, seconds in (self.step_seconds or {}).items():
            if size < 1 or not seconds > 0:
                raise InvalidArgument(
                    "expected step_seconds as {batch size: seconds above 0}; found "
                    f"{{{size}: {seconds}}}"
                )

    def __call__(self, progress: Progress) -> Target:
        now, noise = progress.batch_size, progress.noise_scale
        if noise is None:
            return Target(now)
        critical = noise.low / progress.devices
        if self.step_seconds is not None:
            return Target(self._fastest(self.step_seconds, now, critical))
        doubled = 2 * now
        surely = doubled <= self.at_most and critical >= self.margin * doubled
        return Target(doubled if surely else now)

    def _fastest(self, step_seconds: Mapping[int, float], now: int, critical: float) -> int:
        """The size with the shortest predicted time, if that is worth a change from ``now``."""
        present = seconds_at(step_seconds, now)
        if present is None:
            return now
        times = {
            size: seconds * steps_to_target(size, critical)
            for size, seconds in step_seconds.items()
            if now < size <= self.at_most
        }
        best = min(times, key=times.__getitem__, default=now)
        worth = self.worth * present * steps_to_target(now, critical)
        return best if times.get(best, math.inf) <= worth else now
