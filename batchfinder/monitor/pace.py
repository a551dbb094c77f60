"""When the next look is due, and how many losses are judged together: as their cost allows."""

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
"""Steps from one look to the next before the cost of one is known. All such numbers are primes, so
that what a training does at every hundredth step (validation, a checkpoint) does not keep falling
into looks, and count as their cost."""
SHORTEST, LONGEST = 11, 997
"""The fewest and the most steps from one look to the next."""
LOOKS_SHARE = 0.01
"""Of the training's time, what looks may take."""
JUDGING_SHARE = 0.004
"""Of the training's time, what judging losses may take. Both together stay below 2%, since medians
are not exact and taking the loss at every step costs something too."""
USUAL_TOGETHER, FEWEST_TOGETHER, MOST_TOGETHER = 16, 8, 32
"""Ordinary losses that are judged together: before the cost is known, the fewest and the most."""
_REMEMBERED = 9


@dataclass
class Pace:
    """Spaces looks so that their extra time stays at ``LOOKS_SHARE`` of that of the steps so far.

    ``every`` steps where that is given, and then no clock is read. Else the extra time of a look
    is what its steps took beyond as many ordinary ones. Both are medians over the last few, so
    that neither a validation between two steps nor the first look, which sets up what later ones
    use, counts as the price of all. The first ``FEWEST_LOOKS`` come after ``USUAL`` steps each
    whatever they take, so that there is a noise scale, and later ones after ``LONGEST`` at most.
    Ranks go by the slowest among them. Losses are judged as many together as keep the time that
    takes at ``JUDGING_SHARE``.
    """

    every: int | None
    clock: Clock
    ranks: Exchange
    together: int = USUAL_TOGETHER
    """Ordinary losses that are judged together."""
    _looks: int = 0
    _free_since: tuple[int, float] | None = None
    _began: tuple[int, float] = (0, 0.0)
    _ordinary: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _extra: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _judging: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

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
        self.together = self._losses_together(usual)
        steps = max(statistics.median(self._extra), 0.0) / usual if usual > 0 else 0.0
        return look + self._gap(step, self._slowest(steps))

    def now(self) -> float:
        """Seconds, where they are asked for; 0 where ``every`` is given."""
        return self.clock() if self.every is None else 0.0

    def judged(self, started: float) -> None:
        """Losses were judged together since ``started``."""
        if self.every is None:
            self._judging.append(self.clock() - started)

    def _losses_together(self, usual: float) -> int:
        """Losses to judge together, steps taking ``usual`` seconds, to stay at that share."""
        if not self._judging or usual <= 0:
            return USUAL_TOGETHER
        paid = statistics.median(self._judging) / (JUDGING_SHARE * usual)
        return math.ceil(min(max(paid, FEWEST_TOGETHER), MOST_TOGETHER))

    def _gap(self, step: int, price: float) -> int:
        """Steps to the next look, each of which takes the time of ``price`` steps."""
        paid = math.ceil(max(price, (self._looks + 1) * price - LOOKS_SHARE * step) / LOOKS_SHARE)
        most = USUAL if self._looks < FEWEST_LOOKS else LONGEST
        return _prime(min(max(paid, SHORTEST), most))

    def _slowest(self, price: float) -> float:
        if self.ranks.alone:
            return price
        return float(self.ranks.gather(np.array([[price]])).max())


def _prime(least: int) -> int:
    """The smallest prime that is not below ``least``."""
    while any(least % divisor == 0 for divisor in range(2, math.isqrt(least) + 1)):
        least += 1
    return least
