"""The loop that drives a search, and what its trials have shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from batchfinder.errors import InvalidArgument
from batchfinder.probe.guided import guided
from batchfinder.probe.history import history, memory_line, to_repeat
from batchfinder.probe.space import SearchSpace
from batchfinder.protocols import Observer
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


Propose: TypeAlias = Callable[[Sequence[Trial], SearchSpace], int | None]
"""(trials so far, space) -> the next size to run, or ``None`` to stop."""


def probe(
    run: Callable[[int], Trial],
    space: SearchSpace,
    *,
    propose: Propose = guided,
    observe: Observer | None = None,
    trials: Sequence[Trial] = (),
    enough: Callable[[], bool] = lambda: False,
    before: Callable[[int, Sequence[Trial]], None] = lambda size, trials: None,
    own: int | None = None,
) -> tuple[Trial, ...]:
    """Run what ``propose`` names until it names nothing more; every trial, in order.

    A trial that another process disturbed is run once more, whatever the search, and then counts.

    Args:
        run: runs one size and says how it ended.
        space: which sizes may be tried.
        propose: the search.
        observe: gets each trial as it ends.
        trials: those of an earlier search, to go on from.
        enough: asked before each trial; ``True`` ends the search early (a budget is spent). The
            first trial that fits is always waited for, and so is one at ``own``.
        before: told each size, and the trials so far, before it is run.
        own: the user's own size, below which no search ends early unless it cannot fit.

    Raises:
        InvalidArgument: if ``propose`` names a size that ``space`` does not allow, or one that was
            run already.
    """
    done = list(trials)
    while True:
        if history(done).low and enough():
            size = _untried(own, done, space)
        else:
            size = to_repeat(done)
            if size is None and (size := propose(done, space)) is not None:
                _check(size, done, space)
        if size is None:
            return tuple(done)
        before(size, done)
        trial = run(size)
        done.append(trial)
        if observe is not None:
            observe(trial)


def _untried(own: int | None, done: Sequence[Trial], space: SearchSpace) -> int | None:
    """The user's own size, or the nearest below that may be tried, where it could still fit."""
    size = 0 if own is None else space.at_most(own)
    seen = history(done)
    could_fit = seen.low < size and (seen.high is None or size < seen.high)
    return size if could_fit else None


def has_ended(trials: Sequence[Trial], space: SearchSpace, propose: Propose = guided) -> bool:
    """Whether the search has come to its end by itself, with nothing left to run or repeat."""
    return to_repeat(trials) is None and propose(trials, space) is None


def _check(size: int, done: Sequence[Trial], space: SearchSpace) -> None:
    if size < 1 or (space.ceiling is not None and size > space.ceiling):
        raise InvalidArgument(
            f"the search proposed {size}; expected a size from 1 to the ceiling {space.ceiling}"
        )
    if not space.allows(size):
        raise InvalidArgument(
            f"the search proposed {size}; expected a size that may be tried: the nearest below is "
            f"{space.at_most(size)}"
        )
    if any(trial.batch_size == size for trial in done):
        raise InvalidArgument(
            f"the search proposed {size} again; expected a size that has not been run"
        )


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
