"""Learning-rate rules, and the optimizers that each is for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from batchfinder.errors import InvalidArgument
from batchfinder.protocols import LearningRateRule
from batchfinder.rates import OptimizerFamily
from batchfinder.results import NoiseScale

__all__ = [
    "TRUSTED_FACTOR",
    "FamilyRule",
    "adascale",
    "at_upper_end",
    "critical_batch_size",
    "fixed",
    "gain",
    "is_sgd",
    "linear",
    "lower_only",
    "rule_for",
    "square_root",
    "square_root_capped",
    "trusted_range",
]


WIDEST = 4.0
"""How far above its estimate the critical batch size is taken to lie at most."""


def critical_batch_size(noise: NoiseScale | None) -> float | None:
    """The critical batch size that a noise scale stands for; ``None`` where nothing is known.

    An estimate without an upper end is read as its lower end: "at least" is all that is known.
    """
    if noise is None:
        return None
    for known in (noise.value, noise.low):
        if math.isfinite(known) and known > 0:
            return known
    return None


def at_upper_end(noise: NoiseScale | None) -> NoiseScale | None:
    """The noise scale with the upper end of its interval as its value and end; see ``WIDEST``."""
    critical = _upper_end(noise)
    if noise is None or critical is None:
        return None
    return replace(noise, value=critical, high=critical)


def gain(base_batch: float, batch: float, critical: float) -> float:
    """How much more progress one step makes at ``batch`` than at ``base_batch``.

    The ratio of the best SGD step sizes ε(B) = ε_max / (1 + φ/B). Source: McCandlish et al. 2018,
    arXiv:1812.06162; the same number is the gain of Johnson et al. 2020 (AdaScale),
    arXiv:2007.05105
    """
    return (1 + critical / base_batch) / (1 + critical / batch)


def linear(
    base_rate: float, base_batch: float, batch: float, noise: NoiseScale | None = None
) -> float:
    """Rate ∝ B. Source: Goyal et al. 2017, arXiv:1706.02677; holds only below φ."""
    return base_rate * _factor(base_batch, batch)


def square_root(
    base_rate: float, base_batch: float, batch: float, noise: NoiseScale | None = None
) -> float:
    """Rate ∝ √B. Source: Malladi et al. 2022, arXiv:2205.10287; overshoots above φ."""
    return base_rate * math.sqrt(_factor(base_batch, batch))


def fixed(
    base_rate: float, base_batch: float, batch: float, noise: NoiseScale | None = None
) -> float:
    """The base rate, whatever the batch."""
    return base_rate


def lower_only(
    base_rate: float, base_batch: float, batch: float, noise: NoiseScale | None = None
) -> float:
    """The base rate upward, √B downward: for optimizers whose scaling is not known.

    An unchanged rate at a smaller batch may never reach a low loss; an unchanged one at a larger
    batch only costs time.
    """
    return base_rate * min(1.0, math.sqrt(_factor(base_batch, batch)))


def adascale(
    base_rate: float, base_batch: float, batch: float, noise: NoiseScale | None = None
) -> float:
    """min(linear, gain): for SGD with or without momentum; saturates at the critical batch size.

    The gain is taken at the upper end of the noise scale's interval: a cap that is too low costs
    time in silence, one that is too high shows when the rate is confirmed. Downward the smaller
    one is linear: too large a rate at a small batch ends at a noise floor, too small a one costs
    some steps. Without a noise scale: min(linear, square root), the largest that is safe not
    knowing φ. Source: AdaScale, Johnson et al. 2020, arXiv:2007.05105.
    """
    factor = _factor(base_batch, batch)
    critical = _upper_end(noise)
    if critical is None:
        return base_rate * min(factor, math.sqrt(factor))
    return base_rate * min(factor, gain(base_batch, batch, critical))


def _upper_end(noise: NoiseScale | None) -> float | None:
    """The upper end of the interval, at most ``WIDEST`` times the estimate itself."""
    critical = critical_batch_size(noise)
    if noise is None or critical is None:
        return None
    return min(max(noise.high, critical), WIDEST * critical)


def square_root_capped(
    base_rate: float, base_batch: float, batch: float, noise: NoiseScale | None = None
) -> float:
    """√(AdaScale's gain), at most √B: for the Adam family; saturates at the critical batch size.

    Above φ even the square root overshoots; φ is taken at the upper end of its interval, and
    downward the rate is √B (see :func:`adascale` for both). Without a noise scale: the square
    root, uncapped. Sources: Malladi et al. 2022,
    arXiv:2205.10287 for √B; Qiao et al. 2021 (Pollux), arXiv:2008.12260 for √gain.
    """
    factor = _factor(base_batch, batch)
    critical = _upper_end(noise)
    if critical is None:
        return base_rate * math.sqrt(factor)
    return base_rate * math.sqrt(min(factor, gain(base_batch, batch, critical)))


def _factor(base_batch: float, batch: float) -> float:
    if base_batch <= 0 or batch <= 0:
        raise InvalidArgument(
            f"expected batch sizes above zero; found base {base_batch}, new {batch}"
        )
    return batch / base_batch


TRUSTED_FACTOR = 16
"""The rules were tested up to this factor from the base batch, each way."""


@dataclass(frozen=True)
class FamilyRule:
    """The default rule of one optimizer family.

    ``caveat`` is the code of what to say of it, empty where the rule is tested.

    ``highest`` is how far the rate may be raised where training itself shows a higher one to be
    better: no optimizer is known whose best rate grows faster than the batch. ``None``: not at all.
    """

    rule: LearningRateRule
    source: str
    caveat: str = ""
    highest: LearningRateRule | None = None


_SGD = FamilyRule(
    adascale,
    "linear, capped at the critical batch size (arXiv:1706.02677, arXiv:2007.05105)",
    highest=linear,
)
_ADAM = FamilyRule(
    square_root_capped,
    "square root, capped at the critical batch size (arXiv:2205.10287, arXiv:2008.12260)",
    highest=linear,
)
_UNKNOWN = FamilyRule(lower_only, "not known", "rate_unknown")
_BY_ANALOGY = FamilyRule(
    square_root_capped,
    "square root, by analogy with sign-like and spectral updates (arXiv:2602.03001)",
    "rate_by_analogy",
)
_PARAMETER_FREE = FamilyRule(
    fixed, "the optimizer adapts its own rate (arXiv:2306.06101)", "rate_is_found"
)


_RULES: Mapping[OptimizerFamily, FamilyRule] = {
    OptimizerFamily.SGD: _SGD,
    OptimizerFamily.SGD_MOMENTUM: _SGD,
    OptimizerFamily.ADAM: _ADAM,
    OptimizerFamily.LION: _BY_ANALOGY,
    OptimizerFamily.MUON: _BY_ANALOGY,
    OptimizerFamily.ADAFACTOR: _UNKNOWN,
    OptimizerFamily.SHAMPOO: _UNKNOWN,
    OptimizerFamily.PARAMETER_FREE: _PARAMETER_FREE,
}


def is_sgd(family: OptimizerFamily) -> bool:
    """Whether steps of this family grow with the gradient: SGD, with momentum or without."""
    return family in (OptimizerFamily.SGD, OptimizerFamily.SGD_MOMENTUM)


def rule_for(family: OptimizerFamily) -> FamilyRule:
    """The default rule of ``family``; for one that is not known, the rate is kept and said so."""
    return _RULES.get(family, _UNKNOWN)


def trusted_range(base_batch: float) -> tuple[float, float]:
    """Smallest and largest global batch between which a rule from ``base_batch`` is trusted."""
    return base_batch / TRUSTED_FACTOR, base_batch * TRUSTED_FACTOR
