"""How far a stage is: steps done of steps planned, samples per second, seconds left."""

from __future__ import annotations

import time

from batchfinder.outcomes import Stage
from batchfinder.protocols import Clock, Observer
from batchfinder.results import Progress

__all__ = ["Meter", "unmetered"]

FIRST_SECONDS = 2.0
"""A stage that lasts no longer shows nothing in between."""

EVERY_SECONDS = 0.5


class Meter:
    """Called after every step; tells ``observe`` now and then.

    Args:
        stage: whose steps these are.
        observe: gets a ``Progress`` at most twice a second, none in the first two seconds.
        of: the steps planned; ``None`` where they are not known.
        unit: what is counted.
        seconds: how long the stage may last; with ``of``, whichever ends first is shown.
        clock: seconds; a fake one in tests.
    """

    def __init__(
        self,
        stage: Stage,
        observe: Observer,
        *,
        of: int | None = None,
        unit: str = "steps",
        seconds: float | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._stage, self._observe, self._clock = stage, observe, clock
        self._of, self._unit, self._seconds = of, unit, seconds
        self._started = self._told = self._prepared = clock()
        self._done = self._samples = 0

    def __call__(self, samples: int, steps: int = 1) -> None:
        """``steps`` more are done, or part of one (0), with ``samples`` samples.

        What comes before the first step says nothing of how long steps take.
        """
        self._done += steps
        self._samples += samples
        now = self._clock()
        if not self._done:
            self._prepared = now
        lasted = now - self._started
        if lasted < FIRST_SECONDS or now - self._told < EVERY_SECONDS:
            return
        self._told = now
        self._observe(
            Progress(
                self._stage,
                self._done,
                lasted,
                of=None if self._of is None else max(self._of, self._done),
                unit=self._unit,
                samples_per_second=self._samples / lasted,
                seconds_left=self._left(lasted),
            )
        )

    def _left(self, lasted: float) -> float | None:
        ends = []
        if self._seconds is not None:
            ends.append(max(0.0, self._seconds - lasted))
        if self._of is not None and self._done:
            stepping = self._started + lasted - self._prepared
            ends.append(stepping / self._done * max(0, self._of - self._done))
        return min(ends, default=None)


def unmetered(samples: int, steps: int = 1) -> None:
    """A meter that nobody reads."""
