"""From the noise scale late in a warm-up to that of the whole run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from batchfinder.results import NoiseScale


@dataclass(frozen=True)
class Factor:
    """How much larger the critical batch size of a run is than the noise scale late in a warm-up.

    The noise scale grows while the loss falls, and the critical batch size is its average over
    the run (McCandlish et al. 2018, appendix D). ``spread`` widens the interval both ways, by
    what the factor itself scattered over tasks and targets. The figures come from
    ``tests/benchmarks/noise_growth.py``.
    """

    value: float
    spread: float

    def __call__(self, found: NoiseScale) -> NoiseScale:
        return replace(
            found,
            value=found.value * self.value,
            low=found.low * self.value / self.spread,
            high=found.high * self.value * self.spread,
        )


EUCLIDEAN_FACTOR = Factor(2.0, 2.5)
PRECONDITIONED_FACTOR = Factor(1.5, 2.5)
UNCHANGED = Factor(1.0, 1.0)
