"""At which steps a training is looked at, and what the ordinary steps between them touch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from batchfinder.monitor.noise import FEWEST_LOOKS

__all__ = ["AT_FIRST", "LATER", "UPDATES", "Ordinary", "Pace"]


UPDATES = 3
"""Consecutive updates of one look."""
AT_FIRST, LATER, MOST = 47, 251, 1009
"""Steps from one look to the next by default: for the first ``FEWEST_LOOKS``, so that there is a
noise scale soon, from there on, and at most. All are primes, so that what a training does at every
hundredth step (validation, a checkpoint) does not keep falling into looks."""
SHARE = 32
"""From one look to the next at least this part of the steps made so far: a noise scale changes over
a logarithmic scale of steps, and looks may become rarer as slowly."""


@dataclass
class Pace:
    """Says when the next look is due.

    By default that is after ``AT_FIRST`` and later ``LATER`` steps, and after 1/``SHARE`` of all
    steps, up to ``MOST``, where that is more.

    Nothing goes by the time that steps take: a look that cuts its batch in two changes the
    rounding of that step, and two runs from one seed are to be the same.
    """

    every: int | None
    longest: int = LATER
    """The most steps from one look to the next so far."""
    _looks: int = 0

    def __post_init__(self) -> None:
        if self.every is not None:
            self.longest = self.every

    @property
    def usual(self) -> int:
        """Steps to the first look."""
        return AT_FIRST if self.every is None else self.every

    @property
    def updates(self) -> int:
        """Updates that a look takes in: fewer where looks follow one another closely."""
        return max(1, min(UPDATES, self.usual - 1))

    def after(self, look: int) -> int:
        """The step of the look after the one at step ``look``; 0 stands for the first updates."""
        self._looks += look > 0
        if self.every is None and self._looks >= FEWEST_LOOKS:
            self.longest = min(max(LATER, look // SHARE), MOST)
            return look + self.longest
        return look + self.usual


@dataclass(slots=True)
class Ordinary:
    """What is known without a look, and what is kept until the next one.

    Steps before ``until`` only keep a loss of at most ``up_to``, as (step, loss, part) in
    ``losses``; ``part`` says that it is that of a piece of the batch. ``samples`` and ``passes``
    count those of the optimizer step under way, ``passes_before`` those of the one before;
    ``rows_are_samples`` once a batch had as many rows as samples, so that rows count them.
    """

    until: int = 0
    up_to: float = -math.inf
    losses: list[tuple[int, float, bool]] = field(default_factory=list)
    looking: bool = False
    samples: int = 0
    passes: int = 0
    passes_before: int = 1
    rows_are_samples: bool = False

    def step_ended(self, batch_size: int) -> int:
        """Samples of the optimizer step that ended: those counted, else ``batch_size``."""
        samples = self.samples or batch_size
        self.passes_before, self.samples, self.passes = self.passes, 0, 0
        return samples
