"""What is best, as values: functions from candidates, in increasing size, to one of them.

``relative_time`` and ``relative_samples`` of the candidates are relative to the best here; where
no noise scale is known, ``relative_samples`` is NaN and ``relative_time`` is time per sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchfinder.errors import InvalidArgument
from batchfinder.results import KNEE, SAME, Candidate, Role

__all__ = [
    "fewest_samples",
    "highest_throughput",
    "largest",
    "least_energy",
    "shortest_time",
]

STAY = 0.10
"""A size below the user's own must save more than this to be recommended."""


def shortest_time(candidates: Sequence[Candidate]) -> Candidate:
    """The smallest round batch within 3% of the shortest predicted time to the target.

    Round micro-batches, powers of two and multiples of eight, go before others, such as the
    largest that fits.

    Smaller costs less memory and fewer samples and generalizes no worse (Keskar et al.
    2017, arXiv:1609.04836). A batch below the user's own is recommended only where the user's own
    takes over 10% longer than the best. Without a noise scale: the smallest batch within 10%
    of the best throughput.
    """
    tolerance = SAME if _noise_is_known(candidates) else KNEE
    return _not_below_yours(candidates, _smallest_within(candidates, tolerance), tolerance)


def highest_throughput(candidates: Sequence[Candidate]) -> Candidate:
    """The smallest batch within 3% of the most samples per second."""
    most = max(map(samples_per_second, candidates))
    near = (each for each in candidates if samples_per_second(each) >= most / (1 + SAME))
    return min(near, key=_size)


def largest(candidates: Sequence[Candidate]) -> Candidate:
    """The largest batch that fits without accumulation."""
    plain = [each for each in candidates if each.plan.accumulation_steps == 1]
    return max(plain or candidates, key=_size)


def fewest_samples(candidates: Sequence[Candidate]) -> Candidate:
    """The fastest among the batches that need at most 5% more samples than the most frugal.

    Without a noise scale that is the smallest batch.
    """
    if not _noise_is_known(candidates):
        return min(candidates, key=_size)
    fewest = min(each.relative_samples for each in candidates)
    frugal = [each for each in candidates if each.relative_samples <= 1.05 * fewest]
    return min(frugal, key=lambda each: each.relative_time)


def least_energy(candidates: Sequence[Candidate]) -> Candidate:
    """The smallest batch within 3% of the least energy to the target.

    Joules per sample, as the device counts them, times the samples that a batch needs; without a
    noise scale, joules per sample alone.

    Raises:
        InvalidArgument: where the device does not report its energy.
    """
    joules = [each.energy_to_target for each in candidates]
    known = [each for each in joules if each is not None]
    if len(known) < len(joules):
        raise InvalidArgument(
            "expected a device that reports its energy for the objective least_energy (a whole "
            "NVIDIA GPU, Volta or newer); this one does not: choose another objective"
        )
    near = zip(candidates, known, strict=True)
    return min((c for c, each in near if each <= (1 + SAME) * min(known)), key=_size)


def samples_per_second(candidate: Candidate) -> float:
    """Samples per second over all devices, update included."""
    return candidate.plan.global_batch / candidate.step_seconds


def _smallest_within(candidates: Sequence[Candidate], tolerance: float) -> Candidate:
    best = min(candidate.relative_time for candidate in candidates)
    near = [c for c in candidates if c.relative_time <= best * (1 + tolerance)]
    return min(
        near, key=lambda candidate: (not is_round(candidate.plan.micro_batch), _size(candidate))
    )


def is_round(micro_batch: int) -> bool:
    """Whether this is a multiple of eight, or one of the powers of two below."""
    return micro_batch % 8 == 0 or micro_batch in (1, 2, 4)


def _not_below_yours(
    candidates: Sequence[Candidate], pick: Candidate, tolerance: float
) -> Candidate:
    yours = next((each for each in candidates if Role.YOURS in each.roles), None)
    if yours is None or _size(pick) >= _size(yours):
        return pick
    best = min(each.relative_time for each in candidates)
    if yours.relative_time > best * (1 + STAY):
        return pick
    return _smallest_within([c for c in candidates if _size(c) >= _size(yours)], tolerance)


def _noise_is_known(candidates: Sequence[Candidate]) -> bool:
    return all(math.isfinite(each.relative_samples) for each in candidates)


def _size(candidate: Candidate) -> int:
    return candidate.plan.global_batch
