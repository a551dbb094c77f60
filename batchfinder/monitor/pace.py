"""At which steps a training is looked at: counted, so that a run repeats itself."""

from __future__ import annotations

from dataclasses import dataclass

from batchfinder.monitor.noise import FEWEST_LOOKS

__all__ = ["AT_FIRST", "LATER", "UPDATES", "Pace"]

UPDATES = 3
"""Consecutive updates of one look."""
AT_FIRST, LATER = 47, 251
"""Steps from one look to the next by default: for the first ``FEWEST_LOOKS``, so that there is a
noise scale soon, and from there on. Both are primes, so that what a training does at every
hundredth step (validation, a checkpoint) does not keep falling into looks."""


@dataclass
class Pace:
    """Says when the next look is due: by default after ``AT_FIRST``, and later ``LATER``, steps.

    Nothing goes by the time that steps take: a look that cuts its batch in two changes the
    rounding of that step, and two runs from one seed are to be the same.
    """

    every: int | None
    _looks: int = 0

    @property
    def usual(self) -> int:
        """Steps to the first look."""
        return AT_FIRST if self.every is None else self.every

    @property
    def longest(self) -> int:
        """The most steps from one look to the next."""
        return LATER if self.every is None else self.every

    @property
    def updates(self) -> int:
        """Updates that a look takes in: fewer where looks follow one another closely."""
        return max(1, min(UPDATES, self.usual - 1))

    def after(self, look: int) -> int:
        """The step of the look after the one at step ``look``; 0 stands for the first updates."""
        self._looks += look > 0
        return look + (self.usual if self._looks < FEWEST_LOOKS else self.longest)
