"""How the weights move, and alarms that go by it."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import torch

from batchfinder.monitor.gradient_reader import SIZE, add_joined, in_groups
from batchfinder.monitor.history import Kind
from batchfinder.monitor.losses import Finding
from batchfinder.noise import Sketch
from batchfinder.wording import Caveat

__all__ = ["Episodes", "Movement", "UpdateWatch", "Weights", "movement"]


@dataclass(frozen=True)
class Movement:
    """Consecutive updates: each one's ‖Δw‖/‖w‖, and the cosines between neighbours.

    ``still`` says that not one weight changed. Ratios are known to about 4%.
    """

    ratios: tuple[float, ...]
    cosines: tuple[float, ...]
    still: bool

    @property
    def ratio(self) -> float:
        """The median of the ratios; NaN where there is none, or one is NaN."""
        known = self.ratios and not any(map(math.isnan, self.ratios))
        return median(self.ratios) if known else math.nan

    @property
    def cosine(self) -> float:
        """The mean of the cosines; NaN where there is none."""
        return math.fsum(self.cosines) / len(self.cosines) if self.cosines else math.nan


def movement(places: Sequence[np.ndarray]) -> Movement:
    """The movement between consecutive sketches of the weights, oldest first."""
    updates = [after - before for before, after in itertools.pairwise(places)]
    sizes = [float(np.linalg.norm(update)) for update in updates]
    lengths = [float(np.linalg.norm(place)) for place in places]
    ratios = tuple(
        size / length if length else math.nan for size, length in zip(sizes, lengths, strict=False)
    )
    cosines = tuple(
        float(first @ second) / (a * b)
        for (first, second), (a, b) in zip(
            itertools.pairwise(updates), itertools.pairwise(sizes), strict=True
        )
        if a and b
    )
    return Movement(ratios, cosines, bool(updates) and not any(sizes))


class Weights:
    """Sketches of the weights at the ends of consecutive steps. No copy of the weights is made."""

    def __init__(self) -> None:
        self._parameters: list[int] = []
        self._sketch: Sketch | None = None
        self._places: list[np.ndarray] = []
        self._last = -1

    def note(self, step: int, parameters: Sequence[torch.Tensor]) -> None:
        """Sketch ``parameters`` as they are after ``step``; a gap in the steps begins anew."""
        if not parameters:  # all of them are frozen for now
            self._places, self._last = [], step
            return
        same = [*map(id, parameters)]
        if self._sketch is None or same != self._parameters:
            self._sketch, self._places = Sketch(parameters, SIZE, seed=2), []
            self._parameters = same
        if step != self._last + 1:
            self._places = []
        with torch.no_grad():
            add_joined(self._sketch, in_groups(enumerate(parameters)))
        self._places = [*self._places[-_UPDATES:], self._sketch.finish()]
        self._last = step

    def noted(self, step: int) -> bool:
        """Whether ``step`` was the last that was noted."""
        return self._last == step

    def movement(self) -> Movement:
        """The movement over the consecutive steps noted last, at most three updates."""
        return movement(self._places)


_UPDATES = 3

ALTERNATES, EACH_ALTERNATES = -0.5, -0.2
"""Updates alternate where their cosines are below the first on average, the second each."""
IN_A_ROW = 2
"""Looks in a row at which updates must alternate."""
TIMES_USUAL, SCATTERS = 3.0, 6.0
"""An update is erratic where it is this many times the usual, and this many scatters above it."""
FEWEST, REMEMBERED = 6, 30


@dataclass
class UpdateWatch:
    """Sees the movement of every look in turn."""

    _usual: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _alternating: int = 0

    @property
    def suspicious(self) -> bool:
        """Whether the next steps should be looked at too."""
        return 0 < self._alternating < IN_A_ROW

    def see(self, moved: Movement, rate: float) -> list[Finding]:
        """Take the movement of one look, made at learning rate ``rate``."""
        if moved.still and rate > 0:
            said = Caveat("monitor.stalled_still", updates=len(moved.ratios), rate=rate)
            return [Finding(Kind.STALLED, said)]
        return [*self._oscillating(moved), *self._erratic(moved, rate)]

    def _oscillating(self, moved: Movement) -> list[Finding]:
        if not moved.cosines:
            return []
        alternates = moved.cosine < ALTERNATES and max(moved.cosines) < EACH_ALTERNATES
        self._alternating = self._alternating + 1 if alternates else 0
        if self._alternating < IN_A_ROW:
            return []
        said = Caveat("monitor.oscillating", cosine=moved.cosine, ratio=moved.ratio)
        return [Finding(Kind.OSCILLATING, said)]

    def _erratic(self, moved: Movement, rate: float) -> list[Finding]:
        """Ratios over the rate, so that a schedule does not count."""
        if rate <= 0 or not moved.ratio > 0 or not math.isfinite(moved.ratio):
            return []
        largest = math.log(max(moved.ratios) / rate)
        found = []
        if len(self._usual) >= FEWEST:
            middle = median(self._usual)
            scatter = 1.4826 * median([abs(each - middle) for each in self._usual])
            if largest - middle > max(math.log(TIMES_USUAL), SCATTERS * scatter):
                said = Caveat(
                    "monitor.erratic", ratio=max(moved.ratios), usual=math.exp(middle) * rate
                )
                found = [Finding(Kind.ERRATIC, said)]
        self._usual.append(math.log(moved.ratio / rate))
        return found


@dataclass
class Episodes:
    """Tells one episode from the next: a kind is new after so many ``calm`` steps without it."""

    calm: Callable[[Kind], int]
    _last: dict[Kind, int] = field(default_factory=dict)

    def begins(self, kind: Kind, step: int) -> bool:
        """Note ``kind`` at ``step``; whether that begins an episode."""
        lasts = self.lasts(kind, step)
        self._last[kind] = step
        return not lasts

    def lasts(self, kind: Kind, step: int) -> bool:
        """Whether an episode of ``kind`` is not over yet."""
        before = self._last.get(kind)
        return before is not None and step - before <= self.calm(kind)
