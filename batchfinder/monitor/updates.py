"""What the updates tell: oscillating, erratic, and none at all. Numbers in, findings out."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from batchfinder.monitor.losses import Finding
from batchfinder.monitor.movement import Movement
from batchfinder.monitor.record import Kind
from batchfinder.wording import Caveat

__all__ = ["Episodes", "UpdateWatch"]

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
            usual = np.fromiter(self._usual, float)
            middle = float(np.median(usual))
            scatter = 1.4826 * float(np.median(np.abs(usual - middle)))
            if largest - middle > max(math.log(TIMES_USUAL), SCATTERS * scatter):
                said = Caveat(
                    "monitor.erratic", ratio=max(moved.ratios), usual=math.exp(middle) * rate
                )
                found = [Finding(Kind.ERRATIC, said)]
        self._usual.append(math.log(moved.ratio / rate))
        return found


@dataclass
class Episodes:
    """Tells one episode from the next: a kind is new after ``calm`` steps without it."""

    calm: int
    _last: dict[Kind, int] = field(default_factory=dict)

    def begins(self, kind: Kind, step: int) -> bool:
        """Note ``kind`` at ``step``; whether that begins an episode."""
        lasts = self.lasts(kind, step)
        self._last[kind] = step
        return not lasts

    def lasts(self, kind: Kind, step: int) -> bool:
        """Whether an episode of ``kind`` is not over yet."""
        before = self._last.get(kind)
        return before is not None and step - before <= self.calm
