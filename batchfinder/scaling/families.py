"""Which rule belongs to which optimizer family, how far it is trusted, and on whose word."""

from __future__ import annotations

from dataclasses import dataclass

from batchfinder.protocols import LearningRateRule
from batchfinder.scaling.rules import (
    adascale,
    fixed,
    linear,
    lower_only,
    square_root_capped,
)

__all__ = ["TRUSTED_FACTOR", "FamilyRule", "rule_for", "trusted_range"]

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
    fixed, "the optimizer finds its own rate (arXiv:2306.06101)", "rate_is_found"
)


def _family_rules() -> dict[str, FamilyRule]:
    return {
        "sgd": _SGD,
        "sgd-momentum": _SGD,
        "adam": _ADAM,
        "lion": _BY_ANALOGY,
        "muon": _BY_ANALOGY,
        "adafactor": _UNKNOWN,
        "shampoo": _UNKNOWN,
        "parameter-free": _PARAMETER_FREE,
    }


def rule_for(family: str) -> FamilyRule:
    """The default rule of ``family``; for one that is not known, the rate is kept and said so."""
    return _family_rules().get(family, _UNKNOWN)


def trusted_range(base_batch: float) -> tuple[float, float]:
    """Smallest and largest global batch between which a rule from ``base_batch`` is trusted."""
    return base_batch / TRUSTED_FACTOR, base_batch * TRUSTED_FACTOR
