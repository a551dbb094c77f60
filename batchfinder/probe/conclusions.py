"""What a search has shown, from its trials: the memory line, what ended it, what to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from batchfinder.probe.history import memory_line
from batchfinder.probe.space import SearchSpace
from batchfinder.results import Limit, MemoryBreakdown, Outcome, Trial
from batchfinder.wording import Caveat

__all__ = [
    "about_fragmentation",
    "about_lengths",
    "about_others",
    "about_time",
    "held_bytes",
    "limit_met",
    "with_line",
]

WORTH_SAYING = 0.01
"""Memory in pieces: share of the limit, and of the largest size, from which it is said."""


def held_bytes(memory: MemoryBreakdown) -> int:
    """What model, gradients and optimizer state hold between steps."""
    return (
        memory.parameter_bytes
        + memory.buffer_bytes
        + memory.gradient_bytes
        + memory.optimizer_bytes
    )


def with_line(memory: MemoryBreakdown, trials: Sequence[Trial]) -> MemoryBreakdown:
    """``memory`` with the line through the trials' peaks, and what is in pieces at the largest."""
    line = memory_line(trials)
    largest = _largest(trials)
    idle = 0
    if largest.reserved_bytes is not None and largest.peak_bytes is not None:
        idle = largest.reserved_bytes - largest.peak_bytes
    return replace(
        memory,
        other_bytes=max(0, int(line.fixed_bytes) - held_bytes(memory)),
        fixed_bytes=int(line.fixed_bytes),
        per_sample_bytes=line.per_sample_bytes,
        fit_residual=line.residual,
        fragmentation_bytes=idle,
    )


def limit_met(trials: Sequence[Trial], space: SearchSpace, own_ceiling: int | None) -> Limit:
    """What kept the largest size that fits from being larger, where the search came to its end."""
    ceiling = space.ceiling
    largest = _largest(trials).batch_size
    above = [trial for trial in trials if trial.batch_size > largest and not trial.fits]
    if above:
        nearest = min(above, key=lambda trial: trial.batch_size)
        return Limit.INDEX if nearest.outcome is Outcome.INDEX_LIMIT else Limit.MEMORY
    if ceiling is None or largest < space.at_most(ceiling):
        return Limit.MEMORY
    return Limit.USER if own_ceiling is not None and ceiling == own_ceiling else Limit.DATASET


def about_time(slow: tuple[int, float] | None) -> tuple[Caveat, ...]:
    """Of a size that was not tried since its step would take so many seconds."""
    return () if slow is None else (Caveat("probe.time", size=slow[0], seconds=slow[1]),)


def about_fragmentation(
    memory: MemoryBreakdown, largest: int, *, may_expand: bool
) -> tuple[Caveat, ...]:
    """Of memory in pieces at the largest size, and the size that fits without, by the line."""
    if memory.fragmentation_bytes < WORTH_SAYING * memory.limit_bytes:
        return ()
    by_line = memory.largest_by_line()
    if may_expand and by_line is not None and by_line >= (1 + WORTH_SAYING) * largest:
        return (
            Caveat(
                "probe.expandable",
                size=largest,
                bytes=memory.fragmentation_bytes,
                with_expandable=by_line,
            ),
        )
    return (Caveat("probe.fragmented", size=largest, bytes=memory.fragmentation_bytes),)


def about_lengths(trials: Sequence[Trial], ordinary: int | None) -> tuple[Caveat, ...]:
    """Of samples that vary in length, ``ordinary`` being the peak of ordinary ones."""
    if ordinary is None:
        return ()
    largest = _largest(trials)
    return (
        Caveat(
            "probe.lengths",
            size=largest.batch_size,
            longest_bytes=largest.peak_bytes or 0,
            ordinary_bytes=ordinary,
        ),
    )


def about_others(trials: Sequence[Trial]) -> tuple[Caveat, ...]:
    """Of trials that were disturbed, when they were repeated too, and count all the same."""
    sizes = tuple(trial.batch_size for trial in trials if trial.disturbed)
    return (Caveat("probe.disturbed", sizes=sizes),) if sizes else ()


def _largest(trials: Sequence[Trial]) -> Trial:
    return max((trial for trial in trials if trial.fits), key=lambda trial: trial.batch_size)
