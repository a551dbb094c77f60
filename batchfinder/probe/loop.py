"""The loop that drives a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from batchfinder.errors import InvalidArgument
from batchfinder.probe.guided import guided
from batchfinder.probe.space import SearchSpace
from batchfinder.protocols import Observer
from batchfinder.results import Trial

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
) -> tuple[Trial, ...]:
    """Run what ``propose`` names until it names nothing more; every trial, in order.

    Args:
        run: runs one size and says how it ended.
        space: which sizes may be tried.
        propose: the search.
        observe: gets each trial as it ends.
        trials: those of an earlier search, to go on from.
        enough: asked before each trial; ``True`` ends the search early (a budget is spent). The
            first trial that fits is always waited for.

    Raises:
        InvalidArgument: if ``propose`` names a size above the ceiling, below 1, or once more one
            that was not disturbed.
    """
    done = list(trials)
    while True:
        if enough() and any(trial.fits for trial in done):
            return tuple(done)
        size = propose(done, space)
        if size is None:
            return tuple(done)
        _check(size, done, space)
        trial = run(size)
        done.append(trial)
        if observe is not None:
            observe(trial)


def _check(size: int, done: Sequence[Trial], space: SearchSpace) -> None:
    if size < 1 or (space.ceiling is not None and size > space.ceiling):
        raise InvalidArgument(
            f"the search proposed {size}; expected a size from 1 to the ceiling {space.ceiling}"
        )
    earlier = [trial for trial in done if trial.batch_size == size]
    if len(earlier) > 1 or any(not trial.disturbed for trial in earlier):
        raise InvalidArgument(
            f"the search proposed {size} again; expected a size that was not run yet"
        )
