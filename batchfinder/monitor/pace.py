"""When the next look is due: at every n-th step, or as often as its measured cost allows."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from batchfinder.monitor.noise import FEWEST_LOOKS
from batchfinder.monitor.ranks import Exchange
from batchfinder.protocols import Clock

__all__ = ["UPDATES", "USUAL", "Pace"]

UPDATES = 3
"""Consecutive updates of one look."""
USUAL = 47
"""Steps from one look to the next before the cost of one is known. A prime, so that what a training
does at every hundredth step (validation, a checkpoint) is not taken for the cost of a look."""
SHORTEST, LONGEST = 10, 1000
"""The fewest and the most steps from one look to the next."""
SHARE = 0.015
"""Of the training's time, what looks may take; below 2%, as medians are not exact."""
_REMEMBERED = 9


@dataclass
class Pace:
    """Spaces looks so that their extra time stays at ``SHARE`` of that of the steps so far.

    ``every`` steps where that is given, and then no clock is read. Else the extra time of a look
    is what its steps took beyond as many ordinary ones. Both are medians over the last few, so
    that neither a validation between two steps nor the first look, which sets up what later ones
    use, counts as the price of all. The first ``FEWEST_LOOKS`` come after ``USUAL`` steps each
    whatever they take, so that there is a noise scale, and later ones after ``LONGEST`` at most.
    Ranks go by the slowest among them.
    """

    every: int | None
    clock: Clock
    ranks: Exchange
    _looks: int = 0
    _free_since: tuple[int, float] | None = None
    _began: tuple[int, float] = (0, 0.0)
    _ordinary: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _extra: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    @property
    def usual(self) -> int:
        """Steps from one look to the next, as far as they are known beforehand."""
        return USUAL if self.every is None else self.every

    @property
    def updates(self) -> int:
        """Updates that a look takes in: fewer where looks follow one another closely."""
        return max(1, min(UPDATES, self.usual - 1))

    def begins(self, step: int) -> None:
        """A look begins after ``step``; everything before it is done on the device."""
        if self.every is not None:
            return
        now = self.clock()
        if self._free_since is not None and step > self._free_since[0]:
            since, started = self._free_since
            self._ordinary.append((now - started) / (step - since))
        self._began = (step, now)

    def ends(self, look: int, step: int) -> int:
        """A look at step ``look`` is over after ``step``; the step of the next one."""
        if self.every is not None:
            return look + self.every
        now = self.clock()
        self._free_since = (step, now)
        if not self._ordinary:
            return look + USUAL
        self._looks += 1
        usual = statistics.median(self._ordinary)
        self._extra.append(now - self._began[1] - (step - self._began[0]) * usual)
        steps = max(statistics.median(self._extra), 0.0) / usual if usual > 0 else 0.0
        return look + self._gap(step, self._slowest(steps))

    def _gap(self, step: int, price: float) -> int:
        """Steps to the next look, each of which takes the time of ``price`` steps."""
        paid = math.ceil(max(price, (self._looks + 1) * price - SHARE * step) / SHARE)
        most = USUAL if self._looks < FEWEST_LOOKS else LONGEST
        return min(max(paid, SHORTEST), most)

    def _slowest(self, price: float) -> float:
        if self.ranks.alone:
            return price
        return float(self.ranks.gather(np.array([[price]])).max())
