"""From the noise scale late in a warm-up to that of the run, and what the rest of it may change."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from batchfinder.results import NoiseScale

FALL = 1.3
"""How much smaller it may be after the rest, below the interval of its own error."""

OPEN = 1000.0
"""An end that is open is taken to lie so many times further out."""


@dataclass(frozen=True)
class Factor:
    """How much larger the critical batch size of a run is than the noise scale late in a warm-up.

    The noise scale grows while the loss falls, and the critical batch size is its average over
    the run (McCandlish et al. 2018, appendix D). ``spread`` is the factor within which nine of
    ten tasks fall; it joins the interval of the measurement as an independent error of the
    logarithm. Over seven small tasks the prediction after 200 steps is off by 1.9x (rms), against
    2.7x without the optimizer's metric; carrying on the growth seen in the warm-up made it worse
    (2.6x and 3.6x). All from ``tests/benchmarks/noise_growth.py``.
    """

    value: float
    spread: float

    def __call__(self, found: NoiseScale) -> NoiseScale:
        """The run's noise scale, from that of the second half of a warm-up."""
        return replace(
            found,
            value=found.value * self.value,
            low=found.low * self.value / self._widened(found.low, found.value),
            high=found.high * self.value * self._widened(found.value, found.high),
        )

    def _widened(self, low: float, high: float) -> float:
        """What the spread adds to the ratio of two limits, where they have one."""
        if not 0 < low <= high < math.inf:
            return self.spread
        own = math.log(high / low)
        return math.exp(math.hypot(math.log(self.spread), own) - own)


EUCLIDEAN_FACTOR = Factor(2.0, 3.0)
PRECONDITIONED_FACTOR = Factor(1.5, 3.0)


def may_grow(found: NoiseScale, factor: float) -> NoiseScale:
    """What was seen, with room above for what the steps left out would add."""
    return replace(found, high=found.high * max(1.0, factor))


def growth(taken: int, steps: int) -> float:
    """How much larger a noise scale may be after ``steps`` than after ``taken`` of them.

    Above the upper end of its own interval. On small networks hardly ever more than the square
    root of ``steps / taken``; where the loss falls fast at first far more: a small GPT of
    ``tests/benchmarks/noise_stops.py`` grew 17 times from step 36 to 200; on an H200 a GPT of
    10.8 M parameters went from 6.6 (4.3 to 14) after 24 steps to 656 over the second half of 200,
    a ResNet-50 from 24 (18 to 38) to 195. Whether time or a decision ended the warm-up makes no
    difference to it. After none of ``steps`` it is that after one; 1 where none were wanted.
    """
    return max(1.0, (steps / max(1, taken)) ** 2)


def outcomes(seen: NoiseScale, factor: Factor, taken: int, steps: int) -> list[NoiseScale]:
    """What ``steps`` of warm-up may come to predict, and last what ``taken`` of them do.

    From the lower to the upper end of what was ``seen``: its own error, and the growth still to
    come. The ``factor``'s spread is an error that no warm-up makes smaller: it is part of each.
    """
    most = growth(taken, steps)
    low = max(seen.low / FALL, seen.value / OPEN)
    high = min(seen.high, OPEN * seen.value) * most
    ends = (low, math.sqrt(low * high), high)
    each = [factor(replace(seen, value=end, low=end, high=end)) for end in ends]
    return [*each, may_grow(factor(seen), most)]
