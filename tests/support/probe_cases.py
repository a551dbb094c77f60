"""Simulated memory for tests of the search: a curve of peaks, a limit, perhaps a hidden wall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from batchfinder.probe import SearchSpace, probe
from batchfinder.results import Outcome, Trial

Curve = Callable[[int], int]


@dataclass(frozen=True)
class Search:
    """The trials of a search, and the figures that it is judged by."""

    trials: tuple[Trial, ...]

    @property
    def sizes(self) -> list[int]:
        return [trial.batch_size for trial in self.trials]

    @property
    def found(self) -> int:
        return max((trial.batch_size for trial in self.trials if trial.fits), default=0)

    @property
    def failures(self) -> int:
        return sum(not trial.fits for trial in self.trials)

    def cost(self, largest: int) -> float:
        """Rows pushed through the model, in units of the largest size that fits."""
        return sum(self.sizes) / largest


def run_on(
    curve: Curve | None,
    space: SearchSpace,
    *,
    rows: int | None = None,
    outcome: Outcome = Outcome.OUT_OF_MEMORY,
) -> Search:
    """Search where ``curve`` gives the peaks (unknown if ``None``) and ``rows`` is a wall.

    A trial that meets the wall never allocates: it shows only what it holds at rest.
    """

    def run(size: int) -> Trial:
        peak = None if curve is None else curve(size)
        if rows is not None and size > rows:
            return Trial(size, outcome, None if curve is None else curve(0))
        if peak is not None and space.limit_bytes is not None and peak > space.limit_bytes:
            return Trial(size, Outcome.OUT_OF_MEMORY, space.limit_bytes)
        return Trial(size, Outcome.FITS, peak)

    return Search(probe(run, space))


def true_maximum(curve: Curve, limit_bytes: int, at_most: int = 1 << 30) -> int:
    """The largest size that fits, for a curve that never falls; 0 if none does."""
    low, high = 0, at_most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if curve(middle) <= limit_bytes else (low, middle)
    return low
