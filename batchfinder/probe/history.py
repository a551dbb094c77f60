"""The trials so far, as the bracket that they leave."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from batchfinder.results import Trial


@dataclass(frozen=True)
class History:
    """What the trials say, size by size; where a size was repeated, its last trial counts.

    ``fits`` and ``fails`` increase in size; ``in_order`` is the order in which sizes were run.
    Whatever does not fit counts alike: no memory, too close to it, an index limit, a kill.
    """

    in_order: tuple[Trial, ...]
    fits: tuple[Trial, ...]
    fails: tuple[Trial, ...]

    @property
    def low(self) -> int:
        """The largest size that fits; 0 if none does."""
        return self.fits[-1].batch_size if self.fits else 0

    @property
    def high(self) -> int | None:
        """The smallest size above ``low`` that does not fit.

        A failure below a success (memory that is not monotone) bounds nothing.
        """
        return next((t.batch_size for t in self.fails if t.batch_size > self.low), None)

    @property
    def is_cached(self) -> bool:
        """Whether a caching allocator stands between the tensors and the limit."""
        return any(trial.reserved_bytes is not None for trial in self.in_order)

    def until_first_bracket(self) -> History:
        """The history as it was when a success first had a failure above it."""
        for count in range(1, len(self.in_order) + 1):
            earlier = history(self.in_order[:count])
            if earlier.low and earlier.high is not None:
                return earlier
        return self


def latest(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The last trial at each size, sizes in the order of their first: those that count.

    An earlier one was disturbed, and says nothing any more.
    """
    return tuple({trial.batch_size: trial for trial in trials}.values())


def history(trials: Iterable[Trial]) -> History:
    """Sort ``trials``, of which the last at each size counts."""
    counting = latest(trials)
    by_size = sorted(counting, key=lambda trial: trial.batch_size)
    return History(
        in_order=counting,
        fits=tuple(trial for trial in by_size if trial.fits),
        fails=tuple(trial for trial in by_size if not trial.fits),
    )


def to_repeat(trials: Sequence[Trial]) -> int | None:
    """The size of the last trial if another process disturbed it and it was run only once."""
    if not trials or not trials[-1].disturbed:
        return None
    size = trials[-1].batch_size
    return size if sum(trial.batch_size == size for trial in trials) == 1 else None
