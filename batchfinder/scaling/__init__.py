"""Which learning rate at another batch size? Rules, one per optimizer family.

A rule is a function ``(base_rate, base_batch, batch, noise) -> rate``: pass one of these, or
your own, as ``learning_rate_rule``.
"""

from batchfinder.scaling.applied import apply_once, set_rates
from batchfinder.scaling.rules import (
    TRUSTED_FACTOR,
    FamilyRule,
    adascale,
    at_upper_end,
    critical_batch_size,
    fixed,
    is_sgd,
    linear,
    lower_only,
    rule_for,
    square_root,
    square_root_capped,
    trusted_range,
)

__all__ = [
    "TRUSTED_FACTOR",
    "FamilyRule",
    "adascale",
    "apply_once",
    "at_upper_end",
    "critical_batch_size",
    "fixed",
    "is_sgd",
    "linear",
    "lower_only",
    "rule_for",
    "set_rates",
    "square_root",
    "square_root_capped",
    "trusted_range",
]
