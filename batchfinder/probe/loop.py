"""The loop that drives a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from batchfinder.errors import InvalidArgument
from batchfinder.probe.guided import guided
from batchfinder.probe.history import history, to_repeat
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
