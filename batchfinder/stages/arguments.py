"""Values that cannot be meant are refused before anything is touched."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from batchfinder.errors import InvalidArgument
from batchfinder.units import parse_bytes

__all__ = ["check"]


def _at_least_one(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _above_zero(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _amount_of_bytes(value: Any) -> bool:
    try:
        return parse_bytes(value) > 0
    except InvalidArgument:
        return False


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "headroom": (lambda value: 0 <= value < 1, "a share from 0 to below 1"),
    "resolution": (lambda value: 0 <= value < 1, "a share from 0 (exact) to below 1"),
    "max_batch_size": (_at_least_one, "a whole number of at least 1"),
    "multiple_of": (_at_least_one, "a whole number of at least 1"),
    "base_batch_size": (_at_least_one, "a whole number of at least 1"),
    "samples": (_at_least_one, "a whole number of at least 1"),
    "base_learning_rate": (_above_zero, "a rate above 0"),
    "warmup_steps": (lambda value: isinstance(value, int) and value >= 0, "0 steps or more"),
    "budget_seconds": (_above_zero, "seconds above 0"),
    "memory_limit": (_amount_of_bytes, 'bytes above 0, such as 536870912, "512MiB" or "8GB"'),
}


def check(**values: Any) -> None:
    """Refuse the first value that breaks its rule; ``None`` means left out.

    Raises:
        InvalidArgument: naming the argument, what was expected and what was found.
    """
    for name, value in values.items():
        fits, expected = _RULES[name]
        if value is not None and not fits(value):
            raise InvalidArgument(f"expected {name} to be {expected}; found {value!r}")
